"""Random valid specs: torch equals onnxruntime on each. Half of CI's thousand; `test_random_specs_more` is the rest."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from randomspecs import recipes
from randomspecs.checking import examine
from randomspecs.running import FOUND, Totals, run, share

from specc.op import operators

CHUNKS, SPECS = range(4), 125


@cache
def chunk(number: int) -> Totals:
    torch.set_num_threads(1)
    totals = Totals()
    try:
        run(SPECS, number, totals)
    except BaseException:
        print(totals.text)
        raise
    return totals


@pytest.mark.parametrize("path", sorted(FOUND.glob("*.spec")), ids=lambda path: path.stem)
def test_found(path: Path, tmp_path: Path) -> None:
    """What failed once."""
    examine(path.read_text(encoding="utf-8"), tmp_path)


def test_every_operator_has_a_recipe() -> None:
    """But for losses, which no graph has: tests/test_losses.py."""
    wanted = {name for name, op in operators().items() if op.random or not op.for_training}
    assert wanted == recipes.RECIPES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("number", CHUNKS)
def test_programs_agree(number: int) -> None:
    assert chunk(number).count >= SPECS


@pytest.mark.slow
@pytest.mark.parametrize("number", CHUNKS)
def test_every_operator_occurs(number: int) -> None:
    """Those that the specs of a chunk begin with are in its elaborated models; eight chunks begin with all."""
    assert set(share(number)) - chunk(number).ops.keys() == set()

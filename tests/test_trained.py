"""A build of a run's weights is of the run's configuration, without being told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from specc.diagnostics import Rejected
from specc_runtime.build import Request, build


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder as far as a build reads it."""
    sets = {"dropout": "0.25"}
    made = build(Request("mlp", preset="spirals", sets=sets, verify=False, render=False, out=tmp_path / "made"))
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(made.folder / "model.safetensors", folder)
    record = {"format": "specc-run/1", "model": "MLP", "preset": "spirals", "sets": sets}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_the_preset_and_the_hyper_parameters_are_the_runs(run: Path, tmp_path: Path) -> None:
    made = build(Request("mlp", weights=str(run), verify=False, render=False, out=tmp_path / "out"))
    assert made.manifest["preset"] == "spirals" and made.manifest["hyperparameters"]["dropout"] == 0.25
    assert (made.folder / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_what_is_given_stays(run: Path, tmp_path: Path) -> None:
    request = Request(
        "mlp", weights=str(run), sets={"dropout": "0.5"}, verify=False, render=False, out=tmp_path / "out"
    )
    assert build(request).manifest["hyperparameters"]["dropout"] == 0.5


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "specc-run/2", "model": "MLP", "preset": null, "sets": {}}'])
def test_a_damaged_run_is_told(text: str, run: Path, tmp_path: Path) -> None:
    (run / "run.json").write_text(text)
    with pytest.raises(Rejected, match=r"B660.*run\.json is damaged"):
        build(Request("mlp", weights=str(run), verify=False, render=False, out=tmp_path / "out"))

"""Inputs for an entry whose values that are computed once come from another entry's graph (`--fuse-once`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from specc_runtime import programs
from specc_runtime.cache import Once
from specc_runtime.inputs import Interface, draw
from specc_runtime.sizes import admissible

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, Any]


def given_sizes(once: Once | None, plain: Interface, batch: int) -> dict[str, int]:
    """Sizes of the plain entry that the other one's results have."""
    if once is None or once.of is None:
        return {}
    sizes, results = _source(once, batch), {output.name: output for output in once.of.outputs}
    return {
        size.symbols[0]: given.evaluate(sizes)
        for item in plain.inputs
        if item.name in once.inputs
        for size, given in zip(item.shape, results[item.name].shape, strict=True)
        if size.is_symbol()
    }


def first_feeds(once: Once | None, batch: int, seed: int) -> dict[str, Array]:
    """What the other entry is given; nothing where there is none."""
    if once is None or once.of is None:
        return {}
    return draw(once.of, _source(once, batch), seed=seed, masks="all true")


def given(once: Once | None, module: torch.nn.Module, batch: int, seed: int) -> dict[str, Array]:
    """What the other entry is given, and what it gives of it. Raises `Crash`."""
    if once is None or once.of is None:
        return {}
    feeds = first_feeds(once, batch, seed)
    found = programs.run_torch(module, once.of, feeds)
    return feeds | {name: found[name] for name in once.inputs}


def _source(once: Once, batch: int) -> Mapping[str, int]:
    assert once.of is not None
    rows = next((i.shape[0].symbols[0] for i in once.of.inputs if i.shape and i.shape[0].is_symbol()), None)
    wanted = dict.fromkeys(once.of.dims, 2) | ({rows: batch} if rows is not None else {})
    sizes = admissible(once.of, wanted)
    assert sizes is not None  # an entry has sizes that satisfy its facts
    return sizes

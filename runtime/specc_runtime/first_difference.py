"""Where do a spec and another program begin to differ? Results of parts, found again on the other side.

Parts of the same path are compared as they are. Where the other side calls its parts otherwise (or is a graph without
any), a result counts as found if some value there has its numbers in its order, whatever its name and shape; one of a
single row also where it is repeated for every row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from specc_runtime.compare import compare
from specc_runtime.foreign_program import Foreign, Seen, watching
from specc_runtime.inputs import Interface
from specc_runtime.programs import Crash, run_torch

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, Any]


def first_difference(
    module: torch.nn.Module, of: Interface, theirs: Foreign, feeds: Mapping[str, Array], within: float
) -> dict[str, str]:
    """Notes on the last part of the spec whose result the other side has too, and the first whose result it lacks."""
    with watching(module) as ours:
        run_torch(module, of, feeds)
    try:
        values = theirs.seen(of, feeds)
    except Crash:
        return {}
    found = _Found(values, within)
    last = ""
    for seen in ours:
        other = found.of(seen)
        if other is None:
            return _told(seen, last, found)
        last = f"`{seen.name}`" + (f" (theirs: `{other}`)" if other != seen.name else "")
    return {"equal through": last} if last else {}


def _told(first: Seen, last: str, found: _Found) -> dict[str, str]:
    notes = {"equal through": last} if last else {}
    same = found.named(first.name)
    if same is None:
        notes["first difference"] = f"`{first.name}`: no value of theirs is equal to its result"
    elif same.value.size != first.value.size:
        sides = f"{list(first.value.shape)} here, {list(same.value.shape)} there"
        notes["first difference"] = f"`{first.name}`, which both have: its result is {sides}"
    else:
        figures = compare(same.value.reshape(-1), first.value.reshape(-1).astype(same.value.dtype), found.within)
        notes["first difference"] = f"`{first.name}`, which both have: off by {figures.max_abs:.2e}"
    return notes


class _Found:
    """The other side's values, by name and by size."""

    def __init__(self, values: Iterable[Seen], within: float) -> None:
        self.within = within
        self.by_name: dict[str, list[Seen]] = {}
        self.by_size: dict[int, list[Seen]] = {}
        for seen in values:
            self.by_name.setdefault(seen.name, []).append(seen)
            self.by_size.setdefault(seen.value.size, []).append(seen)

    def named(self, name: str) -> Seen | None:
        return next(iter(self.by_name.get(name, ())), None)

    def of(self, ours: Seen) -> str | None:
        """The name of a value with the same numbers; one of the same name is preferred."""
        candidates = [*self.by_name.get(ours.name, ()), *self.by_size.get(ours.value.size, ())]
        found = next((other.name for other in candidates if self._equal(ours.value, other.value)), None)
        return found or next((o.name for o in self._repeated(ours.value)), None)

    def _repeated(self, ours: Array) -> Iterator[Seen]:
        """Values that are `ours` for every row, or the other way round."""
        import numpy as np

        for size, values in self.by_size.items():
            if not size or not ours.size or size == ours.size or max(size, ours.size) % min(size, ours.size):
                continue
            for other in values:
                try:
                    mine, theirs = np.broadcast_arrays(ours, other.value)
                except ValueError:
                    continue
                if mine.size == max(size, ours.size) and self._equal(mine, theirs):
                    yield other

    def _equal(self, ours: Array, theirs: Array) -> bool:
        if ours.size != theirs.size or ours.dtype.kind != theirs.dtype.kind:
            return False
        return not compare(theirs.reshape(-1), ours.reshape(-1).astype(theirs.dtype, copy=False), self.within).problem

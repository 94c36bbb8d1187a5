"""What is measured: a build's entry at some sizes, by a backend, on a number of threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Rejected
from specc.dims import Dim
from specc.inspect.formulas import total
from specc_runtime.cache import PAST_LENGTH, Cache
from specc_runtime.inputs import Interface, draw
from specc_runtime.module import Build
from specc_runtime.sizes import admissible

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

USUAL = 128
"""What a size is where nothing is said and the model allows it; the first axis, the batch, is 1, and of what continues
an earlier call there is one new position."""


@dataclass(frozen=True)
class Case:
    """One measurement; `quantized`: of the weights in few bits that a build with `--quant` has."""

    backend: str
    entry: str
    sizes: Mapping[str, int]
    threads: int
    quantized: bool = False

    @property
    def name(self) -> str:
        """`onnxruntime int8[B=1,T=128]-2`: what a result is found by again."""
        kind = self.backend + (" quantized" if self.quantized else "")
        sizes = ",".join(f"{name}={size}" for name, size in self.sizes.items())
        entry = "" if self.entry == "forward" else f"{self.entry} "
        return f"{kind}[{entry}{sizes}]-{self.threads}"


@dataclass(frozen=True)
class Measured:
    """Seconds of each run after the warm-up, and what it took besides.

    `first`: seconds of the first run, compilation included; `loading`: until it could begin. `peak`: bytes of resident
    memory above those of the libraries alone. `failed` says why there is no measurement.
    """

    case: Case
    times: Sequence[float] = ()
    first: float = 0.0
    loading: float = 0.0
    peak: int = 0
    failed: str = ""


def cases(
    made: Build, backends: Sequence[str], sizes: Sequence[Mapping[str, int]], threads: Sequence[int], entry: str
) -> list[Case]:
    """Every combination; the weights in few bits of a build with `--quant` are measured too, in onnxruntime.

    Raises `Rejected`: B660 for an entry that the build does not have, E009 for sizes that the model does not take.
    """
    of, kept = interface_of(made, entry), cache_of(made, entry)
    step = kept.step if kept is not None else ""
    chosen = [chosen_sizes(of, entry, given, step) for given in sizes] or [usual(of, step)]
    found = []
    for count in threads:
        for at in chosen:
            for backend in backends:
                found.append(Case(backend, entry, at, count))
                quantised = made.manifest["entries"][entry].get("quantised")
                if backend.startswith("onnxruntime") and quantised is not None:
                    found.append(Case(backend, entry, at, count, quantized=True))
    return found


def cache_of(made: Build, entry: str) -> Cache | None:
    """What an entry that continues its earlier calls keeps."""
    found = made.manifest["entries"].get(entry, {}).get("cache")
    return Cache.from_json(found) if found is not None else None


def interface_of(made: Build, entry: str) -> Interface:
    """An entry's interface; of one that continues its earlier calls with what its cache has room for. Raises `Rejected`
    (B660) for an entry that the build does not have.
    """
    of, kept = made.interface(entry), cache_of(made, entry)
    if kept is None or kept.room is None:
        return of
    positions = total(Dim.symbol(name) for name in (kept.step, kept.past) if name in of.dims)
    return of if positions is None else replace(of, facts=of.facts.bound(positions, hi=kept.room))


def feeds(made: Build, case: Case) -> dict[str, Array]:
    """Inputs of a case, drawn; every mask is true, a static cache is as full as it can be."""
    import numpy as np

    found = draw(made.interface(case.entry), case.sizes, masks="all true")
    kept = cache_of(made, case.entry)
    if kept is not None and kept.room is not None and PAST_LENGTH in found:
        found[PAST_LENGTH] = np.array(kept.room - case.sizes.get(kept.step, 1), dtype=np.int64)
    return found


def usual(of: Interface, step: str = "") -> dict[str, int]:
    """One row, one position of `step`, 128 of every other size, or what the model allows that is nearest to it."""
    batch = next((s for i in of.inputs if i.shape for s in i.shape[0].symbols), "")
    wanted = {name: 1 if name in (batch, step) else USUAL for name in of.dims}
    found = admissible(of, wanted)
    return found if found is not None else wanted


def chosen_sizes(of: Interface, entry: str, given: Mapping[str, int], step: str = "") -> dict[str, int]:
    """Sizes that a user gave, the others as usual; raises `Rejected` (E009)."""
    known = (("available", ", ".join(of.dims) or "none: every size is fixed"),)
    strange = next((name for name in given if name not in of.dims), None)
    if strange is not None:
        raise Rejected([Diagnostic("E009", f"{entry} has no dim `{strange}`", notes=known)])
    wanted = usual(of, step) | dict(given)
    broken = of.facts.satisfied_by(wanted)
    near = admissible(of, wanted) if broken is not None else wanted
    if near is None or any(near[name] != size for name, size in given.items()):
        sizes = ", ".join(f"{name} = {value}" for name, value in wanted.items())
        raise Rejected([Diagnostic("E009", f"{sizes}: {entry} needs {broken}", notes=known)])
    return near


def items(of: Interface, sizes: Mapping[str, int]) -> tuple[int, str]:
    """What one run works through: tokens where the first input is one of integers with two axes, else rows."""
    first = next((i for i in of.inputs if i.shape), None)
    if first is None:
        return 1, "runs"
    shape = [dim.evaluate(sizes) for dim in first.shape]
    if first.dtype.startswith("i") and len(shape) == 2:
        return shape[0] * shape[1], "tokens"
    return shape[0], "rows"


def to_json(case: Case) -> dict[str, Any]:
    return {**vars(case), "sizes": dict(case.sizes)}

"""The criterion: when do two outputs count as equal, and by how much do they differ?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

TOLERANCE = 1e-5
"""Largest difference in fp32, relative to max(1, max|reference|)."""
DEEP_TOLERANCE = 1e-4
"""The same for deep models: rounding errors add up from block to block."""
DEEP = 12
"""Blocks up to which `TOLERANCE` holds. The depth of an entry is the number of iterations of loops over parts that have
parts of their own (the blocks of a transformer, not the layers of a list of Linears), along the longest chain of values
that depend on each other: 12 for GPT-2 124M, 6 + 6 for an encoder-decoder with 6 and 6."""

_CHUNK = 1 << 15  # elements compared at a time: they stay in the cache


def tolerance(depth: int) -> float:
    """The relative tolerance for an entry of that many blocks."""
    return TOLERANCE if depth <= DEEP else DEEP_TOLERANCE


@dataclass(frozen=True)
class Figures:
    """How far an output is from its reference.

    `limit` is what `max_abs` may be; `largest` is max|reference|; `max_ulp` counts representable values in between;
    `nan` counts the positions that are NaN in both. `problem` says in what the two differ, empty if they are equal.
    `worst` is the index of the largest difference with both values there.
    """

    max_abs: float = 0.0
    max_rel: float = 0.0
    max_ulp: float = 0.0
    limit: float = 0.0
    largest: float = 0.0
    nan: int = 0
    problem: str = ""
    worst: tuple[tuple[int, ...], float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """The numbers, to four digits."""
        numbers = {k: _short(getattr(self, k)) for k in ("max_abs", "max_rel", "max_ulp", "limit", "largest")}
        return {**numbers, "nan": self.nan}


def _short(x: float) -> float:
    return float(f"{x:.3e}")


def compare(reference: Array, found: Array, relative: float) -> Figures:
    """Figures for floats within `relative` x max(1, max|reference|), and for everything else by equality."""
    import numpy as np

    if reference.dtype != found.dtype:
        return Figures(problem=f"its type is {found.dtype}, not {reference.dtype}")
    if reference.shape != found.shape:
        return Figures(problem=f"its shape is {list(found.shape)}, not {list(reference.shape)}")
    if reference.size == 0:
        return Figures(limit=relative)
    a, b = reference.reshape(-1), found.reshape(-1)
    if reference.dtype.kind != "f":
        wrong = np.flatnonzero(a != b)
        if not wrong.size:
            return Figures()
        at = int(wrong[0])
        worst = _index(at, reference.shape), float(a[at]), float(b[at])
        return Figures(max_abs=abs(worst[1] - worst[2]), problem=f"{wrong.size} of {a.size} values differ", worst=worst)
    return _compare_floats(a, b, relative, reference.shape)


def _compare_floats(a: Array, b: Array, relative: float, shape: tuple[int, ...]) -> Figures:
    import numpy as np

    max_abs = max_rel = max_ulp = largest = 0.0
    nan, at, problem = 0, 0, ""
    for start in range(0, a.size, _CHUNK):
        x, y = a[start : start + _CHUNK], b[start : start + _CHUNK]
        with np.errstate(invalid="ignore", over="ignore"):
            distance = np.abs(x - y)
        if not np.isfinite(distance.max()):
            strange = ~(np.isfinite(x) & np.isfinite(y))
            nan += int(np.isnan(x).sum())
            wrong = np.flatnonzero(strange & (x != y) & ~(np.isnan(x) & np.isnan(y)))
            if wrong.size and not problem:
                at = start + int(wrong[0])
                problem = f"{a[at]} in torch is {b[at]}"
            x, y = np.where(strange, x.dtype.type(0), x), np.where(strange, x.dtype.type(0), y)
            distance = np.abs(x - y)
        where = int(distance.argmax())
        if distance[where] > max_abs:
            max_abs = float(distance[where])
            at = at if problem else start + where
        size = np.abs(x)
        largest = max(largest, float(size.max()))
        if max_abs:
            max_ulp = max(max_ulp, _ulps(x, y))
            size[size == 0] = np.inf  # relative to zero there is no figure
            max_rel = max(max_rel, float((distance / size).max()))
    limit = relative * max(1.0, largest)
    if not problem and max_abs > limit:
        problem = f"it is off by {max_abs:.2e}, the limit is {limit:.1e}"
    worst = _index(at, shape), float(a[at]), float(b[at])
    return Figures(max_abs, max_rel, max_ulp, limit, largest, nan, problem, worst)


def _ulps(x: Array, y: Array) -> float:
    """The largest number of representable values from one to the other."""
    import numpy as np

    i, j = (v.view(f"i{v.dtype.itemsize}") for v in (x, y))
    if not ((i ^ j) < 0).any() and x.dtype.itemsize <= 4:
        return float(np.abs(i - j).max())
    lowest = np.iinfo(i.dtype).min
    i, j = (np.where(v < 0, lowest - v, v).astype(np.float64) for v in (i, j))
    return float(np.abs(i - j).max())


def _index(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    index = []
    for size in reversed(shape):
        flat, rest = divmod(flat, size)
        index.append(rest)
    return tuple(reversed(index))

"""What the generator knows of a tensor's numbers: a range, and how far two correct programs may be apart.

The tolerance is onnxruntime's own for its kernels, so a spec must not amplify rounding: `1/x` near 0 or exp(exp(x)) are
ill-conditioned in any program. A range and an error bound per value keep such compositions from being written, instead
of a tolerance that would also hide faults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

ROUND = 2.0**-24
"""Two programs' results of one operation on equal operands differ by about this, relative to the largest value."""
LARGE = 32.0
"""Values beyond this are scaled down before they are used again."""
ERROR = 5e-6
"""The error a value may carry: half of the absolute tolerance."""
_SAMPLES = 65


@dataclass(frozen=True)
class Bound:
    """lo <= value <= hi; `err` bounds |torch - onnxruntime|, 0 for values that both hold bit by bit.

    `distinct`: no two elements are equal. `varied`: drawn or computed from what was drawn, so the elements along an
    axis differ by about their size (what norms divide by).
    """

    lo: float
    hi: float
    err: float = 0.0
    distinct: bool = False
    varied: bool = False

    @property
    def exact(self) -> bool:
        return self.err == 0.0

    @property
    def mag(self) -> float:
        return max(abs(self.lo), abs(self.hi))

    def within(self, lo: float, hi: float) -> bool:
        return lo <= self.lo and self.hi <= hi

    def moved(self) -> Bound:
        """The same elements in other places."""
        return self

    def repeated(self) -> Bound:
        """The same elements, some of them more than once, or with others between."""
        return replace(self, distinct=False, varied=False)

    def union(self, other: Bound) -> Bound:
        return Bound(min(self.lo, other.lo), max(self.hi, other.hi), max(self.err, other.err))

    def scaled(self, factor: float) -> Bound:
        ends = sorted((self.lo * factor, self.hi * factor))
        return replace(self, lo=ends[0], hi=ends[1], err=self.err * abs(factor))

    def clamped(self, lo: float, hi: float) -> Bound:
        low, high = min(max(self.lo, lo), hi), max(min(self.hi, hi), lo)
        return Bound(low, high, self.err)

    def through(self, f: Callable[[float], float], slope: float, *, exact: bool = False) -> Bound:
        """The bound of f(x) for a continuous f that is `slope` steep at most; `exact`: nothing is rounded."""
        step = (self.hi - self.lo) / (_SAMPLES - 1)
        ends = [f(self.lo + i * step) for i in range(_SAMPLES)]
        slack = 0.0 if exact else slope * step / 2
        lo, hi = min(ends) - slack, max(ends) + slack
        mag = max(abs(lo), abs(hi))
        return Bound(lo, hi, self.err * slope + (0.0 if exact else mag * ROUND), varied=self.varied and not exact)


def computed(lo: float, hi: float, err: float, *, varied: bool = False) -> Bound:
    """The bound of a result that carries `err` from its operands and is rounded once itself."""
    return Bound(lo, hi, err + max(abs(lo), abs(hi)) * ROUND, varied=varied)


DRAWN = Bound(-6.0, 6.0, distinct=True, varied=True)
"""A floating input: standard normal."""
FREE = Bound(0, 3)
"""An integer input that indexes nothing (`specc_runtime.inputs.FREE_RANGE`)."""
TRUTH = Bound(0, 1)

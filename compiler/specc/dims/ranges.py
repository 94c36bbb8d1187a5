"""Interval arithmetic over sizes, sharpened where plain intervals lose the link between a size and its own quotient."""

from __future__ import annotations

from collections.abc import Callable

from specc.dims.algebra import Dim
from specc.dims.monomials import DimError, Factor, Floor, Monomial

Range = tuple[int | None, int | None]
"""(least, greatest), both inclusive; None is unbounded."""
Bounds = Callable[[str], Range]
"""The range of a symbol."""

EVERYTHING: Range = (None, None)
_SHIFTED = "+"  # suffix of the name that stands for how far a symbol lies above its least value


def intersect(left: Range, right: Range) -> Range:
    lows = [x for x in (left[0], right[0]) if x is not None]
    highs = [x for x in (left[1], right[1]) if x is not None]
    return (max(lows) if lows else None), (min(highs) if highs else None)


def add(left: Range, right: Range) -> Range:
    return (
        None if left[0] is None or right[0] is None else left[0] + right[0],
        None if left[1] is None or right[1] is None else left[1] + right[1],
    )


def scale(k: int, r: Range) -> Range:
    low, high = (r[0], r[1]) if k > 0 else (r[1], r[0])
    return (None if low is None else k * low), (None if high is None else k * high)


def negated(x: int | None) -> int | None:
    return None if x is None else -x


def multiply(left: Range, right: Range) -> Range:
    if (0, 0) in (left, right):
        return 0, 0
    if left[0] is not None and left[0] >= 0 and right[0] is not None and right[0] >= 0:  # by far the usual case
        high = None if left[1] is None or right[1] is None else left[1] * right[1]
        return left[0] * right[0], high
    if None in left or None in right:
        return EVERYTHING
    corners = [a * b for a in left for b in right if a is not None and b is not None]
    return min(corners), max(corners)


def divide(top: Range, bottom: Range) -> Range:
    """floor(top / bottom); unbounded unless the divisor is known to be positive."""
    if bottom[0] is None or bottom[0] < 1:
        return EVERYTHING
    low, high = top
    if low is not None:
        low = low // bottom[0] if low < 0 else (0 if bottom[1] is None else low // bottom[1])
    if high is not None:
        high = high // bottom[0] if high >= 0 else (-1 if bottom[1] is None else high // bottom[1])
    return low, high


def _term(factor: Factor) -> Dim:
    return Dim(((((factor, 1),), 1),))


class Ranges:
    """Ranges of sizes while each symbol stays within its bounds; answers are remembered."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._known: dict[Dim, Range] = {}

    def of(self, dim: Dim) -> Range:
        """A range that contains every value the size takes."""
        if dim.value is not None:
            return dim.value, dim.value
        known = self._known.get(dim)
        if known is None:
            known = intersect(self._plain(dim), self._from_least(dim))
            if dim.depth:
                known = intersect(known, (self._without_floors(dim), negated(self._without_floors(-dim))))
            self._known[dim] = known
        return known

    def _plain(self, dim: Dim) -> Range:
        """Term by term."""
        total: Range = (0, 0)
        for monomial, coefficient in dim.terms():
            total = add(total, scale(coefficient, self._product(monomial)))
            if total == EVERYTHING:
                break
        return total

    def _product(self, monomial: Monomial) -> Range:
        product: Range = (1, 1)
        for factor, power in monomial:
            base = self._factor(factor)
            if power % 2 == 0 and (base[0] is None or base[0] < 0):  # an even power of something that may be negative
                base = (0, None) if None in base else (0, max(abs(x) for x in base if x is not None))
            for _ in range(power):
                product = multiply(product, base)
        return product

    def _factor(self, factor: Factor) -> Range:
        if isinstance(factor, str):
            return self._bounds(factor)
        return divide(self.of(factor.numerator), self.of(factor.denominator))

    def _from_least(self, dim: Dim) -> Range:
        """Term by term after writing each symbol as its least value plus something >= 0: proves T**2 - T >= 0.

        Floor quotients are left alone, they are symbols of their own here."""
        if all(coefficient > 0 for monomial, coefficient in dim.terms() if monomial):
            return EVERYTHING  # nothing to gain: the plain interval is exact at the lower corner
        shifted = Dim.const(0)
        try:
            for monomial, coefficient in dim.terms():
                product = Dim.const(coefficient)
                for factor, power in monomial:
                    low = self._bounds(factor)[0] if isinstance(factor, str) else None
                    base = _term(factor) if low is None else Dim.symbol(f"{factor}{_SHIFTED}") + low
                    product = product * base**power
                shifted = shifted + product
        except DimError:  # the expansion would be too large
            return EVERYTHING

        def above(name: str) -> Range:
            if not name.endswith(_SHIFTED):
                return self._bounds(name)
            low, high = self._bounds(name[: -len(_SHIFTED)])
            assert low is not None
            return 0, None if high is None else high - low

        return self._terms_over(shifted, above)

    def _terms_over(self, dim: Dim, symbol: Bounds) -> Range:
        total: Range = (0, 0)
        for monomial, coefficient in dim.terms():
            product: Range = (1, 1)
            for factor, power in monomial:
                base = symbol(factor) if isinstance(factor, str) else self._factor(factor)
                for _ in range(power):
                    product = multiply(product, base)
            total = add(total, scale(coefficient, product))
        return total

    def _without_floors(self, dim: Dim) -> int | None:
        """A lower bound found by replacing quotients, outermost first: a - n + 1 <= n*floor(a/n) <= a.

        The replacement keeps the link between a quotient and the sizes it is made of: Y - 2*(Y//2) is at least 0.
        """
        scale_by, best = 1, None
        try:
            for _ in range(8):
                target = self._outermost(dim)
                if target is None:
                    break
                floor, n = target
                over = Dim.const(0)
                for monomial, coefficient in dim.terms():
                    rest = tuple(item for item in monomial if item[0] != floor)
                    if len(rest) == len(monomial):
                        over = over + Dim(((monomial, coefficient * n),))
                    else:
                        least = floor.numerator - (n - 1) if coefficient > 0 else floor.numerator
                        over = over + Dim(((rest, coefficient),)) * least
                dim, scale_by = over, scale_by * n
                for low in (self._plain(dim)[0], self._from_least(dim)[0]):
                    if low is not None:
                        rounded = -(-low // scale_by)
                        best = rounded if best is None else max(best, rounded)
        except DimError:  # too large to expand: what was found so far holds
            return best
        return best

    def _outermost(self, dim: Dim) -> tuple[Floor, int] | None:
        """The deepest quotient with a constant divisor whose every term has the other factors >= 0."""
        best: Floor | None = None
        blocked: set[Floor] = set()
        for monomial, _ in dim.terms():
            for factor, power in monomial:
                if isinstance(factor, str):
                    continue
                rest = self._product(tuple(item for item in monomial if item[0] != factor))
                if power > 1 or factor.denominator.value is None or rest[0] is None or rest[0] < 0:
                    blocked.add(factor)
                elif best is None or factor.depth > best.depth:
                    best = factor
        if best is None or best in blocked:
            return None
        n = best.denominator.value
        return None if n is None else (best, n)

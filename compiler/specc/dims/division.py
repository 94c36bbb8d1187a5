"""Division of sizes in normal form: the rules listed in `algebra`."""

from __future__ import annotations

from functools import lru_cache
from math import gcd
from typing import TYPE_CHECKING

from specc.dims.monomials import MAX_POWER, Factor, Floor, Monomial, over

if TYPE_CHECKING:
    from specc.dims.algebra import Dim


@lru_cache(maxsize=8_192)
def floordiv(numerator: Dim, denominator: Dim) -> Dim:
    """floor(numerator / denominator) in normal form; both plain, the denominator not zero."""
    numerator, denominator = _cancelled(numerator, denominator)
    n = denominator.value
    if n is not None:
        return _by_constant(numerator, n)
    quotient, rest = _divided(numerator, denominator)
    if not rest.terms():
        return quotient
    if quotient.terms():
        return quotient + floordiv(rest, denominator)
    if denominator.evidently_nonnegative():
        nested = _unnested(rest, denominator)
        if nested is not None:
            return nested
    return rest.build([(((Floor(rest, denominator), 1),), 1)])


def _by_constant(numerator: Dim, n: int) -> Dim:
    """Division by n > 0, which shares no factor with all of the numerator's coefficients."""
    if n == 1:
        return numerator
    quotient = numerator.build((monomial, coefficient // n) for monomial, coefficient in numerator.terms())
    rest = numerator.build((monomial, coefficient % n) for monomial, coefficient in numerator.terms())
    if rest.value is not None:
        return quotient
    common = gcd(n, *(coefficient for monomial, coefficient in rest.terms() if monomial))
    if common > 1:
        rest = numerator.build((monomial, coefficient // common) for monomial, coefficient in rest.terms())
        n //= common
        if n == 1:
            return quotient + rest
    nested = _unnested(rest, rest.const(n))
    if nested is None:
        nested = rest.build([(((Floor(rest, rest.const(n)), 1),), 1)])
    return quotient + nested


def _unnested(numerator: Dim, denominator: Dim) -> Dim | None:
    """floor((floor(a/m) + c) / n) = floor((a + c*m) / (m*n)), for a floor quotient that stands alone in the numerator.

    Holds for every positive integer n and any a, m, because floor((floor(x) + c) / n) = floor((x + c) / n).
    """
    for monomial, coefficient in numerator.terms():
        if coefficient == 1 and len(monomial) == 1 and monomial[0][1] == 1:
            inner = monomial[0][0]
            if isinstance(inner, Floor):
                rest = numerator.build(term for term in numerator.terms() if term[0] != monomial)
                return (inner.numerator + rest * inner.denominator) // (inner.denominator * denominator)
    return None


def _cancelled(numerator: Dim, denominator: Dim) -> tuple[Dim, Dim]:
    """Both sides without their common integer and symbol factors, the denominator's leading coefficient positive."""
    top, bottom = numerator.terms(), denominator.terms()
    common = gcd(*(coefficient for _, coefficient in top + bottom))
    if bottom[0][1] < 0:
        common = -common
    powers: dict[Factor, int] = dict(bottom[0][0]) if top else {}
    for monomial, _ in top + bottom:
        if not powers:
            break
        present = dict(monomial)
        powers = {factor: min(power, present[factor]) for factor, power in powers.items() if factor in present}
    if common == 1 and not powers:
        return numerator, denominator
    shared = tuple(powers.items())
    return _reduced(numerator, common, shared), _reduced(denominator, common, shared)


def _reduced(dim: Dim, common: int, shared: Monomial) -> Dim:
    return dim.build((over(monomial, shared) or (), coefficient // common) for monomial, coefficient in dim.terms())


def _divided(numerator: Dim, denominator: Dim) -> tuple[Dim, Dim]:
    """Polynomial division with integer coefficients: numerator = quotient * denominator + rest."""
    lead, scale = denominator.terms()[0]
    quotient, rest = numerator.const(0), numerator
    for _ in range(MAX_POWER):  # every step removes the largest divisible term; the cap only guards odd inputs
        for monomial, coefficient in rest.terms():
            ratio = over(monomial, lead)
            if ratio is not None and coefficient // scale:
                step = numerator.build([(ratio, coefficient // scale)])
                break
        else:
            break
        quotient, rest = quotient + step, rest - step * denominator
    return quotient, rest

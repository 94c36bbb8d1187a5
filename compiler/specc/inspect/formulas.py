"""Arithmetic of formulas that may be too long to write down, and of the largest of several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from specc.dims import Dim, DimError

Formula = Dim | None
"""A formula over the entry's dims; None if it would be too long to write down."""

ZERO = Dim.const(0)


def total(formulas: Iterable[Formula]) -> Formula:
    found = ZERO
    for formula in formulas:
        if formula is None:
            return None
        try:
            found = found + formula
        except DimError:
            return None
    return found


def times(formula: Formula, count: Dim | int) -> Formula:
    try:
        return None if formula is None else formula * count
    except DimError:
        return None


def at_ones(formula: Dim) -> int:
    return formula.evaluate(dict.fromkeys(formula.symbols, 1))


Largest = tuple[Dim, ...]
"""The largest of these, of which none is evidently below another; () is 0."""


def largest(formulas: Iterable[Dim]) -> Largest:
    kept: list[Dim] = []
    for formula in dict.fromkeys(formulas):
        if any((other - formula).evidently_nonnegative() for other in kept):
            continue
        kept = [other for other in kept if not (formula - other).evidently_nonnegative()]
        kept.append(formula)
    return tuple(kept)


def evaluate(formulas: Largest, at: Mapping[str, int]) -> int:
    return max((formula.evaluate(at) for formula in formulas), default=0)

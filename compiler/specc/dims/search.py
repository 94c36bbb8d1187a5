"""Small concrete sizes, in a fixed order: where counter-examples are looked for."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal, TypeAlias

from specc.dims.algebra import Dim
from specc.dims.monomials import DivisionError, Floor
from specc.dims.ranges import Range
from specc.dims.statements import Refuted

_SWEEP = 24  # values tried per size while the others stay at their first one


@dataclass(frozen=True)
class Axis:
    """The values one size may take: start, start + step, .. up to stop inclusive (None: no end)."""

    name: str
    start: int
    step: int
    stop: int | None


class _Values:
    """An axis's values, best first, produced when asked for.

    A least value of 0 or 1 comes third: there too many different things coincide. Then the ends of the range and the
    values of interest, then all the others in order.
    """

    def __init__(self, axis: Axis, near: Sequence[int]) -> None:
        self._known: list[int] = []
        self._more = _ordered(axis, near)

    def at(self, index: int) -> int | None:
        while len(self._known) <= index:
            value = next(self._more, None)
            if value is None:
                return None
            self._known.append(value)
        return self._known[index]


def _ordered(axis: Axis, near: Sequence[int]) -> Iterator[int]:
    def inside(index: int) -> bool:
        return index >= 0 and (axis.stop is None or axis.start + index * axis.step <= axis.stop)

    first = [1, 2, 0, 3] if axis.start < 2 else [0, 1, 2, 3]
    if axis.stop is not None:
        last = (axis.stop - axis.start) // axis.step
        first += [last, last - 1]
    for value in near:
        first += [(value - axis.start) // axis.step + i for i in (0, 1)]
    seen: set[int] = set()
    for index in first:
        if inside(index) and index not in seen:
            seen.add(index)
            yield axis.start + index * axis.step
    for index in count():
        if not inside(index):
            return
        if index not in seen:
            yield axis.start + index * axis.step


def points(axes: Sequence[Axis], near: Iterable[int] = ()) -> Iterator[dict[str, int]]:
    """Every point of the grid, each once: first one size at a time, then all, by the sum of their ranks.

    Ends only when a finite grid is exhausted. Without axes there is one point, the empty one.
    """
    interesting = tuple(dict.fromkeys(near))
    values = [_Values(axis, interesting) for axis in axes]
    first = [v.at(0) for v in values]
    if None in first:
        return
    base = {axis.name: x for axis, x in zip(axes, first, strict=True) if x is not None}
    yield dict(base)
    for rank in range(1, _SWEEP):
        for axis, v in zip(axes, values, strict=True):
            x = v.at(rank)
            if x is not None:
                yield {**base, axis.name: x}
    for total in count(1):
        alive = False
        for ranks in _ranks(values, total):
            alive = True
            if sum(rank > 0 for rank in ranks) == 1 and total < _SWEEP:
                continue
            chosen = (v.at(rank) for v, rank in zip(values, ranks, strict=True))
            yield {axis.name: x for axis, x in zip(axes, chosen, strict=True) if x is not None}
        if not alive:
            return


def _ranks(values: Sequence[_Values], total: int) -> Iterator[tuple[int, ...]]:
    """Index tuples that exist on every axis and add up to `total`."""
    if len(values) == 1:
        if values[0].at(total) is not None:
            yield (total,)
        return
    for rank in range(total + 1):
        if not values or values[0].at(rank) is None:
            return
        for rest in _ranks(values[1:], total - rank):
            yield (rank, *rest)


Relation: TypeAlias = Literal["eq", "ge", "le"]
CLAIMS: dict[Relation, Callable[[Range], bool]] = {
    "eq": lambda gap: gap == (0, 0),
    "ge": lambda gap: gap[0] is not None and gap[0] >= 0,
    "le": lambda gap: gap[1] is not None and gap[1] <= 0,
}
_COMPARE: dict[Relation, Callable[[int, int], bool]] = {"eq": operator.eq, "ge": operator.ge, "le": operator.le}


class Search:
    """The search for a counter-example to one claim; `run` continues where the last one stopped."""

    def __init__(self, relation: Relation, a: Dim, b: Dim, grid: Iterator[dict[str, int] | None]) -> None:
        self._relation = _COMPARE[relation]
        self._a, self._b = a, b
        self._points = grid
        self._sound = True  # every point so far had values on both sides
        self._met = False  # some point satisfied the facts
        self._ended = False

    @property
    def exhausted(self) -> bool:
        """Whether every point there is was tried: then finding no counter-example is a proof."""
        return self._ended and self._sound and self._met

    def run(self, limit: int) -> Refuted | None:
        for _ in range(limit):
            try:
                env = next(self._points)
            except StopIteration:
                self._ended = True
                return None
            if env is None:
                continue
            try:
                left, right = self._a.evaluate(env), self._b.evaluate(env)
            except DivisionError:  # a division by zero: no size at all here, so nothing to compare
                self._sound = False
                continue
            self._met = True
            if not self._relation(left, right):
                mentioned = {*self._a.symbols, *self._b.symbols}
                tied = {name: value for name, value in env.items() if name not in mentioned}
                return Refuted({**{n: v for n, v in env.items() if n in mentioned}, **tied}, left, right)
        return None


def interesting(gap: Dim) -> list[int]:
    """Values near which the sign of `gap` may change: its constants over its coefficients, and its divisors."""
    constant = next((abs(c) for monomial, c in gap.terms() if not monomial), 0)
    found: list[int] = []
    for monomial, coefficient in gap.terms():
        if monomial:
            found.append(constant // abs(coefficient))
        for factor, _ in monomial:
            if isinstance(factor, Floor) and factor.denominator.value is not None:
                found += [factor.denominator.value, constant * factor.denominator.value // abs(coefficient)]
    return [value for value in dict.fromkeys(found) if value > 3][:8]

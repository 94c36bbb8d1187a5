"""Statements about sizes, and the answers that questions get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from specc.dims.algebra import Dim
from specc.dims.monomials import DivisionError, Floor
from specc.dims.ranges import Bounds, Range, Ranges


@dataclass(frozen=True)
class Proved:
    """The claim holds wherever the facts do."""

    def __bool__(self) -> bool:
        return True


@dataclass(frozen=True)
class Refuted:
    """The claim fails at `env`, which satisfies the facts; `left` and `right` are the values of the two sides there."""

    env: dict[str, int]
    left: int
    right: int

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        where = ", ".join(f"{name} = {value}" for name, value in self.env.items())
        return f"{where} gives {self.left} and {self.right}" if where else f"{self.left} and {self.right}"


@dataclass(frozen=True)
class Unknown:
    """Neither a proof nor a counter-example was found."""

    def __bool__(self) -> bool:
        return False


Proof: TypeAlias = Proved | Refuted | Unknown
Kind: TypeAlias = Literal["ge", "le", "div"]


@dataclass(frozen=True)
class Fact:
    """One assumption or obligation: dim >= n, dim <= n, or dim % n == 0."""

    kind: Kind
    dim: Dim
    n: int

    def __str__(self) -> str:
        text = self.dim.label or str(self.dim)
        if self.kind == "div":
            left = text if self.dim.is_symbol() or self.dim.label else f"({text})"
            return f"{left} % {self.n} == 0"
        return f"{text} {'>=' if self.kind == 'ge' else '<='} {self.n}"

    def holds(self, env: Mapping[str, int]) -> bool:
        """Whether the sizes of `env` satisfy it (not where it divides by zero). Raises DimError for an unbound name."""
        try:
            value = self.dim.evaluate(env)
        except DivisionError:
            return False
        if self.kind == "div":
            return value % self.n == 0
        return value >= self.n if self.kind == "ge" else value <= self.n


MAY_BE_ZERO = ("past(", "routed(")


def default_least(symbol: str) -> int:
    """What every size is known to be at least: 1, and 0 for a past length or the number of rows that `route` sends."""
    return 0 if symbol.startswith(MAY_BE_ZERO) else 1


def solve_for(symbol: str, fact: Fact, bounds: Bounds) -> Range:
    """What a bound on a linear expression says about one of its symbols."""
    dim, n = fact.dim, fact.n
    terms = dim.terms()
    while len(terms) == 1 and terms[0][1] == 1 and len(terms[0][0]) == 1 and isinstance(terms[0][0][0][0], Floor):
        inner = terms[0][0][0][0]  # floor(a/m) <= n says a <= n*m + m - 1, and floor(a/m) >= n says a >= n*m
        m = inner.denominator.value
        if m is None or terms[0][0][0][1] != 1:
            return None, None
        dim, n = inner.numerator, n * m + (m - 1 if fact.kind == "le" else 0)
        terms = dim.terms()
    a = next((coefficient for monomial, coefficient in terms if monomial == ((symbol, 1),)), 0)
    rest = dim - Dim.symbol(symbol) * a
    if not a or symbol in rest.symbols:
        return None, None
    low, high = Ranges(bounds).of(rest)
    if fact.kind == "le":  # a*symbol <= n - rest
        limit = None if low is None else n - low
        return (None, None) if limit is None else ((None, limit // a) if a > 0 else (-(limit // -a), None))
    limit = None if high is None else n - high  # a*symbol >= n - rest
    return (None, None) if limit is None else ((-(-limit // a), None) if a > 0 else (None, -limit // -a))

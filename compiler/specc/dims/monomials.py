"""What a size is made of: symbols, floor quotients, and products of their powers in a fixed order."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from specc.dims.algebra import Dim

MAX_NODES = 1_000
"""Largest size of one expression, in symbols and coefficients: bounds time and memory, far above any real model."""
MAX_DEPTH = 32
"""Deepest nesting of floor quotients that no rule flattens."""
MAX_BITS = 4_096
"""Largest magnitude of a coefficient, in bits."""
MAX_POWER = 64
"""Largest exponent of a symbolic size."""
TOO_MANY = f"the size is too large to handle (over {MAX_NODES} terms)"
TOO_LONG = f"the size is too large to handle (over {MAX_BITS} bits)"


class DimError(ValueError):
    """A size that has no value or is too large to handle; the message says why, in the language's terms."""


class DivisionError(DimError):
    """A size is divided by zero."""


class Floor:
    """The opaque factor floor(numerator / denominator), in normal form. Immutable; made only by `Dim.__floordiv__`."""

    __slots__ = ("_hash", "denominator", "depth", "key", "nodes", "numerator")

    def __init__(self, numerator: Dim, denominator: Dim) -> None:
        self.numerator = numerator
        self.denominator = denominator
        self.nodes = numerator.nodes + denominator.nodes
        self.depth = 1 + max(numerator.depth, denominator.depth)
        if self.nodes > MAX_NODES or self.depth > MAX_DEPTH:
            raise DimError(TOO_MANY)
        self.key = f"~({numerator})//({denominator})"  # "~" sorts behind every name
        self._hash = hash((numerator, denominator))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Floor):
            return NotImplemented
        return self.key == other.key

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Floor({self.numerator}, {self.denominator})"

    def __reduce__(self) -> tuple[object, ...]:
        return Floor, (self.numerator, self.denominator)


Factor: TypeAlias = str | Floor
"""A symbol's name, or a floor quotient."""
Monomial: TypeAlias = tuple[tuple[Factor, int], ...]
"""Factors with their exponents (>= 1), ordered by `key`; `()` is the constant monomial."""
Terms: TypeAlias = tuple[tuple[Monomial, int], ...]


def key(factor: Factor) -> str:
    """What factors are sorted by: symbols by name, then quotients."""
    return factor if isinstance(factor, str) else factor.key


@lru_cache(maxsize=16_384)
def order(monomial: Monomial) -> tuple[int, tuple[tuple[str, int], ...]]:
    """Sort key of a monomial: higher degree first, then by names; the constant comes last."""
    return -sum(power for _, power in monomial), tuple((key(factor), -power) for factor, power in monomial)


def term_order(term: tuple[Monomial, int]) -> tuple[int, tuple[tuple[str, int], ...]]:
    """`order` of a (monomial, coefficient) pair."""
    return order(term[0])


@lru_cache(maxsize=16_384)
def times(left: Monomial, right: Monomial) -> Monomial:
    """left * right."""
    powers = dict(left)
    for factor, power in right:
        powers[factor] = powers.get(factor, 0) + power
    return tuple(sorted(powers.items(), key=lambda item: key(item[0])))


def over(left: Monomial, right: Monomial) -> Monomial | None:
    """left / right when right divides left, else None."""
    powers = dict(left)
    for factor, power in right:
        rest = powers.get(factor, 0) - power
        if rest < 0:
            return None
        if rest:
            powers[factor] = rest
        else:
            del powers[factor]
    return tuple(powers.items())

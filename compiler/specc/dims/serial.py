"""Sizes as JSON: nested lists in prefix form."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from specc.dims.monomials import DimError, Floor, Monomial

if TYPE_CHECKING:
    from specc.dims.algebra import Dim

Json: TypeAlias = "int | str | list[Json]"
_MAX_DEPTH = 100


def to_json(dim: Dim) -> Json:
    """768, "T", ["+", ["*", 3, "T"], 1], ["//", ["+", "Y", 1], 2], ["**", "T", 2]."""
    if dim.value is not None:
        return dim.value
    parts = [_term_json(monomial, coefficient) for monomial, coefficient in dim.terms()]
    return parts[0] if len(parts) == 1 else ["+", *parts]


def _term_json(monomial: Monomial, coefficient: int) -> Json:
    parts: list[Json] = [] if coefficient == 1 and monomial else [coefficient]
    for factor, power in monomial:
        base = factor if isinstance(factor, str) else _quotient_json(factor)
        parts.append(base if power == 1 else ["**", base, power])
    return parts[0] if len(parts) == 1 else ["*", *parts]


def _quotient_json(floor: Floor) -> Json:
    return ["//", to_json(floor.numerator), to_json(floor.denominator)]


class Reader:
    """Rebuilds sizes through the two constructors it is given."""

    def __init__(self, symbol: Callable[[str], Dim], const: Callable[[int], Dim]) -> None:
        self._symbol = symbol
        self._const = const

    def read(self, data: object, depth: int = 0) -> Dim:
        """The size `data` describes. Raises DimError when it is not such a form."""
        if isinstance(data, str):
            return self._symbol(data)
        if isinstance(data, int) and not isinstance(data, bool):
            return self._const(data)
        if depth > _MAX_DEPTH or not isinstance(data, list) or len(data) < 3:
            raise DimError("not a size: expected an integer, a name or a list such as ['+', 'T', 1]")
        first, *rest = (self.read(item, depth + 1) for item in data[1:])
        return self._apply(data[0], first, rest)

    def _apply(self, operator: object, result: Dim, rest: list[Dim]) -> Dim:
        if operator == "+":
            for operand in rest:
                result = result + operand
        elif operator == "*":
            for operand in rest:
                result = result * operand
        elif operator == "//" and len(rest) == 1:
            result = result // rest[0]
        elif operator == "**" and len(rest) == 1 and rest[0].value is not None:
            result = result ** rest[0].value
        else:
            raise DimError(f"not a size: {operator!r} with {1 + len(rest)} operands")
        return result

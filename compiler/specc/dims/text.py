"""How a size is written: in the language's own syntax, or as Python source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from specc.dims.algebra import Dim
    from specc.dims.monomials import Factor, Floor, Monomial


def render(
    dim: Dim,
    names: Mapping[str, str] | None = None,
    quotients: Mapping[Floor, str] | None = None,
    *,
    spaced: bool = False,
) -> str:
    """The size as an expression.

    `names` renames symbols, `quotients` names quotients, `spaced` puts blanks around every operator.
    """
    return _Writer(names or {}, quotients or {}, " " if spaced else "").sum(dim)


class _Writer:
    def __init__(self, names: Mapping[str, str], quotients: Mapping[Floor, str], gap: str) -> None:
        self.names, self.quotients = names, quotients
        self.times = f"{gap}*{gap}"
        self.over = f"{gap}//{gap}"

    def sum(self, dim: Dim) -> str:
        constant = 0
        parts: list[tuple[bool, str]] = []  # (negative, text without its sign)
        for monomial, coefficient in dim.terms():
            if not monomial:
                constant += coefficient
                continue
            lone = _lone_floor(monomial)
            if lone is not None and lone not in self.quotients and abs(coefficient) == 1:
                text, shift = self.quotient(lone)
                constant += coefficient * shift
                negative = coefficient < 0
                parts.append((negative, f"({text})" if negative and not parts else text))
            else:
                parts.append((coefficient < 0, self.product(monomial, abs(coefficient))))
        if constant or not parts:
            parts.append((constant < 0, str(abs(constant))))
        if parts[0][0]:  # rather "4 - T" than "-T + 4"
            first = next((i for i, part in enumerate(parts) if not part[0]), 0)
            parts.insert(0, parts.pop(first))
        text = ("-" if parts[0][0] else "") + parts[0][1]
        return text + "".join((" - " if negative else " + ") + part for negative, part in parts[1:])

    def product(self, monomial: Monomial, coefficient: int) -> str:
        parts = [str(coefficient)] if coefficient != 1 else []
        for factor, power in monomial:
            base = self.factor(factor)
            parts.append(base if power == 1 else f"{base}**{power}")
        return self.times.join(parts)

    def factor(self, factor: Factor) -> str:
        if isinstance(factor, str):
            return self.names.get(factor, factor)
        if factor in self.quotients:
            return self.quotients[factor]
        text, shift = self.quotient(factor)
        return f"({text} + {shift})" if shift else f"({text})"

    def quotient(self, floor: Floor) -> tuple[str, int]:
        """The text of a quotient without parentheses, and an integer to add to it.

        A remainder in the upper half is written from below, (Y - 1)//2 + 1 rather than (Y + 1)//2: that is how the
        sizes of strided layers are usually given.
        """
        numerator, shift = floor.numerator, 0
        n = floor.denominator.value
        if n is not None:
            constant = next((c for monomial, c in numerator.terms() if not monomial), 0)
            if constant and 2 * constant >= n:
                numerator, shift = numerator - n, 1
        return self.operand(numerator) + self.over + self.operand(floor.denominator), shift

    def operand(self, dim: Dim) -> str:
        if (dim.value is not None and dim.value >= 0) or dim.is_symbol():
            return self.sum(dim)
        return f"({self.sum(dim)})"


def _lone_floor(monomial: Monomial) -> Floor | None:
    factor, power = monomial[0]
    return None if len(monomial) > 1 or power > 1 or isinstance(factor, str) else factor

"""`Dim`: an integer polynomial over symbols and floor quotients, always in normal form.

Equality and hashing compare normal forms. Sizes made of polynomials and quotients of these by constants, as layers make
them, are equal when their forms are; with sums of quotients inside quotients an equality may need `Facts.equal`. The
rules, with integer n > 0 unless noted:

    floor((n*q + r) / n)       = q + floor(r / n)             coefficient by coefficient, 0 <= r < n
    floor((g*p + c) / (g*n))   = floor((p + floor(c/g)) / n)  p an integer polynomial, c an integer
    floor((floor(a/m) + c)/n)  = floor((a + c*m) / (m*n))
    floor((q*k + r) / q)       = k + floor(r / q)             symbolic q: polynomial division
    a % n                      = a - n*floor(a / n)

A symbolic divisor is taken to be a size, hence not zero. Rules that need it to be positive are applied only where its
sign is evident. Rounding is Python's: towards minus infinity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, ClassVar

from specc.dims.division import floordiv
from specc.dims.monomials import (
    MAX_BITS,
    MAX_NODES,
    MAX_POWER,
    TOO_LONG,
    TOO_MANY,
    DimError,
    DivisionError,
    Factor,
    Floor,
    Monomial,
    Terms,
    term_order,
    times,
)
from specc.dims.serial import Json, Reader, to_json
from specc.dims.text import render


class Dim:
    """A size: an immutable, hashable integer polynomial over symbols and floor quotients, always in normal form.

    `unit` marks a unit axis (only ever on the constant 1) and `label` is how the spec wrote the size ("hidden",
    "3*dim"). Neither takes part in equality or hashing, and arithmetic drops both. Compares equal to an int when
    constant. All failures are `DimError` (a ValueError): division by zero, a negative or huge power, an unbound symbol,
    an expression above `MAX_NODES` or `MAX_BITS`.
    """

    __slots__ = ("_hash", "_symbols", "_terms", "_text", "_value", "depth", "label", "nodes", "unit")

    UNIT: ClassVar[Dim]

    _terms: Terms
    _value: int | None
    unit: bool
    label: str | None
    nodes: int
    depth: int

    def __init__(self, terms: Terms, unit: bool = False, label: str | None = None) -> None:
        """Takes terms in normal form; everybody else uses `const`, `symbol`, `of` and arithmetic."""
        self._terms = terms
        self.unit = unit
        self.label = label
        self._symbols: tuple[str, ...] | None = None
        self._text: str | None = None
        if not terms:
            self._value = 0
        elif len(terms) == 1 and not terms[0][0]:
            self._value = terms[0][1]
        else:
            self._value = None
        self._hash = hash(self._value) if self._value is not None else hash(terms)
        self.nodes = 1
        self.depth = 0
        for monomial, coefficient in terms:
            if coefficient.bit_length() > MAX_BITS:
                raise DimError(TOO_LONG)
            self.nodes += 1
            for factor, _ in monomial:
                if isinstance(factor, str):
                    self.nodes += 1
                else:
                    self.nodes += factor.nodes
                    self.depth = max(self.depth, factor.depth)
        if self.nodes > MAX_NODES:
            raise DimError(TOO_MANY)

    # Construction ----------------------------------------------------------------------------------------------------

    @staticmethod
    def const(n: int) -> Dim:
        """The constant n."""
        return _SMALL[n] if 0 <= n < len(_SMALL) else Dim((((), int(n)),) if n else ())

    @staticmethod
    @lru_cache(maxsize=4_096)
    def symbol(name: str) -> Dim:
        """The size called `name`: "T", or a derived one such as "past(T)" or "...0"."""
        return Dim((((((name, 1),)), 1),))

    @staticmethod
    def of(x: Dim | int) -> Dim:
        """x itself, or the constant x."""
        return x if isinstance(x, Dim) else Dim.const(x)

    @staticmethod
    def build(terms: Iterable[tuple[Monomial, int]]) -> Dim:
        """The sum of these terms; monomials may repeat and coefficients may be zero."""
        sums: dict[Monomial, int] = {}
        for monomial, coefficient in terms:
            sums[monomial] = sums.get(monomial, 0) + coefficient
        kept = [item for item in sums.items() if item[1]]
        if len(kept) > 1:
            kept.sort(key=term_order)
        return Dim(tuple(kept))

    def with_label(self, label: str | None) -> Dim:
        """The same size, remembered as written `label`."""
        return self if label == self.label else Dim(self._terms, self.unit, label)

    def as_unit(self) -> Dim:
        """The constant 1 marked as a unit axis. Raises DimError on any other size."""
        if self._value != 1:
            raise DimError(f"only the size 1 can be a unit axis, not {self}")
        return self if self.unit else Dim(self._terms, True, self.label)

    def plain(self) -> Dim:
        """The same size without label and unit mark."""
        return self if self.label is None and not self.unit else Dim(self._terms)

    # Access ----------------------------------------------------------------------------------------------------------

    @property
    def value(self) -> int | None:
        """The integer when constant, else None."""
        return self._value

    @property
    def symbols(self) -> tuple[str, ...]:
        """The names in it, floor quotients included, sorted."""
        if self._symbols is None:
            found: set[str] = set()
            for monomial, _ in self._terms:
                for factor, _ in monomial:
                    if isinstance(factor, str):
                        found.add(factor)
                    else:
                        found.update(factor.numerator.symbols, factor.denominator.symbols)
            self._symbols = tuple(sorted(found))
        return self._symbols

    def terms(self) -> Terms:
        """(monomial, coefficient) pairs in a deterministic order, the constant (monomial `()`) last; () for zero."""
        return self._terms

    def is_symbol(self) -> bool:
        """Whether this is one bare name."""
        return isinstance(self._bare(), str)

    def evidently_nonnegative(self) -> bool:
        """Whether the form alone shows >= 0: no minus sign anywhere (symbols are never negative)."""
        for monomial, coefficient in self._terms:
            if coefficient < 0:
                return False
            for factor, _ in monomial:
                if isinstance(factor, Floor) and not (
                    factor.numerator.evidently_nonnegative() and factor.denominator.evidently_nonnegative()
                ):
                    return False
        return True

    def _bare(self) -> Factor | None:
        if len(self._terms) == 1 and self._terms[0][1] == 1:
            monomial = self._terms[0][0]
            if len(monomial) == 1 and monomial[0][1] == 1:
                return monomial[0][0]
        return None

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, Dim):
            return self._hash == other._hash and self._terms == other._terms
        if isinstance(other, int):
            return self._value == other
        return NotImplemented

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        if self._text is None:
            self._text = str(self._value) if self._value is not None else render(self)
        return self._text

    def __repr__(self) -> str:
        marks = (", unit" if self.unit else "") + (f", label={self.label!r}" if self.label is not None else "")
        return f"Dim({self}{marks})"

    def __reduce__(self) -> tuple[object, ...]:
        return Dim, (self._terms, self.unit, self.label)

    def python(self, names: Mapping[str, str], quotients: Mapping[Floor, str] | None = None) -> str:
        """Python source that computes the size.

        Each symbol is replaced by `names[symbol]` (an atomic expression), and each of the `quotients` by its name.
        """
        for name in self.symbols:
            if name not in names:
                raise DimError(f"no Python name for the size {name}")
        return render(self, names, quotients, spaced=True)

    # Arithmetic ------------------------------------------------------------------------------------------------------

    def __add__(self, other: Dim | int) -> Dim:
        if not isinstance(other, (Dim, int)):
            return NotImplemented
        right = Dim.of(other)
        if self._value is not None and right._value is not None:
            return Dim.const(self._value + right._value)
        if not right._terms:
            return self.plain()
        if not self._terms:
            return right.plain()
        return self.build(self._terms + right._terms)

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return Dim(tuple((monomial, -coefficient) for monomial, coefficient in self._terms))

    def __sub__(self, other: Dim | int) -> Dim:
        if not isinstance(other, (Dim, int)):
            return NotImplemented
        return self + -other

    def __rsub__(self, other: int) -> Dim:
        return -self + other

    def __mul__(self, other: Dim | int) -> Dim:
        if not isinstance(other, (Dim, int)):
            return NotImplemented
        right = Dim.of(other)
        if self._value is not None:
            return right._scaled(self._value)
        if right._value is not None:
            return self._scaled(right._value)
        if len(self._terms) * len(right._terms) > MAX_NODES:
            raise DimError(TOO_MANY)
        return self.build((times(m, n), c * d) for m, c in self._terms for n, d in right._terms)

    __rmul__ = __mul__

    def _scaled(self, k: int) -> Dim:
        if self._value is not None:
            return Dim.const(self._value * k)
        if k == 1:
            return self.plain()
        return Dim(tuple((monomial, coefficient * k) for monomial, coefficient in self._terms) if k else ())

    def __pow__(self, exponent: int) -> Dim:
        if not isinstance(exponent, int):
            return NotImplemented
        if exponent < 0:
            raise DimError(f"a size cannot be raised to the negative power {exponent}")
        if self._value is not None:
            if abs(self._value) > 1 and self._value.bit_length() * exponent > 2 * MAX_BITS:
                raise DimError(TOO_LONG)
            return Dim.const(self._value**exponent)
        if exponent > MAX_POWER:
            raise DimError(f"a size cannot be raised to a power above {MAX_POWER}")
        result = _ONE
        for _ in range(exponent):
            result = result * self
        return result

    def __floordiv__(self, other: Dim | int) -> Dim:
        if not isinstance(other, (Dim, int)):
            return NotImplemented
        right = Dim.of(other)
        if not right._terms:
            raise DivisionError(f"{self} is divided by zero")
        if self._value is not None and right._value is not None:
            return Dim.const(self._value // right._value)
        return floordiv(self.plain(), right.plain())

    def __rfloordiv__(self, other: int) -> Dim:
        return Dim.of(other) // self

    def __mod__(self, other: Dim | int) -> Dim:
        if not isinstance(other, (Dim, int)):
            return NotImplemented
        return self - (self // other) * other

    def __rmod__(self, other: int) -> Dim:
        return Dim.of(other) % self

    # Values ----------------------------------------------------------------------------------------------------------

    def substitute(self, env: Mapping[str, Dim | int]) -> Dim:
        """Replaces symbols, all at once; names absent from `env` stay. A bare symbol becomes env's size as it is (label
        and unit mark included), an expression without replaced symbols is returned unchanged."""
        if self._value is not None:
            return self
        bare = self._bare()
        if isinstance(bare, str):
            return Dim.of(env[bare]) if bare in env else self
        if not any(name in env for name in self.symbols):
            return self
        total = _ZERO
        for monomial, coefficient in self._terms:
            product = Dim.const(coefficient)
            for factor, power in monomial:
                if isinstance(factor, str):
                    base = Dim.of(env[factor]) if factor in env else Dim.symbol(factor)
                else:
                    base = factor.numerator.substitute(env) // factor.denominator.substitute(env)
                product = product * (base if power == 1 else base**power)
            total = total + product
        return total

    def evaluate(self, env: Mapping[str, int]) -> int:
        """The value with these sizes. Raises DimError for an unbound symbol or a division by zero."""
        if self._value is not None:
            return self._value
        total = 0
        for monomial, coefficient in self._terms:
            product = coefficient
            for factor, power in monomial:
                if isinstance(factor, str):
                    if factor not in env:
                        raise DimError(f"the size {factor} has no value")
                    base = env[factor]
                else:
                    divisor = factor.denominator.evaluate(env)
                    if divisor == 0:
                        raise DivisionError(f"division by zero: {factor.denominator} is 0")
                    base = factor.numerator.evaluate(env) // divisor
                product *= base if power == 1 else base**power
            total += product
        return total

    # JSON ------------------------------------------------------------------------------------------------------------

    def to_json(self) -> Json:
        """Nested lists in prefix form: 768, "T", ["+", ["*", 3, "T"], 1], ["//", ["+", "Y", 1], 2], ["**", "T", 2]."""
        return to_json(self)

    @staticmethod
    def from_json(data: object) -> Dim:
        """The inverse of `to_json`. Raises DimError for anything that is not such a form."""
        return Reader(Dim.symbol, Dim.const).read(data)


_ZERO = Dim(())
_ONE = Dim((((), 1),))
_SMALL = tuple(Dim((((), n),) if n else ()) for n in range(1_025))
Dim.UNIT = _ONE.as_unit()


def ceil_div(a: Any, b: Any) -> Any:
    """a / b rounded up. Of sizes it is (a + b - 1)//b, one quotient, where -(-a // b) also has a by itself."""
    return (a + b - 1) // b if isinstance(a, Dim) or isinstance(b, Dim) else -(-a // b)

"""`Dim`: an integer polynomial over symbols and floor quotients, always in normal form.

Two sizes that the rules of the language's algebra make equal have the same terms, so equality and hashing are plain
comparisons. The rules, with integer n > 0 unless noted:

    floor((n*q + r) / n)       = q + floor(r / n)             coefficient by coefficient, 0 <= r < n
    floor((g*p + c) / (g*n))   = floor((p + floor(c/g)) / n)  p an integer polynomial, c an integer
    floor((floor(a/m) + c)/n)  = floor((a + c*m) / (m*n))
    floor((q*k + r) / q)       = k + floor(r / q)             symbolic q: polynomial division
    a % n                      = a - n*floor(a / n)

A symbolic divisor is taken to be a size, hence not zero. Rules that need it to be positive are applied only where its
sign is evident. Rounding is Python's: towards minus infinity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from math import gcd
from typing import ClassVar, Union

from specc.dims.text import render

MAX_NODES = 1_000
"""Largest size of one expression, in symbols and coefficients: bounds time and memory, far above any real model."""
MAX_DEPTH = 32
"""Deepest nesting of floor quotients that no rule flattens."""
MAX_BITS = 4_096
"""Largest magnitude of a coefficient, in bits."""
MAX_POWER = 64
"""Largest exponent of a symbolic size."""


class DimError(ValueError):
    """A size that has no value or is too large to handle; the message says why, in the language's terms."""


class Floor:
    """The opaque factor floor(numerator / denominator), in normal form. Immutable; made only by `Dim.__floordiv__`."""

    __slots__ = ("_hash", "denominator", "depth", "key", "nodes", "numerator")

    def __init__(self, numerator: Dim, denominator: Dim) -> None:
        self.numerator = numerator
        self.denominator = denominator
        self.nodes = numerator.nodes + denominator.nodes
        self.depth = 1 + max(numerator.depth, denominator.depth)
        if self.nodes > MAX_NODES or self.depth > MAX_DEPTH:
            raise DimError(f"the size is too large to handle (over {MAX_NODES} terms)")
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


Factor = Union[str, Floor]
"""A symbol's name, or a floor quotient."""
Monomial = tuple[tuple[Factor, int], ...]
"""Factors with their exponents (>= 1), ordered by `_key`; `()` is the constant monomial."""
_Terms = tuple[tuple[Monomial, int], ...]
Json = Union[int, str, list["Json"]]


def _key(factor: Factor) -> str:
    return factor if isinstance(factor, str) else factor.key


@lru_cache(maxsize=16_384)
def _order(monomial: Monomial) -> tuple[int, tuple[tuple[str, int], ...]]:
    """Sort key of a monomial: higher degree first, then by names; the constant comes last."""
    return -sum(power for _, power in monomial), tuple((_key(factor), -power) for factor, power in monomial)


def _term_order(term: tuple[Monomial, int]) -> tuple[int, tuple[tuple[str, int], ...]]:
    return _order(term[0])


@lru_cache(maxsize=16_384)
def _times(left: Monomial, right: Monomial) -> Monomial:
    powers = dict(left)
    for factor, power in right:
        powers[factor] = powers.get(factor, 0) + power
    return tuple(sorted(powers.items(), key=lambda item: _key(item[0])))


def _over(left: Monomial, right: Monomial) -> Monomial | None:
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


def _build(terms: Iterable[tuple[Monomial, int]]) -> Dim:
    """The size with these terms; monomials may repeat and coefficients may be zero."""
    sums: dict[Monomial, int] = {}
    for monomial, coefficient in terms:
        sums[monomial] = sums.get(monomial, 0) + coefficient
    kept = [item for item in sums.items() if item[1]]
    if len(kept) > 1:
        kept.sort(key=_term_order)
    return Dim(tuple(kept))


class Dim:
    """A size: an immutable, hashable integer polynomial over symbols and floor quotients, always in normal form.

    `unit` marks a unit axis (only ever on the constant 1) and `label` is how the spec wrote the size ("hidden",
    "3*dim"). Neither takes part in equality or hashing, and arithmetic drops both. Compares equal to an int when
    constant. All failures are `DimError` (a ValueError): division by zero, a negative or huge power, an unbound symbol,
    an expression above `MAX_NODES` or `MAX_BITS`.
    """

    __slots__ = ("_hash", "_symbols", "_terms", "_text", "_value", "depth", "label", "nodes", "unit")

    UNIT: ClassVar[Dim]

    _terms: _Terms
    _value: int | None
    unit: bool
    label: str | None
    nodes: int
    depth: int

    def __init__(self, terms: _Terms, unit: bool = False, label: str | None = None) -> None:
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
                raise DimError(f"the size is too large to handle (over {MAX_BITS} bits)")
            self.nodes += 1
            for factor, _ in monomial:
                if isinstance(factor, str):
                    self.nodes += 1
                else:
                    self.nodes += factor.nodes
                    self.depth = max(self.depth, factor.depth)
        if self.nodes > MAX_NODES:
            raise DimError(f"the size is too large to handle (over {MAX_NODES} terms)")

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

    def terms(self) -> _Terms:
        """(monomial, coefficient) pairs in a deterministic order, the constant (monomial `()`) last; () for zero."""
        return self._terms

    def is_symbol(self) -> bool:
        """Whether this is one bare name."""
        return self._bare() is not None and isinstance(self._bare(), str)

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

    def python(self, names: Mapping[str, str]) -> str:
        """Python source that computes the size; each symbol is replaced by `names[symbol]` (an atomic expression)."""
        for name in self.symbols:
            if name not in names:
                raise DimError(f"no Python name for the size {name}")
        return render(self, names, spaced=True)

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
        return _build(self._terms + right._terms)

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
            raise DimError(f"the size is too large to handle (over {MAX_NODES} terms)")
        return _build((_times(m, n), c * d) for m, c in self._terms for n, d in right._terms)

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
                raise DimError(f"the size is too large to handle (over {MAX_BITS} bits)")
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
            raise DimError(f"{self} is divided by zero")
        if self._value is not None and right._value is not None:
            return Dim.const(self._value // right._value)
        return _floordiv(self.plain(), right.plain())

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
                        raise DimError(f"division by zero: {factor.denominator} is 0")
                    base = factor.numerator.evaluate(env) // divisor
                product *= base if power == 1 else base**power
            total += product
        return total

    # JSON ------------------------------------------------------------------------------------------------------------

    def to_json(self) -> Json:
        """Nested lists in prefix form: 768, "T", ["+", ["*", 3, "T"], 1], ["//", ["+", "Y", 1], 2], ["**", "T", 2]."""
        if self._value is not None:
            return self._value
        parts = [_term_json(monomial, coefficient) for monomial, coefficient in self._terms]
        return parts[0] if len(parts) == 1 else ["+", *parts]

    @staticmethod
    def from_json(data: object) -> Dim:
        """The inverse of `to_json`. Raises DimError for anything that is not such a form."""
        return _from_json(data, 0)


def _term_json(monomial: Monomial, coefficient: int) -> Json:
    parts: list[Json] = [] if coefficient == 1 and monomial else [coefficient]
    for factor, power in monomial:
        base: Json
        if isinstance(factor, str):
            base = factor
        else:
            base = ["//", factor.numerator.to_json(), factor.denominator.to_json()]
        parts.append(base if power == 1 else ["**", base, power])
    return parts[0] if len(parts) == 1 else ["*", *parts]


_OPERATORS: dict[str, Callable[[Dim, Dim], Dim]] = {
    "+": Dim.__add__,
    "*": Dim.__mul__,
    "//": Dim.__floordiv__,
}


def _from_json(data: object, depth: int) -> Dim:
    if isinstance(data, str):
        return Dim.symbol(data)
    if isinstance(data, int) and not isinstance(data, bool):
        return Dim.const(data)
    if depth > 100 or not isinstance(data, list) or len(data) < 3 or not isinstance(data[0], str):
        raise DimError("not a size: expected an integer, a name or a list such as ['+', 'T', 1]")
    operands = [_from_json(item, depth + 1) for item in data[1:]]
    if data[0] == "**" and len(operands) == 2 and operands[1].value is not None:
        return operands[0] ** operands[1].value
    if data[0] not in _OPERATORS or (data[0] == "//" and len(operands) != 2):
        raise DimError(f"not a size: {data[0]!r} with {len(operands)} operands")
    result = operands[0]
    for operand in operands[1:]:
        result = _OPERATORS[data[0]](result, operand)
    return result


# Division ------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8_192)
def _floordiv(numerator: Dim, denominator: Dim) -> Dim:
    """floor(numerator / denominator) in normal form; both plain, the denominator not zero."""
    numerator, denominator = _cancelled(numerator, denominator)
    n = denominator.value
    if n is not None:
        return _by_constant(numerator, n)
    quotient, rest = _divided(numerator, denominator)
    if not rest.terms():
        return quotient
    if quotient.terms():
        return quotient + _floordiv(rest, denominator)
    if denominator.evidently_nonnegative():
        nested = _unnested(rest, denominator)
        if nested is not None:
            return nested
    return Dim(((((Floor(rest, denominator), 1),), 1),))


def _by_constant(numerator: Dim, n: int) -> Dim:
    """Division by n > 0, which shares no factor with all of the numerator's coefficients."""
    if n == 1:
        return numerator
    quotient = _build((monomial, coefficient // n) for monomial, coefficient in numerator.terms())
    rest = _build((monomial, coefficient % n) for monomial, coefficient in numerator.terms())
    if rest.value is not None:
        return quotient
    common = gcd(n, *(coefficient for monomial, coefficient in rest.terms() if monomial))
    if common > 1:
        rest = _build((monomial, coefficient // common) for monomial, coefficient in rest.terms())
        n //= common
        if n == 1:
            return quotient + rest
    nested = _unnested(rest, Dim.const(n))
    if nested is None:
        nested = Dim(((((Floor(rest, Dim.const(n)), 1),), 1),))
    return quotient + nested


def _unnested(numerator: Dim, denominator: Dim) -> Dim | None:
    """floor((floor(a/m) + c) / n) = floor((a + c*m) / (m*n)), for a floor quotient that stands alone in the numerator.

    Holds for every positive integer n and any a, m, because floor((floor(x) + c) / n) = floor((x + c) / n).
    """
    for monomial, coefficient in numerator.terms():
        if coefficient == 1 and len(monomial) == 1 and monomial[0][1] == 1:
            inner = monomial[0][0]
            if isinstance(inner, Floor):
                rest = _build(term for term in numerator.terms() if term[0] != monomial)
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
    return _reduced(top, common, shared), _reduced(bottom, common, shared)


def _reduced(terms: _Terms, common: int, shared: Monomial) -> Dim:
    return _build((_over(monomial, shared) or (), coefficient // common) for monomial, coefficient in terms)


def _divided(numerator: Dim, denominator: Dim) -> tuple[Dim, Dim]:
    """Polynomial division with integer coefficients: numerator = quotient * denominator + rest."""
    lead, scale = denominator.terms()[0]
    quotient, rest = _ZERO, numerator
    for _ in range(MAX_POWER):  # every step removes the largest divisible term; the cap only guards odd inputs
        for monomial, coefficient in rest.terms():
            ratio = _over(monomial, lead)
            if ratio is not None and coefficient // scale:
                step = _build([(ratio, coefficient // scale)])
                break
        else:
            break
        quotient, rest = quotient + step, rest - step * denominator
    return quotient, rest


_ZERO = Dim(())
_ONE = Dim((((), 1),))
_SMALL = tuple(Dim((((), n),) if n else ()) for n in range(1_025))
Dim.UNIT = _ONE.as_unit()

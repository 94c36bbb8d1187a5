"""Divisibility: what facts of the form e % n == 0 say about the symbols, and proofs by residue classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from math import gcd, lcm, prod

from specc.dims.algebra import Dim
from specc.dims.monomials import DimError, Floor, Monomial
from specc.dims.ranges import Bounds, Range, Ranges

MAX_CASES = 256
"""Residue classes examined in one proof."""


@dataclass(frozen=True)
class Step:
    """One solved congruence: whole = n * fresh, solved for `symbol`, which becomes `solution` (in terms of `fresh`)."""

    symbol: str
    solution: Dim
    fresh: str
    whole: Dim
    n: int

    def restore(self, dim: Dim) -> Dim:
        """Writes `fresh` as quotients of `whole` again, c*fresh as (c/g) * (whole // (n/g)) with g = gcd(c, n).

        The result depends only on `dim`, so equal forms over `fresh` stay equal."""
        if self.fresh not in dim.symbols:
            return dim
        total = Dim.const(0)
        for monomial, coefficient in dim.terms():
            product_ = Dim.const(1)
            for factor, power in monomial:
                if factor == self.fresh:
                    for _ in range(power):
                        common = gcd(coefficient, self.n)
                        product_ = product_ * (self.whole // (self.n // common))
                        coefficient //= common
                elif isinstance(factor, Floor):
                    quotient = self.restore(factor.numerator) // self.restore(factor.denominator)
                    product_ = product_ * quotient**power
                else:
                    product_ = product_ * Dim.symbol(factor) ** power
            total = total + product_ * coefficient
        return total


@dataclass(frozen=True)
class Residues:
    """The divisibility facts, solved. `classes` gives symbol -> (r, n) for symbol % n == r; `contradiction` names the
    first fact that cannot hold together with the earlier ones."""

    classes: Mapping[str, tuple[int, int]]
    steps: tuple[Step, ...]
    contradiction: str | None

    def normal(self, dim: Dim) -> Dim:
        """The normal form under the facts, over the original symbols. The size itself when no fact concerns it."""
        reduced = dim
        for step in self.steps:
            if step.symbol in reduced.symbols:
                reduced = reduced.substitute({step.symbol: step.solution})
        if reduced is dim:
            return dim
        for step in reversed(self.steps):
            reduced = step.restore(reduced)
        return reduced


def residues_of(facts: Iterable[tuple[Dim, int]]) -> Residues:
    """Solves the facts dim % n == 0. Those that cannot be solved for a symbol are left out: they say less, not more."""
    classes: dict[str, tuple[int, int]] = {}
    wider: list[tuple[Dim, int]] = []
    contradiction: str | None = None
    for dim, n in facts:
        reduced, m = _primitive(dim, n)
        if m == 1:
            continue
        possible = True
        if reduced.value is not None:
            possible = False
        elif len(reduced.symbols) == 1 and (linear := _linear(reduced, reduced.symbols[0])) is not None:
            possible = _narrow(classes, reduced.symbols[0], *linear, m)
        else:
            wider.append((reduced, m))
        if not possible and contradiction is None:
            contradiction = f"({dim}) % {n} == 0"
    steps = [
        Step(name, Dim.symbol(f"{name}'") * n + r, f"{name}'", Dim.symbol(name) - r, n)
        for name, (r, n) in sorted(classes.items())
    ]
    for dim, n in wider:
        step = _solved(dim, n, steps)
        if step is not None:
            steps.append(step)
    return Residues(classes, tuple(steps), contradiction)


def _primitive(dim: Dim, n: int) -> tuple[Dim, int]:
    """The equivalent congruence with coefficients in [0, n) that share no factor with n."""
    reduced = dim - (dim - _mod(dim, n))
    common = gcd(n, *(coefficient for _, coefficient in reduced.terms()))
    return reduced // common, n // common


def _mod(dim: Dim, n: int) -> Dim:
    total = Dim.const(0)
    for monomial, coefficient in dim.terms():
        total = total + Dim(((monomial, coefficient % n),) if coefficient % n else ())
    return total


def _linear(dim: Dim, symbol: str) -> tuple[int, int] | None:
    """(a, c) when the size is a*symbol + c."""
    a = c = 0
    for monomial, coefficient in dim.terms():
        if monomial == ((symbol, 1),):
            a = coefficient
        elif not monomial:
            c = coefficient
        else:
            return None
    return a, c


def _narrow(classes: dict[str, tuple[int, int]], symbol: str, a: int, c: int, n: int) -> bool:
    """Adds a*symbol + c = 0 (mod n) to what is known; False when that is impossible."""
    common = gcd(a, n)
    if c % common:
        return False
    n //= common
    r = -(c // common) * pow(a // common, -1, n) % n if n > 1 else 0
    known_r, known_n = classes.get(symbol, (0, 1))
    shared = gcd(n, known_n)
    if (r - known_r) % shared:
        return False
    both = lcm(n, known_n)
    lift = (r - known_r) // shared * pow(known_n // shared, -1, n // shared) if n > shared else 0
    classes[symbol] = ((known_r + known_n * lift) % both, both)
    return True


def _solved(dim: Dim, n: int, earlier: Iterable[Step]) -> Step | None:
    """Solves dim = 0 (mod n) for a symbol that stands alone with a coefficient invertible modulo n."""
    for step in earlier:
        dim = dim.substitute({step.symbol: step.solution})
    dim, n = _primitive(dim, n)
    if n == 1:
        return None
    for symbol in dim.symbols:
        lone: Monomial = ((symbol, 1),)
        a = next((coefficient for monomial, coefficient in dim.terms() if monomial == lone), 0)
        if gcd(a, n) != 1 or sum(symbol in Dim(((m, 1),)).symbols for m, _ in dim.terms()) != 1:
            continue
        whole = _mod(dim * pow(a, -1, n), n)
        fresh = f"({whole})/{n}"
        return Step(symbol, Dim.symbol(fresh) * n - (whole - Dim.symbol(symbol)), fresh, whole, n)
    return None


# Proof by cases ------------------------------------------------------------------------------------------------------


def moduli(dim: Dim) -> dict[str, int] | None:
    """Per symbol a modulus L such that the size is a polynomial on every class of symbols modulo L.

    None when a divisor is symbolic."""
    found: dict[str, int] = {}
    return found if _collect(dim, 1, found) else None


def _collect(dim: Dim, modulus: int, found: dict[str, int]) -> bool:
    for monomial, _ in dim.terms():
        for factor, _ in monomial:
            if isinstance(factor, str):
                found[factor] = lcm(found.get(factor, 1), modulus)
            else:
                n = factor.denominator.value
                if n is None or n.bit_length() > 64 or not _collect(factor.numerator, modulus * n, found):
                    return False
    return True


def case_split(
    gap: Dim, classes: Mapping[str, tuple[int, int]], bounds: Bounds, claim: Callable[[Range], bool]
) -> bool:
    """Whether `claim` holds for the range of `gap` on every residue class of its symbols.

    On one class every quotient with a constant divisor is a polynomial, so equality there is equality of polynomials.
    False when the claim fails on a class, or there are too many.
    """
    split = moduli(gap)
    if split is None:
        return False
    choices: list[tuple[str, int, range]] = []
    for name, modulus in sorted(split.items()):
        r, n = classes.get(name, (0, 1))
        if modulus > 1:
            whole = lcm(modulus, n)
            choices.append((name, whole, range(r, whole, n)))
    if not choices or prod(len(residues) for _, _, residues in choices) > MAX_CASES:
        return False
    ranges: dict[str, Range] = {}
    for residues in product(*(residues for _, _, residues in choices)):
        env: dict[str, Dim | int] = {}
        for (name, modulus, _), r in zip(choices, residues, strict=True):
            low, high = bounds(name)
            ranges[f"{name}'"] = (
                None if low is None else -((r - low) // modulus),
                None if high is None else (high - r) // modulus,
            )
            env[name] = Dim.symbol(f"{name}'") * modulus + r
        if any(low is not None and high is not None and low > high for low, high in ranges.values()):
            continue  # no value of this class is within bounds
        try:
            case = Ranges(lambda name: ranges.get(name) or bounds(name)).of(gap.substitute(env))
        except DimError:
            return False
        if not claim(case):
            return False
    return True

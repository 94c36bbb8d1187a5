"""`Facts`: assumptions about sizes, and the questions they answer with a proof, a counter-example, or `Unknown`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import ClassVar, TypeAlias

from specc.dims.algebra import Dim
from specc.dims.congruence import MAX_CASES, Residues, case_split, moduli, residues_of
from specc.dims.monomials import DimError
from specc.dims.ranges import Range, Ranges, add, intersect, scale
from specc.dims.search import CLAIMS, Axis, Relation, Search, interesting, points
from specc.dims.statements import Fact, Proof, Proved, Unknown, default_least, solve_for

SEARCH_LIMIT = 4_000
"""Points tried per question before giving up."""
_FIRST_POINTS = 64  # tried before the case split: a wrong claim usually fails on a tiny size


Question: TypeAlias = tuple[Relation, Dim, Dim]


@dataclass(frozen=True)
class Facts:
    """An immutable set of assumptions about sizes. Every symbol is >= 1, and `past(..)` >= 0, without being told."""

    EMPTY: ClassVar[Facts]

    facts: tuple[Fact, ...] = ()
    _answers: dict[Question, Proof] = field(default_factory=dict, init=False, repr=False, compare=False)
    _ranges: dict[Dim, Range] = field(default_factory=dict, init=False, repr=False, compare=False)

    # Building --------------------------------------------------------------------------------------------------------

    def bound(self, dim: Dim, lo: int | None = None, hi: int | None = None) -> Facts:
        """Adds lo <= dim <= hi; None leaves a side open. `dim` may be any expression."""
        new: list[Fact] = []
        if lo is not None:
            new.append(Fact("ge", dim, lo))
        if hi is not None:
            new.append(Fact("le", dim, hi))
        return self._with(new)

    def divisible(self, dim: Dim, n: int) -> Facts:
        """Adds dim % n == 0. Raises DimError unless n >= 1."""
        if n < 1:
            raise DimError(f"divisibility by {n}: the divisor must be at least 1")
        return self._with([Fact("div", dim, n)] if n > 1 else [])

    def union(self, other: Facts) -> Facts:
        """The facts of both."""
        return self._with(other.facts)

    def rename(self, mapping: Mapping[str, Dim]) -> Facts:
        """The same statements about other sizes: a block's facts, as obligations of a call that binds `mapping`."""
        return Facts(tuple(Fact(fact.kind, fact.dim.substitute(mapping), fact.n) for fact in self.facts))

    def _with(self, new: Iterable[Fact]) -> Facts:
        added = tuple(fact for fact in dict.fromkeys(new) if fact not in self.facts)
        return Facts(self.facts + added) if added else self

    def statements(self) -> tuple[Fact, ...]:
        """What was stated, in order, without the defaults."""
        return self.facts

    # Access ----------------------------------------------------------------------------------------------------------

    def bounds_of(self, symbol: str) -> tuple[int, int | None]:
        """The range of one symbol, after propagating the bounds of expressions it occurs in."""
        return self._bounds.get(symbol) or (default_least(symbol), None)

    def residue_of(self, symbol: str) -> tuple[int, int]:
        """(r, n): the symbol is n*k + r for some integer k; (0, 1) where nothing is known."""
        return self._residues.classes.get(symbol, (0, 1))

    def normal(self, d: Dim) -> Dim:
        """The normal form under the divisibility facts: with Y % 4 == 0, both (Y - 2)//2 + 1 and Y//2 give Y//2."""
        return self._residues.normal(d)

    def interval(self, d: Dim) -> tuple[int | None, int | None]:
        """Bounds on the value, each None where none was found. Sound, not always tight."""
        if d.value is not None:
            return d.value, d.value
        known = self._ranges.get(d)
        if known is None:
            known = self._over_symbols.of(d)
            reduced = self.normal(d)
            if reduced != d:
                known = intersect(known, self._over_symbols.of(reduced))
            for fact in self.facts:
                known = intersect(known, self._through(d, fact))
            self._ranges[d] = known
        return known

    def satisfied_by(self, env: Mapping[str, int]) -> str | None:
        """None, or the text of the first fact that `env` violates. Facts about names that env lacks are skipped."""
        for name, value in env.items():
            if value < default_least(name):
                return f"{name} >= {default_least(name)}"
        for fact in self.facts:
            if all(name in env for name in fact.dim.symbols) and not fact.holds(env):
                return str(fact)
        return None

    def sample(
        self, symbols: Iterable[str], limit: int = SEARCH_LIMIT, near: Iterable[int] = ()
    ) -> Iterator[dict[str, int]]:
        """Environments that satisfy the facts, over `symbols` and the names that facts tie to them.

        Small values come first (1 comes third: there too many things coincide), the ends of each range
        early, `near` names further values of interest. Deterministic. `limit` counts the points tried, not those kept.
        """
        for env in islice(self._points(symbols, near), limit):
            if env is not None:
                yield env

    # Questions -------------------------------------------------------------------------------------------------------

    def equal(self, a: Dim, b: Dim) -> Proof:
        """Whether a == b wherever the facts hold."""
        if a is b or a == b:
            return Proved()
        return self._ask("eq", a, b)

    def at_least(self, d: Dim, n: int) -> Proof:
        """Whether d >= n wherever the facts hold."""
        return self._ask("ge", d, Dim.const(n))

    def at_most(self, d: Dim, n: int) -> Proof:
        """Whether d <= n wherever the facts hold."""
        return self._ask("le", d, Dim.const(n))

    def divides(self, n: int, d: Dim) -> Proof:
        """Whether d % n == 0 wherever the facts hold; a counter-example's `left` is the remainder."""
        if n < 1:
            raise DimError(f"divisibility by {n}: the divisor must be at least 1")
        for fact in self.facts:
            if fact.kind == "div" and fact.n % n == 0:
                for k in _multiples(d, fact.dim):
                    if ((d - fact.dim * k) % n).value == 0:
                        return Proved()
        return self.equal(d % n, Dim.const(0))

    def holds(self, fact: Fact) -> Proof:
        """Whether `fact` follows from these facts."""
        if fact.kind == "div":
            return self.divides(fact.n, fact.dim)
        return self.at_least(fact.dim, fact.n) if fact.kind == "ge" else self.at_most(fact.dim, fact.n)

    def suggestion(self, a: Dim, b: Dim) -> Fact | None:
        """The weakest divisibility of one symbol that would make a == b provable, if there is one."""
        split = moduli(a - b)
        for name, modulus in sorted((split or {}).items()):
            for n in range(2, min(modulus, MAX_CASES) + 1):
                if modulus % n == 0 and self.divisible(Dim.symbol(name), n).equal(a, b):
                    return Fact("div", Dim.symbol(name), n)
        return None

    @property
    def contradiction(self) -> str | None:
        """None, or why no sizes at all satisfy the facts (an evident reason: a range or a residue that is empty)."""
        if self._residues.contradiction is not None:
            return self._residues.contradiction
        for name, (low, high) in self._bounds.items():
            if high is not None and low > high:
                return f"{name} is at least {low} and at most {high}"
        return next((str(fact) for fact in self.facts if fact.dim.value is not None and not fact.holds({})), None)

    # How questions are answered --------------------------------------------------------------------------------------

    def _ask(self, relation: Relation, a: Dim, b: Dim) -> Proof:
        question = relation, a, b
        answer = self._answers.get(question)
        if answer is None:
            answer = self._answers[question] = self._decide(relation, a, b)
        return answer

    def _decide(self, relation: Relation, a: Dim, b: Dim) -> Proof:
        claim = CLAIMS[relation]
        try:
            gap = self.normal(a - b)
        except DimError:  # each side is fine, their difference is too large to handle
            return Unknown()
        if claim(self.interval(gap)):
            return Proved()
        search = Search(relation, a, b, self._points((*a.symbols, *b.symbols), interesting(a - b)))
        refuted = search.run(_FIRST_POINTS)
        if refuted is not None:
            return refuted
        if case_split(gap, self._residues.classes, self.bounds_of, claim):
            return Proved()
        return search.run(SEARCH_LIMIT - _FIRST_POINTS) or (Proved() if search.exhausted else Unknown())

    @cached_property
    def _over_symbols(self) -> Ranges:
        return Ranges(self.bounds_of)

    @cached_property
    def _residues(self) -> Residues:
        return residues_of((fact.dim, fact.n) for fact in self.facts if fact.kind == "div")

    @cached_property
    def _bounds(self) -> dict[str, tuple[int, int | None]]:
        """Ranges of the symbols that facts mention, propagated through linear expressions and residue classes."""
        ranges = {name: (default_least(name), None) for fact in self.facts for name in fact.dim.symbols}
        found: dict[str, tuple[int, int | None]] = dict(ranges)

        def bounds(name: str) -> Range:
            return found.get(name) or (default_least(name), None)

        for _ in range(3):  # a bound that needs more rounds than this is found by nobody reading the spec either
            before = dict(found)
            for fact in self.facts:
                if fact.kind != "div":
                    for name in fact.dim.symbols:
                        low, high = intersect(found[name], solve_for(name, fact, bounds))
                        found[name] = (default_least(name) if low is None else low), high
            for name, (r, n) in self._residues.classes.items():
                low, high = found[name]
                found[name] = low + (r - low) % n, None if high is None else high - (high - r) % n
            if found == before:
                break
        return found

    def _through(self, d: Dim, fact: Fact) -> Range:
        """Bounds on d from a fact about an expression that d contains: S <= 1024 says so of past(T) + T."""
        best: Range = (None, None)
        if fact.kind != "div" and not fact.dim.is_symbol():
            known: Range = (fact.n, None) if fact.kind == "ge" else (None, fact.n)
            for k in _multiples(d, fact.dim):
                best = intersect(best, add(scale(k, known), self._over_symbols.of(d - fact.dim * k)))
        return best

    def _points(self, symbols: Iterable[str], near: Iterable[int]) -> Iterator[dict[str, int] | None]:
        """The grid over `symbols` and what facts tie to them; None where a point violates a fact."""
        names = set(symbols)
        relevant: list[Fact] = []
        waiting = [fact for fact in self.facts if fact.dim.symbols]
        while tied := [fact for fact in waiting if not names.isdisjoint(fact.dim.symbols)]:
            relevant += tied
            waiting = [fact for fact in waiting if fact not in tied]
            names.update(name for fact in tied for name in fact.dim.symbols)
        axes = []
        for name in sorted(names):
            low, high = self.bounds_of(name)
            r, n = self._residues.classes.get(name, (0, 1))
            axes.append(Axis(name, low + (r - low) % n, n, high))
        values = [*near, *(fact.n for fact in relevant if not fact.dim.is_symbol())]
        for env in points(axes, values):
            yield env if all(fact.holds(env) for fact in relevant) else None


def _multiples(d: Dim, e: Dim) -> list[int]:
    """Integers k for which k*e cancels a term of d."""
    ours = {monomial: coefficient for monomial, coefficient in d.terms() if monomial}
    found = (ours[m] // c for m, c in e.terms() if m in ours and ours[m] % c == 0)
    return list(dict.fromkeys(found))[:3]


Facts.EMPTY = Facts()

"""What a callee assumes of its dims must hold where it is called (LANGUAGE 6)."""

from __future__ import annotations

from specc.dims import Dim, Fact, Proof, Refuted
from specc.elaborate.lookup import Lookup
from specc.elaborate.signatures import Unifier
from specc.ir.graph import Graph
from specc.source import Span

_NEAR = 65  # how far a simpler promise is looked for


class Obligations(Lookup):
    """The part of a body's checker that proves the facts of callees (S223).

    Stated facts must follow from those of the calling block. That sizes are at least 1, which every signature assumes,
    is handed on instead: it becomes a fact of the calling body, and the model's own facts have to prove it in the end.
    """

    def check_facts(self, graph: Graph, unifier: Unifier, span: Span, what: str) -> None:
        for name in graph.dims:
            bound = unifier.env.get(name)
            if bound is not None and bound.value is None and not bound.is_symbol():
                self._positive(bound.plain(), span, what)
        callee = self.elab.instance_of(graph.module) if graph.module is not None else None
        stated = callee.stated if callee is not None else {}
        env = {name: size.plain() for name, size in unifier.env.items()}
        for fact in graph.facts.statements():
            if not set(fact.dim.symbols) <= env.keys():
                continue  # about a dim that this method does not have
            size = fact.dim.substitute(env)
            if fact in stated:
                own = f"a dim of another name in {what}, where the size is another" if callee is self.instance else ""
                self._stated(Fact(fact.kind, size, fact.n), stated[fact], span, what, own)
            else:
                self._positive(size - (fact.n - 1), span, what)

    def _positive(self, size: Dim, span: Span, what: str) -> None:
        """A size that a callee takes for at least 1."""
        proof = self.facts.at_least(size, 1)
        if proof:
            return
        if self.instance is not self.elab.bodies.root or self.instance is None:
            self.facts = self.facts.bound(size, 1)
            return
        promise = self._simpler(size) or f"{size} >= 1"
        raise self.fail(
            "S223",
            f"{what} needs {size} >= 1",
            span,
            counter_example=_example(proof),
            help=f"promise it on the model:  dim {promise}",
        )

    def _simpler(self, size: Dim) -> str:
        """`Y >= 2`, where that is what `Y//2 >= 1` comes to."""
        symbols = [s for s in size.symbols if "(" not in s]
        if len(size.symbols) != 1 or not symbols:
            return ""
        symbol = Dim.symbol(symbols[0])
        for n in range(2, _NEAR):
            if self.facts.bound(symbol, n).at_least(size, 1):
                return f"{symbol} >= {n}"
        return ""

    def _stated(self, fact: Fact, stated: Span, span: Span, what: str, help: str = "") -> None:
        proof = self.facts.holds(fact)
        if not proof:
            raise self.fail(
                "S223",
                f"{what} needs {fact}",
                span,
                why=f"stated at {stated.where}: {stated.text}",
                counter_example=_example(proof),
                help=help or f"promise it here too:  dim {fact}",
            )


def _example(proof: Proof) -> str:
    return str(proof) if isinstance(proof, Refuted) else ""

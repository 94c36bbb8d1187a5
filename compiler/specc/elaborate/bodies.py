"""All bodies of an elaboration: each is checked once per way it is called (LANGUAGE 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specc.elaborate.body import BodyChecker, Static
from specc.elaborate.calls import CallChecker
from specc.elaborate.evaluate import Evaluator
from specc.elaborate.externs import ExternChecker
from specc.elaborate.instances import Instance
from specc.elaborate.scopes import Scope
from specc.elaborate.signatures import uses_ellipsis
from specc.elaborate.values import ExternDecl, Fail, FnDecl, FnValue, Poisoned
from specc.ir.graph import Graph
from specc.op import Op
from specc.source import Span
from specc.syntax import ast
from specc.types import TensorType

if TYPE_CHECKING:
    from specc.elaborate.elaborator import Elaborator

MAX_STATEMENTS = 500_000


class Bodies:
    """All graphs of an elaboration."""

    def __init__(self, elab: Elaborator) -> None:
        self.elab = elab
        self.fn_graphs: dict[tuple[Any, ...], Graph | None] = {}
        self.broken: set[tuple[Any, ...]] = set()
        self.active: list[tuple[Any, ...]] = []
        self.statements = 0
        self.result_types: dict[int, tuple[TensorType, ...]] = {}  # id of a graph -> what its signature declares
        self.result_lists: dict[int, tuple[int | None, ...]] = {}  # and of each result, its length if it is a list
        self.trains: set[int] = set()  # ids of the graphs of functions that are of training
        self.functions: dict[int, FnValue] = {}  # id of a `Function` -> the user's fn that it stands for
        self.root: Instance | None = None  # the model: its facts are assumptions, not obligations

    def method(
        self,
        instance: Instance,
        method: ast.Method,
        present: frozenset[str],
        axes: tuple[str, ...],
        lengths: tuple[int, ...] = (),
    ) -> Graph:
        """The graph of a block's method; raises `Poisoned` where its body was found wrong."""
        axes = axes if uses_ellipsis(method) else ()
        key = (method.name.id, present, axes, lengths)
        known = instance.module.graphs.get(key)
        if known is not None:
            return known
        busy = (id(instance), *key)
        graph = self._checked(busy, None, instance, method, present, axes, lengths, instance.scope, ())
        instance.module.graphs[key] = graph
        return graph

    def function(
        self,
        decl: FnDecl,
        present: frozenset[str],
        axes: tuple[str, ...],
        lengths: tuple[int, ...],
        static: Static,
        scope: Scope,
    ) -> Graph:
        """The graph of a file-level `fn`, for these compile-time arguments."""
        key = (id(decl), present, axes, lengths, static)
        graph = self.fn_graphs.get(key)
        if graph is None:
            graph = self._checked(key, decl, None, decl.node, present, axes, lengths, scope, static)
            self.fn_graphs[key] = graph
        return graph

    def _checked(
        self,
        key: tuple[Any, ...],
        decl: FnDecl | None,
        instance: Instance | None,
        method: ast.Method,
        present: frozenset[str],
        axes: tuple[str, ...],
        lengths: tuple[int, ...],
        scope: Scope,
        static: Static,
    ) -> Graph:
        if key in self.broken:
            raise Poisoned
        checker = BodyChecker(self.elab, instance, method, scope.child())
        if isinstance(decl, ExternDecl):
            checker = ExternChecker(self.elab, decl, scope.child())
        who = key[:2] if instance is not None else key[:1]  # other arguments make it no less a recursion
        if any(one[: len(who)] == who for one in self.active):
            raise checker.fail(
                "E150", f"`{method.name.id}` calls itself", method.name.span, note="there is no recursion"
            )
        self.active.append(key)
        before = len(self.elab.collector.errors)
        try:
            graph = checker.run(present, axes, lengths, static)
        except Fail as fail:
            self.elab.collector.add(fail.diagnostic)
            self.broken.add(key)
            raise Poisoned from None
        except Poisoned:
            self.broken.add(key)
            raise
        finally:
            self.active.pop()
        if len(self.elab.collector.errors) > before:
            self.broken.add(key)
            raise Poisoned
        return graph

    def bound_op(self, evaluator: Evaluator, value: FnValue, span: Span) -> Op:
        """The operator of a function value with its arguments bound, for use as an element of a list of parts."""
        assert value.op is not None
        return CallChecker.attributes_of(evaluator, value.op, dict(value.args), span)

    def count(self, evaluator: Evaluator, span: Span) -> None:
        self.statements += 1
        self.expect(evaluator, 0, span)

    def expect(self, evaluator: Evaluator, more: int, span: Span) -> None:
        """Refuse what would unroll to too many statements before it is unrolled (E195)."""
        if self.statements + more > MAX_STATEMENTS:
            raise evaluator.fail("E195", f"more than {MAX_STATEMENTS:,} statements after unrolling", span)

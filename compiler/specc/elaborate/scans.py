"""`scan`: a body that runs once for every index along an axis (LANGUAGE 10)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from specc.dims import Dim
from specc.elaborate.calls import CallChecker
from specc.elaborate.signatures import MAX_RANK, size_in_type
from specc.elaborate.values import Poisoned, number, show
from specc.ir.graph import Emitted, Node, Scan, Slices, State, Value
from specc.source import Span
from specc.syntax import ast
from specc.types import TensorType


@dataclass(eq=False)
class Step:
    """The body of a scan while it is checked. `outer`: the locals around it; `states`: what a step begins with."""

    outer: Mapping[str, Any]
    slices: frozenset[str]
    states: Mapping[str, Value]
    mode: str
    emitted: tuple[tuple[Value, Span], ...] | None = None


class Scans(CallChecker):
    """The part of a body's checker that makes scans."""

    step: Step | None = None  # the innermost

    @abstractmethod
    def run_block(self, body: ast.Body) -> None:
        """Checks statements in order, and reports those that are wrong."""

    def _Scan(self, expr: ast.Scan) -> Any:
        along = size_in_type(self, ast.Name(expr.along.span, expr.along.id))
        self._positive(along.plain(), expr.along.span, "scan")
        sequences = self._sequences(expr, along)
        starts = [self._start(bind) for bind in expr.binds]
        self._distinct((*expr.names, *(bind.name for bind in expr.binds)))
        slices = {n.id: s.slice for n, s in zip(expr.names, sequences, strict=True) if n.id != "_"}
        states = {
            bind.name.id: Value(bind.name.id, start.type, bind.span)
            for bind, start in zip(expr.binds, starts, strict=True)
        }
        step = Step(self.locals, frozenset(slices), states, self.mode)
        nodes, ends = self._checked(expr, step, {**slices, **states})
        emits = tuple(self._stacked(sequences[0], along, value, span) for value, span in step.emitted or ())
        kept = tuple(
            State(start, before, end, Value(None, start.type, expr.span))
            for start, before, end in zip(starts, states.values(), ends, strict=True)
        )
        scan = Scan(along, sequences, kept, nodes, emits, expr.span)
        self.nodes.append(scan)
        return scan.outputs[0] if len(scan.outputs) == 1 else self.results(scan.outputs)

    # ---- the head ------------------------------------------------------------------------------------------------

    def _sequences(self, expr: ast.Scan, along: Dim) -> tuple[Slices, ...]:
        if len(expr.names) != len(expr.over):
            span = expr.names[0].span.to(expr.names[-1].span)
            count = f"{len(expr.over)} sequence{'s' if len(expr.over) != 1 else ''}"
            raise self.fail("S151", f"{len(expr.names)} names for {count}", span)
        sequences = []
        for name, over in zip(expr.names, expr.over, strict=True):
            whole = self.tensor(self.value(over), over)
            axis = self.axis_of(whole.type, along, over, said=f"along {expr.along.id}", named=expr.along.id)
            sizes = whole.type.shape
            type_ = whole.type.with_shape((*sizes[:axis], *sizes[axis + 1 :]))
            sequences.append(Slices(whole, axis, Value(name.id, type_, name.span)))
        return tuple(sequences)

    def _start(self, bind: ast.Bind) -> Value:
        value = self.value(bind.value)
        if number(value):
            help = f"{bind.name.id} = carried(full([..], {show(value)}))  with the sizes of the state"
            raise self.fail("E125", f"a state is a tensor, found {self.kind(value)}", bind.value.span, help=help)
        start = self.tensor(value, bind.value)
        self.name_value(start, bind.name.id)
        return start

    def _distinct(self, names: tuple[ast.Ident, ...]) -> None:
        seen: dict[str, Span] = {}
        for name in names:
            if name.id in seen and name.id != "_":
                first = seen[name.id].where
                raise self.fail("E104", f"`{name.id}` is declared twice", name.span, why=f"first declared at {first}")
            seen[name.id] = name.span

    # ---- the body ------------------------------------------------------------------------------------------------

    def _checked(
        self, expr: ast.Scan, step: Step, names: Mapping[str, Value]
    ) -> tuple[tuple[Node, ...], tuple[Value, ...]]:
        """The nodes of a step, and the states it ends with."""
        before = len(self.elab.collector.errors)
        outer = self.nodes, self.locals, self.reads, self.step
        self.nodes, self.locals, self.reads, self.step = [], {**self.locals, **names}, dict(self.reads), step
        try:
            self.run_block(expr.body)
            if self.returned is not None:
                span = self.returned[0][1]
                self.returned = None
                raise self.fail("E100", "`return` inside `scan`", span, help="emit it, and return after the scan")
            nodes, ends = tuple(self.nodes), [self.locals[name] for name in step.states]
        finally:
            self.nodes, self.locals, self.reads, self.step = outer
        if len(self.elab.collector.errors) > before:
            raise Poisoned
        for name, end in zip(step.states, ends, strict=True):
            self._keeps_type(step, name, end, expr.span.head())
        return nodes, tuple(ends)

    def check_rebinding(self, name: ast.Ident, value: Any) -> None:
        """A step binds names of its own, and those of `with` to values of the same type (E151, S201 and its like)."""
        step = self.step
        if step is None or name.id == "_":
            return
        if name.id in step.states:
            self._keeps_type(step, name.id, value, name.span)
        elif name.id in step.outer and name.id not in step.slices:
            raise self.fail(
                "E151",
                f"a step of `scan` cannot re-bind `{name.id}`, which is bound outside it",
                name.span,
                help=f"with {name.id} = {name.id}  hands it from step to step; or choose another name",
            )

    def _keeps_type(self, step: Step, name: str, value: Any, span: Span) -> None:
        before = step.states[name]
        after = self.tensor(value, ast.Name(span, name))
        self.check_type(after.type, before.type, span, before.span, what=f"the next `{name}`")

    def _do_Emit(self, statement: ast.Emit) -> None:
        step = self.step
        if step is None:
            raise self.fail("E100", "`emit` belongs in `scan`", statement.span)
        if self.mode != step.mode:
            raise self.fail("E100", f"`emit` inside `when {self.mode}`: every step emits", statement.span)
        if step.emitted is not None:
            raise self.fail("E100", "a second `emit`: a step has one", statement.span, help="emit a, b")
        step.emitted = tuple((self.tensor(self.value(v), v), v.span) for v in statement.values)

    def _stacked(self, first: Slices, along: Dim, value: Value, span: Span) -> Emitted:
        """The results of all steps: their axis is where the first sequence has it, or the last if they have fewer."""
        sizes = value.type.shape
        axis = min(first.axis, len(sizes))
        type_ = TensorType(value.type.dtype, (*sizes[:axis], along, *sizes[axis:]))
        if type_.rank > MAX_RANK:
            raise self.fail("S204", f"a tensor of rank {type_.rank} (limit {MAX_RANK})", span, str(type_))
        return Emitted(value, axis, Value(None, type_, span))

"""Bodies of `forward` and `fn` become graphs: every value gets its type here, each body once per way it is called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Label
from specc.dims import Facts
from specc.elaborate.carried import beside_readers
from specc.elaborate.evaluate import DTYPES
from specc.elaborate.instances import Instance
from specc.elaborate.references import ListRef, PartRef
from specc.elaborate.scans import Scans
from specc.elaborate.scopes import Scope
from specc.elaborate.signatures import is_list, is_tensor, tensor_type
from specc.elaborate.values import POISON, Binding, Fail, Poisoned
from specc.ir.graph import Absent, Argument, Call, Graph, Iteration, Loop, Value, When
from specc.source import Span
from specc.syntax import ast
from specc.syntax.unparse import unparse
from specc.types import TensorType

if TYPE_CHECKING:
    from specc.elaborate.elaborator import Elaborator

Static = tuple[tuple[str, Any], ...]


def nested(statement: ast.Stmt) -> Iterator[ast.Stmt]:
    """A statement and those inside it."""
    yield statement
    bodies: list[ast.Body] = []
    if isinstance(statement, (ast.For, ast.When)):
        bodies.append(statement.body)
    elif isinstance(statement, ast.If):
        bodies.append(statement.then)
        if isinstance(statement.other, ast.If):
            yield from nested(statement.other)
        elif statement.other is not None:
            bodies.append(statement.other)
    for body in bodies:
        for inner in body.statements:
            yield from nested(inner)


def targets(statement: ast.Stmt) -> tuple[ast.Ident, ...]:
    """The names that a statement binds."""
    if isinstance(statement, ast.Assign):
        return statement.targets
    if isinstance(statement, (ast.AugAssign, ast.TypedAssign)):
        return (statement.target,)
    return ()


class BodyChecker(Scans):
    """Checks one body."""

    def __init__(self, elab: Elaborator, instance: Instance | None, method: ast.Method, scope: Scope) -> None:
        super().__init__(elab, scope)
        self.instance, self.method = instance, method
        self.axes: tuple[str, ...] = ()

    # ---- signature -----------------------------------------------------------------------------------------------

    def run(self, present: frozenset[str], axes: tuple[str, ...], lengths: tuple[int, ...], static: Static) -> Graph:
        method = self.method
        self.axes = axes
        self.optional = frozenset(p.name.id for p in method.params if p.type.optional and is_tensor(p.type))
        self.facts = self.instance.facts if self.instance is not None else Facts.EMPTY
        self._bind_static(dict(static))
        inputs = self._bind_tensors(present, axes, lengths)
        given = [argument for argument in inputs if argument.value is not None]
        dims = dict.fromkeys(d.symbols[0] for argument in given for d in argument.type.shape if d.is_symbol())
        self.bound = frozenset(dims)
        for argument in given:
            self._check_sizes(argument.type, argument.span)
        plain = [(tensor_type(self, r.type, axes), r.type.span) for r in method.results if not is_list(r.type)]
        for type_, span in plain:
            self._check_sizes(type_, span)
        self.fill(inputs, [type_ for type_, _ in plain])
        if self.returned is None:
            raise self.fail("S150", f"`{method.name.id}` returns nothing", method.name.span, help="return x")
        declared = self.declared_results(axes)
        results = self._results(declared)
        graph = Graph(
            module=self.instance.module if self.instance else None,
            method=method.name.id,
            inputs=tuple(inputs),
            results=tuple(results),
            nodes=beside_readers(self.nodes),
            dims=tuple(dims),
            facts=self.facts,
            doc=method.doc,
            span=method.name.span,
        )
        self.elab.bodies.result_types[id(graph)] = tuple(type_ for _, type_, _ in declared)
        self.elab.bodies.result_lists[id(graph)] = self.returned_lists
        if self.trains:
            self.elab.bodies.trains.add(id(graph))
        return graph

    def _check_sizes(self, type_: TensorType, span: Span) -> None:
        for dim in type_.shape:
            self.check_bound(dim, span)

    def _bind_static(self, values: dict[str, Any]) -> None:
        """The arguments that are no tensors are names of the scope: types may read them."""
        for param in self.method.params:
            self._not_a_dtype(param.name)
            if not is_tensor(param.type):
                origin = f"argument ({param.span.where})"
                value = values.get(param.name.id)
                self.scope.names[param.name.id] = Binding(value, param.span, origin, labelled=True)

    def _bind_tensors(self, present: frozenset[str], axes: tuple[str, ...], lengths: tuple[int, ...]) -> list[Argument]:
        """The tensor arguments as locals, an argument for each element of a list."""
        inputs: list[Argument] = []
        counts = iter(lengths)
        for param in self.method.params:
            name = param.name.id
            if not is_tensor(param.type):
                continue
            if is_list(param.type):
                elements = self.list_elements(param, param.type, next(counts), axes)
                self.locals[name] = tuple(e.value for e in elements)
            else:
                elements = [self._argument(param, name not in present and param.type.optional, axes)]
                value = elements[0].value
                self.locals[name] = Absent(name) if value is None else value
            inputs += elements
        return inputs

    def _argument(self, param: ast.Param, absent: bool, axes: tuple[str, ...]) -> Argument:
        name, span = param.name.id, param.span
        if param.default is not None and not isinstance(param.default, ast.NoneLit):
            raise self.fail("E125", "the default of a tensor argument is `none`", param.default.span)
        type_ = tensor_type(self, param.type, axes)
        return Argument(name, type_, param.type.optional, None if absent else Value(name, type_, span), span)

    def _results(self, declared: list[tuple[str | None, TensorType, Span]]) -> list[tuple[str | None, Value]]:
        assert self.returned is not None
        results = []
        for (name, type_, type_span), (value, span) in zip(declared, self.returned, strict=True):
            self.check_type(value.type, type_, span, type_span, what="the result")
            results.append((name, value))
        return results

    def fill(self, inputs: list[Argument], declared: list[TensorType]) -> None:
        """Append the nodes of the body, and say what it returns."""
        self.run_block(self.method.body)

    # ---- statements ----------------------------------------------------------------------------------------------

    def run_block(self, body: ast.Body) -> None:
        for statement in body.statements:
            if self.returned is not None:
                raise self.fail("E100", "this is never reached: the body has returned", statement.span.head())
            self.elab.bodies.count(self, statement.span)
            self.statement = statement
            try:
                getattr(self, f"_do_{type(statement).__name__}")(statement)
            except Fail as fail:
                self.elab.collector.add(fail.diagnostic)
                self._poison(statement)
            except Poisoned:
                self._poison(statement)

    def _poison(self, statement: ast.Stmt) -> None:
        """What a broken statement would have bound is unknown from here on."""
        if any(isinstance(inner, ast.Return) for inner in nested(statement)):
            raise Poisoned
        for inner in nested(statement):
            for target in targets(inner):
                self.locals[target.id] = POISON

    def _bind(self, target: ast.Ident, value: Any, expr: ast.Expr | None = None) -> None:
        name = target.id
        if name == "_":
            return
        self._not_a_dtype(target)
        self.check_rebinding(target, value)
        if isinstance(value, (Value, ListRef, PartRef, Absent, tuple)) or value is POISON:
            self.name_value(value, name)
            last = self.nodes[-1] if self.nodes else None
            if isinstance(value, tuple) and isinstance(last, Call) and all(one in last.outputs for one in value):
                for i, one in enumerate(value):  # the list that a call has just given
                    self.name_value(one, f"{name}{i}")
            self.locals[name] = value
        else:
            label = self.label(expr) if expr is not None else None
            self.locals[name] = Binding(
                value, target.span, f"{name} ({target.span.where})", labelled=False, label=label
            )

    def _not_a_dtype(self, name: ast.Ident) -> None:
        if name.id in DTYPES:
            raise self.fail("E104", f"`{name.id}` is a dtype, which it would hide", name.span, help="another name")

    def _do_Assign(self, statement: ast.Assign) -> None:
        value = self.value(statement.value)
        if len(statement.targets) == 1:
            if self.is_results(value):
                raise self.fail(
                    "S151",
                    f"one name for {len(value)} results",
                    statement.targets[0].span,
                    help="name them all: `a, b = ..`; `_` discards",
                )
            self._bind(statement.targets[0], value, statement.value)
            return
        if isinstance(value, Value) and not isinstance(statement.value, ast.Scan):
            value = self.unpack(value, len(statement.targets), statement.value.span)
        if not isinstance(value, tuple):
            raise self.fail("S151", f"{len(statement.targets)} names for one value", statement.targets[0].span)
        if len(value) != len(statement.targets):
            span = statement.targets[0].span.to(statement.targets[-1].span)
            raise self.fail("S151", f"{len(statement.targets)} names for {len(value)} values", span)
        for target, one in zip(statement.targets, value, strict=True):
            self._bind(target, one)

    def _do_TypedAssign(self, statement: ast.TypedAssign) -> None:
        value = self.value(statement.value)
        if not is_tensor(statement.type):
            self._bind(statement.target, value, statement.value)
            return
        tensor = self.tensor(value, statement.value)
        self.check_type(
            tensor.type,
            tensor_type(self, statement.type, self.axes),
            statement.value.span,
            statement.type.span,
            what="the value",
        )
        self._bind(statement.target, tensor, statement.value)

    def _do_AugAssign(self, statement: ast.AugAssign) -> None:
        name = statement.target
        old = ast.Name(name.span, name.id)
        before = self.value(old)
        expr = ast.Binary(statement.span, statement.op, name.span, old, statement.value)
        after = self.value(expr)
        if isinstance(before, Value) and isinstance(after, Value):
            old_shape, new_shape = before.type.shape, after.type.shape
            same = len(old_shape) == len(new_shape) and all(map(self.facts.equal, old_shape, new_shape))
            if not same:
                raise self.fail(
                    "S203",
                    f"`{statement.op}=` changes the shape of `{name.id}`",
                    statement.span,
                    f"{after.type}",
                    others=(Label(name.span, str(before.type)),),
                    help=f"{name.id} = {name.id} {statement.op} {unparse(statement.value)}",
                )
        self._bind(name, after, expr)

    def _do_Return(self, statement: ast.Return) -> None:
        self.returns([(self.value(expr), expr) for expr in statement.values], statement.span)

    def _do_If(self, statement: ast.If) -> None:
        self.branch = statement
        if self.condition(statement.cond):
            self.run_block(statement.then)
        elif isinstance(statement.other, ast.If):
            self._do_If(statement.other)
        elif statement.other is not None:
            self.run_block(statement.other)

    def _do_For(self, statement: ast.For) -> None:
        items = self.loop_items(statement.iterable)
        self.elab.bodies.expect(self, len(items) * self._expected(statement.body), statement.span.head())
        outer, iterations = self.nodes, []
        origin = f"one of {unparse(statement.iterable)} ({statement.span.where})"
        try:
            for item in items:
                self.nodes = []
                binds = []
                for name, value in self.unpacked(statement.names, item, statement.iterable.span):
                    if name.id != "_":
                        self._not_a_dtype(name)
                        if isinstance(value, (Value, PartRef, ListRef, tuple, Absent)):
                            self.locals[name.id] = value
                        else:
                            self.locals[name.id] = Binding(value, name.span, origin, labelled=False)
                        binds.append((name.id, value.path if isinstance(value, PartRef) else None))
                self.run_block(statement.body)
                if self.returned is not None:
                    raise self.fail(
                        "E100", "`return` inside a loop", statement.span.head(), help="return after the loop"
                    )
                iterations.append(Iteration(tuple(self.nodes), tuple(binds)))
        finally:
            self.nodes = outer
        if iterations:
            names = tuple(n.id for n in statement.names)
            self.nodes.append(Loop(names, self.text_of(statement.iterable), None, tuple(iterations), statement.span))

    def _expected(self, body: ast.Body) -> int:
        """How many statements a body comes to at least, after unrolling."""
        loops = [s for s in body.statements if isinstance(s, ast.For)]
        return len(body.statements) + sum(self.repeats(s.iterable) * self._expected(s.body) for s in loops)

    def _do_When(self, statement: ast.When) -> None:
        mode = statement.mode.id
        if mode not in ("train", "infer"):
            raise self.fail("E100", f"`when {mode}`: the modes are train and infer", statement.mode.span)
        outer_nodes, outer_locals, outer_reads, outer_mode = self.nodes, dict(self.locals), dict(self.reads), self.mode
        self.nodes, self.mode, self.aux = [], mode, []
        try:
            self.run_block(statement.body)
            if self.returned is not None:
                raise self.fail("E100", f"`return` inside `when {mode}`", statement.span.head())
            region, inner = self.nodes, self.locals
        finally:
            self.nodes, self.locals, self.reads, self.mode = outer_nodes, outer_locals, outer_reads, outer_mode
        rebinds = []
        for name, before in outer_locals.items():
            end = inner.get(name)
            if isinstance(before, Value) and isinstance(end, Value) and end is not before:
                self.check_type(
                    end.type, before.type, statement.span, before.span, what=f"`{name}` after `when {mode}`"
                )
                after = Value(name, before.type, statement.span)
                rebinds.append((before, end, after))
                self.locals[name] = after
        self.nodes.append(When(mode, tuple(region), tuple(rebinds), tuple(self.aux), statement.span))

    def _do_Aux(self, statement: ast.Aux) -> None:
        if self.mode != "train":
            raise self.fail("E100", "`aux` belongs in `when train { }`", statement.span)
        if self.step is not None:
            raise self.fail("E100", "`aux` inside `scan`: emit it, and sum it after the scan", statement.span)
        value = self.tensor(self.value(statement.value), statement.value)
        if value.type.rank:
            raise self.fail("S202", f"an aux value is a scalar, found {value.type}", statement.value.span)
        self.aux.append((statement.name.id, value))

"""Calls of parts, methods and functions in bodies: lookup, binding, unification with the signature."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

from specc.diagnostics import Label
from specc.elaborate.access import Evaluated
from specc.elaborate.attributes import OpCall
from specc.elaborate.builtins import COMPILE_TIME, ROUTE
from specc.elaborate.evaluate import Evaluator
from specc.elaborate.instances import Instance
from specc.elaborate.lists import TensorLists, element_name
from specc.elaborate.mismatch import valued
from specc.elaborate.references import ListRef, MethodRef, PartRef
from specc.elaborate.routing import route
from specc.elaborate.scopes import Scope
from specc.elaborate.signatures import (
    Unifier,
    describe_axis,
    ellipsis_axes,
    is_list,
    is_tensor,
    opaque_axes,
    uses_ellipsis,
)
from specc.elaborate.values import (
    Binding,
    FnDecl,
    FnValue,
    coerced,
    fits,
    show,
    type_text,
)
from specc.ir.graph import (
    Absent,
    Argument,
    Call,
    Function,
    Graph,
    Input,
    Iteration,
    Loop,
    PartGroup,
    PartList,
    Path,
    Submodule,
    Value,
    dotted,
)
from specc.source import Span
from specc.syntax import ast
from specc.syntax.unparse import unparse

Labels = dict[str, "str | None"]


class CallChecker(TensorLists):
    """The part of a body's checker that resolves and types calls."""

    # ---- calls ---------------------------------------------------------------------------------------------------

    def _Call(self, expr: ast.Call) -> Any:
        target = self.callee(expr.func)
        if target == ROUTE:
            return route(self, expr)
        if isinstance(target, str):
            return self.builtin(expr, target)
        if isinstance(target, FnValue):
            return self.function_value(expr, target)
        if isinstance(target, MethodRef):
            args = self.bind_arguments(expr, target.method)
            own: Labels = {} if target.path else {h.name: h.name for h in target.instance.module.hypers}
            return self.call_method(target.path, target.instance, target.method, args, expr.span, own)
        return self.call_part(expr, target)

    def knows(self, label: str | None) -> bool:
        """Whether every name of a label means something in this body."""
        names = re.findall(r"[A-Za-z_]\w*", label or "")
        return all(self.scope.find(name) is not None or name in COMPILE_TIME for name in names)

    def call_part(self, expr: ast.Call, target: PartRef | ListRef) -> Any:
        if isinstance(target, ListRef):
            raise self.fail(
                "E109",
                "a slice of a list of parts is not callable",
                expr.func.span,
                help="for part in .. { x = part(x) }",
            )
        member = target.member
        if isinstance(member, PartGroup):
            names = ", ".join(member.members)
            raise self.fail(
                "E108", f"`{unparse(expr.func)}` is a group: read its members", expr.func.span, available=names
            )
        if isinstance(member, PartList):
            return self.fold(expr, target, member)
        if isinstance(member, Submodule):
            instance, method = self.forward_of(member, expr.func.span)
            args = self.bind_arguments(expr, method)
            # A comprehension's variable means nothing outside its list.
            labels: Labels = {name: label if self.knows(label) else None for name, _, label in member.args}
            return self.call_method(target.path, instance, method, args, expr.span, labels, member)
        raise self.fail("E109", f"`{unparse(expr.func)}` is a parameter, not a part", expr.func.span)

    def forward_of(self, member: Submodule, span: Span) -> tuple[Instance, ast.Method]:
        instance = self.elab.instance_of(member.module)
        method = instance.methods.get("forward")
        if method is None:
            raise self.fail(
                "E160", f"{member.module.name} has no `forward`", span, why=f"declared at {member.module.span.where}"
            )
        return instance, method

    def call_method(
        self,
        path: Path,
        instance: Instance | None,
        method: ast.Method,
        args: dict[str, tuple[Any, ast.Expr]],
        span: Span,
        labels: Labels,
        member: Submodule | None = None,
        decl: FnDecl | None = None,
    ) -> Any:
        """Type a call: find the callee's graph for these arguments and unify its signature with them."""
        tensors: dict[str, tuple[Value, ast.Expr]] = {}
        absent: dict[str, Absent] = {}
        static: list[tuple[str, Any]] = []
        lengths: list[int] = []
        for param in method.params:
            name = param.name.id
            value, at = args.get(name, (None, None))
            if not is_tensor(param.type):
                static.append((name, self._static(param, value, at, name in args, decl)))
            elif is_list(param.type):
                elements = self.passed_list(param, param.type, value, at, instance.scope if instance else None)
                lengths.append(len(elements))
                tensors.update((element_name(name, i), element) for i, element in enumerate(elements))
            elif value is None or isinstance(value, Absent):
                if not param.type.optional:
                    assert at is not None
                    raise self.fail(
                        "S141",
                        f"`{name}` needs a value, `{unparse(at)}` is optional and absent here",
                        at.span,
                        why=f"declared at {param.span.where}",
                    )
                absent[name] = value if type(value) is Absent else Absent()
            else:
                assert at is not None
                tensor = self.tensor(value, at)
                tensors[name] = (tensor, at)
        axes = self._ellipsis(method, {name: value for name, (value, _) in tensors.items()}, instance, decl)
        present = frozenset(p.name.id for p in method.params if p.type.optional and p.name.id in tensors)
        what = member.module.name if member is not None else method.name.id
        with self.elab.inside(f"{dotted(path)}: {what}" if path else what, span):
            if instance is not None:
                graph = self.elab.bodies.method(instance, method, present, axes, tuple(lengths))
            else:
                assert decl is not None
                scope = Scope(decl.file, dims=self.elab.file_dims(decl.file))
                graph = self.elab.bodies.function(decl, present, axes, tuple(lengths), tuple(static), scope)
        if id(graph) in self.elab.bodies.trains:
            self.training_only(what, "of training", span)
        return self._unify(path, graph, tensors, absent, span, labels, member, what)

    def _ellipsis(
        self, method: ast.Method, tensors: dict[str, Value], instance: Instance | None, decl: FnDecl | None
    ) -> tuple[str, ...]:
        """What `...` stands for in the callee's signature."""
        if not uses_ellipsis(method):
            return ()
        types = {p.name.id: p.type for p in method.params if isinstance(p.type, ast.TensorTypeExpr)}
        lists = {p.name.id: p.type.element for p in method.params if isinstance(p.type, ast.ListType)}
        for name in tensors:
            element = lists.get(name.partition("[")[0])
            if isinstance(element, ast.TensorTypeExpr):
                types[name] = element
        shapes = {name: value.type.shape for name, value in tensors.items() if name in types}
        dims = instance.dims if instance is not None else self.elab.file_dims(decl.file) if decl is not None else {}
        axes = ellipsis_axes(types, shapes)
        known = {name for name, dim in dims.items() if dim.is_symbol()}
        return tuple(a if a in known else o for a, o in zip(axes, opaque_axes(len(axes)), strict=True))

    def _static(self, param: ast.Param, value: Any, at: ast.Expr | None, given: bool, decl: FnDecl | None) -> Any:
        """A compile-time argument of a `fn`."""
        if not given and param.default is not None and decl is not None:
            scope = Scope(decl.file, dims=self.elab.file_dims(decl.file))
            value = Evaluator(self.elab, scope).value(param.default)
        if isinstance(value, Binding):
            value = value.value
        if not fits(value, param.type):
            span = at.span if at is not None else param.span
            raise self.fail(
                "E125",
                f"`{param.name.id}` cannot be {show(value)}",
                span,
                expected=type_text(param.type),
                found=show(value),
            )
        return coerced(value, param.type)

    def _unify(
        self,
        path: Path,
        graph: Graph,
        tensors: dict[str, tuple[Value, ast.Expr]],
        absent: dict[str, Absent],
        span: Span,
        labels: Labels,
        member: Submodule | None,
        what: str,
    ) -> Any:
        unifier = Unifier({})
        for argument in graph.inputs:
            if argument.name in tensors:
                self._same_rank(argument, *tensors[argument.name], what)
                unifier.bind(argument.type, tensors[argument.name][0].type)
        inputs: list[Input] = []
        for argument in graph.inputs:
            if argument.name in tensors:
                value, at = tensors[argument.name]
                self._check_argument(argument, value, at, unifier, what, member)
                inputs.append(value)
            else:
                inputs.append(absent.get(argument.name, Absent()))
        self.check_facts(graph, unifier, span, what)
        outputs = tuple(
            Value(None, self.simplest(result.with_shape(tuple(unifier.resolve(d, labels) for d in result.shape))), span)
            for result in self.elab.bodies.result_types[id(graph)]
        )
        self.nodes.append(Call(graph, path, tuple(inputs), outputs, span))
        left = iter(outputs)
        lists = self.elab.bodies.result_lists[id(graph)]
        results = tuple(next(left) if n is None else tuple(islice(left, n)) for n in lists)
        return results[0] if len(results) == 1 else self.results(results)

    def _same_rank(self, argument: Argument, value: Value, at: ast.Expr, what: str) -> None:
        if value.type.rank != argument.type.rank:
            raise self.fail(
                "S202",
                f"{what} takes `{argument.name}` with {argument.type.rank} axes, found {value.type.rank}",
                at.span,
                f"{value.type}",
                expected=f"{argument.type}   ({argument.span.where})",
                found=f"{value.type}",
            )
        if value.type.dtype is not argument.type.dtype:
            want = argument.type.dtype.spec_name
            raise self.fail(
                "S301",
                f"{what} takes `{argument.name}` as {want}, found {value.type.dtype.spec_name}",
                at.span,
                f"{value.type}",
                expected=f"{argument.type}   ({argument.span.where})",
                found=f"{value.type}",
                help=f"cast({unparse(at)}, ..)" if value.type.dtype.is_int != argument.type.dtype.is_int else "",
            )

    def _check_argument(
        self,
        argument: Argument,
        value: Value,
        at: ast.Expr,
        unifier: Unifier,
        what: str,
        member: Submodule | None,
    ) -> None:
        for i, (want, have) in enumerate(zip(argument.type.shape, value.type.shape, strict=True)):
            expected = unifier.resolve(want, {})
            proof = self.facts.equal(expected, have)
            if proof:
                continue
            axis = describe_axis(i, value.type.rank)
            rows = (*self.size_rows(value.type), *self.hyper_rows(argument, i, member))
            others = (Label(member.span.head(), f"{what} is made here"),) if member is not None else ()
            if expected.value is not None and have.value is not None:
                raise self.fail(
                    "S201",
                    f"{what} expects its {axis} to be {expected}, found {have}",
                    at.span,
                    f"argument is {value.type}",
                    others=others,
                    sizes=rows,
                    help=self.remedy(want.label, expected.value, have, member),
                    expected=str(self.expected_type(argument, unifier)),
                    found=valued(value.type),
                )
            raise self.unequal(
                f"{what} expects its {axis} to be {expected}, found {have}",
                at.span,
                f"argument is {value.type}",
                expected,
                have,
                proof,
                others=others,
                sizes=rows,
            )

    # ---- lists and functions -------------------------------------------------------------------------------------

    def fold(self, expr: ast.Call, target: PartRef, parts: PartList) -> Any:
        """`layers(x, mask)`: x goes through each element, the other arguments to all of them."""
        if not expr.args:
            raise self.fail("E124", f"`{unparse(expr.func)}`: missing its first argument", expr.span)
        first = expr.args[0]
        if isinstance(first, ast.StarArg) or first.name is not None:
            raise self.fail("E121", "the first argument of a list is positional", first.span)
        x: Any = self.value(first.value)
        if not parts.items:
            return x
        carried: ast.Expr = first.value
        outer, iterations = self.nodes, []
        name = singular(target.path)
        rest = self._evaluated(expr.args[1:])
        try:
            for i, item in enumerate(parts.items):
                self.nodes = []
                element = PartRef((*target.path, i), item, target.owner, (*target.local, i))
                x = self._element(expr, element, x, carried, rest)
                carried = ast.Name(expr.span, name)
                if not isinstance(x, Value):
                    raise self.fail("S150", f"element {i} of `{unparse(expr.func)}` has several results", expr.span)
                iterations.append(Iteration(tuple(self.nodes), ((name, element.path),)))
        finally:
            self.nodes = outer
        self.nodes.append(Loop((name,), None, target.path, tuple(iterations), expr.span))
        return x

    def _evaluated(self, args: tuple[ast.Arg | ast.StarArg, ...]) -> tuple[tuple[ast.Ident | None, Any, ast.Expr], ...]:
        values = []
        for arg in args:
            if isinstance(arg, ast.StarArg):
                raise self.fail("E120", "`*` passes hyper-parameters, in declarations only", arg.span)
            values.append((arg.name, self.value(arg.value), arg.value))
        return tuple(values)

    def _element(
        self,
        expr: ast.Call,
        element: PartRef,
        x: Any,
        carried: ast.Expr,
        rest: tuple[tuple[ast.Ident | None, Any, ast.Expr], ...],
    ) -> Any:
        """One element of a fold."""
        member = element.member
        if isinstance(member, Function):
            if rest:
                raise self.fail("E122", f"`{member.name}` in a list takes one argument", rest[0][2].span)
            return self.element_function(member, x, carried)
        given = [(None, x, carried), *rest]
        args = tuple(ast.Arg(e.span, n, Evaluated(e.span, v, e)) for n, v, e in given)
        return self.call_part(ast.Call(expr.span, expr.func, args), element)

    def element_function(self, member: Function, x: Value, at: ast.Expr) -> Any:
        """A named function as an element of a list of parts."""
        if member.op is not None:
            return self.apply(OpCall(member.op, (x,), (at.span,), dict(member.labels)), member.span)
        value = self.elab.bodies.functions[id(member)]
        carried = ast.Arg(at.span, None, Evaluated(at.span, x, at))
        return self.function_value(ast.Call(member.span, ast.Name(member.span, member.name), (carried,)), value)

    def function_value(self, expr: ast.Call, function: FnValue) -> Any:
        """A call of a `fn`-typed hyper-parameter or a file-level `fn`."""
        if function.op is not None:
            bound = tuple(
                ast.Arg(expr.span, ast.Ident(expr.span, k), Evaluated(expr.span, v, None)) for k, v in function.args
            )
            labels = dict(function.labels)
            return self.builtin(
                ast.Call(expr.span, ast.Name(expr.func.span, function.name), (*expr.args, *bound)),
                function.name,
                labels,
            )
        assert function.fn is not None
        args = self.bind_arguments(expr, function.fn.node, dict(function.args))
        return self.call_method((), None, function.fn.node, args, expr.span, {}, decl=function.fn)


def singular(path: Path) -> str:
    """A name for one element of a list: `layers` -> `layer`, `h` -> `block`."""
    last = next((str(s) for s in reversed(path) if isinstance(s, str)), "block")
    if last.endswith("ies"):
        return last[:-3] + "y"
    if last.endswith(("xes", "ches", "shes", "sses")):
        return last[:-2]
    if last.endswith("s") and len(last) > 2 and not last.endswith("ss"):
        return last[:-1]
    return "block" if len(last) <= 2 else "layer"

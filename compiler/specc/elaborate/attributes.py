"""Arguments of operators: bound by the signature that an operator's class body states (see `specc.op`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from specc.dims import Dim
from specc.elaborate.evaluate import Evaluator
from specc.elaborate.names import counted
from specc.elaborate.values import describe, number, show
from specc.ir.graph import Absent, Input, Value
from specc.op import Op, ParamSpec, Pattern
from specc.source import Span
from specc.syntax import ast
from specc.syntax.unparse import unparse
from specc.types import DType, TensorType

AXIS_KINDS = ("Axis", "Axes", "Axis | None", "Axes | None")


@dataclass(frozen=True)
class OpCall:
    """A call of an operator: its operands with their spans, labels and places of its attributes by name."""

    op: Op
    inputs: tuple[Input, ...]
    spans: tuple[Span, ...]
    labels: dict[str, str] = field(default_factory=dict)
    places: dict[str, Span] = field(default_factory=dict)


class OpArguments(Evaluator):
    """The part of a body's checker that binds the arguments of built-in functions."""

    def tensor(self, value: Any, at: ast.Expr) -> Value:
        raise NotImplementedError

    def operand(self, value: Any, at: ast.Expr) -> Input:
        raise NotImplementedError

    def kind(self, value: Any) -> str:
        raise NotImplementedError

    def op_call(self, op: type[Op], expr: ast.Call) -> OpCall:
        """A call of an operator with its arguments bound."""
        given = self._sorted(op, expr)
        inputs: list[Input] = []
        spans: list[Span] = []
        attributes: dict[str, Any] = {}
        labels: dict[str, str] = {}
        places: dict[str, Span] = {}
        for param in op.params:
            if param.kind == "list":
                for value, at in self._list_operand(op, given.get(param.name, []), expr):
                    inputs.append(self.tensor(value, at))
                    spans.append(at.span)
                continue
            args = given.get(param.name)
            if param.is_operand:
                value, span = self._operand(op, param, args[0] if args else None, expr)
                inputs.append(value)
                spans.append(span)
            elif args:
                places[param.name] = args[0].span
                attributes[param.name], label = self._attribute(op, param, args[0])
                if label is not None:
                    labels[param.name] = label
            elif param.required and not ("over" in given and param in axes_of(op)):
                raise self.fail("E124", f"{op.name}: missing `{param.name}`", expr.span, note=signature_text(op))
        if "over" in given:
            (axis,) = axes_of(op)
            if axis.name in given:
                message = f"{op.name}: `over` names the axis, and `{axis.name}` does too"
                raise self.fail("E121", message, given[axis.name][0].span, help="one of the two")
            attributes[axis.name] = self._over(axis, given["over"][0], inputs)
        return OpCall(op(**attributes), tuple(inputs), tuple(spans), labels, places)

    def _sorted(self, op: type[Op], expr: ast.Call) -> dict[str, list[ast.Expr]]:
        """Arguments by parameter name; a variadic operand takes all positional ones before the first attribute."""
        params = {p.name: p for p in op.params}
        order = list(params)
        variadic = next((p.name for p in op.params if p.kind == "list"), None)
        # `cached(k, v, along = T)` lists its tensors; `concat([a, b], 1)` takes one list, then attributes.
        bare = variadic is not None and not self._takes_list(expr)
        given: dict[str, list[ast.Expr]] = {}
        position = 0
        for arg in expr.args:
            if isinstance(arg, ast.StarArg):
                raise self.fail("E120", "`*` passes hyper-parameters, in declarations only", arg.span)
            if arg.name is not None:
                name = arg.name.id
                over = name == "over" and len(axes_of(op)) == 1
                if name not in params and not over:
                    message = f"{op.name} has no argument `{name}`"
                    raise self.no_such("E120", message, arg.name.span, name, order)
            elif bare:
                name = str(variadic)
            else:
                if position >= len(order):
                    raise self.fail(
                        "E122", f"{op.name} takes {counted(len(order), 'argument')}", arg.span, note=signature_text(op)
                    )
                name = order[position]
                position += 1
            if name in given and name != variadic:
                raise self.fail("E121", f"{op.name}: `{name}` is given twice", arg.span)
            given.setdefault(name, []).append(arg.value)
        return given

    def _takes_list(self, expr: ast.Call) -> bool:
        """Whether the first argument of a variadic operator is a list."""
        first = expr.args[0] if expr.args else None
        if not isinstance(first, ast.Arg):
            return False
        return isinstance(first.value, ast.ListExpr) or (
            isinstance(first.value, ast.Name) and isinstance(self.value(first.value), tuple)
        )

    def _list_operand(self, op: type[Op], exprs: list[ast.Expr], call: ast.Call) -> list[tuple[Any, ast.Expr]]:
        """Operands of a variadic operator: `cached(k, v, ..)`, `concat([a, b], ..)`, `concat(skips, ..)`."""
        found: list[tuple[Any, ast.Expr]] = []
        for expr in exprs:
            if isinstance(expr, ast.ListExpr):
                found.extend((self.value(e), e) for e in expr.elements if isinstance(e, ast.Expr))
                continue
            value = self.value(expr)
            if isinstance(value, tuple):
                found.extend((v, expr) for v in value)
            else:
                found.append((value, expr))
        if not found:
            raise self.fail("E124", f"{op.name}: at least one tensor is needed", call.span)
        return found

    def _operand(self, op: type[Op], param: ParamSpec, expr: ast.Expr | None, call: ast.Call) -> tuple[Input, Span]:
        if expr is None:
            if param.kind == "optional":
                return Absent(), call.span
            raise self.fail("E124", f"{op.name}: missing `{param.name}`", call.span, note=signature_text(op))
        value = self.value(expr)
        if param.kind == "optional" and (value is None or isinstance(value, Absent)):
            return value if type(value) is Absent else Absent(), expr.span
        if param.kind == "number":
            return self.operand(value, expr), expr.span
        if number(value) or isinstance(value, (bool, Dim)):
            raise self.fail("E125", f"{op.name}: `{param.name}` is a tensor, found {describe(value)}", expr.span)
        return self.tensor(value, expr), expr.span

    # ---- attributes ----------------------------------------------------------------------------------------------

    def _attribute(self, op: type[Op], param: ParamSpec, expr: ast.Expr) -> tuple[Any, str | None]:
        kind = param.kind
        if kind == "Pattern":
            return self._pattern(op, expr), None
        if kind == "Dim":
            return self.size(expr), None
        if "Dims" in kind and not (isinstance(expr, ast.Int) and "int" in kind.lower().replace("dims", "")):
            sizes = self._sizes(op, param, expr)
            if sizes is not None:
                return sizes, None
        value = self.value(expr)
        return coerce_attribute(self, op, param, value, expr.span), self.label(expr)

    def _sizes(self, op: type[Op], param: ParamSpec, expr: ast.Expr) -> tuple[Dim, ...] | None:
        """A list of sizes, each with its own label; one size alone is a list of one."""
        if isinstance(expr, ast.ListExpr):
            return tuple(self.size(e) for e in expr.elements if isinstance(e, ast.Expr))
        value = self.value(expr)
        if isinstance(value, tuple):
            bad = next((v for v in value if isinstance(v, bool) or not isinstance(v, (int, Dim))), None)
            if bad is not None or None in value:
                message = f"{op.name}: `{param.name}` is a list of sizes, found {self.kind(bad)} in it"
                raise self.fail("E112", message, expr.span)
            return tuple(Dim.of(v) for v in value)
        if param.kind == "Dims":
            return (self.size(expr),)
        return None

    def _pattern(self, op: type[Op], expr: ast.Expr) -> Pattern:
        if (
            not isinstance(expr, ast.Axes)
            or not isinstance(expr.left, ast.ListExpr)
            or not isinstance(expr.right, ast.ListExpr)
        ):
            raise self.fail(
                "S210", f"{op.name} takes an axis pattern", expr.span, help="rearrange(x, [B, T, h*d] -> [B, h, T, d])"
            )
        return Pattern(self._axes(expr.left), self._axes(expr.right))

    def _axes(self, side: ast.ListExpr) -> tuple[tuple[Dim, ...], ...]:
        return tuple(tuple(self._factor(f) for f in factors(e)) for e in side.elements if isinstance(e, ast.Expr))

    def _factor(self, expr: ast.Expr) -> Dim:
        return Dim.UNIT if isinstance(expr, ast.Int) and expr.value == 1 else self.size(expr)

    def _over(self, axis: ParamSpec, expr: ast.Expr, inputs: list[Input]) -> Any:
        """`over = D`: the axis of the first tensor that has just that size (S230)."""
        exprs = [e for e in expr.elements if isinstance(e, ast.Expr)] if isinstance(expr, ast.ListExpr) else [expr]
        tensor = next((i for i in inputs if isinstance(i, Value)), None)
        assert tensor is not None
        axes = tuple(self.axis_of(tensor.type, self.size(e), e) for e in exprs)
        return axes if axis.kind == "Axes" else axes[0]

    def axis_of(self, type_: TensorType, dim: Dim, expr: ast.Expr, *, named: str = "", said: str = "") -> int:
        """The one axis of that size (S230). `named`: how the size is called, `said`: how it was asked for."""
        found = [i for i, d in enumerate(type_.shape) if d == dim]
        if len(found) == 1:
            return found[0]
        name = named or unparse(expr)
        if found:
            message, label = (
                f"`{said or f'over = {name}'}` is ambiguous: the tensor has {name} twice",
                f"axes {' and '.join(map(str, found))}",
            )
        else:
            message, label = f"the tensor has no axis of size {name}", ""
        raise self.fail(
            "S230",
            message,
            expr.span,
            label,
            found=str(type_),
            help=f"{'' if said else 'axis = -1,  or '}give the sizes names of their own: dim N",
        )

    @staticmethod
    def attributes_of(evaluator: Evaluator, op: type[Op], args: dict[str, Any], span: Span) -> Op:
        """An operator from attribute values, for functions as values (`leaky_relu(slope = 0.2)`)."""
        attributes = {}
        for param in op.params:
            if param.is_operand:
                continue
            if param.name in args:
                attributes[param.name] = coerce_attribute(evaluator, op, param, args[param.name], span)
            elif param.required:
                raise evaluator.fail("E124", f"{op.name}: missing `{param.name}`", span, note=signature_text(op))
        required = [p.name for p in op.params if p.is_operand and p.required]
        if len(required) != 1:
            raise evaluator.fail(
                "E125",
                f"{op.name} is not a function of one tensor",
                span,
                why=f"it takes {', '.join(required) or 'none'}",
            )
        return op(**attributes)


def coerce_attribute(evaluator: Evaluator, op: type[Op], param: ParamSpec, value: Any, span: Span) -> Any:
    """The value in the form that the attribute's annotation asks for (E125)."""
    kind = param.kind
    if value is None and ("None" in kind or kind == "Axes"):
        return None
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind.startswith("Literal"):
        if value in param.choices:
            return value
        expected = " | ".join(show(c) for c in param.choices)
        raise evaluator.fail(
            "E125", f"{op.name}: `{param.name}` cannot be {show(value)}", span, expected=expected, found=show(value)
        )
    if kind.startswith("float") and number(value):
        return float(value)
    if (kind.startswith(("int", "Axis")) and whole) or (kind.startswith("bool") and isinstance(value, bool)):
        return value
    if kind.startswith("str") and isinstance(value, str):
        return value
    if kind.startswith("DType") and isinstance(value, DType):
        return value
    if kind.startswith(("Ints", "Axes")):
        items = value if isinstance(value, tuple) else (value,)
        if all(isinstance(v, int) and not isinstance(v, bool) for v in items):
            return items
    if kind.startswith("Floats") and isinstance(value, tuple) and all(number(v) for v in value):
        return tuple(float(v) for v in value)
    if "Dim" in kind and (whole or isinstance(value, Dim)):
        return (
            (Dim.of(value),) if "Dims" in kind and "int" not in kind else Dim.of(value) if "Dims" not in kind else value
        )
    raise evaluator.fail(
        "E125", f"{op.name}: `{param.name}` cannot be {show(value)}", span, expected=kind, found=describe(value)
    )


def axes_of(op: type[Op]) -> list[ParamSpec]:
    """The arguments that are axes: where there is one, `over` may stand for it."""
    return [p for p in op.params if p.kind in AXIS_KINDS]


def factors(expr: ast.Expr) -> list[ast.Expr]:
    """The factors of one axis of a pattern: a product is split, a parenthesised expression is one factor."""
    if isinstance(expr, ast.Binary) and expr.op == "*":
        return [*factors(expr.left), *factors(expr.right)]
    return [expr.inner if isinstance(expr, ast.Paren) else expr]


def signature_text(op: type[Op]) -> str:
    """`softmax(x, axis = -1)`: an operator's signature for messages."""
    shown = []
    for param in op.params:
        if param.required:
            shown.append(param.name)
        else:
            alone = (
                isinstance(param.default, tuple) and len(param.default) == 1
            )  # of options that take an int or several
            shown.append(f"{param.name} = {show(param.default[0] if alone else param.default)}")
    return f"{op.name}({', '.join(shown)})"

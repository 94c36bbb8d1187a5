"""Expressions over tensors: operators are applied, their shape rules asked, their refusals explained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from specc.diagnostics import Edit
from specc.dims import Dim
from specc.elaborate.access import Evaluated, Results
from specc.elaborate.attributes import OpCall
from specc.elaborate.builtins import COMPILE_TIME
from specc.elaborate.evaluate import Evaluator
from specc.elaborate.mismatch import Mismatches
from specc.elaborate.references import ListRef, PartRef
from specc.elaborate.signatures import MAX_RANK
from specc.elaborate.values import Binding, describe, number
from specc.ir.graph import (
    Absent,
    Apply,
    Input,
    PartList,
    Value,
)
from specc.op import OpError, operators
from specc.source import Span
from specc.syntax import ast
from specc.syntax.unparse import unparse
from specc.types import Scalar, TensorType


class Applications(Mismatches):
    """The part of a body's checker that evaluates tensor expressions and appends nodes."""

    # ---- tensors -------------------------------------------------------------------------------------------------

    def results(self, outputs: tuple[Any, ...]) -> Any:
        return Results(outputs)

    def is_results(self, value: Any) -> bool:
        return isinstance(value, Results)

    def name_value(self, value: Any, name: str) -> None:
        """An unnamed intermediate takes the name it is bound to; the first name stays."""
        if isinstance(value, Value) and value.name is None:
            object.__setattr__(value, "name", name)

    def apply(self, call: OpCall, span: Span) -> Any:
        """Append an operator; its shape rule decides the result types."""
        op = call.op
        if op.for_training:
            self.training_only(op.name, "random" if op.random else "of training", span)
        types = [v.type if isinstance(v, Value) else None if isinstance(v, Absent) else v for v in call.inputs]
        try:
            inferred = op.infer(self.facts, *types)
        except OpError as error:
            raise self.explained(call, error, types, span) from None
        several = inferred if isinstance(inferred, tuple) else (inferred,)
        for type_ in several:
            if type_.rank > MAX_RANK:
                raise self.fail("S204", f"a tensor of rank {type_.rank} (limit {MAX_RANK})", span, str(type_))
        outputs = tuple(Value(None, self.simplest(type_), span) for type_ in several)
        self.nodes.append(Apply(op, call.inputs, outputs, span, call.labels))
        return outputs[0] if not isinstance(inferred, tuple) else Results(outputs)

    def training_only(self, name: str, what: str, span: Span) -> None:
        """E100 outside `when train`; a `fn` that has no mode of its own is then of training itself."""
        if self.mode == "" and self.instance is None:
            self.trains = True
        elif self.mode != "train":
            raise self.fail("E100", f"`{name}` is {what}: only in `when train {{ }}`", span)

    def simplest(self, type_: TensorType) -> TensorType:
        """With sizes as the facts make them: `Y` for 4*((Y - 1)//4 + 1) where 4 divides Y."""
        return type_.with_shape(tuple(d if d.label else self.facts.normal(d) for d in type_.shape))

    # ---- operators -----------------------------------------------------------------------------------------------

    def operand(self, value: Any, at: ast.Expr) -> Input:
        """A tensor, or a number with how it was written."""
        if number(value) or isinstance(value, (bool, Dim)):
            return Scalar(value, self.label(at))
        return self.tensor(value, at)

    def _tensorial(self, *values: Any) -> bool:
        return any(isinstance(v, (Value, Absent, Results)) for v in values)

    def syntax_op(self, name: str, expr: ast.Expr, *operands: tuple[Any, ast.Expr]) -> Any:
        op = operators().get(name)
        if op is None:  # `in` looks in a list, `~=` belongs in tests
            help = "any(xs == x)" if "in" in name else ""
            raise self.fail("E125", f"`{name}` takes no tensors", expr.span, help=help)
        kinds = [p.kind for p in op.params if p.is_operand]
        inputs = tuple(
            self.operand(value, at) if kind == "number" else self.tensor(value, at)
            for kind, (value, at) in zip(kinds, operands, strict=True)
        )
        return self.apply(OpCall(op(), inputs, tuple(at.span for _, at in operands)), expr.span)

    def arithmetic(self, expr: ast.Binary, left: Any, right: Any) -> Any:
        if expr.op == "+" and (isinstance(left, ListRef) or isinstance(right, ListRef)):
            return ListRef(_parts(left) + _parts(right))
        if self._tensorial(left, right) and not (isinstance(left, tuple) and isinstance(right, tuple)):
            return self.syntax_op(expr.op, expr, (left, expr.left), (right, expr.right))
        return super().arithmetic(expr, left, right)

    def _Binary(self, expr: ast.Binary) -> Any:
        if expr.op in ("and", "or"):
            left = self.value(expr.left)
            if isinstance(left, Value):
                return self.syntax_op(expr.op, expr, (left, expr.left), (self.value(expr.right), expr.right))
        return super()._Binary(expr)

    def _Unary(self, expr: ast.Unary) -> Any:
        operand = self.value(expr.operand)
        if self._tensorial(operand):
            return self.syntax_op("not" if expr.op == "not" else "unary -", expr, (operand, expr.operand))
        return super()._Unary(expr)

    def compare(self, expr: ast.Compare, op: str, left: Any, right: Any, at: ast.Expr) -> Any:
        absent = [isinstance(v, Absent) or v is None for v in (left, right)]
        if op in ("==", "!=") and any(absent):
            return all(absent) == (op == "==")
        return super().compare(expr, op, left, right, at)

    def _Compare(self, expr: ast.Compare) -> Any:
        if len(expr.ops) == 1:
            left, right = self.value(expr.first), self.value(expr.rest[0])
            none = any(isinstance(v, Absent) or v is None for v in (left, right))
            if self._tensorial(left, right) and not none:
                return self.syntax_op(expr.ops[0], expr, (left, expr.first), (right, expr.rest[0]))
            return self.compare(expr, expr.ops[0], left, right, expr.rest[0])
        sides = (expr.first, *expr.rest)
        if self._tensorial(*map(self.value, sides)):
            pairs = zip(sides, expr.ops, sides[1:], strict=False)
            help = " and ".join(f"{unparse(a)} {op} {unparse(b)}" for a, op, b in pairs)
            raise self.fail("E125", "comparisons of tensors do not chain", expr.span, help=help)
        return super()._Compare(expr)

    def condition(self, expr: ast.Expr) -> bool:
        value = self.value(expr)
        if isinstance(value, bool):
            return value
        text = unparse(expr)
        optional = isinstance(value, Value) and isinstance(expr, ast.Name) and expr.id in self.optional
        if isinstance(value, Absent) or optional:
            raise self.fail(
                "E106",
                f"a condition must be true or false, `{text}` is an optional input",
                expr.span,
                help=f"if {text} != none",
                edits=(Edit(expr.span, f"{text} != none"),),
            )
        if isinstance(value, Value):
            raise self.fail(
                "S120",
                "the condition is a tensor",
                expr.span,
                str(value.type),
                help=self.chosen(expr),
                note="`if` is decided at compile time",
            )
        return super().condition(expr)

    def chosen(self, condition: ast.Expr) -> str:
        """What `if score > 0 { x = -x }` means with `where`."""
        branch = self.branch
        if branch is None or branch.cond is not condition or len(branch.then.statements) != 1:
            return f"where({unparse(condition)}, a, b)"
        then = branch.then.statements[0]
        if isinstance(then, ast.Assign) and len(then.targets) == 1:
            name = then.targets[0].id
            return f"{name} = where({unparse(condition)}, {unparse(then.value)}, {name})"
        return f"where({unparse(condition)}, a, b)"

    def unpack(self, value: Value, count: int, span: Span) -> tuple[Value, ...]:
        """`q, k, v = tensor` along its first axis."""
        first = value.type.shape[0] if value.type.rank else None
        if first is None or first.value is None:
            size = f"its first axis is {first}" if first is not None else "it has no axis"
            raise self.fail("S151", f"{count} names for a tensor: {size}, not a fixed number", span, str(value.type))
        if first.value != count:
            raise self.fail("S151", f"{count} names for {first.value} slices of the first axis", span, str(value.type))
        result = self.apply(OpCall(operators()["= unpack"](), (value,), (span,)), span)
        return tuple(result)

    # ---- indexing, parts in loops --------------------------------------------------------------------------------

    def _Index(self, expr: ast.Index) -> Any:
        base = self.value(expr.base)
        if isinstance(base, Value):
            return self.index_tensor(expr, base)
        if isinstance(base, (PartRef, ListRef)):
            return self._index_parts(expr, base)
        if isinstance(base, (Absent, Results)):
            return self.index_tensor(expr, self.tensor(base, expr.base))
        return super()._Index(expr)

    def index_tensor(self, expr: ast.Index, base: Value) -> Any:
        """`x[i, a:b:c, none, ...]` with compile-time ints and sizes."""
        items = tuple(self._index_item(item) for item in expr.items)
        if items.count("...") > 1:
            raise self.fail("E105", "one `...` in an index: it stands for all axes that are left", expr.span)
        return self.apply(OpCall(operators()["[]"](items=items), (base,), (expr.base.span,)), expr.span)

    def _index_item(self, item: ast.Expr | ast.Slice) -> Any:
        if isinstance(item, ast.EllipsisLit):
            return "..."
        if isinstance(item, ast.NoneLit):
            return None
        if isinstance(item, ast.Slice):
            step = self.value(item.step) if item.step is not None else 1
            if not isinstance(step, int) or isinstance(step, bool) or step == 0:
                raise self.fail("E105", f"the step of a slice is an int, found {describe(step)}", item.span)
            bounds = [self.size(b) if b is not None else None for b in (item.start, item.stop)]
            return (*bounds, step)
        if isinstance(self.value(item), Value):
            raise self.fail(
                "E105", "an index is a compile-time int or size", item.span, help="take(x, idx, axis) picks by a tensor"
            )
        return self.size(item)

    def _index_parts(self, expr: ast.Index, base: PartRef | ListRef) -> Any:
        items = self.part_items(base, expr.base)
        if len(expr.items) != 1:
            raise self.fail("E105", "a list takes one index", expr.span)
        picked = Evaluator._Index(_Items(self, tuple(items)), expr)
        if isinstance(picked, tuple):
            return ListRef(tuple(p for p in picked if isinstance(p, PartRef)))
        return self.reference(picked, expr.span) if isinstance(picked, PartRef) else picked

    def part_items(self, ref: PartRef | ListRef, at: ast.Expr) -> tuple[Any, ...]:
        if isinstance(ref, ListRef):
            return ref.items
        if not isinstance(ref.member, PartList):
            raise self.fail("E125", f"a loop runs over a list, `{unparse(at)}` is a part", at.span)
        return tuple(
            PartRef((*ref.path, i), item, ref.owner, (*ref.local, i)) for i, item in enumerate(ref.member.items)
        )

    def iterate(self, expr: ast.Comprehension) -> Iterator[Evaluator]:
        """A comprehension in a body binds its names as locals."""
        outer = dict(self.locals)
        origin = f"one of {unparse(expr.iterable)} ({expr.span.where})"
        try:
            for item in self.loop_items(expr.iterable):
                for name, value in self.unpacked(expr.names, item, expr.span):
                    if isinstance(value, (Value, PartRef, ListRef, tuple, Absent)):
                        self.locals[name.id] = value
                    else:
                        self.locals[name.id] = Binding(value, name.span, origin, labelled=False)
                yield self
        finally:
            self.locals = outer

    def loop_items(self, iterable: ast.Expr) -> tuple[Any, ...]:
        """What a `for` statement runs over: lists of values, of tensors, of parts."""
        value = self.value(iterable)
        if isinstance(value, (PartRef, ListRef)):
            return self.part_items(value, iterable)
        if not isinstance(value, tuple):
            raise self.fail("E125", f"a loop runs over a list, found {describe(value)}", iterable.span)
        return tuple(value)

    def listed(self, value: Any, at: ast.Expr) -> Any:
        """Arguments of `zip`, `enumerate`, `reversed`, `len`: lists of parts count as lists."""
        return self.part_items(value, at) if isinstance(value, (PartRef, ListRef)) else value

    # ---- functions -----------------------------------------------------------------------------------------------

    def builtin(self, expr: ast.Call, name: str, labels: dict[str, str] | None = None) -> Any:
        """A built-in function: of tensors (an operator) or of compile-time values."""
        op = operators().get(name)
        function = COMPILE_TIME.get(name)
        if function is not None:
            values = [
                self.listed(self.value(a.value), a.value)
                for a in expr.args
                if isinstance(a, ast.Arg) and a.name is None
            ]
            if op is None or not (self._tensorial(*values) or len(values) != len(expr.args)):
                return self.computed(expr, name, function, values)
            expr = _with_values(expr, values)  # a call among the arguments is one call
        assert op is not None
        call = self.op_call(op, expr)
        call.labels.update(labels or {})
        return self.apply(call, expr.span)


class _Items(Evaluator):
    """Indexes a ready list with the ordinary rules."""

    def __init__(self, outer: Evaluator, items: tuple[Any, ...]) -> None:
        super().__init__(outer.elab, outer.scope)
        self.outer, self.ready = outer, items
        self.first = True

    def value(self, expr: ast.Expr) -> Any:
        if self.first:
            self.first = False
            return self.ready
        return self.outer.value(expr)


def _with_values(expr: ast.Call, values: list[Any]) -> ast.Call:
    """The call with the tensors among its positional arguments evaluated."""
    left = iter(values)
    args: list[ast.Arg | ast.StarArg] = []
    for arg in expr.args:
        if isinstance(arg, ast.Arg) and arg.name is None and isinstance(value := next(left), Value):
            arg = ast.Arg(arg.span, None, Evaluated(arg.value.span, value, arg.value))
        args.append(arg)
    return ast.Call(expr.span, expr.func, tuple(args))


def _parts(value: Any) -> tuple[PartRef, ...]:
    return value.items if isinstance(value, ListRef) else ()

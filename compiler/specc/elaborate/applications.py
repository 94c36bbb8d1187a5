"""Expressions over tensors: operators are applied, their shape rules asked, their refusals explained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Label, Size
from specc.dims import Dim, Facts, Proof, Refuted
from specc.elaborate.attributes import OpArguments
from specc.elaborate.blocks import Instance
from specc.elaborate.builtins import COMPILE_TIME
from specc.elaborate.evaluate import Evaluator, Scope
from specc.elaborate.names import available
from specc.elaborate.references import POISON, ListRef, MethodRef, PartRef
from specc.elaborate.signatures import Unifier
from specc.elaborate.values import Binding, Fail, FnValue, Poisoned, describe, number, show
from specc.ir.graph import (
    Absent,
    Apply,
    Argument,
    Function,
    Input,
    Node,
    Parameter,
    PartGroup,
    PartList,
    Path,
    Read,
    Submodule,
    Value,
)  # fmt: skip
from specc.op import Op, OpError, operators
from specc.source import Span
from specc.syntax import ast
from specc.syntax.unparse import unparse
from specc.types import Scalar, TensorType

if TYPE_CHECKING:
    from specc.elaborate.elaborator import Elaborator


class Results(tuple[Value, ...]):
    """The results of one call with several: must be unpacked."""


class Applications(OpArguments):
    """The part of a body's checker that evaluates tensor expressions and appends nodes."""

    instance: Instance | None = None

    def __init__(self, elab: Elaborator, scope: Scope) -> None:
        super().__init__(elab, scope)
        self.locals: dict[str, Any] = {}
        self.nodes: list[Node] = []
        self.reads: dict[Path, Value] = {}
        self.mode = ""
        self.aux: list[tuple[str, Value]] = []
        self.facts = Facts.EMPTY
        self.bound: frozenset[str] = frozenset()

    # ---- names ---------------------------------------------------------------------------------------------------

    def _Name(self, expr: ast.Name) -> Any:
        if expr.id in self.locals:
            local = self.locals[expr.id]
            if local is POISON:
                raise Poisoned
            return local.value if isinstance(local, Binding) else local
        member = self.member(expr.id, expr.span)
        if member is not None:
            return member
        return super()._Name(expr)

    def _Evaluated(self, expr: Any) -> Any:
        return expr.value

    def _name_label(self, expr: ast.Name) -> str | None:
        local = self.locals.get(expr.id)
        if isinstance(local, Binding):
            return local.label
        return None if local is not None else super()._name_label(expr)

    def _label(self, expr: ast.Expr) -> str | None:
        original = getattr(expr, "original", None)
        return super()._label(original if original is not None else expr)

    def text_of(self, expr: ast.Expr) -> str | None:
        return unparse(expr)

    def member(self, name: str, span: Span, *, called: bool = False) -> Any:
        """A member of the block at hand as a value: its parameter, part, method; `Absent` if this configuration has
        none.
        """
        instance = self.instance
        if instance is None:
            return None
        if name in instance.broken:
            raise Poisoned
        if name in instance.members:
            return self.reference(PartRef((name,), instance.members[name], instance), span)
        if name in instance.methods and called:
            return MethodRef((), instance, instance.methods[name])
        if name in instance.absent:
            if called:
                raise self.absent_part(instance, name, name, span)
            return Absent()
        return None

    def absent_part(self, instance: Instance, key: str, text: str, span: Span) -> Fail:
        absence = instance.absent[key]
        names = [h for h in instance.scope.names if re.search(rf"\b{h}\b", absence.cond.text)]
        values = (
            " and ".join(f"{n} is {describe(instance.scope.names[n].value).split(' ', 2)[-1]}" for n in names)
            or "its condition is false"
        )
        rows = tuple(Size(n, show(instance.scope.names[n].value), instance.scope.names[n].origin) for n in names)
        return self.fail(
            "S140", f"part `{text}` does not exist when {values}", span, others=(Label(absence.cond, "declared only then"),), sizes=rows,
            help=f"if {absence.cond.text} {{ .. }}",
        )  # fmt: skip

    def reference(self, ref: PartRef, span: Span) -> Any:
        """A part as a value: parameters are read."""
        if not isinstance(ref.member, Parameter):
            return ref
        if ref.path not in self.reads:
            value = Value(str(ref.path[-1]), ref.member.type, span)
            self.reads[ref.path] = value
            self.nodes.append(Read(ref.path, value, span))
        return self.reads[ref.path]

    def _Attr(self, expr: ast.Attr) -> Any:
        base = self.value(expr.base)
        name = expr.name.id
        if not isinstance(base, PartRef):
            kind = f"a tensor, {base.type}" if isinstance(base, Value) else describe(base)
            raise self.fail("E107", f"`{unparse(expr.base)}` is {kind} and has no member `{name}`", expr.name.span)
        if isinstance(base.member, Submodule):
            inner = self.elab.instance_of(base.member.module)
            if name in inner.broken:
                raise Poisoned
            if name in inner.methods:
                return MethodRef(base.path, inner, inner.methods[name])
            if name in inner.members:
                return self.reference(PartRef((*base.path, name), inner.members[name], inner), expr.span)
            if name in inner.absent:
                return Absent()
            names = [*inner.members, *inner.methods]
        elif isinstance(base.member, PartGroup):
            if name in base.member.members:
                return self.reference(PartRef((*base.path, name), base.member.members[name], base.owner), expr.span)
            key = ".".join(map(str, (*base.path, name)))
            if key in base.owner.absent:
                raise self.absent_part(base.owner, key, unparse(expr), expr.span)
            names = list(base.member.members)
        else:
            raise self.fail("E107", f"`{unparse(expr.base)}` is a list: index it or loop over it", expr.name.span)
        raise self.fail(
            "E107", f"`{unparse(expr.base)}` has no member `{name}`", expr.name.span, available=available(names)
        )

    # ---- tensors -------------------------------------------------------------------------------------------------

    def tensor(self, value: Any, at: ast.Expr) -> Value:
        """The value as one tensor, or the reason why it is none."""
        if isinstance(value, Value):
            return value
        if isinstance(value, Absent):
            raise self.fail(
                "S141",
                f"`{unparse(at)}` is optional and absent here",
                at.span,
                help=f"if {unparse(at)} != none {{ .. }}",
            )
        if isinstance(value, Results):
            raise self.fail("S150", f"this call has {len(value)} results: name them first", at.span, help="a, b = ..")
        if isinstance(value, PartRef):
            raise self.fail("E100", f"`{unparse(at)}` is a part, not a tensor", at.span, help=f"{unparse(at)}(x)")
        raise self.fail("E125", f"a tensor is needed here, found {describe(value)}", at.span)

    def results(self, outputs: tuple[Value, ...]) -> Any:
        return Results(outputs)

    def is_results(self, value: Any) -> bool:
        return isinstance(value, Results)

    def name_value(self, value: Any, name: str) -> None:
        """An unnamed intermediate takes the name it is bound to; the first name stays."""
        if isinstance(value, Value) and value.name is None:
            object.__setattr__(value, "name", name)

    def apply(
        self, op: Op, inputs: tuple[Input, ...], spans: tuple[Span, ...], span: Span, labels: dict[str, str]
    ) -> Any:
        """Append an operator; its shape rule decides the result types."""
        if op.random and self.mode != "train":
            raise self.fail("E100", f"`{op.name}` is random: only in `when train {{ }}`", span)
        types = [v.type if isinstance(v, Value) else None if isinstance(v, Absent) else v for v in inputs]
        try:
            inferred = op.infer(self.facts, *types)
        except OpError as error:
            raise self.explained(op, error, types, spans, span) from None
        several = inferred if isinstance(inferred, tuple) else (inferred,)
        outputs = tuple(Value(None, type_, span) for type_ in several)
        self.nodes.append(Apply(op, inputs, outputs, span, labels))
        return outputs[0] if not isinstance(inferred, tuple) else Results(outputs)

    def explained(self, op: Op, error: OpError, types: list[Any], spans: tuple[Span, ...], span: Span) -> Fail:
        """A shape rule's refusal with places, the origins of the sizes, and the counter-example."""
        index = error.operand if isinstance(error.operand, int) and error.operand < len(spans) else None
        primary = spans[index] if index is not None else span
        label = str(types[index]) if index is not None and types[index] is not None else ""
        others = tuple(
            Label(s, str(t))
            for i, (s, t) in enumerate(zip(spans, types, strict=False))
            if i != index and isinstance(t, TensorType) and s.start != primary.start
        )
        rows: dict[str, Size] = {}
        for type_ in types:
            if isinstance(type_, TensorType):
                rows.update((row.name, row) for row in self.size_rows(type_))
        example = str(error.proof) if isinstance(error.proof, Refuted) else ""
        return self.fail(
            error.code, error.message, primary, label, others=others[:3], sizes=tuple(rows.values()), help=error.help,
            expected=error.expected, found=error.found, counter_example=example,
        )  # fmt: skip

    def size_rows(self, type_: TensorType) -> tuple[Size, ...]:
        """Origins of the names in a type's sizes."""
        rows = {}
        for dim in type_.shape:
            for name in re.findall(r"[A-Za-z_]\w*", dim.label or ""):
                binding = self.scope.find(name)
                if binding is not None and number(binding.value):
                    rows[name] = Size(name, show(binding.value), binding.origin)
        return tuple(rows.values())

    def hyper_rows(self, argument: Argument, axis: int, member: Submodule | None) -> tuple[Size, ...]:
        """Origin of the callee's hyper-parameter that its signature names on this axis."""
        label = argument.type.shape[axis].label
        if member is None or label is None:
            return ()
        binding = self.elab.instance_of(member.module).scope.find(label)
        return (Size(label, show(binding.value), binding.origin),) if binding is not None else ()

    def expected_type(self, argument: Argument, unifier: Unifier) -> TensorType:
        return argument.type.with_shape(tuple(unifier.resolve(d, {}) for d in argument.type.shape))

    def check_type(self, have: TensorType, want: TensorType, span: Span, declared: Span, *, what: str) -> None:
        """A value against a declared type of this body (S201, S202, S220, S221, S301)."""
        others = (Label(declared, "declared here"),)
        if have.rank != want.rank:
            raise self.fail(
                "S202",
                f"{what} has {have.rank} axes, {want.rank} are declared",
                span,
                str(have),
                others=others,
                expected=str(want),
                found=str(have),
            )
        if have.dtype is not want.dtype:
            message = f"{what} is {have.dtype.spec_name}, {want.dtype.spec_name} is declared"
            raise self.fail("S301", message, span, str(have), others=others, expected=str(want), found=str(have))
        for i, (a, b) in enumerate(zip(have.shape, want.shape, strict=True)):
            proof = self.facts.equal(a, b)
            if not proof:
                message = f"{what} has {a} on axis {i}, {b} is declared"
                rows = (*self.size_rows(have), *self.size_rows(want))
                if a.value is not None and b.value is not None:
                    raise self.fail(
                        "S201", message, span, str(have), others=others, sizes=rows, expected=str(want), found=str(have)
                    )
                raise self.unequal(message, span, str(have), b, a, proof, others=others, sizes=rows)

    def unequal(
        self,
        message: str,
        span: Span,
        label: str,
        want: Dim,
        have: Dim,
        proof: Proof,
        *,
        others: tuple[Label, ...],
        sizes: tuple[Size, ...],
    ) -> Fail:
        """S220 with a counter-example, or S221 with the fact that would settle it."""
        fact = self.facts.suggestion(want, have)
        help = (
            f"promise it on the model:  dim {fact}      (checked at the entry, exported as a constraint)"
            if fact
            else ""
        )
        if isinstance(proof, Refuted):
            return self.fail(
                "S220", message, span, label, others=others, sizes=sizes, counter_example=str(proof), help=help
            )
        return self.fail(
            "S221",
            f"{message}: not provable",
            span,
            label,
            others=others,
            sizes=sizes,
            help=help or "state a fact: dim ..",
        )

    def check_bound(self, dim: Dim, span: Span) -> None:
        """Every symbol of a size is bound by the (present) arguments (S104)."""
        for symbol in dim.symbols:
            inner = symbol[5:-1] if symbol.startswith("past(") else symbol
            if inner not in self.bound:
                raise self.fail(
                    "S104", f"dimension `{inner}` is not bound: no argument that is given has an axis of just that size", span,
                    note="sizes never depend on data; a dim is bound by an argument of the signature",
                )  # fmt: skip

    def size(self, expr: ast.Expr) -> Dim:
        dim = super().size(expr)
        if self.bound:
            self.check_bound(dim, expr.span)
        return dim

    # ---- operators -----------------------------------------------------------------------------------------------

    def operand(self, value: Any, at: ast.Expr) -> Input:
        """A tensor, or a number with how it was written."""
        if number(value) or isinstance(value, (bool, Dim)):
            return Scalar(value, self.label(at))
        return self.tensor(value, at)

    def _tensorial(self, *values: Any) -> bool:
        return any(isinstance(v, (Value, Absent, Results)) for v in values)

    def syntax_op(self, name: str, expr: ast.Expr, *operands: tuple[Any, ast.Expr]) -> Any:
        inputs = tuple(self.operand(value, at) for value, at in operands)
        return self.apply(operators()[name](), inputs, tuple(at.span for _, at in operands), expr.span, {})

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
        return super()._Compare(expr)

    def condition(self, expr: ast.Expr) -> bool:
        value = self.value(expr)
        if isinstance(value, Value):
            text = unparse(expr)
            raise self.fail(
                "S120",
                "the condition is a tensor",
                expr.span,
                str(value.type),
                help=f"where({text}, .., ..)",
                note="`if` is decided at compile time",
            )
        if isinstance(value, Absent):
            raise self.fail("E106", "a condition must be true or false", expr.span, help=f"if {unparse(expr)} != none")
        return value if isinstance(value, bool) else super().condition(expr)

    def unpack(self, value: Value, count: int, span: Span) -> tuple[Value, ...]:
        """`q, k, v = tensor` along its first axis."""
        first = value.type.shape[0] if value.type.rank else None
        if first is None or first.value is None:
            size = f"its first axis is {first}" if first is not None else "it has no axis"
            raise self.fail("S151", f"{count} names for a tensor: {size}, not a fixed number", span, str(value.type))
        if first.value != count:
            raise self.fail("S151", f"{count} names for {first.value} slices of the first axis", span, str(value.type))
        result = self.apply(operators()["= unpack"](), (value,), (span,), span, {})
        return tuple(result)

    # ---- indexing, parts in loops --------------------------------------------------------------------------------

    def _Index(self, expr: ast.Index) -> Any:
        base = self.value(expr.base)
        if isinstance(base, Value):
            return self.index_tensor(expr, base)
        if isinstance(base, (PartRef, ListRef)):
            return self._index_parts(expr, base)
        return super()._Index(expr)

    def index_tensor(self, expr: ast.Index, base: Value) -> Any:
        """`x[i, a:b:c, none, ...]` with compile-time ints and sizes."""
        items = tuple(self._index_item(item) for item in expr.items)
        return self.apply(operators()["[]"](items=items), (base,), (expr.base.span,), expr.span, {})

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
        return tuple(PartRef((*ref.path, i), item, ref.owner) for i, item in enumerate(ref.member.items))

    def iterate(self, expr: ast.Comprehension) -> Iterator[Evaluator]:
        """A comprehension in a body binds its names as locals."""
        outer = dict(self.locals)
        try:
            for item in self.loop_items(expr.iterable):
                for name, value in self.unpacked(expr.names, item, expr.span):
                    if isinstance(value, (Value, PartRef, ListRef, tuple, Absent)):
                        self.locals[name.id] = value
                    else:
                        self.locals[name.id] = Binding(
                            value, name.span, f"{name.id} ({name.span.where})", labelled=False
                        )
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
        assert op is not None
        operator, inputs, spans, own = self.op_call(op, expr)
        return self.apply(operator, inputs, spans, expr.span, {**own, **(labels or {})})

    def element_function(self, member: Function, x: Value, at: ast.Expr) -> Any:
        """A named function as an element of a list of parts."""
        if member.op is None:
            found = self.file.find(member.name)
            value = self.declared(*found) if found is not None else None
            assert isinstance(value, FnValue)
            call = ast.Call(member.span, ast.Name(member.span, member.name), (ast.Arg(at.span, None, at),))
            return self._Call(call)
        return self.apply(member.op, (x,), (at.span,), member.span, dict(member.labels))


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


def _parts(value: Any) -> tuple[PartRef, ...]:
    return value.items if isinstance(value, ListRef) else ()

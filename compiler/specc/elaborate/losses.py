"""The expressions of a train section: a body over an entry's inputs and outputs, `data.FIELD` and `aux.NAME`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from specc.dims import Dim, Fact
from specc.elaborate.attributes import OpCall
from specc.elaborate.body import BodyChecker
from specc.elaborate.builtins import COMPILE_TIME
from specc.elaborate.fields import Field
from specc.elaborate.generation import Generated, generated
from specc.elaborate.groups import group_of
from specc.elaborate.names import closest
from specc.elaborate.settings import FIELD_FUNCTIONS, LOSSES
from specc.elaborate.signatures import Unifier, opaque_axes
from specc.elaborate.values import POISON, Fail, Poisoned, describe
from specc.ir.graph import Input, Model, Value
from specc.op import Op, ParamSpec, operators
from specc.ops.losses import ClassLoss, Ctc, Loss, PairLoss
from specc.source import Span
from specc.syntax import ast
from specc.syntax.unparse import unparse
from specc.types import DType, TensorType

if TYPE_CHECKING:
    from specc.elaborate.elaborator import Elaborator

SCALAR = TensorType(DType.COMPUTE, ())
INDICES = ("ids", "idx")
"""Operands of operators that a field of whole numbers is."""


class LossChecker(BodyChecker):
    """Types the expressions of a section and appends their nodes.

    A size that only the data knows is a symbol of its own, which becomes what it is held against. A field of which
    not even the rank is known is what a loss expects of it; elsewhere it has no type, and nothing is said of it
    before the data is read.
    """

    def __init__(self, elab: Elaborator, model: Model, entry: str) -> None:
        instance = elab.bodies.root
        assert instance is not None
        super().__init__(elab, instance, instance.methods[entry], instance.scope.child())
        self.model, self.entry = model, model.entries[entry]
        graph = self.entry.full
        self.axes = opaque_axes(2)
        self.mode = "train"
        self.facts = instance.facts
        self.bound = frozenset(graph.dims)
        self.fields: Mapping[str, Field] | None = None
        self.aux_names: list[str] = []
        self.open: set[str] = set()  # symbols of sizes that the data knows
        self.sizes: dict[str, int | None] = {}  # what the data has of these, where all rows have one
        self.fed_sizes: dict[str, int] = {}  # and of symbols of the inputs
        self.read: dict[tuple[str, DType], Value] = {}  # fields as they are used
        self.auxiliary: dict[str, Value] = {}
        self.generated: dict[Value, Generated] = {}
        self.outputs: list[Value] = []
        self.lets: set[str] = set()
        self.rebound: set[str] = set()  # inputs that are fed by an expression
        self.wanted: DType | None = None  # what a field is used as
        self.first: TensorType | None = None  # the first operand of the loss at hand
        first = next((a.type for a in graph.inputs if a.type.rank), None)
        self.batch = first.shape[0] if first is not None else Dim.symbol("B")
        for argument in graph.inputs:
            self.locals[argument.name] = Value(argument.name, self.fed(argument.type), argument.span)

    # ---- what is checked -----------------------------------------------------------------------------------------

    def fed(self, type_: TensorType) -> TensorType:
        """An input as data feeds it: its first axis is that of the batch."""
        if not type_.rank or not type_.shape[0].is_symbol():
            return type_
        return type_.with_shape((self.batch, *type_.shape[1:]))

    def bind_let(self, item: ast.Let) -> None:
        self.locals[item.name.id] = POISON
        self.lets.add(item.name.id)
        with self.elab.collecting():
            self._bind(item.name, self.value(item.value), item.value)

    def enter(self, bound: Mapping[str, tuple[Value | None, ast.Expr]]) -> None:
        """The entry is called with what feeds it: sizes of bound inputs become those of the outputs."""
        graph = self.entry.full
        unifier = Unifier({})
        for argument in graph.inputs:
            value = bound[argument.name][0] if argument.name in bound else None
            actual = value.type if value is not None else self.fed(argument.type)
            if actual.rank == argument.type.rank:
                unifier.bind(argument.type, actual)
        for argument in graph.inputs:
            value, at = bound.get(argument.name, (None, None))
            want = self._resolved(argument.type, unifier)
            if value is not None and at is not None:
                self.agree(value.type.shape, want.shape)
                with self.elab.collecting():
                    self.check_type(value.type, want, at.span, argument.span, what=f"`{argument.name}`")
            if argument.name not in self.lets:
                self.locals[argument.name] = Value(argument.name, want, argument.span)
        with self.elab.collecting():
            self._promises(unifier, bound)
        for name, (_, value), type_ in zip(
            graph.output_names, graph.results, self.elab.bodies.result_types[id(graph)], strict=True
        ):
            self.locals[name] = Value(name, self._resolved(type_, unifier), value.span)
            self.outputs.append(self.locals[name])

    def _resolved(self, type_: TensorType, unifier: Unifier) -> TensorType:
        """A type of the entry's signature for these inputs; nothing is cached in training."""
        shape = []
        for dim in type_.shape:
            size = unifier.resolve(dim, {})
            past = {s: Dim.const(0) for s in size.symbols if s.startswith("past(")}
            shape.append(size.plain().substitute(past) if past else dim if size == dim else size)
        return self.simplest(type_.with_shape(tuple(shape)))

    def _promises(self, unifier: Unifier, bound: Mapping[str, tuple[Value | None, ast.Expr]]) -> None:
        """What the model states about its sizes holds for those of the bound inputs (S223)."""
        assert self.instance is not None
        env = {name: size.plain() for name, size in unifier.env.items() if size != Dim.symbol(name)}
        at = next((at for value, at in bound.values() if value is not None), None)
        for fact, stated in self.instance.stated.items():
            if at is not None and set(fact.dim.symbols) & env.keys() and not self.opens(fact.dim.substitute(env)):
                self._stated(Fact(fact.kind, fact.dim.substitute(env), fact.n), stated, at.span, self.entry.name)

    def check_loss(self, expr: ast.Expr) -> Value:
        """The loss is a scalar (T503)."""
        value = self.value(expr)
        if isinstance(value, Value) and value.type.rank == 0 and value.type.dtype.is_float:
            self.locals["loss"] = Value("loss", value.type, expr.span)
            return value
        what = self.shown(value.type) if isinstance(value, Value) else describe(value)
        scalar = isinstance(value, Value) and value.type.rank == 0
        help = f"mean({unparse(expr)})" if isinstance(value, Value) else "a loss is a tensor function of the outputs"
        message = f"the loss is no number: {what}" if scalar else f"the loss is not a scalar: {what}"
        raise self.fail("T503", message, expr.span, help="" if scalar else help)

    def check_input(self, name: ast.Ident, value: ast.Expr) -> Value | None:
        """`inputs = bind(image = ..)`: an input of the entry; None where its type is not known yet."""
        inputs = {a.name: a for a in self.entry.full.inputs}
        if name.id not in inputs:
            raise self.no_such("E120", f"{self.entry.name} has no input `{name.id}`", name.span, name.id, inputs)
        outer, self.wanted = self.wanted, inputs[name.id].type.dtype
        try:
            return self.tensor(self.value(value), value)
        finally:
            self.wanted = outer

    def check_names(self, args: tuple[ast.Arg | ast.StarArg, ...]) -> None:
        """Values in the arguments of an optimiser, a schedule, a data source: names that exist."""
        for arg in args:
            if isinstance(arg, ast.Arg):
                self._check_name(arg.value)

    def _check_name(self, expr: ast.Expr) -> None:
        if isinstance(expr, ast.Name):
            with self.elab.collecting():
                self.value(expr)
        elif isinstance(expr, ast.Call):
            self.check_names(expr.args)
        elif isinstance(expr, (ast.Binary, ast.Unary, ast.Paren)):
            for child in (getattr(expr, key, None) for key in ("left", "right", "operand", "inner")):
                if isinstance(child, ast.Expr):
                    self._check_name(child)

    # ---- sizes that the data knows -------------------------------------------------------------------------------

    def fresh_size(self, field: str, axis: int, found: int | None = None) -> Dim:
        """A size that nothing is known of before the data is read, or one `found` there that may be a symbol's."""
        name = f"{field}{axis}"
        self.open.add(name)
        self.sizes[name] = found
        return Dim.symbol(name)

    def opens(self, dim: Dim) -> bool:
        """Whether the data knows the size."""
        return any(symbol in self.open for symbol in dim.symbols)

    def agree(self, have: Collection[Dim], want: Collection[Dim]) -> None:
        """Sizes that are held against each other: an unknown one becomes what the other says."""
        if len(have) != len(want):
            return
        for left, right in zip(have, want, strict=True):
            for one, other in ((left, right), (right, left)):
                symbols = [s for s in one.symbols if s in self.open]
                rest = one - Dim.symbol(symbols[0]) if len(symbols) == 1 else None
                if rest is not None and not self.opens(rest) and symbols[0] not in other.symbols:
                    self._settle(symbols[0], other - rest)
                    break

    def _settle(self, symbol: str, size: Dim) -> None:
        self.open.discard(symbol)
        found = self.sizes.get(symbol)
        fed = {name: Dim.const(n) for name, n in self.fed_sizes.items()}
        if found is not None and size.plain().substitute(fed).value not in (None, found):
            size = Dim.const(found)
        for value in {id(v): v for v in self._values()}.values():
            if any(symbol in dim.symbols for dim in value.type.shape):
                shape = tuple(d.plain().substitute({symbol: size}) if symbol in d.symbols else d
                              for d in value.type.shape)  # fmt: skip
                object.__setattr__(value, "type", value.type.with_shape(shape))

    def _values(self) -> Iterator[Value]:
        yield from self.read.values()
        yield from (v for v in self.locals.values() if isinstance(v, Value))
        for node in self.nodes:
            yield from node.outputs

    # ---- names and calls -----------------------------------------------------------------------------------------

    def member(self, name: str, span: Span, *, called: bool = False) -> Any:
        """A section sees what an entry takes and returns, not the parts of the model."""
        return None

    def nearby(self) -> list[str]:
        return [*self.locals, *self.scope.visible(), *self.scope.dims]

    def _Name(self, expr: ast.Name) -> Any:
        if expr.id not in self.locals:
            if expr.id in self.model.entries:
                raise self.fail(
                    "E103", f"`{expr.id}` is an entry", expr.span, help=f"generate({expr.id}, max_length = ..)"
                )
            if expr.id in ("data", "aux"):
                raise self.fail("E103", f"`{expr.id}` is read by its fields", expr.span, help=f"{expr.id}.name")
            self._seen(expr)
        return super()._Name(expr)

    def _Attr(self, expr: ast.Attr) -> Any:
        base = expr.base.id if isinstance(expr.base, ast.Name) else ""
        name = expr.name.id
        if base == "data" and base not in self.locals:
            return self.field(expr)
        if base == "aux" and base not in self.locals:
            if name not in self.aux_names:
                raise self._no_field(f"{self.model.module.name} has no aux", expr.name, self.aux_names)
            return self.auxiliary.setdefault(name, Value(f"aux_{name}", SCALAR, expr.span))
        return super()._Attr(expr)

    def field(self, expr: ast.Attr, expected: TensorType | None = None) -> Value:
        """`data.name`, in the dtype of its use; E107 for a field that the data lacks.

        `expected`: what it is if nothing else is known.
        """
        name, span = expr.name.id, expr.span
        if self.fields is not None and name not in self.fields:
            raise self._no_field("the data has no field", expr.name, self.fields)
        known = (self.fields or {}).get(name, Field())
        argument = next((a for a in self.entry.full.inputs if a.name == name), None)
        if argument is not None and name not in self.rebound:  # the data is brought to the type of the input
            fed = self.fed(argument.type)
            known = Field(fed.shape, fed.dtype)
        dtype = known.dtype or (expected.dtype if expected is not None else self.wanted) or DType.COMPUTE
        if (name, dtype) not in self.read:
            shape = known.shape if known.shape is not None else expected.shape if expected is not None else None
            shape = next((v.type.shape for (n, _), v in self.read.items() if n == name), shape)
            if shape is None:
                raise Poisoned
            suffix = f"_{dtype.spec_name.lower()}" if any(n == name for n, _ in self.read) else ""
            self.read[name, dtype] = Value(f"data_{name}{suffix}", TensorType(dtype, shape), span)
        return self.read[name, dtype]

    def rank_of(self, expr: ast.Expr) -> int | None:
        """How many axes a field has, or a part of one, if the expression is that and it is known."""
        if isinstance(expr, ast.Index):
            rank = self.rank_of(expr.base)
            new = sum(isinstance(i, ast.NoneLit) for i in expr.items)
            gone = sum(not isinstance(i, (ast.Slice, ast.EllipsisLit, ast.NoneLit)) for i in expr.items)
            return rank + new - gone if rank is not None else None
        field = field_of(expr)
        if field is None:
            return None
        name = field.name.id
        shapes = [v.type.shape for (n, _), v in self.read.items() if n == name]
        shape = shapes[0] if shapes else (self.fields or {}).get(name, Field()).shape
        return len(shape) if shape is not None else None

    def _no_field(self, message: str, name: ast.Ident, names: Any) -> Fail:
        return self.no_such("E107", f"{message} `{name.id}`", name.span, name.id, names)

    def _Call(self, expr: ast.Call) -> Any:
        name = expr.func.id if isinstance(expr.func, ast.Name) else ""
        if name == "group" and self.file.find(name) is None:
            return group_of(self, expr)
        if name == "generate" and self.file.find(name) is None:
            return generated(self, expr)
        if self.file.find(name) is None and name in FIELD_FUNCTIONS and name not in operators():
            for arg in expr.args:
                with self.elab.collecting():
                    self.value(arg.value) if isinstance(arg, ast.Arg) else None
            raise Poisoned
        if isinstance(expr.func, ast.Name) and self.file.find(name) is None and name not in operators():
            self._seen(expr.func)
        return super()._Call(expr)

    def _seen(self, name: ast.Name) -> None:
        """E103 for a part of the model."""
        assert self.instance is not None
        members = (*self.instance.members, *self.instance.absent)
        if name.id in members and self.scope.find(name.id) is None and name.id not in self.scope.dims:
            what = f"a section does not see the parts of {self.model.module.name}: `{name.id}`"
            raise self.fail("E103", what, name.span, help="let the entry return what the loss needs")

    def unknown_call(self, func: ast.Name) -> Any:
        own = [*LOSSES, *(d for d in self.file.visible())]
        meant = closest(func.id, own) or closest(func.id, [*operators(), *COMPILE_TIME])
        return self.no_such("E103", f"unknown function `{func.id}`", func.span, func.id, LOSSES, meant=meant)

    # ---- operators -----------------------------------------------------------------------------------------------

    def _operand(self, op: type[Op], param: ParamSpec, expr: ast.Expr | None, call: ast.Call) -> tuple[Input, Span]:
        """An operand, given what it is wanted as: a field has the dtype of its use."""
        if issubclass(op, Loss) and param.name == "weight" and isinstance(expr, ast.ListExpr):
            function = ast.Name(expr.span, "tensor")
            expr = ast.Call(expr.span, function, (ast.Arg(expr.span, None, expr),))
        outer, self.wanted = self.wanted, DType.I64 if param.name in INDICES else None
        try:
            if expr is not None and issubclass(op, Loss) and self._is_target(op, param):
                return self._target(op, expr), expr.span
            value, span = super()._operand(op, param, expr, call)
            if issubclass(op, Loss) and self.first is None and isinstance(value, Value):
                self.first = value.type
            return value, span
        finally:
            self.wanted = outer

    def _is_target(self, op: type[Op], param: ParamSpec) -> bool:
        operands = [p.name for p in op.params if p.is_operand]
        return param.name in operands[1:] and param.name != "weight"

    def _target(self, op: type[Op], expr: ast.Expr) -> Value:
        """What a loss holds against its first operand."""
        first = self.first
        classes = issubclass(op, (ClassLoss, Ctc))
        probable = classes and first is not None and self.rank_of(expr) == first.rank and not issubclass(op, Ctc)
        self.wanted = DType.I64 if classes and not probable else DType.COMPUTE
        field = field_of(expr)
        if field is not None and first is not None and self.rank_of(expr) is None and not issubclass(op, Ctc):
            shape = first.shape[:-1] if classes else first.shape
            return self.field(field, TensorType(self.wanted, shape))
        return self.tensor(self.value(expr), expr)

    def op_call(self, op: type[Op], expr: ast.Call) -> OpCall:
        """A call of an operator; a loss keeps the type of its first operand for the second."""
        outer, self.first = self.first, None
        try:
            return super().op_call(op, expr)
        finally:
            self.first = outer

    def apply(self, call: OpCall, span: Span) -> Any:
        types = [v.type for v in call.inputs if isinstance(v, Value)]
        if isinstance(call.op, Loss) and len(types) > 1:
            count = 1 if isinstance(call.op, Ctc) else types[1].rank
            self.agree(types[1].shape[:count], types[0].shape[:count])
        try:
            return super().apply(call, span)
        except Fail as fail:
            shapes = fail.diagnostic.code.startswith("S")
            if shapes and any(self.opens(dim) for type_ in types for dim in type_.shape):
                raise Poisoned from None  # the data may fit
            if isinstance(call.op, PairLoss) and [t.rank for t in types] == [2, 1]:
                help = 'a list of columns is a field with two axes:  y = ["column"]'
                raise Fail(replace(fail.diagnostic, help=help)) from None
            raise


def field_of(expr: ast.Expr) -> ast.Attr | None:
    """The field that an expression is: `data.label`."""
    expr = expr.inner if isinstance(expr, ast.Paren) else expr
    plain = isinstance(expr, ast.Attr) and isinstance(expr.base, ast.Name) and expr.base.id == "data"
    return expr if plain and isinstance(expr, ast.Attr) else None

"""Types of losses, metrics and bound inputs: bodies over an entry's inputs and outputs, `data.FIELD` and `aux.NAME`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specc.diagnostics import Label
from specc.elaborate.body import BodyChecker
from specc.elaborate.builtins import COMPILE_TIME
from specc.elaborate.names import available, closest, replaced
from specc.elaborate.settings import CLASS_LOSSES, EQUAL_LOSSES, FIELD_FUNCTIONS, LOSSES, METRICS, OPAQUE
from specc.elaborate.signatures import opaque_axes
from specc.elaborate.values import POISON, Fail, Poisoned, describe
from specc.ir.graph import Model, Value
from specc.op import operators
from specc.source import Span
from specc.syntax import ast
from specc.syntax.unparse import unparse
from specc.types import DType, TensorType

if TYPE_CHECKING:
    from specc.elaborate.elaborator import Elaborator

SCALAR = TensorType(DType.COMPUTE, ())


class LossChecker(BodyChecker):
    """Evaluates the expressions of a train section. What comes from data has no static type: nothing is said of it."""

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
        self.fields: tuple[str, ...] | None = None
        self.aux_names: list[str] = []
        for argument in graph.inputs:
            if argument.value is not None:
                self.locals[argument.name] = argument.value
        for name, (_, value), type_ in zip(
            graph.output_names, graph.results, elab.bodies.result_types[id(graph)], strict=True
        ):
            self.locals[name] = Value(name, type_, value.span)

    # ---- what is checked -----------------------------------------------------------------------------------------

    def bind_let(self, item: ast.Let) -> None:
        self.locals[item.name.id] = POISON
        with self.elab.collecting():
            self._bind(item.name, self.value(item.value), item.value)

    def check_loss(self, expr: ast.Expr) -> None:
        """The loss is a scalar (T503)."""
        self.locals["loss"] = Value("loss", SCALAR, expr.span)
        value = self.value(expr)
        if isinstance(value, Value) and value.type.rank == 0:
            return
        what = self.shown(value.type) if isinstance(value, Value) else describe(value)
        help = f"mean({unparse(expr)})" if isinstance(value, Value) else "a loss is a tensor function of the outputs"
        raise self.fail("T503", f"the loss is not a scalar: {what}", expr.span, help=help)

    def check_metric(self, expr: ast.Expr) -> None:
        """A metric's name may be any of torchmetrics; one that is almost a known one is a mistake."""
        call = expr if isinstance(expr, ast.Call) else None
        name = call.func if call is not None else expr
        if not isinstance(name, ast.Name):
            raise self.fail("E125", f"a metric is a call of its name, found `{unparse(expr)}`", expr.span)
        guess = closest(name.id, METRICS)
        if name.id not in METRICS and guess is not None:
            help = f"did you mean `{guess}`?"
            raise self.fail(
                "E103", f"unknown metric `{name.id}`", name.span, help=help, edits=replaced(name.span, guess)
            )
        for arg in call.args if call is not None else ():
            with self.elab.collecting():
                if isinstance(arg, ast.Arg):
                    self.value(arg.value)

    def check_input(self, name: ast.Ident, value: ast.Expr) -> None:
        """`inputs = bind(image = ..)`: an input of the entry, of its type where that is known."""
        inputs = {a.name: a for a in self.entry.full.inputs}
        if name.id not in inputs:
            guess = closest(name.id, inputs)
            raise self.fail(
                "E120",
                f"{self.entry.name} has no input `{name.id}`",
                name.span,
                help=f"did you mean `{guess}`?" if guess else "",
                edits=replaced(name.span, guess),
                available=available(inputs),
            )
        tensor = self.tensor(self.value(value), value)
        argument = inputs[name.id]
        self.check_type(tensor.type, argument.type, value.span, argument.span, what=f"`{name.id}`")

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

    # ---- names and calls -----------------------------------------------------------------------------------------

    def _Name(self, expr: ast.Name) -> Any:
        if expr.id not in self.locals:
            if expr.id in self.model.entries:
                raise Poisoned  # generate(decode, ..)
            if expr.id in ("data", "aux"):
                raise self.fail("E103", f"`{expr.id}` is read by its fields", expr.span, help=f"{expr.id}.name")
        return super()._Name(expr)

    def _Attr(self, expr: ast.Attr) -> Any:
        base = expr.base.id if isinstance(expr.base, ast.Name) else ""
        name = expr.name.id
        if base == "data" and base not in self.locals:
            if self.fields is not None and name not in self.fields:
                raise self._no_field("the data has no field", expr.name, self.fields)
            raise Poisoned
        if base == "aux" and base not in self.locals:
            if name not in self.aux_names:
                raise self._no_field(f"{self.model.module.name} has no aux", expr.name, self.aux_names)
            return Value(name, SCALAR, expr.span)
        return super()._Attr(expr)

    def _no_field(self, message: str, name: ast.Ident, names: Any) -> Fail:
        guess = closest(name.id, names)
        return self.fail(
            "E107",
            f"{message} `{name.id}`",
            name.span,
            help=f"did you mean `{guess}`?" if guess else "",
            edits=replaced(name.span, guess),
            available=available(names) or "none",
        )

    def _Call(self, expr: ast.Call) -> Any:
        name = expr.func.id if isinstance(expr.func, ast.Name) else ""
        if self.file.find(name) is None:
            if name in LOSSES:
                return self._loss(expr, name)
            if name in OPAQUE or (name in FIELD_FUNCTIONS and name not in operators()):
                self._arguments(expr)
                raise Poisoned
        return super()._Call(expr)

    def unknown_call(self, func: ast.Name) -> Any:
        own = [*LOSSES, *(d for d in self.file.visible())]
        guess = closest(func.id, own) or closest(func.id, [*operators(), *COMPILE_TIME])
        return self.fail(
            "E103",
            f"unknown function `{func.id}`",
            func.span,
            help=f"did you mean `{guess}`?" if guess else "",
            edits=replaced(func.span, guess),
            available=available(LOSSES),
        )

    def _arguments(self, expr: ast.Call) -> list[tuple[str, Any, ast.Expr]]:
        """Keyword ("" if positional), value (None if it has no static type) and place of each argument."""
        found: list[tuple[str, Any, ast.Expr]] = []
        for arg in expr.args:
            if isinstance(arg, ast.StarArg):
                raise self.fail("E120", "`*` passes hyper-parameters, in declarations only", arg.span)
            value = None
            with self.elab.collecting():
                value = self.value(arg.value)
            found.append((arg.name.id if arg.name is not None else "", value, arg.value))
        return found

    # ---- losses --------------------------------------------------------------------------------------------------

    def _loss(self, expr: ast.Call, name: str) -> Value:
        """A loss function: its operands fit each other; the result is a scalar."""
        operands = [
            (value, at) for key, value, at in self._arguments(expr) if key in ("", "target", "logits", "p", "y")
        ]
        needed = 1 if name == "contrastive" else 2
        if len(operands) < needed and name != "ctc":
            raise self.fail("E124", f"{name} takes {needed} tensors", expr.span, note=f"{name}({_SIGNATURES[name]})")
        tensors = [(value, at) for value, at in operands[:2] if isinstance(value, Value)]
        for value, at in operands[:needed]:
            if value is not None and not isinstance(value, Value):
                raise self.fail("E125", f"{name} takes tensors, found {describe(value)}", at.span)
        if len(tensors) == 2:
            (x, x_at), (y, y_at) = tensors
            if name in CLASS_LOSSES and not y.type.dtype.is_float:
                self._fits(name, y, y_at, TensorType(DType.I64, x.type.shape[:-1]), x, x_at)
            elif name in CLASS_LOSSES or name in EQUAL_LOSSES:
                self._fits(name, y, y_at, x.type, x, x_at)
        elif name == "contrastive" and tensors and tensors[0][0].type.rank != 2:
            value, at = tensors[0]
            raise self.fail("S202", "contrastive takes logits with 2 axes", at.span, self.shown(value.type))
        return Value(None, SCALAR, expr.span)

    def _fits(self, name: str, y: Value, y_at: ast.Expr, want: TensorType, x: Value, x_at: ast.Expr) -> None:
        """The target has the type that the prediction asks for (S201, S202, S220, S301)."""
        others = (Label(x_at.span, self.shown(x.type)),)
        label, expected = self.shown(y.type), self.shown(want)
        message = f"{name}: the target is {label}, expected {expected}"
        if y.type.rank != want.rank:
            raise self._misfit("S202", message, y_at.span, label, others, expected)
        if y.type.dtype.is_float != want.dtype.is_float:
            raise self._misfit("S301", message, y_at.span, label, others, expected)
        for have, need in zip(y.type.shape, want.shape, strict=True):
            proof = self.facts.equal(have, need)
            if proof:
                continue
            if have.value is not None and need.value is not None:
                raise self._misfit("S201", message, y_at.span, label, others, expected)
            raise self.unequal(
                message, y_at.span, label, need, have, proof, others=others, sizes=self.size_rows(y.type)
            )

    def _misfit(
        self, code: str, message: str, span: Span, label: str, others: tuple[Label, ...], expected: str
    ) -> Fail:
        return self.fail(code, message, span, label, others=others, expected=expected, found=label)


_SIGNATURES = {
    "cross_entropy": "logits, target, label_smoothing, ignore_index, weight",
    "nll": "log_probs, target",
    "binary_cross_entropy": "p, y",
    "binary_cross_entropy_with_logits": "logits, y",
    "mse": "x, y",
    "l1": "x, y",
    "huber": "x, y",
    "kl_div": "p, q",
    "contrastive": "logits",
}

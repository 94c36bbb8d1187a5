"""Losses, metrics' arguments and bound inputs of a section, evaluated on a batch of torch tensors (LANGUAGE 16)."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Rejected
from specc.dims import Dim
from specc.elaborate.evaluate import Evaluator
from specc.elaborate.settings import LOSSES
from specc.elaborate.values import Fail, number
from specc.source import Span
from specc.syntax import ast
from specc_runtime.training.section import Section, failed, unsupported

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, torch.Tensor]

ARITHMETIC: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "**": operator.pow,
    "//": operator.floordiv, "%": operator.mod, "@": operator.matmul,
}  # fmt: skip
RELATIONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
POINTWISE = ("abs", "exp", "log", "sqrt", "sigmoid", "tanh", "relu", "randn_like", "rand_like")
REDUCTIONS = ("mean", "sum")
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "cross_entropy": ("label_smoothing", "ignore_index"),
    "nll": ("ignore_index",),
    "huber": ("delta",),
}
"""What losses take beside their two tensors."""


class Objective(Evaluator):
    """Evaluates expressions of a section over one batch: inputs, outputs, `data.FIELD`, `aux.NAME`, lets."""

    def __init__(self, section: Section) -> None:
        place = section.checker.place
        super().__init__(place.elab, place.scope)
        self.section = section
        self.known: dict[str, Any] = {}
        self.data: Tensors = {}
        self.aux: Tensors = {}

    def begin(self, data: Tensors) -> None:
        """A batch: its fields, and the lets that need no output."""
        self.elab.steps = 0  # its limit is of compile-time programs
        self.data, self.known, self.aux = data, {}, {}

    def tensor(self, expr: ast.Expr) -> torch.Tensor:
        """The value of an expression; raises `Rejected` for what is no tensor."""
        import torch

        try:
            found = self.value(expr)
        except Fail as fail:
            raise Rejected([fail.diagnostic]) from None
        if not isinstance(found, torch.Tensor):
            raise failed("E125", "expected a tensor", expr.span)
        return found

    # ---- names ---------------------------------------------------------------------------------------------------

    def _Name(self, expr: ast.Name) -> Any:
        return self.known[expr.id] if expr.id in self.known else super()._Name(expr)

    def _Attr(self, expr: ast.Attr) -> Any:
        base = expr.base.id if isinstance(expr.base, ast.Name) else ""
        if base == "data":
            if expr.name.id in self.data:
                return self.data[expr.name.id]
            raise failed("E107", f"the data has no field `{expr.name.id}`", expr.span)
        if base == "aux":
            return self.aux[expr.name.id]
        return super()._Attr(expr)

    # ---- operators -----------------------------------------------------------------------------------------------

    def arithmetic(self, expr: ast.Binary, left: Any, right: Any) -> Any:
        if not (is_tensor(left) or is_tensor(right)):
            return super().arithmetic(expr, left, right)
        for side in (left, right):
            if isinstance(side, Dim):
                raise unsupported(f"the size {side} in a loss", expr.span)
            if not is_tensor(side) and not number(side):
                raise failed("E125", f"`{expr.op}` takes tensors and numbers", expr.span)
        return ARITHMETIC[expr.op](left, right)

    def _Unary(self, expr: ast.Unary) -> Any:
        operand = self.value(expr.operand)
        if not is_tensor(operand):
            return super()._Unary(expr)
        return -operand if expr.op == "-" else ~operand

    def _Compare(self, expr: ast.Compare) -> Any:
        sides = [self.value(e) for e in (expr.first, *expr.rest)]
        if not any(map(is_tensor, sides)):
            return super()._Compare(expr)
        if len(expr.ops) > 1 or expr.ops[0] not in RELATIONS:
            raise unsupported("this comparison of tensors", expr.span)
        return RELATIONS[expr.ops[0]](*sides)

    def _Index(self, expr: ast.Index) -> Any:
        base = self.value(expr.base)
        if not is_tensor(base):
            return super()._Index(expr)
        return base[tuple(map(self._item, expr.items))]

    def _item(self, item: ast.Expr | ast.Slice) -> Any:
        if isinstance(item, ast.Slice):
            return slice(*(None if p is None else self.value(p) for p in (item.start, item.stop, item.step)))
        return ... if isinstance(item, ast.EllipsisLit) else self.value(item)

    # ---- functions -----------------------------------------------------------------------------------------------

    def _Call(self, expr: ast.Call) -> Any:
        import torch

        name = expr.func.id if isinstance(expr.func, ast.Name) else ""
        args = [self.value(a.value) for a in expr.args if isinstance(a, ast.Arg) and a.name is None]
        named = {a.name.id: self.value(a.value) for a in expr.args if isinstance(a, ast.Arg) and a.name is not None}
        if not any(map(is_tensor, (*args, *named.values()))):
            return super()._Call(expr)
        if self.file.find(name) is not None:
            raise unsupported(f"the function `{name}` in a train section", expr.span)
        if name in LOSSES:
            return self._loss(name, args, named, expr.span)
        if name in POINTWISE and len(args) == 1 and not named:
            return getattr(torch, name)(args[0])
        if name in REDUCTIONS and len(args) == 1 and not named:
            return getattr(torch, name)(args[0].float() if name == "mean" else args[0])
        raise unsupported(f"`{name}(..)` with these arguments", expr.span)

    def _loss(self, name: str, args: list[Any], named: dict[str, Any], span: Span) -> torch.Tensor:
        import torch.nn.functional as F

        tensors = [*args, *(named.pop(key) for key in ("logits", "p", "target", "y") if key in named)]
        strange = next((key for key in named if key not in OPTIONS.get(name, ())), None)
        if strange is not None:
            raise unsupported(f"`{strange}` of {name}", span)
        if name in ("ctc", "contrastive") or len(tensors) != 2 or not all(map(is_tensor, tensors)):
            raise unsupported(f"`{name}(..)` with these arguments", span)
        x, y = tensors
        if name in ("cross_entropy", "nll"):
            function: Callable[..., torch.Tensor] = F.cross_entropy if name == "cross_entropy" else F.nll_loss
            if y.is_floating_point():  # probabilities of the classes
                _alike(name, x, y, span)
                y = y.reshape(-1, y.shape[-1]).to(x.dtype)
                return function(
                    x.reshape(-1, x.shape[-1]), y, **{k: v for k, v in named.items() if k != "ignore_index"}
                )
            check_classes(name, y, x.shape[-1], named.get("ignore_index", -100), span)
            return function(x.reshape(-1, x.shape[-1]), y.reshape(-1), **named)
        _alike(name, x, y, span)
        y = y.to(x.dtype)
        if name == "kl_div":  # of p and q, in nats per row; torch's takes log q and p
            rows = x.shape[:-1].numel()
            divergence: torch.Tensor = F.kl_div(y.log(), x, reduction="sum") / rows
            return divergence
        functions: dict[str, Callable[..., torch.Tensor]] = {
            "binary_cross_entropy": F.binary_cross_entropy,
            "binary_cross_entropy_with_logits": F.binary_cross_entropy_with_logits,
            "mse": F.mse_loss,
            "l1": F.l1_loss,
            "huber": F.huber_loss,
        }
        return functions[name](x, y, **named)


def is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _alike(name: str, x: torch.Tensor, y: torch.Tensor, span: Span) -> None:
    """Both tensors of a loss have one shape (S201)."""
    if x.shape != y.shape:
        message = f"{name}: the shapes are {list(x.shape)} and {list(y.shape)}"
        raise failed("S201", message, span, 'a list of columns is a field with two axes: y = ["column"]')


def check_classes(name: str, target: torch.Tensor, classes: int, ignored: int, span: Span) -> None:
    """Labels are of 0 .. classes - 1 or the one that is ignored (T531)."""
    wrong = target[((target < 0) | (target >= classes)) & (target != ignored)]
    if len(wrong):
        message = f"{name}: a label is {int(wrong[0])}, the classes are 0 to {classes - 1}"
        raise failed("T531", message, span)

"""Signatures: declared tensor types, and their unification with what a call passes (LANGUAGE 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

from specc.dims import Dim
from specc.elaborate.evaluate import Evaluator
from specc.elaborate.names import closest, did_you_mean, replaced
from specc.elaborate.scopes import names_in
from specc.elaborate.values import Poisoned
from specc.syntax import ast
from specc.types import ELLIPSIS, TYPE_NAMES, TensorType

MAX_RANK = 16


def is_tensor(type_: ast.TypeExpr) -> bool:
    """Whether a declared type is of a tensor (or a list of them), rather than of a hyper-parameter."""
    return isinstance(type_, ast.TensorTypeExpr) or (isinstance(type_, ast.ListType) and is_tensor(type_.element))


def has_ellipsis(type_: ast.TypeExpr) -> bool:
    if isinstance(type_, ast.ListType):
        return has_ellipsis(type_.element)
    return isinstance(type_, ast.TensorTypeExpr) and any(isinstance(d, ast.EllipsisLit) for d in type_.dims)


def uses_ellipsis(method: ast.Method) -> bool:
    return any(has_ellipsis(p.type) for p in method.params)


def tensor_type(evaluator: Evaluator, type_: ast.TypeExpr, axes: tuple[str, ...]) -> TensorType:
    """The declared type, with `...` standing for these axes; a size written as `1` is a unit axis."""
    if not isinstance(type_, ast.TensorTypeExpr):
        raise evaluator.fail("E125", "a tensor type is needed here", type_.span, help="Tensor[B, T, dim]")
    if type_.name not in TYPE_NAMES:
        guess = closest(type_.name, TYPE_NAMES)
        raise evaluator.fail("E103", f"unknown type `{type_.name}`", type_.span, help=did_you_mean(guess))
    shape: list[Dim] = []
    for expr in type_.dims:
        if isinstance(expr, ast.EllipsisLit):
            shape.extend(map(Dim.symbol, axes))
        elif isinstance(expr, ast.Int) and expr.value == 1:
            shape.append(Dim.UNIT)
        else:
            shape.append(size_in_type(evaluator, expr))
    if len(shape) > MAX_RANK:
        raise evaluator.fail("S204", f"a tensor of rank {len(shape)} (limit {MAX_RANK})", type_.span)
    return TensorType(TYPE_NAMES[type_.name], tuple(shape))


def is_list(type_: ast.TypeExpr) -> TypeGuard[ast.ListType]:
    """Whether a declared type is of a list of tensors."""
    return isinstance(type_, ast.ListType) and is_tensor(type_)


def size_in_type(evaluator: Evaluator, expr: ast.Expr) -> Dim:
    """A size in a type; an unknown name is an undeclared dim (S103)."""
    scope = evaluator.scope
    for name in names_in(expr):
        known = (
            scope.find(name.id) is not None
            or name.id in scope.dims
            or evaluator.file.find(name.id) is not None
            or name.id == "past"
        )
        if name.id in evaluator.file.broken:
            raise Poisoned
        if not known and not (isinstance(expr, ast.Call) or _is_called(expr, name)):
            guess = closest(name.id, [*scope.visible(), *scope.dims])
            hint = f"did you mean `{guess}`?  " if guess else ""
            raise evaluator.fail(
                "S103",
                f"unknown dimension `{name.id}`",
                name.span,
                "not a hyper-parameter, a `let` or a declared dim",
                help=f"{hint}A new runtime size has to be declared:  dim {name.id if not guess else 'N'}",
                edits=replaced(name.span, guess),
                cause=name.id,
            )
    return evaluator.size(expr)


def _is_called(expr: ast.Expr, name: ast.Name) -> bool:
    """Whether the name stands as a called function somewhere in the expression."""
    if isinstance(expr, ast.Call):
        return expr.func is name or any(isinstance(a, ast.Arg) and _is_called(a.value, name) for a in expr.args)
    children = [c for c in vars(expr).values() if isinstance(c, ast.Expr)]
    return any(_is_called(c, name) for c in children)


def opaque_axes(count: int) -> tuple[str, ...]:
    """The names of `count` axes of `...` that are known to equal nothing else."""
    return tuple(f"{ELLIPSIS}{i}" for i in range(count))


def ellipsis_axes(params: Mapping[str, ast.TensorTypeExpr], shapes: Mapping[str, tuple[Dim, ...]]) -> tuple[str, ...]:
    """What `...` stands for in a call: the dims of other arguments where the sizes passed are the same, else opaque
    axes.

    With `x: Tensor[B, T, dim]` and `pos: Int[..., T]`, positions of shape [B, T] make `...` the B of `x`.
    """
    found: tuple[Dim, ...] = ()
    inside: set[str] = set()
    plain: dict[Dim, str] = {}
    for name, shape in shapes.items():
        dims = params[name].dims
        at = next((i for i, d in enumerate(dims) if isinstance(d, ast.EllipsisLit)), None)
        if at is None:
            plain.update((size, d.id) for d, size in zip(dims, shape, strict=False) if isinstance(d, ast.Name))
            continue
        inside.update(d.id for d in dims if isinstance(d, ast.Name))
        axes = shape[at : len(shape) - (len(dims) - at - 1)]
        if len(axes) > len(found):
            found = axes
    names = (plain.get(size) if size.value is None else None for size in found)
    return tuple(
        name if name is not None and name not in inside else opaque
        for name, opaque in zip(names, opaque_axes(len(found)), strict=True)
    )


@dataclass
class Unifier:
    """Binds the dims of a callee's signature to the caller's sizes: plain names first, then everything is checked."""

    env: dict[str, Dim]

    def bind(self, declared: TensorType, actual: TensorType) -> None:
        """First pass over one argument of equal rank."""
        for want, have in zip(declared.shape, actual.shape, strict=True):
            if want.is_symbol() and not str(want.plain()).startswith("past("):
                name = want.symbols[0]
                if name not in self.env:
                    self.env[name] = have
                    self.env.setdefault(f"past({name})", Dim.symbol(f"past({have.plain()})"))

    def resolve(self, declared: Dim, labels: Mapping[str, str | None]) -> Dim:
        """A size of the signature in the caller's terms. `labels`: hyper-parameter -> how the caller wrote it."""
        if declared.unit:
            return declared
        if declared.is_symbol() and (bound := self.env.get(declared.symbols[0])) is not None:
            return bound
        if declared.value is not None:
            label = labels.get(declared.label) if declared.label is not None else None
            return declared.plain().with_label(label) if label is not None and not label.isdigit() else declared.plain()
        return declared.plain().substitute({k: v.plain() for k, v in self.env.items()})


def describe_axis(index: int, rank: int) -> str:
    return "last axis" if index == rank - 1 else f"axis {index}"

"""Metrics of a section: their names, their options, and tensors that fit each other (LANGUAGE 16)."""

from __future__ import annotations

from dataclasses import dataclass

from specc.diagnostics import Label
from specc.elaborate import settings as known
from specc.elaborate.losses import LossChecker, field_of
from specc.elaborate.names import available, closest, did_you_mean, replaced
from specc.elaborate.values import Poisoned
from specc.ir.graph import Value
from specc.source import Span
from specc.syntax import ast
from specc.syntax.unparse import unparse
from specc.types import DType, TensorType


@dataclass(frozen=True)
class Measure:
    """A metric with its tensors; None where a type is not known before the data is read."""

    name: str
    values: tuple[Value | None, ...]
    options: tuple[tuple[str, ast.Expr], ...]
    span: Span


def check_metric(place: LossChecker, expr: ast.Expr) -> Measure:
    """A metric of a section; raises `Fail`."""
    call = expr if isinstance(expr, ast.Call) else None
    name = call.func if call is not None else expr
    if not isinstance(name, ast.Name):
        raise place.fail("E125", f"a metric is a call of its name, found `{unparse(expr)}`", expr.span)
    if name.id not in known.METRICS:
        guess = closest(name.id, known.METRICS)
        raise place.fail(
            "E103",
            f"unknown metric `{name.id}`",
            name.span,
            help=did_you_mean(guess),
            edits=replaced(name.span, guess),
            available=available(known.METRICS, 20) if guess is None else "",
        )
    if call is None:
        example = "loss" if name.id == "perplexity" else "prediction, data.label"
        raise place.fail("E125", f"`{name.id}` is called", name.span, help=f"{name.id}({example})")
    options = _options(place, name.id, call)
    tensors = [a.value for a in call.args if isinstance(a, ast.Arg) and a.name is None]
    wanted = 1 if name.id == "perplexity" else 2
    if len(tensors) != wanted:
        example = f"{name.id}(loss)" if wanted == 1 else f"{name.id}(prediction, data.label)"
        raise place.fail("E124", f"{name.id} takes {wanted} tensor{'s' * (wanted > 1)}", expr.span, help=example)
    values = _perplexed(place, tensors[0]) if wanted == 1 else _compared(place, name.id, tensors[0], tensors[1])
    return Measure(name.id, values, options, expr.span)


def _options(place: LossChecker, name: str, call: ast.Call) -> tuple[tuple[str, ast.Expr], ...]:
    options = known.METRIC_OPTIONS.get(name, ())
    found: list[tuple[str, ast.Expr]] = []
    for arg in call.args:
        if isinstance(arg, ast.StarArg):
            raise place.fail("E120", "`*` has nothing to pass on in a train section", arg.span)
        if arg.name is None:
            continue
        if arg.name.id not in options:
            message = f"{name} has no argument `{arg.name.id}`"
            raise place.no_such("E120", message, arg.name.span, arg.name.id, options)
        found.append((arg.name.id, arg.value))
    return tuple(found)


def _perplexed(place: LossChecker, expr: ast.Expr) -> tuple[Value | None, ...]:
    """exp of a mean loss."""
    try:
        value = place.tensor(place.value(expr), expr)
    except Poisoned:
        return (None,)
    if value.type.rank:
        message = f"perplexity takes a scalar, found {place.shown(value.type)}"
        raise place.fail("S202", message, expr.span, help="perplexity(loss)")
    return (value,)


def _compared(place: LossChecker, name: str, left: ast.Expr, right: ast.Expr) -> tuple[Value | None, ...]:
    """A prediction and what it is held against."""
    outer, place.wanted = place.wanted, DType.I64 if name in known.TEXT_METRICS else None
    try:
        found = place.tensor(place.value(left), left)
    except Poisoned:
        return None, _target(place, name, None, right)
    finally:
        place.wanted = outer
    target = _target(place, name, found, right)
    if target is None:
        return found, None
    _held(place, name, found, target, left, right)
    return found, target


def _target(place: LossChecker, name: str, found: Value | None, expr: ast.Expr) -> Value | None:
    field = field_of(expr)
    rank = place.rank_of(expr)
    classes = name in known.CLASS_METRICS and found is not None and rank != found.type.rank
    whole = classes or name in known.TEXT_METRICS
    used = next((dtype for (n, dtype) in place.read if field is not None and n == field.name.id), None)
    outer, place.wanted = place.wanted, used or (DType.I64 if whole else DType.COMPUTE)
    try:
        if field is not None and found is not None and rank is None and name not in known.TEXT_METRICS:
            shape = found.type.shape[:-1] if classes else found.type.shape
            return place.field(field, TensorType(place.wanted, shape))
        return place.tensor(place.value(expr), expr)
    except Poisoned:
        return None
    finally:
        place.wanted = outer


def _held(place: LossChecker, name: str, x: Value, y: Value, x_at: ast.Expr, y_at: ast.Expr) -> None:
    """The target has the shape that the prediction asks for (S201, S202, S220, S221)."""
    if name in known.TEXT_METRICS:
        for value, at in ((x, x_at), (y, y_at)):
            if not value.type.dtype.is_int or value.type.rank != 2:
                message = f"{name} takes ids of texts, found {place.shown(value.type)}"
                raise place.fail("S301", message, at.span, expected="Int[B, T]", found=place.shown(value.type))
        return
    want = x.type.shape
    if name in known.CLASS_METRICS and y.type.rank != x.type.rank:
        want = want[:-1]
    place.agree(y.type.shape, want)
    label, expected = place.shown(y.type), place.shown(y.type.with_shape(want))
    others = (Label(x_at.span, place.shown(x.type)),)
    message = f"{name}: the target is {label}, expected {expected}"
    if y.type.rank != len(want):
        raise place.fail("S202", message, y_at.span, label, others=others, expected=expected, found=label)
    for have, need in zip(y.type.shape, want, strict=True):
        proof = place.facts.equal(have, need)
        if proof or place.opens(have) or place.opens(need):
            continue
        if have.value is not None and need.value is not None:
            raise place.fail("S201", message, y_at.span, label, others=others, expected=expected, found=label)
        raise place.unequal(message, y_at.span, label, need, have, proof, others=others, sizes=())

"""Data against the model: shapes, element types, ranges, padding. What does not fit is told by its first row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from specc.dims import Dim
from specc.elaborate.sections import names_of
from specc.elaborate.training import keyword
from specc.source import Span
from specc.syntax import ast
from specc_runtime.inputs import NUMPY, Input, Interface
from specc_runtime.training.data.columns import Column, Data, bad
from specc_runtime.training.data.order import row_lengths
from specc_runtime.training.section import Section, evaluated, failed

CLASS_LOSSES = ("cross_entropy", "nll", "ctc")


def fed(data: Data, item: Input, of: Interface) -> Column:
    """A field as the input of its name, in the input's element type; raises `Rejected` (T531)."""
    column, span = data.fields[item.name], data.span
    _check_shape(data, item, of)
    wanted: np.dtype[Any] = np.dtype(NUMPY[item.dtype])
    if wanted.kind in "iu" and column.dtype.kind == "f":
        raise bad(f"the input `{item.name}` takes integers, the field has fractions", span)
    bottom = max((d.value for d in item.low if d.value is not None), default=None)
    top = min((d.value for d in item.high if d.value is not None), default=None)
    if wanted.kind in "iu" and bottom is not None and top is not None:
        if item.name in data.ids:
            if data.vocabulary > top:
                message = f"the tokenizer has {data.vocabulary:,} ids, the model takes {bottom} to {top - 1}"
                raise bad(f"`{item.name}`: {message}", span, f"a model with {data.vocabulary} rows of its embedding")
        else:
            _check_range(data, item.name, bottom, top)
        pad = data.padded.get(item.name, bottom)
        if not bottom <= pad < top:
            message = f"short rows of `{item.name}` are filled up with {pad}, the model takes {bottom} to {top - 1}"
            raise bad(message, span, "pad = 0,  or another id that the model takes")
    return column.cast(wanted)


def _check_shape(data: Data, item: Input, of: Interface) -> None:
    column, span = data.fields[item.name], data.span
    expected = f"[{', '.join(map(str, item.shape))}]"
    found = f"[{', '.join(str(n) if n is not None else '*' for n in (len(column), *column.row))}]"
    sizes = list(zip(item.shape[1:], column.row, strict=False))
    if column.ndim != len(item.shape) or any(d.value is not None and d.value != n for d, n in sizes):
        flat = column.ndim == 1 and len(item.shape) == 2
        help = f'{item.name} = ["column"]  is a field with two axes' if flat else ""
        message = f"the field `{item.name}` of {data.name} does not fit the input `{item.name}`"
        raise bad(message, span, help, expected=expected, found=found)
    for dim, size in sizes:
        if size is not None and dim.value is None and (why := _unfit(dim, size, of)):
            raise bad(f"the field `{item.name}` of {data.name} is {found}: {why}", span, expected=expected)


def _unfit(dim: Dim, size: int, of: Interface) -> str:
    """Why a size cannot be that of a symbol of the model."""
    if not dim.is_symbol():
        return ""
    name = str(dim)
    least, most = of.facts.bounds_of(name)
    if size < least:
        return f"the model takes {name} of at least {least}"
    if most is not None and size > most:
        return f"the model takes {name} of at most {most}"
    rest, n = of.facts.residue_of(name)
    return f"the model takes multiples of {n} as {name}" if size % n != rest and rest == 0 else ""


def _check_range(data: Data, name: str, bottom: int, top: int) -> None:
    for start, values in data.fields[name].parts():
        wrong = np.argwhere((values < bottom) | (values >= top))
        if len(wrong):
            at = tuple(wrong[0])
            place = data.place(start + int(at[0]))
            message = f"{place}: `{name}` is {values[at]}, the model takes {bottom} to {top - 1}"
            raise bad(message, data.span)


def check_lengths(data: Data, most: int, span: Span) -> None:
    """There are ids to count (E125), and no row has more of them than a batch may have (T531)."""
    if not any(c.ndim == 2 and c.dtype.kind in "iu" for c in data.fields.values()):
        raise failed("E125", f"tokens(..) counts ids of texts: {data.name} has none", span, "batch = 32")
    lengths = row_lengths(data)
    if (lengths > most).any():
        row = int(np.argmax(lengths > most))
        raise bad(f"{data.place(row)} has {lengths[row]:,} ids, more than the {most:,} of a batch", span)


def check_padding(section: Section, data: Data) -> None:
    """A loss leaves out what rows are filled up with, where these are its target (T531)."""
    for call in calls(section.settings["loss"]):
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        args = [a.value for a in call.args if isinstance(a, ast.Arg) and a.name is None]
        target = keyword(call, "target") or (args[1] if len(args) > 1 else None)
        if name not in CLASS_LOSSES or target is None:
            continue
        field = next((f for f in _fields_in(target) if f in data.padded), None)
        if field is None:
            continue
        given = keyword(call, "ignore_index")
        ignored = evaluated(section, given) if given is not None else None
        if ignored != data.padded[field]:
            pad = data.padded[field]
            message = f"short rows of `{field}` are filled up with {pad}, which {name} counts as text"
            raise bad(message, target.span, f"ignore_index = {pad}")


def _fields_in(target: ast.Expr) -> Iterator[str]:
    """Fields that an expression names: `data.labels`, `input_ids[:, 1:]`."""
    yield from (name.id for name, _ in names_of(target))
    for node in _nodes(target):
        if isinstance(node, ast.Attr) and isinstance(node.base, ast.Name) and node.base.id == "data":
            yield node.name.id


def calls(expr: Any) -> list[ast.Call]:
    """Every call in an expression."""
    return [node for node in _nodes(expr) if isinstance(node, ast.Call)]


def _nodes(expr: Any) -> Iterator[ast.Node]:
    if isinstance(expr, tuple):
        for item in expr:
            yield from _nodes(item)
    elif isinstance(expr, ast.Node):
        yield expr
        for key, child in vars(expr).items():
            if key != "span":
                yield from _nodes(child)

"""Stretches of a checkpoint's files: what a tensor is when its elements stay next to each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from specc.weights.layout import Concat, Expr, Read, Reshape, Slice


@dataclass(frozen=True)
class Extent:
    """`count` elements of the file's tensor `name`, from element `start` of it."""

    name: str
    start: int
    count: int


def extents(expr: Expr) -> list[Extent] | None:
    """The stretches that `expr` is made of, in its order; None where elements change places."""
    if isinstance(expr, Read):
        return [Extent(expr.name, 0, prod(expr.shape))]
    if isinstance(expr, Reshape):
        return extents(expr.x)
    if isinstance(expr, Slice):
        whole = extents(expr.x)
        if whole is None or prod(expr.x.shape[: expr.axis]) != 1:
            return None
        row = prod(expr.x.shape[expr.axis + 1 :])
        return list(_cut(whole, expr.start * row, expr.size * row))
    if isinstance(expr, Concat) and prod(expr.shape[: expr.axis]) == 1:
        found: list[Extent] = []
        for part in expr.parts:
            stretches = extents(part)
            if stretches is None:
                return None
            found += stretches
        return found
    return None


def _cut(whole: Sequence[Extent], start: int, count: int) -> Iterator[Extent]:
    """Elements `start` to `start + count` of stretches that follow each other."""
    at = 0
    for one in whole:
        first, last = max(start, at), min(start + count, at + one.count)
        if first < last:
            yield Extent(one.name, one.start + first - at, last - first)
        at += one.count

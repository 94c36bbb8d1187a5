"""How a tensor is made of others: every operation of a `weights` section is one of five rearrangements of elements.

An expression's leaves are tensors of the other side (of the file on import, of the model on export). Nothing here
computes: shapes only. `stack` and `rope_half_from_interleaved` are compositions, so what a reader of files has to carry
out is this and no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

Shape = tuple[int, ...]


class LayoutError(Exception):
    """The operation does not fit the shape; the text completes `... but`."""


@dataclass(frozen=True)
class TensorInfo:
    """What a header tells of a tensor.

    `dtype` is spelled as in safetensors files (`F32`); `formula` is the shape as the spec writes it.
    """

    shape: Shape
    dtype: str
    formula: str = ""


@dataclass(frozen=True)
class Read:
    """A tensor as it is stored."""

    name: str
    shape: Shape
    dtype: str


@dataclass(frozen=True)
class Permute:
    """Axis k is axis `axes[k]` of x."""

    x: Expr
    axes: tuple[int, ...]

    @property
    def shape(self) -> Shape:
        return tuple(self.x.shape[a] for a in self.axes)


@dataclass(frozen=True)
class Reshape:
    """The elements of x in the same order."""

    x: Expr
    shape: Shape


@dataclass(frozen=True)
class Slice:
    """Elements `start` to `start + size` along an axis."""

    x: Expr
    axis: int
    start: int
    size: int

    @property
    def shape(self) -> Shape:
        return (*self.x.shape[: self.axis], self.size, *self.x.shape[self.axis + 1 :])


@dataclass(frozen=True)
class Concat:
    """The parts one after the other along an axis."""

    parts: tuple[Expr, ...]
    axis: int

    @property
    def shape(self) -> Shape:
        first = self.parts[0].shape
        return (*first[: self.axis], sum(p.shape[self.axis] for p in self.parts), *first[self.axis + 1 :])


Expr = Read | Permute | Reshape | Slice | Concat


def reads(expr: Expr) -> Iterator[Read]:
    """The leaves, from left to right."""
    if isinstance(expr, Read):
        yield expr
    elif isinstance(expr, Concat):
        for part in expr.parts:
            yield from reads(part)
    else:
        yield from reads(expr.x)


# ---- construction: checks the shapes, leaves out what does nothing ---------------------------------------------------


def permute(x: Expr, axes: Sequence[int]) -> Expr:
    if len(axes) != len(x.shape):
        raise LayoutError(f"{len(axes)} axes are permuted, the tensor is {show(x.shape)}")
    if isinstance(x, Permute):
        axes, x = [x.axes[a] for a in axes], x.x
    return x if list(axes) == list(range(len(axes))) else Permute(x, tuple(axes))


def transpose(x: Expr) -> Expr:
    if len(x.shape) != 2:
        raise LayoutError(f"`transpose` swaps the axes of a matrix, the tensor is {show(x.shape)}")
    return permute(x, (1, 0))


def inverse(axes: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes this one."""
    return tuple(axes.index(i) for i in range(len(axes)))


def reshape(x: Expr, shape: Shape) -> Expr:
    if prod(shape) != prod(x.shape):
        raise LayoutError(f"{show(x.shape)} cannot be reshaped to {show(shape)}")
    if isinstance(x, Reshape):
        x = x.x
    return x if shape == x.shape else Reshape(x, shape)


def part(x: Expr, axis: int, start: int, size: int) -> Expr:
    return x if size == x.shape[axis] else Slice(x, axis, start, size)


def concat(parts: Sequence[Expr], axis: int) -> Expr:
    at = axis_of(parts[0], axis)
    for other in parts[1:]:
        if len(other.shape) != len(parts[0].shape) or _without(other.shape, at) != _without(parts[0].shape, at):
            raise LayoutError(f"{show(parts[0].shape)} and {show(other.shape)} do not join along axis {axis}")
    return parts[0] if len(parts) == 1 else Concat(tuple(parts), at)


def split(x: Expr, axis: int, sizes: Sequence[int]) -> list[Expr]:
    """Parts of the given sizes, which must add up."""
    at = axis_of(x, axis)
    if sum(sizes) != x.shape[at]:
        found = f"axis {axis} of {show(x.shape)} has {x.shape[at]}"
        raise LayoutError(f"sizes {show(sizes)} add up to {sum(sizes)}, {found}")
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [part(x, at, start, size) for start, size in zip(starts, sizes, strict=True)]


def even_sizes(x: Expr, axis: int, count: int) -> list[int]:
    """`count` equal sizes along an axis."""
    whole = x.shape[axis_of(x, axis)]
    if whole % count:
        raise LayoutError(f"axis {axis} of {show(x.shape)} does not divide into {count} equal parts")
    return [whole // count] * count


def stack(parts: Sequence[Expr], axis: int) -> Expr:
    """The parts along a new axis."""
    rank = len(parts[0].shape) + 1
    if not -rank <= axis < rank:
        raise LayoutError(f"{show(parts[0].shape)} cannot be stacked along axis {axis}")
    at = axis % rank
    return concat([reshape(p, (*p.shape[:at], 1, *p.shape[at:])) for p in parts], at)


def unstack(x: Expr, axis: int) -> list[Expr]:
    at = axis_of(x, axis)
    return [reshape(p, _without(p.shape, at)) for p in split(x, at, [1] * x.shape[at])]


def rope_half_from_interleaved(x: Expr, heads: int, *, back: bool = False) -> Expr:
    """Rows of each head from (0, 1), (2, 3), .. rotated pairs to (0, n/2), (1, n/2 + 1), ..; `back`: the other way."""
    rows = x.shape[0] if x.shape else 0
    if rows == 0 or rows % (2 * heads):
        raise LayoutError(f"the rows of {show(x.shape)} are not pairs in {heads} heads")
    pairs = rows // heads // 2
    inner = (heads, 2, pairs) if back else (heads, pairs, 2)
    rest = x.shape[1:]
    swapped = permute(reshape(x, (*inner, *rest)), (0, 2, 1, *range(3, 3 + len(rest))))
    return reshape(swapped, x.shape)


def axis_of(x: Expr, axis: int) -> int:
    """The axis counted from 0."""
    if not -len(x.shape) <= axis < len(x.shape):
        raise LayoutError(f"axis {axis} does not exist in {show(x.shape)}")
    return axis % len(x.shape)


def _without(shape: Shape, axis: int) -> Shape:
    return shape[:axis] + shape[axis + 1 :]


def show(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"

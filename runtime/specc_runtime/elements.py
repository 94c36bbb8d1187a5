"""Elements of a rearranged tensor, about a megabyte at a time.

What lies together in the files is read piece by piece; what has to be rearranged is mapped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from specc.weights.layout import Concat, Expr, Permute, Read, Reshape, Slice, reads
from specc_runtime.checkpoint import NUMPY, Checkpoint
from specc_runtime.extents import extents

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK = 1 << 18  # elements of a block: a megabyte of f32, which a core's own cache holds
_STRIP = 16  # columns that are transposed together: a cache line of f32, 3 to 7 times as fast as numpy's own order


def blocks(expr: Expr, checkpoint: Checkpoint) -> Iterator[Array]:
    """The elements of `expr` in row-major order, as consecutive contiguous blocks in the files' element type.

    Memory in use: a block; where elements change places also the mapped pages of the tensors they are of, until those
    are released, and where a `reshape` of a permuted tensor is permuted again, that tensor.
    """
    stretches = extents(expr)
    if stretches is not None:
        for one in stretches:
            for first in range(0, one.count, BLOCK):
                yield checkpoint.read(one.name, one.start + first, min(BLOCK, one.count - first))
    elif isinstance(expr, Reshape):
        yield from blocks(expr.x, checkpoint)
    elif isinstance(expr, Concat):
        yield from _joined(expr, checkpoint)
    else:
        yield from _pieces(_view(expr, checkpoint))


def equal(left: Expr, right: Expr, checkpoint: Checkpoint) -> bool:
    """Whether two tensors hold the same values, bit for bit if they are of one type."""
    if left.shape != right.shape:
        return False
    dtypes = [next(reads(expr)).dtype for expr in (left, right)]
    common = dtypes[0] if dtypes[0] == dtypes[1] else "F64"
    pairs = zip(_streamed(left, checkpoint), _streamed(right, checkpoint), strict=True)
    return all(converted(a, dtypes[0], common).tobytes() == converted(b, dtypes[1], common).tobytes() for a, b in pairs)


def _streamed(expr: Expr, checkpoint: Checkpoint) -> Iterator[Array]:
    """The elements in blocks of one size, whatever the expression; its mapped pages are given back."""
    rest: Array = np.empty(0, NUMPY[next(reads(expr)).dtype])
    for block in blocks(expr, checkpoint):
        rest = np.concatenate([rest, block.reshape(-1)])
        while rest.size >= BLOCK:
            yield rest[:BLOCK]
            rest = rest[BLOCK:]
    yield rest
    for leaf in reads(expr):
        checkpoint.release(leaf.name)


def converted(block: Array, source: str, target: str) -> Array:
    """A block in another element type; types are spelled as in safetensors files. bf16 is its 16 bits."""
    if source == target:
        return block
    if source == "BF16":
        bits = block.astype(np.uint32)
        bits <<= 16
        return converted(bits.view(np.float32), "F32", target)
    if target == "BF16":
        return _to_bf16(block.astype(np.float32))
    return block.astype(NUMPY[target])


def _to_bf16(block: Array) -> Array:
    """Round to nearest, ties to even, as torch does; NaN stays NaN."""
    bits = block.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    rounded[np.isnan(block)] = 0x7FC0
    return rounded.astype(np.uint16)


def _view(expr: Expr, checkpoint: Checkpoint) -> Array:
    if isinstance(expr, Read):
        return checkpoint.array(expr.name)
    if isinstance(expr, Permute):
        return _view(expr.x, checkpoint).transpose(expr.axes)
    if isinstance(expr, Reshape):
        return _view(expr.x, checkpoint).reshape(expr.shape)
    if isinstance(expr, Slice):
        at = (slice(None),) * expr.axis
        view: Array = _view(expr.x, checkpoint)[(*at, slice(expr.start, expr.start + expr.size))]
        return view
    return np.concatenate([_view(part, checkpoint) for part in expr.parts], axis=expr.axis)


def _joined(expr: Concat, checkpoint: Checkpoint) -> Iterator[Array]:
    """Along axis 0 the parts follow each other; along another they alternate, row by row of the axes before it."""
    if expr.axis == 0:
        for part in expr.parts:
            yield from blocks(part, checkpoint)
        return
    views = [_view(part, checkpoint) for part in expr.parts]
    rows = expr.shape[0]
    size = sum(view.size for view in views) // max(rows, 1)
    step = max(1, BLOCK // max(size, 1))
    for first in range(0, rows, step):
        yield np.concatenate([view[first : first + step] for view in views], axis=expr.axis)


def _pieces(view: Array) -> Iterator[Array]:
    if view.size <= BLOCK:
        yield _contiguous(view)
        return
    row = view.size // view.shape[0]
    if row > BLOCK:
        for one in view:
            yield from _pieces(one)
        return
    step = BLOCK // row
    for first in range(0, view.shape[0], step):
        yield _contiguous(view[first : first + step])


def _contiguous(view: Array) -> Array:
    """The block in row-major order: itself, or a copy."""
    if view.flags.c_contiguous:
        return view
    if view.ndim != 2 or view.strides[0] > view.strides[1]:
        return np.ascontiguousarray(view)
    result = np.empty(view.shape, view.dtype)
    for first in range(0, view.shape[1], _STRIP):
        result[:, first : first + _STRIP] = view[:, first : first + _STRIP]
    return result

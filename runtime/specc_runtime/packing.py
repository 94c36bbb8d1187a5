"""Rows of a matrix in few bits, and back: numpy, a block of rows at a time.

int8: w = scale * q with q in -127 .. 127, one scale a row. int4: w = scale * (q - zero) with q in 0 .. 15, one scale
for each block of a row; two neighbours share a byte, the first in its low half. Without zero points of their own, zero
is 8 and the element that is furthest from 0 becomes -8 exactly, so that all sixteen values are in use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from specc.quantisation import Scheme
from specc_runtime.elements import Array


@dataclass(frozen=True)
class Packed:
    """`data`: int8 [rows, width], or uint8 [rows, blocks, block / 2]; `scale`: f32 [rows] or [rows, blocks]; `zero`:
    uint8 [rows, ceil(blocks / 2)]."""

    data: Array
    scale: Array
    zero: Array | None = None


def pack(rows: Array, scheme: Scheme) -> Packed:
    """Rows [n, width] in f32, rounded to nearest."""
    if scheme.bits == 8:
        scale = _or_one(np.abs(rows).max(axis=1) / np.float32(127))
        return Packed(np.rint(rows / scale[:, None]).astype(np.int8), scale)
    blocks = _in_blocks(rows, scheme)
    if scheme.symmetric:
        highest, lowest = blocks.max(axis=2), blocks.min(axis=2)
        furthest = np.where(highest > -lowest, highest, lowest)
        scale = _or_one(furthest / np.float32(-8))
        steps = np.rint(blocks / scale[..., None]) + np.float32(8)
        return Packed(_nibbles(np.clip(steps, 0, 15)), scale)
    highest, lowest = np.maximum(blocks.max(axis=2), 0), np.minimum(blocks.min(axis=2), 0)
    scale = _or_one((highest - lowest) / np.float32(15))
    zero = np.rint(-lowest / scale)
    steps = np.rint(blocks / scale[..., None]) + zero[..., None]
    odd = np.pad(zero, ((0, 0), (0, zero.shape[1] % 2)))
    return Packed(_nibbles(np.clip(steps, 0, 15)), scale, _nibbles(odd))


def unpack(packed: Packed, width: int) -> Array:
    """The rows [n, width] in f32 that packed ones stand for."""
    if packed.data.dtype == np.int8:
        wide: Array = packed.data.astype(np.float32) * packed.scale[:, None]
        return wide
    steps = _halves(packed.data)
    zero: Any = np.float32(8)
    if packed.zero is not None:
        zero = _halves(packed.zero)[:, : packed.scale.shape[1], None]
    wide = (steps - zero) * packed.scale[..., None]
    return wide.reshape(len(wide), -1)[:, :width]


def steps_off(rows: Array, packed: Packed) -> float:
    """The largest rounding error of an element, in steps of its scale."""
    off = np.abs(rows - unpack(packed, rows.shape[1]))
    if packed.data.dtype == np.int8:
        steps = off / packed.scale[:, None]
    else:
        block = packed.data.shape[2] * 2
        scale = np.repeat(np.abs(packed.scale), block, axis=1)[:, : rows.shape[1]]
        steps = off / scale
    return float(steps.max(initial=0.0))


def _in_blocks(rows: Array, scheme: Scheme) -> Array:
    """[rows, blocks, block]; the last block of a row is filled up with zeros."""
    width = rows.shape[1]
    blocks = scheme.blocks(width)
    padded = np.pad(rows, ((0, 0), (0, blocks * scheme.block - width)))
    return padded.reshape(len(rows), blocks, scheme.block)


def _or_one(scale: Array) -> Array:
    """A row of zeros has any scale but 0."""
    return np.where(scale == 0, np.float32(1), scale).astype(np.float32)


def _nibbles(values: Array) -> Array:
    """Numbers 0 .. 15, two of the last axis a byte."""
    small = values.astype(np.uint8)
    return small[..., 0::2] | (small[..., 1::2] << 4)


def _halves(data: Array) -> Array:
    """The numbers that bytes hold, as f32."""
    both = np.stack((data & 15, data >> 4), axis=-1)
    return both.reshape(*data.shape[:-1], -1).astype(np.float32)

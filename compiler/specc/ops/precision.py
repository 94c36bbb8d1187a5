"""Accumulation in f32: what norms, softmax and reductions over f16 and bf16 do (LANGUAGE 8).

For f32 itself nothing is written: a cast to the same type is no node.
"""

from __future__ import annotations

from collections.abc import Callable

from specc.op import Emitter, Handle
from specc.types import DType

_NARROW = frozenset({DType.COMPUTE, DType.F16, DType.BF16})


def widened(emit: Emitter, x: Handle) -> Handle:
    """The value in f32 if it is narrower."""
    return emit.cast(x, DType.F32) if x.type.dtype in _NARROW else x


def in_f32(emit: Emitter, x: Handle, compute: Callable[[Handle], Handle]) -> Handle:
    """`compute` of the widened value, in the dtype of `x`."""
    dtype = x.type.dtype
    return emit.cast(compute(widened(emit, x)), dtype)

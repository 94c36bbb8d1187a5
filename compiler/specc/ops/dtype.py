"""Element types: conversions, and cutting the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from specc.dims import Dim, Facts
from specc.op import Cost, Emitter, Handle, Op, Saved, Tensor, TorchText
from specc.types import DType, Operand, TensorType


class Cast(Op):
    """x in another element type. Float to int truncates toward zero; to Bool is x != 0.

    example: cast(x: Tensor[B, T], i64) -> Int[B, T]
    example: cast(x: Int[B, T], f32) -> f32[B, T]
    example: cast(x: Tensor[B, T], f32) -> f32[B, T]
    example: cast(x: Bool[B, T], i32) -> i32[B, T]
    example: cast(x: Int[B, T], bool) -> Bool[B, T]
    """

    keeps = Saved()
    name = "cast"
    elementwise = True
    converts = True
    x: ClassVar[Tensor]
    dtype: DType

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        return x.with_dtype(self.dtype)

    def torch(self, t: TorchText, x: str) -> str:
        return f"{x}.to({t.dtype(self.dtype)})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        return emit.cast(x, self.dtype)


class CastLike(Op):
    """x in the element type of y.

    example: cast_like(x: Int[B, T], y: Tensor[B]) -> Tensor[B, T]
    example: cast_like(x: f32[B, T], y: Tensor[B]) -> Tensor[B, T]
    """

    smooth = (0,)
    keeps = Saved()
    name = "cast_like"
    elementwise = True
    converts = True
    x: ClassVar[Tensor]
    y: ClassVar[Tensor]

    def infer(self, facts: Facts, x: TensorType, y: TensorType) -> TensorType:
        return x.with_dtype(y.dtype)

    def torch(self, t: TorchText, x: str, y: str) -> str:
        return f"{x}.to({y}.dtype)"

    def onnx(self, emit: Emitter, x: Handle, y: Handle) -> Handle:
        return emit.cast(x, y.type.dtype)


class Detach(Op):
    """x without its gradient.

    example: detach(x: Tensor[B, T]) -> Tensor[B, T]
    """

    smooth = ()
    keeps = Saved()
    name = "detach"
    elementwise = True
    x: ClassVar[Tensor]

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        return x

    def views(self, order: Sequence[int] | None, *operands: Operand) -> bool:
        return True

    def torch(self, t: TorchText, x: str) -> str:
        return f"{x}.detach()"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        return x

    def cost(self, results: Sequence[TensorType], *operands: Operand) -> Cost:
        return Cost(Dim.const(0))

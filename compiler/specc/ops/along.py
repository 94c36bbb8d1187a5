"""Functions along one axis: where the extremes are, what sums up to one, running sums (LANGUAGE 11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from specc.dims import Dim, Facts
from specc.op import Axis, Cost, Emitter, Handle, Op, Saved, Tensor, TorchText, axis_index, numel
from specc.ops import expect
from specc.ops.broadcasting import arithmetic_dtype
from specc.ops.precision import in_f32, widened
from specc.ops.reductions import reduced
from specc.types import DType, Operand, TensorType


class ArgMax(Op):
    """The index of the largest element along an axis; of equal ones the first.

    example: argmax(x: Tensor[B, T, 8], axis = -1) -> Int[B, T]
    example: argmax(x: Int[B, T], axis = 1, keepdim = true) -> Int[B, 1]
    """

    name = "argmax"
    x: ClassVar[Tensor]
    axis: Axis
    keepdim: bool = False

    onnx_type: ClassVar[str] = "ArgMax"

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        arithmetic_dtype((x,), f"take the {self.name} of")
        axis = axis_index(self.axis, x.rank)
        kept = (Dim.UNIT,) if self.keepdim else ()
        return TensorType(DType.I64, (*x.shape[:axis], *kept, *x.shape[axis + 1 :]))

    def torch(self, t: TorchText, x: str) -> str:
        keepdim = f", keepdim={t.attr('keepdim')}" if self.keepdim else ""
        return f"{x}.{self.name}({t.attr('axis')}{keepdim})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        axis = axis_index(self.axis, x.type.rank)
        return emit(self.onnx_type, x, axis=axis, keepdims=int(self.keepdim))

    def cost(self, results: Sequence[TensorType], *operands: Operand) -> Cost:
        x = operands[0]
        assert isinstance(x, TensorType)
        return Cost(numel(x))


class ArgMin(ArgMax):
    """The index of the smallest element along an axis; of equal ones the first.

    example: argmin(x: Tensor[B, T, 8], axis = 1) -> Int[B, 8]
    """

    name = "argmin"
    onnx_type = "ArgMin"


class Softmax(Op):
    """exp(x - max x) along one axis, normalised to sum to 1.

    example: softmax(x: Tensor[B, 8], axis = -1) -> Tensor[B, 8]
    example: softmax(x: Tensor[B, T, 8], axis = 1) -> Tensor[B, T, 8]
    """

    keeps = Saved(results=(0,))
    name = "softmax"
    x: ClassVar[Tensor]
    axis: Axis

    onnx_type: ClassVar[str] = "Softmax"

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        expect.floating(x, operand=0, what=f"{self.name}'s argument")
        axis_index(self.axis, x.rank)
        return x

    def torch(self, t: TorchText, x: str) -> str:
        return f"{x}.{self.name}({t.attr('axis')})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        axis = self.axis if self.axis == -1 else axis_index(self.axis, x.type.rank)
        return in_f32(emit, x, lambda wide: emit(self.onnx_type, wide, axis=axis))

    def cost(self, results: Sequence[TensorType], *operands: Operand) -> Cost:
        return Cost(numel(results[0]) * 5)


class LogSoftmax(Softmax):
    """log(softmax(x)), without overflow.

    example: log_softmax(x: Tensor[B, T, 8], axis = -1) -> Tensor[B, T, 8]
    """

    name = "log_softmax"
    onnx_type = "LogSoftmax"


class CumSum(Op):
    """Element i along the axis is the sum of elements 0 .. i.

    example: cumsum(x: Tensor[B, T], axis = 1) -> Tensor[B, T]
    example: cumsum(x: Int[B, T], axis = 0) -> Int[B, T]
    """

    keeps = Saved()
    name = "cumsum"
    x: ClassVar[Tensor]
    axis: Axis

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        arithmetic_dtype((x,), "sum")
        axis_index(self.axis, x.rank)
        return x

    def torch(self, t: TorchText, x: str) -> str:
        dtype = t.results[0].dtype
        same = f", dtype={t.dtype(dtype)}" if dtype.is_int and dtype is not DType.I64 else ""  # torch would widen
        return f"{x}.cumsum({t.attr('axis')}{same})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        axis = emit.const(axis_index(self.axis, x.type.rank), DType.I64)
        if x.type.dtype in (DType.I16, DType.I8, DType.U8):  # no such kernels
            return emit.cast(emit("CumSum", emit.cast(x, DType.I32), axis), x.type.dtype)
        return in_f32(emit, x, lambda wide: emit("CumSum", wide, axis))


class L2Normalize(Op):
    """x / max(norm(x), eps), the norm taken along one axis.

    example: l2_normalize(x: Tensor[B, T, 8], axis = -1) -> Tensor[B, T, 8]
    example: l2_normalize(x: Tensor[B, T], axis = 0, eps = 0.5) -> Tensor[B, T]
    """

    name = "l2_normalize"
    x: ClassVar[Tensor]
    axis: Axis
    eps: float = 1e-12

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        expect.floating(x, operand=0, what="x")
        axis_index(self.axis, x.rank)
        return x

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Operand) -> Saved:
        x = operands[0]
        assert isinstance(x, TensorType)
        axis = axis_index(self.axis, x.rank)
        length = x.with_shape((*x.shape[:axis], *x.shape[axis + 1 :]))
        return Saved((0,), own=(length, length))  # and the one that it is divided by

    def torch(self, t: TorchText, x: str) -> str:
        eps = f", eps={t.attr('eps')}" if self.eps != 1e-12 else ""
        return f"F.normalize({x}, dim={t.attr('axis')}{eps})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        axis = axis_index(self.axis, x.type.rank)
        wide = widened(emit, x)
        length = reduced(emit, "ReduceL2", wide, (axis,), keepdim=True)
        return emit.cast(emit("Div", wide, emit("Max", length, emit.scalar(self.eps, wide))), x.type.dtype)

    def cost(self, results: Sequence[TensorType], *operands: Operand) -> Cost:
        return Cost(numel(results[0]) * 3)

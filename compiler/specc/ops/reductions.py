"""Reductions over axes, and the functions that normalise or accumulate along one axis (LANGUAGE 11).

Without an axis a reduction is over all of them. Reduced axes disappear, or stay as unit axes with `keepdim = true`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from specc.dims import Dim, Facts
from specc.op import Axes, Cost, Emitter, Handle, Op, OpError, Saved, Tensor, TorchText, axis_index, numel
from specc.ops import expect
from specc.ops.broadcasting import arithmetic_dtype
from specc.ops.precision import in_f32
from specc.types import DType, Operand, Scalar, TensorType


def reduced(emit: Emitter, op_type: str, x: Handle, axes: Sequence[int], keepdim: bool) -> Handle:
    """A Reduce* node. Its axes are an input since opset 18 (`ReduceSum`: 13), an attribute before."""
    if emit.opset >= 18 or op_type == "ReduceSum":
        return emit(op_type, x, emit.const(list(axes), DType.I64), keepdims=int(keepdim))
    return emit(op_type, x, axes=list(axes), keepdims=int(keepdim))


class Reduction(Op):
    """One tensor in, the axes in `axis` reduced."""

    x: ClassVar[Tensor]
    axis: Axes = None
    keepdim: bool = False

    onnx_type: ClassVar[str]

    def axes(self, rank: int) -> tuple[int, ...]:
        """The reduced axes, counted from 0, in order. E105, E125."""
        if self.axis is None:
            return tuple(range(rank))
        axes = sorted(axis_index(axis, rank) for axis in self.axis)
        expect.setting(len(set(axes)) == len(axes), "axis", f"{self.name}: an axis is named twice: {list(self.axis)}")
        return tuple(axes)

    def element(self, x: TensorType) -> DType:
        """The result's dtype; raises `OpError` for an operand that cannot be reduced."""
        expect.floating(x, operand=0, what=f"{self.name}'s argument")
        return x.dtype

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        dtype = self.element(x)
        axes = self.axes(x.rank)
        if self.keepdim:
            return TensorType(dtype, tuple(Dim.UNIT if i in axes else d for i, d in enumerate(x.shape)))
        return TensorType(dtype, tuple(d for i, d in enumerate(x.shape) if i not in axes))

    def arguments(self, t: TorchText, **more: str) -> str:
        """The Python arguments after the operand: `dim=-1, keepdim=True`."""
        given: dict[str, str] = {}
        operand = t.operands[0]
        assert isinstance(operand, TensorType)
        if self.axis is not None and operand.rank:
            given["dim"] = t.attr("axis") if len(self.axis) > 1 else str(self.axis[0])
        elif self.keepdim and operand.rank:
            given["dim"] = str(tuple(range(operand.rank)))
        if self.keepdim and operand.rank:
            given["keepdim"] = t.attr("keepdim")
        return ", ".join(f"{name}={text}" for name, text in (given | more).items())

    def torch(self, t: TorchText, x: str) -> str:
        return f"{x}.{self.name}({self.arguments(t)})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        axes = self.axes(x.type.rank)
        if not axes:
            return self.of_scalar(emit, x)
        return in_f32(emit, x, lambda wide: reduced(emit, self.onnx_type, wide, axes, self.keepdim))

    def of_scalar(self, emit: Emitter, x: Handle) -> Handle:
        """The reduction of one number."""
        return x

    def cost(self, results: Sequence[TensorType], *operands: Operand) -> Cost:
        x = operands[0]
        assert isinstance(x, TensorType)
        return Cost(numel(x))


class NumericReduction(Reduction):
    """Ints are reduced in their own dtype."""

    def element(self, x: TensorType) -> DType:
        return arithmetic_dtype((x,), f"take the {self.name} of")


class Total(NumericReduction):
    """A sum or product: torch would widen small ints, so the dtype is said."""

    keeps = Saved()

    def torch(self, t: TorchText, x: str) -> str:
        dtype = t.results[0].dtype
        if dtype in (DType.I32, DType.I16, DType.I8, DType.U8):
            return f"{x}.{self.name}({self.arguments(t, dtype=t.dtype(dtype))})"
        return super().torch(t, x)


class Sum(Total):
    """The sum.

    example: sum(x: Tensor[B, T, 8], axis = -1) -> Tensor[B, T]
    example: sum(x: Tensor[B, T, 8]) -> Tensor[]
    example: sum(x: Tensor[B, T, 8], axis = [0, 2], keepdim = true) -> Tensor[1, T, 1]
    example: sum(x: Int[B, T], axis = 1) -> Int[B]
    example: sum(x: Tensor[B, T], axis = 2) -> error E105
    example: sum(x: Bool[B, T]) -> error S301
    """

    name = "sum"
    onnx_type = "ReduceSum"


class Prod(Total):
    """The product. One axis, or all.

    example: prod(x: Tensor[B, T, 8], axis = -1) -> Tensor[B, T]
    example: prod(x: Tensor[B, 3]) -> Tensor[]
    """

    keeps = Saved((0,), (0,))
    name = "prod"
    onnx_type = "ReduceProd"

    def torch(self, t: TorchText, x: str) -> str:
        operand = t.operands[0]
        assert isinstance(operand, TensorType)
        axes = self.axes(operand.rank)
        if (self.axis is None and not self.keepdim) or len(axes) == 1:
            return super().torch(t, x)
        for axis in axes:  # torch's prod takes one axis a time
            x = f"{x}.prod({axis}, keepdim=True)"
        return x if self.keepdim else f"{x}.squeeze({axes})"


class Mean(Reduction):
    """The arithmetic mean.

    example: mean(x: Tensor[B, T, 8], axis = -1) -> Tensor[B, T]
    example: mean(x: Tensor[B, T, 8], axis = [1, 2]) -> Tensor[B]
    example: mean(x: Tensor[B, T], axis = 1, keepdim = true) -> Tensor[B, 1]
    example: mean(x: Int[B, T]) -> error S301
    """

    keeps = Saved()
    name = "mean"
    onnx_type = "ReduceMean"


class Max(NumericReduction):
    """The largest element.

    example: max(x: Tensor[B, T, 8], axis = -1) -> Tensor[B, T]
    example: max(x: Int[B, T]) -> Int[]
    """

    keeps = Saved((0,), (0,))
    name = "max"
    onnx_type = "ReduceMax"

    def torch(self, t: TorchText, x: str) -> str:
        return f"{x}.a{self.name}({self.arguments(t)})"  # amax, amin: `max` with an axis returns indices too


class Min(Max):
    """The smallest element.

    example: min(x: Tensor[B, T, 8], axis = [0, -1], keepdim = true) -> Tensor[1, T, 1]
    """

    name = "min"
    onnx_type = "ReduceMin"


class Var(Reduction):
    """The variance: the sum of squared differences from the mean, over the number of elements less `correction`.

    example: var(x: Tensor[B, T, 8], axis = -1) -> Tensor[B, T]
    example: var(x: Tensor[B, T, 8], axis = [1, 2], correction = 0, keepdim = true) -> Tensor[B, 1, 1]
    example: var(x: Tensor[B, T], correction = 0) -> Tensor[]
    """

    name = "var"
    correction: int = 1

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        expect.setting(self.correction >= 0, "correction", f"{self.name}: `correction` must not be negative")
        return super().infer(facts, x)

    def torch(self, t: TorchText, x: str) -> str:
        correction = t.attr("correction")
        more = {} if correction == "1" else {"correction": correction}
        return f"{x}.{self.name}({self.arguments(t, **more)})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        axes = self.axes(x.type.rank)
        count = Dim.const(1)
        for axis in axes:
            count = count * x.type.shape[axis]
        return in_f32(emit, x, lambda wide: self._over(emit, wide, axes, count))

    def _over(self, emit: Emitter, x: Handle, axes: tuple[int, ...], count: Dim) -> Handle:
        if axes:
            centred = emit("Sub", x, reduced(emit, "ReduceMean", x, axes, keepdim=True))
            total = reduced(emit, "ReduceSum", emit("Mul", centred, centred), axes, self.keepdim)
        else:
            total = emit("Sub", x, x)
        freedom = emit.scalar(Scalar(count - self.correction), x)
        if self.correction > 1:
            freedom = emit("Max", freedom, emit.scalar(0.0, x))
        return emit("Div", total, freedom)


class Std(Var):
    """The standard deviation: the square root of `var`.

    example: std(x: Tensor[B, T, 8], axis = -1) -> Tensor[B, T]
    example: std(x: Tensor[B, T], correction = 0) -> Tensor[]
    """

    keeps = Saved((0,), (0,))
    name = "std"

    def _over(self, emit: Emitter, x: Handle, axes: tuple[int, ...], count: Dim) -> Handle:
        return emit("Sqrt", super()._over(emit, x, axes, count))


class LogSumExp(Reduction):
    """log(sum(exp(x))), without overflow.

    example: logsumexp(x: Tensor[B, T, 8], axis = -1) -> Tensor[B, T]
    """

    keeps = Saved((0,), (0,))
    name = "logsumexp"
    onnx_type = "ReduceLogSumExp"

    def torch(self, t: TorchText, x: str) -> str:
        operand = t.operands[0]
        assert isinstance(operand, TensorType)
        if operand.rank and (self.axis is not None or self.keepdim):
            return super().torch(t, x)
        return f"{x}.logsumexp({tuple(range(operand.rank)) or 0})"  # torch takes axis 0 of a number, not ()


class Norm(Reduction):
    """The Euclidean norm, sqrt(sum(x**2)).

    example: norm(x: Tensor[B, T, 8], axis = -1) -> Tensor[B, T]
    example: norm(x: Tensor[B, T], keepdim = true) -> Tensor[1, 1]
    """

    keeps = Saved((0,), (0,))
    name = "norm"
    onnx_type = "ReduceL2"

    def torch(self, t: TorchText, x: str) -> str:
        arguments = self.arguments(t)
        return f"torch.linalg.vector_norm({x}, {arguments})" if arguments else f"torch.linalg.vector_norm({x})"

    def of_scalar(self, emit: Emitter, x: Handle) -> Handle:
        return emit("Abs", x)


class Any(Reduction):
    """Whether any element is true.

    example: any(x: Bool[B, T], axis = -1) -> Bool[B]
    example: any(x: Bool[B, T]) -> Bool[]
    example: any(x: Tensor[B, T]) -> error S301
    """

    name = "any"
    onnx_type = "ReduceMax"

    def element(self, x: TensorType) -> DType:
        if x.dtype is not DType.BOOL:
            raise OpError(
                "S301",
                f"`{self.name}` takes a Bool tensor, found {x}",
                operand=0,
                found=str(x),
                help="compare first:  x != 0",
            )
        return DType.BOOL

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        axes = self.axes(x.type.rank)
        if not axes:
            return x
        # Reductions of bool itself came with opset 20 and have no kernel for it in every runtime.
        counted = reduced(emit, self.onnx_type, emit.cast(x, DType.I32), axes, self.keepdim)
        return emit.cast(counted, DType.BOOL)


class All(Any):
    """Whether all elements are true.

    example: all(x: Bool[B, T], axis = -1, keepdim = true) -> Bool[B, 1]
    """

    name = "all"
    onnx_type = "ReduceMin"

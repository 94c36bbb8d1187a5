"""Pooling over the spatial axes of [B, C, spatial..]."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar

from specc.dims import Dim, Facts
from specc.op import Cost, Dims, Emitter, Handle, Ints, Op, Saved, Tensor, TorchText, numel
from specc.ops import expect
from specc.ops.windows import both_sides, is_default, per_axis, slide, spatial_input
from specc.types import DType, TensorType


class _Pooling(Op):
    """A reduction of every window of kernel_size elements; without a stride, windows do not overlap.

    x [B, C, n..] -> [B, C, (n + 2*padding - kernel_size)//stride + 1, ..].
    """

    axes: ClassVar[int]
    onnx_name: ClassVar[str]
    module_name: ClassVar[str]
    x: ClassVar[Tensor]
    kernel_size: Ints
    stride: Ints = ()  # () is kernel_size
    padding: Ints = (0,)

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        spatial_input(x, self.axes)
        kernel, stride, padding = self._options()
        expect.setting(
            all(2 * p <= k for p, k in zip(padding, kernel, strict=True)),
            "padding",
            "padding must be at most half of kernel_size, else a window could lie outside the input",
        )
        return x.with_shape((*x.shape[:2], *slide(facts, x.shape[2:], kernel, stride, padding)))

    def _options(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """kernel_size, stride and padding per axis."""
        kernel = per_axis(self.kernel_size, self.axes, "kernel_size", least=1)
        stride = kernel if self._is_tiling() else per_axis(self.stride, self.axes, "stride", least=1)
        return kernel, stride, per_axis(self.padding, self.axes, "padding", least=0)

    def _is_tiling(self) -> bool:
        return not isinstance(self.stride, int) and not self.stride

    def _arguments(self, t: TorchText) -> list[str]:
        stride = [] if self._is_tiling() else [f"stride={t.attr('stride')}"]
        padding = [] if is_default(self.padding, 0) else [f"padding={t.attr('padding')}"]
        return [t.attr("kernel_size"), *stride, *padding]

    def torch(self, t: TorchText, x: str) -> str:
        return f"F.{self.name}({', '.join([x, *self._arguments(t)])})"

    def module(self, t: TorchText) -> str | None:
        return f"nn.{self.module_name}({', '.join(self._arguments(t))})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        return emit(self.onnx_name, x, **self._attributes())

    def _attributes(self) -> dict[str, Any]:
        kernel, stride, padding = self._options()
        attributes: dict[str, Any] = {"kernel_shape": list(kernel), "strides": list(stride)}
        if any(padding):
            attributes["pads"] = both_sides(padding)
        return attributes

    def cost(self, results: Sequence[TensorType], x: TensorType) -> Cost:
        return Cost(numel(results[0]) * prod(self._options()[0]))


class MaxPool1d(_Pooling):
    """The largest element of every window over one spatial axis; padding counts as minus infinity.

    x [B, C, T] -> [B, C, (T + 2*padding - kernel_size)//stride + 1].
    Source: torch.nn.functional.max_pool1d, ONNX MaxPool.

    example: max_pool1d(x: Tensor[B, 4, T], 3, stride = 2, padding = 1) -> Tensor[B, 4, (T - 1)//2 + 1]
    """

    name = "max_pool1d"
    axes, onnx_name, module_name = 1, "MaxPool", "MaxPool1d"

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Any) -> Saved:
        return Saved((0,), own=(results[0].with_dtype(DType.I64),))  # where each was found


class MaxPool2d(_Pooling):
    """The largest element of every window over two spatial axes; padding counts as minus infinity.

    x [B, C, Y, X] -> [B, C, Y', X'], n' = (n + 2*padding - kernel_size)//stride + 1.
    Source: torch.nn.functional.max_pool2d, ONNX MaxPool.

    example: max_pool2d(x: Tensor[B, 4, Y, X], 3, stride = 1, padding = 1) -> Tensor[B, 4, Y, X]
    example: max_pool2d(x: Tensor[B, 4, 8, 9], [2, 3]) -> Tensor[B, 4, 4, 3]
    """

    name = "max_pool2d"
    axes, onnx_name, module_name = 2, "MaxPool", "MaxPool2d"

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Any) -> Saved:
        return Saved((0,), own=(results[0].with_dtype(DType.I64),))  # where each was found


class _AveragePooling(_Pooling):
    """Padding counts as zeros, in the sum and in the number of elements, as torch does by default."""

    def _attributes(self) -> dict[str, Any]:
        attributes = super()._attributes()
        return {**attributes, "count_include_pad": 1} if "pads" in attributes else attributes


class AvgPool1d(_AveragePooling):
    """The mean of every window over one spatial axis; padding counts as zeros.

    x [B, C, T] -> [B, C, (T + 2*padding - kernel_size)//stride + 1].
    Source: torch.nn.functional.avg_pool1d, ONNX AveragePool.

    example: avg_pool1d(x: Tensor[B, 4, T], 3, stride = 2, padding = 1) -> Tensor[B, 4, (T - 1)//2 + 1]
    """

    name = "avg_pool1d"
    axes, onnx_name, module_name = 1, "AveragePool", "AvgPool1d"


class AvgPool2d(_AveragePooling):
    """The mean of every window over two spatial axes; padding counts as zeros.

    x [B, C, Y, X] -> [B, C, Y', X'], n' = (n + 2*padding - kernel_size)//stride + 1.
    Source: torch.nn.functional.avg_pool2d, ONNX AveragePool.

    example: avg_pool2d(x: Tensor[B, 4, Y, X], [3, 1], stride = 1, padding = [1, 0]) -> Tensor[B, 4, Y, X]
    example: avg_pool2d(x: Tensor[B, 4, 2*Y, 4*X], 2) -> Tensor[B, 4, Y, 2*X]
    """

    name = "avg_pool2d"
    axes, onnx_name, module_name = 2, "AveragePool", "AvgPool2d"


class AdaptiveAvgPool2d(Op):
    """Means over windows that divide each spatial axis into `size` parts, as evenly as whole elements allow.

    Window i of s over n elements is floor(i*n/s) .. ceil((i + 1)*n/s). x [B, C, Y, X] -> [B, C, size..].
    Source: torch.nn.functional.adaptive_avg_pool2d.

    example: adaptive_avg_pool2d(x: Tensor[B, 4, Y, X], 1) -> Tensor[B, 4, 1, 1]
    example: adaptive_avg_pool2d(x: Tensor[B, 4, 7, 6], [3, 2]) -> Tensor[B, 4, 3, 2]
    example: adaptive_avg_pool2d(x: Tensor[B, 4, Y, X], [3, 2]) -> Tensor[B, 4, 3, 2]
    example: adaptive_avg_pool2d(x: Tensor[B, 4, 8, 6], 2) -> Tensor[B, 4, 2, 2]
    """

    name = "adaptive_avg_pool2d"
    x: ClassVar[Tensor]
    size: Ints

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        spatial_input(x, 2)
        return x.with_shape((*x.shape[:2], *(Dim.const(s) for s in self._size())))

    def _size(self) -> tuple[int, ...]:
        return per_axis(self.size, 2, "size", least=1)

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Any) -> Saved:
        return Saved(() if self._size() == (1, 1) else (0,))  # torch takes the mean

    def torch(self, t: TorchText, x: str) -> str:
        return f"F.adaptive_avg_pool2d({x}, {t.attr('size')})"

    def module(self, t: TorchText) -> str | None:
        return f"nn.AdaptiveAvgPool2d({t.attr('size')})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        """Ordinary pooling where the windows are equal, else a product with a matrix of averaging weights per axis."""
        size = self._size()
        if is_default(size, 1):
            return emit("GlobalAveragePool", x)
        inputs = [n.value for n in x.type.shape[2:]]
        if all(n is not None and n % s == 0 for n, s in zip(inputs, size, strict=True)):
            kernel = [n // s for n, s in zip(inputs, size, strict=True) if n is not None]
            return emit("AveragePool", x, kernel_shape=kernel, strides=kernel)
        rows, columns = (_averaging(emit, n, s) for n, s in zip(x.type.shape[2:], size, strict=True))
        lines: Dims = (*x.type.shape[:3], Dim.const(size[1]))
        narrow = emit(
            "MatMul", x, emit.transpose(emit.cast(columns, x.type.dtype), [1, 0]), type=x.type.with_shape(lines)
        )
        return emit("MatMul", emit.cast(rows, x.type.dtype), narrow)

    def cost(self, results: Sequence[TensorType], x: TensorType) -> Cost:
        return Cost(numel(x))


def _averaging(emit: Emitter, n: Dim, size: int) -> Handle:
    """f32 [size, n]: row i holds 1/width in the columns of window i, else 0."""
    if n.value is not None:
        table = [[0.0] * n.value for _ in range(size)]
        for i, row in enumerate(table):
            start, end = i * n.value // size, -(-(i + 1) * n.value // size)
            row[start:end] = [1.0 / (end - start)] * (end - start)
        return emit.const(table, DType.F32)
    count, window = Dim.const(size), TensorType(DType.I64, (Dim.const(size), Dim.const(1)))
    length, parts = emit.dim(n), emit.const([size], DType.I64)
    index = emit.const([[i] for i in range(size)], DType.I64)
    follow = emit.const([[i + 1] for i in range(size)], DType.I64)
    begin = emit("Div", emit("Mul", index, length, type=window), parts, type=window)
    rounded_up = emit("Add", emit("Mul", follow, length, type=window), emit.const([size - 1], DType.I64), type=window)
    stop = emit("Div", rounded_up, parts, type=window)
    one_by_one = emit.const(0, DType.I64), emit.squeeze(length, [0]), emit.const(1, DType.I64)
    column = emit("Range", *one_by_one, type=TensorType(DType.I64, (n,)))
    table_type = TensorType(DType.BOOL, (count, n))
    after = emit("GreaterOrEqual", column, begin, type=table_type)
    inside = emit("And", after, emit("Less", column, stop, type=table_type), type=table_type)
    width = emit.cast(emit("Sub", stop, begin, type=window), DType.F32)
    return emit("Div", emit.cast(inside, DType.F32), width, type=TensorType(DType.F32, (count, n)))

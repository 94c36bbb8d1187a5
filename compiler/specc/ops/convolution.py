"""Convolutions over [B, C, spatial..] with weights in torch's layout."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod
from typing import Any, ClassVar

from specc.dims import Dim, Facts
from specc.op import Cost, Emitter, Handle, Ints, Op, OpError, Saved, Step, Tensor, TorchText, numel
from specc.ops import expect
from specc.ops.windows import SPATIAL, both_sides, is_default, per_axis, slide, spatial_input
from specc.types import Operand, TensorType


class _Convolution(Op):
    """out[b, o, i] = b[o] + sum over c, k of w[o, c, k] * x[b, group(o) + c, i*stride - padding + k*dilation].

    x [B, in, n..], w [out, in/groups, k..], b [out] -> [B, out, n'..], where
    n' = (n + 2*padding - dilation*(k - 1) - 1)//stride + 1. Each option is an int or one per spatial axis.
    """

    keeps = Saved((0, 1))
    factors = (0, 1)
    axes: ClassVar[int]
    x: ClassVar[Tensor]
    w: ClassVar[Tensor]
    b: ClassVar[Tensor | None]
    stride: Ints = (1,)
    padding: Ints = (0,)
    dilation: Ints = (1,)
    groups: int = 1

    def infer(self, facts: Facts, x: TensorType, w: TensorType, b: TensorType | None = None) -> TensorType:
        stride = per_axis(self.stride, self.axes, "stride", least=1)
        padding = per_axis(self.padding, self.axes, "padding", least=0)
        dilation = per_axis(self.dilation, self.axes, "dilation", least=1)
        kernel = _check_weights(facts, self.axes, x, w, b, self.groups)
        return x.with_shape((x.shape[0], w.shape[0], *slide(facts, x.shape[2:], kernel, stride, padding, dilation)))

    def torch(self, t: TorchText, x: str, w: str, b: str | None = None) -> str:
        options = [
            f"{name}={t.attr(name)}"
            for name, default in (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1))
            if not is_default(getattr(self, name), default)
        ]
        return f"F.{self.name}({', '.join([x, w, *_bias_text(b), *options])})"

    def onnx(self, emit: Emitter, x: Handle, w: Handle, b: Handle | None = None) -> Handle:
        padding = per_axis(self.padding, self.axes, "padding", least=0)
        return emit("Conv", x, w, *_given(b), **self._attributes(w, both_sides(padding)))

    def _attributes(self, w: Handle, pads: list[int]) -> dict[str, Any]:
        """ONNX attributes, those at their defaults left out."""
        attributes: dict[str, Any] = {"kernel_shape": list(_kernel(w.type))}
        if any(pads):
            attributes["pads"] = pads
        if not is_default(self.stride, 1):
            attributes["strides"] = list(per_axis(self.stride, self.axes, "stride", least=1))
        if not is_default(self.dilation, 1):
            attributes["dilations"] = list(per_axis(self.dilation, self.axes, "dilation", least=1))
        if self.groups != 1:
            attributes["group"] = self.groups
        return attributes

    def mixes(self, x: TensorType, w: TensorType, b: TensorType | None = None) -> Sequence[Collection[int]]:
        """The channels, and the spatial axes along which there is more than a kernel of 1 at every place."""
        stride = per_axis(self.stride, self.axes, "stride", least=1)
        padding = per_axis(self.padding, self.axes, "padding", least=0)
        slides = zip(_kernel(w), stride, padding, strict=True)
        return [(1, *(2 + i for i, slide in enumerate(slides) if slide != (1, 1, 0))), range(w.rank), (0,)]

    def cost(self, results: Sequence[TensorType], x: TensorType, w: TensorType, b: TensorType | None = None) -> Cost:
        return _conv_cost(numel(results[0]), w, b)


class Conv1d(_Convolution):
    """Convolution over one spatial axis; see `_Convolution` for the formula.

    x [B, in, T], w [out, in/groups, k], b [out] -> [B, out, (T + 2*padding - dilation*(k - 1) - 1)//stride + 1].
    Source: torch.nn.functional.conv1d, ONNX Conv.

    example: conv1d(x: Tensor[B, 4, T], w: Tensor[6, 4, 3], b: Tensor[6], padding = 1) -> Tensor[B, 6, T]
    example: conv1d(x: Tensor[B, 4, T], w: Tensor[6, 4, 1], b: Tensor[6]) -> Tensor[B, 6, T]
    example: conv1d(x: Tensor[B, 4, T], w: Tensor[6, 2, 1], stride = 2, groups = 2) -> Tensor[B, 6, (T - 1)//2 + 1]
    example: conv1d(x: Tensor[B, 4, T], w: Tensor[6, 4, 3], padding = 2, dilation = 2) -> Tensor[B, 6, T]
    """

    name = "conv1d"
    axes = 1


class Conv2d(_Convolution):
    """Convolution over two spatial axes.

    x [B, in, Y, X], w [out, in/groups, k, l], b [out] -> [B, out, Y', X'], with n' of conv1d per axis.
    Source: torch.nn.functional.conv2d, ONNX Conv.

    example: conv2d(x: Tensor[B, 3, Y, X], w: Tensor[8, 3, 3, 3], b: Tensor[8], padding = 1) -> Tensor[B, 8, Y, X]
    example: conv2d(x: Tensor[B, 4, Y, X], w: Tensor[4, 1, 3, 5], padding = [1, 2], groups = 4) -> Tensor[B, 4, Y, X]
    example: conv2d(x: Tensor[B, 4, 8, 6], w: Tensor[5, 4, 4, 2], stride = [4, 2]) -> Tensor[B, 5, 2, 3]
    """

    name = "conv2d"
    axes = 2


class Conv3d(_Convolution):
    """Convolution over three spatial axes.

    x [B, in, Z, Y, X], w [out, in/groups, k, l, m], b [out] -> [B, out, Z', Y', X'] with the sizes of conv2d.
    Source: torch.nn.functional.conv3d, ONNX Conv.

    example: conv3d(x: Tensor[B, 2, Z, Y, X], w: Tensor[4, 2, 1, 3, 3], padding = [0, 1, 1]) -> Tensor[B, 4, Z, Y, X]
    """

    name = "conv3d"
    axes = 3


class CausalConv1d(Op):
    """conv1d with (k - 1)*dilation zeros on the left: position t sees no later one. Decoding carries those frames.

    x [B, in, T], w [out, in/groups, k], b [out] -> [B, out, T].
    Source: the causal convolution of WaveNet (van den Oord et al., 2016) and Mamba.

    example: causal_conv1d(x: Tensor[B, 4, T], w: Tensor[4, 1, 3], b: Tensor[4], groups = 4) -> Tensor[B, 4, T]
    example: causal_conv1d(x: Tensor[B, 4, T], w: Tensor[6, 4, 3], dilation = 2) -> Tensor[B, 6, T]
    """

    name = "causal_conv1d"
    factors = (0, 1)
    x: ClassVar[Tensor]
    w: ClassVar[Tensor]
    b: ClassVar[Tensor | None]
    dilation: int = 1
    groups: int = 1

    def infer(self, facts: Facts, x: TensorType, w: TensorType, b: TensorType | None = None) -> TensorType:
        expect.setting(self.dilation >= 1, "dilation", f"dilation must be at least 1, found {self.dilation}")
        _check_weights(facts, 1, x, w, b, self.groups)
        return x.with_shape((x.shape[0], w.shape[0], x.shape[2]))

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Any) -> Saved:
        """x with its padding, if there is any."""
        x, frames = operands[0], self.frames(operands[1])
        return Saved((1,), own=(x.with_shape((*x.shape[:2], x.shape[2] + frames)),)) if frames else Saved((0, 1))

    def torch(self, t: TorchText, x: str, w: str, b: str | None = None) -> str:
        return self._conv(t, f"F.pad({x}, ({self._frames(t)}, 0))", w, b)

    def _conv(self, t: TorchText, x: str, w: str, b: str | None) -> str:
        options = [f"{n}={t.attr(n)}" for n in ("dilation", "groups") if getattr(self, n) != 1]
        return f"F.conv1d({x}, {', '.join([w, *_bias_text(b), *options])})"

    def _frames(self, t: TorchText) -> str:
        weights = t.operands[1]
        assert isinstance(weights, TensorType)
        size, dilation = t.dim(weights.shape[2]), "1" if self.dilation == 1 else t.attr("dilation")
        if size.isdigit() and dilation.isdigit():
            return str((int(size) - 1) * self.dilation)
        return f"{size} - 1" if self.dilation == 1 else f"({size} - 1) * {dilation}"

    def onnx(self, emit: Emitter, x: Handle, w: Handle, b: Handle | None = None) -> Handle:
        (size,) = _kernel(w.type)
        attributes: dict[str, Any] = {"kernel_shape": [size]}
        if size > 1:
            attributes["pads"] = [(size - 1) * self.dilation, 0]
        if self.dilation != 1:
            attributes["dilations"] = [self.dilation]
        if self.groups != 1:
            attributes["group"] = self.groups
        return emit("Conv", x, w, *_given(b), **attributes)

    def frames(self, w: Operand) -> int:
        """How many positions before the first one are read."""
        assert isinstance(w, TensorType) and w.shape[2].value is not None
        return (w.shape[2].value - 1) * self.dilation

    def mixes(self, x: TensorType, w: TensorType, b: TensorType | None = None) -> Sequence[Collection[int]]:
        return [(1,), (0, 1, 2), (0,)]  # and the positions before, which an incremental entry keeps

    def torch_step(self, t: TorchText, step: Step, x: str, w: str, b: str | None = None) -> str:
        return self._conv(t, f"cache.frames({x}, {self._frames(t)})", w, b)

    def onnx_step(self, emit: Emitter, step: Step, x: Handle, w: Handle, b: Handle | None = None) -> Handle:
        """x begins with the frames of earlier steps."""
        (size,) = _kernel(w.type)
        attributes: dict[str, Any] = {"kernel_shape": [size]}
        if self.dilation != 1:
            attributes["dilations"] = [self.dilation]
        if self.groups != 1:
            attributes["group"] = self.groups
        type_ = x.type.with_shape((x.type.shape[0], w.type.shape[0], x.type.shape[2] - self.frames(w.type)))
        return emit("Conv", x, w, *_given(b), type=type_, **attributes)

    def cost(self, results: Sequence[TensorType], x: TensorType, w: TensorType, b: TensorType | None = None) -> Cost:
        return _conv_cost(numel(results[0]), w, b)


class _TransposedConvolution(Op):
    """The gradient of a convolution with respect to its input: every input element adds its multiple of the kernel.

    x [B, in, n..], w [in, out/groups, k..], b [out] -> [B, out, (n - 1)*stride - 2*padding + k + output_padding, ..].
    Source: torch.nn.functional.conv_transpose1d and its kin.
    """

    keeps = Saved((0, 1))
    factors = (0, 1)
    axes: ClassVar[int]
    x: ClassVar[Tensor]
    w: ClassVar[Tensor]
    b: ClassVar[Tensor | None]
    stride: Ints = (1,)
    padding: Ints = (0,)
    output_padding: Ints = (0,)
    groups: int = 1

    def infer(self, facts: Facts, x: TensorType, w: TensorType, b: TensorType | None = None) -> TensorType:
        stride = per_axis(self.stride, self.axes, "stride", least=1)
        padding = per_axis(self.padding, self.axes, "padding", least=0)
        extra = per_axis(self.output_padding, self.axes, "output_padding", least=0)
        expect.setting(
            all(e < s for e, s in zip(extra, stride, strict=True)),
            "output_padding",
            "output_padding must be smaller than stride",
        )
        _check_groups(self.groups)
        spatial_input(x, self.axes)
        expect.rank(w, ("in", "out/groups", *SPATIAL[self.axes]), operand=1, what="w")
        expect.same_dtype(w, x.dtype, operand=1, what="w")
        expect.size(facts, x.shape[1], w.shape[0], operand=0, what="the channels of x (axis 1)")
        expect.multiple(facts, w.shape[0], self.groups, operand=1, what="the input channels of w (axis 0)")
        channels = w.shape[1] if self.groups == 1 else w.shape[1] * self.groups
        _check_bias(facts, b, x, channels)
        sizes = []
        for axis, (n, k) in enumerate(zip(x.shape[2:], _kernel(w), strict=True)):
            out = (n - 1) * stride[axis] - 2 * padding[axis] + k + extra[axis]
            expect.not_negative(facts, out, operand=0, what=f"the result's size along {SPATIAL[self.axes][axis]}")
            sizes.append(n if out == n else out)
        return x.with_shape((x.shape[0], channels, *sizes))

    def torch(self, t: TorchText, x: str, w: str, b: str | None = None) -> str:
        options = [
            f"{name}={t.attr(name)}"
            for name, default in (("stride", 1), ("padding", 0), ("output_padding", 0), ("groups", 1))
            if not is_default(getattr(self, name), default)
        ]
        return f"F.{self.name}({', '.join([x, w, *_bias_text(b), *options])})"

    def onnx(self, emit: Emitter, x: Handle, w: Handle, b: Handle | None = None) -> Handle:
        attributes: dict[str, Any] = {"kernel_shape": list(_kernel(w.type))}
        if not is_default(self.padding, 0):
            attributes["pads"] = both_sides(per_axis(self.padding, self.axes, "padding", least=0))
        if not is_default(self.stride, 1):
            attributes["strides"] = list(per_axis(self.stride, self.axes, "stride", least=1))
        if not is_default(self.output_padding, 0):
            attributes["output_padding"] = list(per_axis(self.output_padding, self.axes, "output_padding", least=0))
        if self.groups != 1:
            attributes["group"] = self.groups
        return emit("ConvTranspose", x, w, *_given(b), **attributes)

    def cost(self, results: Sequence[TensorType], x: TensorType, w: TensorType, b: TensorType | None = None) -> Cost:
        flops = 2 * numel(x) * w.shape[1] * prod(_kernel(w))
        return Cost(flops if b is None else flops + numel(results[0]), flops)


class ConvTranspose1d(_TransposedConvolution):
    """Transposed convolution over one spatial axis.

    x [B, in, T], w [in, out/groups, k], b [out] -> [B, out, (T - 1)*stride - 2*padding + k + output_padding].
    Source: torch.nn.functional.conv_transpose1d, ONNX ConvTranspose.

    example: conv_transpose1d(x: Tensor[B, 4, T], w: Tensor[4, 6, 4], stride = 2, padding = 1) -> Tensor[B, 6, 2*T]
    example: conv_transpose1d(x: Tensor[B, 4, T], w: Tensor[4, 3, 2], b: Tensor[3], stride = 3) -> Tensor[B, 3, 3*T - 1]
    example: conv_transpose1d(x: Tensor[B, 4, T], w: Tensor[4, 3, 2], groups = 3) -> error S201
    """

    name = "conv_transpose1d"
    axes = 1


class ConvTranspose2d(_TransposedConvolution):
    """Transposed convolution over two spatial axes.

    x [B, in, Y, X], w [in, out/groups, k, l], b [out] -> [B, out, Y', X'], with the size of conv_transpose1d per axis.
    Source: torch.nn.functional.conv_transpose2d, ONNX ConvTranspose.

    example: conv_transpose2d(x: Tensor[B, 4, Y, 3], w: Tensor[4, 5, 2, 2], stride = 2) -> Tensor[B, 5, 2*Y, 6]
    example: conv_transpose2d(x: Tensor[B, 4, 3, X], w: Tensor[4, 2, 3, 3], padding = 1) -> Tensor[B, 2, 3, X]
    """

    name = "conv_transpose2d"
    axes = 2


def _check_groups(groups: int) -> None:
    expect.setting(groups >= 1, "groups", f"groups must be at least 1, found {groups}")


def _check_weights(
    facts: Facts, axes: int, x: TensorType, w: TensorType, b: TensorType | None, groups: int
) -> tuple[int, ...]:
    """Check x [B, in, ..] against w [out, in/groups, k..] and b [out]; returns the kernel's sizes."""
    _check_groups(groups)
    spatial_input(x, axes)
    expect.rank(w, ("out", "in/groups", *SPATIAL[axes]), operand=1, what="w")
    expect.same_dtype(w, x.dtype, operand=1, what="w")
    expect.size(
        facts,
        x.shape[1],
        w.shape[1] * groups if groups > 1 else w.shape[1],
        operand=0,
        what="the channels of x (axis 1)",
    )
    expect.multiple(facts, w.shape[0], groups, operand=1, what="the output channels of w (axis 0)")
    _check_bias(facts, b, x, w.shape[0])
    return _kernel(w)


def _check_bias(facts: Facts, b: TensorType | None, x: TensorType, channels: Dim) -> None:
    if b is not None:
        expect.shape(facts, b, (channels,), operand=2, what="b")
        expect.same_dtype(b, x.dtype, operand=2, what="b")


def _kernel(w: TensorType) -> tuple[int, ...]:
    """The kernel's sizes: the trailing axes of w; S201 where one is not known at compile time."""
    sizes = []
    for axis, dim in enumerate(w.shape[2:], 2):
        if dim.value is None:
            raise OpError(
                "S201",
                f"the kernel size must be known at compile time: axis {axis} of w is {dim}",
                operand=1,
                found=str(w),
            )
        sizes.append(dim.value)
    return tuple(sizes)


def _bias_text(b: str | None) -> list[str]:
    """The bias as the third argument; an absent one is left out, its parameter's default being None."""
    return [] if b is None else [b]


def _given(b: Handle | None) -> tuple[Handle, ...]:
    return () if b is None else (b,)


def _conv_cost(elements: Dim, w: TensorType, b: TensorType | None) -> Cost:
    """A multiply-add per element of the result and of one output channel's kernel."""
    flops = 2 * elements * w.shape[1] * prod(_kernel(w))
    return Cost(flops if b is None else flops + elements, flops)

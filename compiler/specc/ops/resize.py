"""Changes of resolution: interpolate, pixel_shuffle, pixel_unshuffle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from specc.dims import Dim, Facts
from specc.op import Cost, Dims, Emitter, Handle, Op, OpError, Saved, Tensor, TorchText, numel
from specc.ops import expect
from specc.ops.windows import spatial_input
from specc.types import DType, TensorType

_TAPS = {"nearest": 0, "bilinear": 4, "bicubic": 16}
"""Input elements that one output element is mixed from."""
_MODES = {"nearest": "nearest", "bilinear": "linear", "bicubic": "cubic"}


class Interpolate(Op):
    """Resample the two spatial axes to `scale` times their size, or to `size`; exactly one of the two is given.

    x [B, C, Y, X] -> [B, C, scale*Y, scale*X] or [B, C, *size]. "nearest" reads element floor(i*n/m); "bilinear" and
    "bicubic" (a = -0.75) sample at (i + 0.5)*n/m - 0.5, with `align_corners` at i*(n - 1)/(m - 1).
    Source: torch.nn.functional.interpolate without antialiasing, ONNX Resize.

    example: interpolate(x: Tensor[B, 3, Y, X], scale = 2) -> Tensor[B, 3, 2*Y, 2*X]
    example: interpolate(x: Tensor[B, 3, Y, X], scale = 3, mode = "bilinear") -> Tensor[B, 3, 3*Y, 3*X]
    example: interpolate(x: Tensor[B, 3, Y, X], size = [7, 5], mode = "bicubic") -> Tensor[B, 3, 7, 5]
    example: interpolate(x: Tensor[B, 3, 14, X], size = [2, 9], mode = "nearest") -> Tensor[B, 3, 2, 9]
    example: interpolate(x: Tensor[B, 1, 3, 4], size = [5, 9], mode = "bilinear", align_corners = true)
        -> Tensor[B, 1, 5, 9]
    """

    keeps = Saved()
    name = "interpolate"
    x: ClassVar[Tensor]
    scale: int | None = None
    size: Dims = ()
    mode: Literal["nearest", "bilinear", "bicubic"] = "nearest"
    align_corners: bool = False

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        spatial_input(x, 2)
        if (self.scale is None) == (not self.size):
            raise OpError("E124" if self.scale is None else "E121", "give either `scale` or `size`", operand="size")
        expect.setting(self.scale is None or self.scale >= 1, "scale", f"scale must be at least 1, found {self.scale}")
        expect.setting(len(self.size) in (0, 2), "size", f"size must be two sizes, found {len(self.size)}")
        expect.setting(
            self.mode != "nearest" or not self.align_corners,
            "align_corners",
            'align_corners has no meaning with mode = "nearest"',
        )
        for dim in self.size:
            proof = facts.at_least(dim, 1)
            if not proof:
                raise OpError("S222", f"size must be at least 1, found {dim}", operand="size", proof=proof)
        return x.with_shape((*x.shape[:2], *self._sizes(x)))

    def _sizes(self, x: TensorType) -> tuple[Dim, ...]:
        return self.size if self.scale is None else tuple(n * self.scale for n in x.shape[2:])

    def _options(self, t: TorchText) -> list[str]:
        to = f"scale_factor={t.attr('scale')}" if self.scale is not None else f"size=({t.dims(self.size)})"
        mode = [] if self.mode == "nearest" else [f"mode={t.attr('mode')}"]
        return [to, *mode, *([f"align_corners={t.attr('align_corners')}"] if self.align_corners else [])]

    def torch(self, t: TorchText, x: str) -> str:
        return f"F.interpolate({', '.join([x, *self._options(t)])})"

    def module(self, t: TorchText) -> str | None:
        return None if any(dim.symbols for dim in self.size) else f"nn.Upsample({', '.join(self._options(t))})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        sizes = self._sizes(x.type)
        if self.mode == "nearest" and self.scale is None:
            rows = _pick(emit, x, 2, sizes[0])
            return _pick(emit, rows, 3, sizes[1])
        attributes: dict[str, Any] = {"mode": _MODES[self.mode], "coordinate_transformation_mode": "half_pixel"}
        if self.mode == "nearest":
            attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        elif self.align_corners:
            attributes["coordinate_transformation_mode"] = "align_corners"
        if self.mode == "bicubic":
            attributes["cubic_coeff_a"] = -0.75
        type_ = x.type.with_shape((*x.type.shape[:2], *sizes))
        if self.scale is not None and not self.align_corners:
            scales = emit.const([1.0, 1.0, float(self.scale), float(self.scale)], DType.F32)
            return emit("Resize", x, None, scales, type=type_, **attributes)
        return emit("Resize", x, None, None, emit.shape(type_.shape), type=type_, **attributes)

    def cost(self, results: Sequence[TensorType], x: TensorType) -> Cost:
        return Cost(2 * numel(results[0]) * _TAPS[self.mode])


def _pick(emit: Emitter, x: Handle, axis: int, size: Dim) -> Handle:
    """Elements floor(i * (n/size)) of an axis of n, in torch's f32 steps.

    Resize is not used: it divides by size/n instead, and for 14 -> 2 then takes element 6 where torch takes 7.
    """
    n = x.type.shape[axis]
    if n == size:
        return x
    places = _static_places(n.value, size.value) if n.value and size.value else None
    picked = emit.const(places, DType.I64) if places is not None else _places(emit, n, size)
    shape = (*x.type.shape[:axis], size, *x.type.shape[axis + 1 :])
    return emit("Gather", x, picked, type=x.type.with_shape(shape), axis=axis)


def _static_places(n: int, size: int) -> Any:
    import numpy as np

    step = np.float32(n) / np.float32(size)
    return np.minimum(np.floor(np.arange(size, dtype=np.float32) * step), n - 1).astype(np.int64)


def _places(emit: Emitter, n: Dim, size: Dim) -> Handle:
    vector, one = TensorType(DType.F32, (size,)), TensorType(DType.F32, (Dim.const(1),))
    ends = emit.const(0, DType.I64), emit.squeeze(emit.dim(size), [0]), emit.const(1, DType.I64)
    numbers = emit.cast(emit("Range", *ends, type=vector.with_dtype(DType.I64)), DType.F32)
    step = emit("Div", emit.cast(emit.dim(n), DType.F32), emit.cast(emit.dim(size), DType.F32), type=one)
    places = emit.cast(emit("Floor", emit("Mul", numbers, step, type=vector), type=vector), DType.I64)
    last = emit("Sub", emit.dim(n), emit.const([1], DType.I64), type=one.with_dtype(DType.I64))
    return emit("Min", places, last, type=vector.with_dtype(DType.I64))


class PixelShuffle(Op):
    """Channels become pixels: out[b, c, y*r + i, x*r + j] = x[b, c*r*r + i*r + j, y, x].

    x [B, C*r*r, Y, X] -> [B, C, Y*r, X*r]. Source: torch.nn.functional.pixel_shuffle, ONNX DepthToSpace in CRD mode.

    example: pixel_shuffle(x: Tensor[B, 8, Y, X], 2) -> Tensor[B, 2, 2*Y, 2*X]
    """

    keeps = Saved()
    name = "pixel_shuffle"
    x: ClassVar[Tensor]
    r: int

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        _check(x, self.r)
        expect.multiple(facts, x.shape[1], self.r**2, operand=0, what="the channels of x (axis 1)")
        batch, channels, height, width = x.shape
        return x.with_shape((batch, channels // self.r**2, height * self.r, width * self.r))

    def torch(self, t: TorchText, x: str) -> str:
        return f"F.pixel_shuffle({x}, {t.attr('r')})"

    def module(self, t: TorchText) -> str | None:
        return f"nn.PixelShuffle({t.attr('r')})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        return emit("DepthToSpace", x, blocksize=self.r, mode="CRD")

    def cost(self, results: Sequence[TensorType], x: TensorType) -> Cost:
        return Cost(Dim.const(0))


class PixelUnshuffle(Op):
    """Pixels become channels, the inverse of pixel_shuffle: out[b, c*r*r + i*r + j, y, x] = x[b, c, y*r + i, x*r + j].

    x [B, C, Y, X] -> [B, C*r*r, Y/r, X/r]. Source: torch.nn.functional.pixel_unshuffle. ONNX's SpaceToDepth has another
    order of channels, so the axes are moved explicitly.

    example: pixel_unshuffle(x: Tensor[B, 2, 6, 9], 3) -> Tensor[B, 18, 2, 3]
    example: pixel_unshuffle(x: Tensor[B, 2, 2*Y, 4*X], 2) -> Tensor[B, 8, Y, 2*X]
    """

    keeps = Saved()
    name = "pixel_unshuffle"
    x: ClassVar[Tensor]
    r: int

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        _check(x, self.r)
        for axis in (2, 3):
            expect.multiple(facts, x.shape[axis], self.r, operand=0, what=f"axis {axis} of x")
        batch, channels, height, width = x.shape
        return x.with_shape((batch, channels * self.r**2, height // self.r, width // self.r))

    def torch(self, t: TorchText, x: str) -> str:
        return f"F.pixel_unshuffle({x}, {t.attr('r')})"

    def module(self, t: TorchText) -> str | None:
        return f"nn.PixelUnshuffle({t.attr('r')})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        (batch, channels, height, width), r = x.type.shape, Dim.const(self.r)
        blocks = emit.reshape(x, (batch, channels, height // self.r, r, width // self.r, r))
        moved = emit.transpose(blocks, [0, 1, 3, 5, 2, 4])
        return emit.reshape(moved, (batch, channels * self.r**2, height // self.r, width // self.r))

    def cost(self, results: Sequence[TensorType], x: TensorType) -> Cost:
        return Cost(Dim.const(0))


def _check(x: TensorType, r: int) -> None:
    expect.setting(r >= 1, "r", f"r must be at least 1, found {r}")
    expect.rank(x, ("B", "C", "Y", "X"), operand=0, what="x")

"""Positions of tokens, and their sinusoidal embedding."""

from __future__ import annotations

from typing import ClassVar, Literal

from specc.dims import Dim, Facts
from specc.op import Emitter, Handle, Op, OpError, Step, Tensor, TorchText
from specc.ops import expect
from specc.ops.state import past
from specc.types import DType, Scalar, TensorType


class Positions(Op):
    """0, 1, .. along D; with a Bool mask [B, S] the number of visible positions before each one.

    That is clamp(cumsum(mask) - 1, min = 0), which lets prompts be padded on the left. In an incremental entry these
    are the positions of the new tokens, which is why the mask covers past(D) + D.

    example: positions(T) -> Int[T]
    example: positions(T, mask: Bool[B, T]) -> Int[B, T]
    example: positions(T, mask: Bool[B, K]) -> Int[B, T]
    example: positions(T, mask: Bool[B, S]) -> error S241
    """

    name = "positions"
    D: Dim
    mask: ClassVar[Tensor | None]

    elementwise = True

    def infer(self, facts: Facts, mask: TensorType | None) -> TensorType:
        if mask is None:
            return TensorType(DType.I64, (self.D,))
        if mask.dtype is not DType.BOOL:
            raise OpError(
                "S301",
                f"mask must be Bool, found {mask}",
                operand=1,
                expected="Bool",
                found=str(mask),
                help="mask != 0",
            )
        expect.rank(mask, ["B", "S"], operand=1, what="mask")
        batch, covered = mask.shape
        if covered != self.D:
            whole = past(self.D) + self.D if self.D.is_symbol() else self.D
            expect.size(facts, covered, whole, operand=1, what="the length of mask", code="S241")
        return TensorType(DType.I64, (batch, self.D))

    def torch(self, t: TorchText, mask: str | None) -> str:
        if mask is None:
            return f"torch.arange({t.dim(self.D)}, device={t.device()})"
        return f"({mask}.cumsum(-1) - 1).clamp(min=0)"

    def onnx(self, emit: Emitter, mask: Handle | None) -> Handle:
        if mask is None:
            return counted(emit, self.D)
        total = emit("CumSum", emit.cast(mask, DType.I64), emit.const(1, DType.I64))
        before = emit("Sub", total, emit.const(1, DType.I64))
        return emit("Max", before, emit.const(0, DType.I64))

    def torch_step(self, t: TorchText, step: Step, mask: str | None) -> str:
        if step.size != self.D:
            return self.torch(t, mask)
        start, size = t.dim(step.past), t.dim(self.D)
        if mask is None:
            return f"torch.arange({start}, {start} + {size}, device={t.device()})"
        return f"{self.torch(t, mask)}[:, {start}:]"

    def onnx_step(self, emit: Emitter, step: Step, mask: Handle | None) -> Handle:
        if step.size != self.D:
            return self.onnx(emit, mask)
        start = started(emit, step)
        if mask is None:
            return emit("Add", counted(emit, self.D), start)
        every = self.onnx(emit, mask)
        end = emit("Add", start, emit.dim(self.D))
        return emit(
            "Slice",
            every,
            start,
            end,
            emit.const([1], DType.I64),
            type=TensorType(DType.I64, (mask.type.shape[0], self.D)),
        )


def started(emit: Emitter, step: Step) -> Handle:
    """How many positions came before this step, as int64[1]."""
    return emit.dim(step.past) if step.start is None else step.start


def counted(emit: Emitter, size: Dim) -> Handle:
    """0, 1, .. size - 1 as int64[size]."""
    type_ = TensorType(DType.I64, (size,))
    zero, one = emit.const(0, DType.I64), emit.const(1, DType.I64)
    return emit("Range", zero, emit.scalar(Scalar(size), zero), one, type=type_)


class Sinusoidal(Op):
    """sin and cos of pos * base**(-i/(dim/2 - shift)), i = 0 .. dim/2 - 1 (Vaswani et al., 2017), computed in f32.

    `layout`: "interleaved" (sin, cos, sin, ..), "sin_cos" or "cos_sin" (halves). pos [..] gives [.., dim].

    example: sinusoidal(pos: Int[T], 8) -> Tensor[T, 8]
    example: sinusoidal(pos: Int[B, T], 8, base = 100.0, layout = "sin_cos", shift = 1) -> Tensor[B, T, 8]
    example: sinusoidal(pos: Tensor[B], 6, layout = "cos_sin") -> Tensor[B, 6]
    example: sinusoidal(pos: Int[T], 7) -> error E125
    """

    name = "sinusoidal"
    elementwise = True
    pos: ClassVar[Tensor]
    dim: int
    base: float = 10_000.0
    layout: Literal["interleaved", "sin_cos", "cos_sin"] = "interleaved"
    shift: int = 0

    def infer(self, facts: Facts, pos: TensorType) -> TensorType:
        if pos.dtype is DType.BOOL:
            raise OpError("S301", f"pos must be numbers, found {pos}", operand=0, found=str(pos))
        expect.setting(self.dim > 0 and self.dim % 2 == 0, "dim", f"sinusoidal: `dim` must be even, found {self.dim}")
        expect.setting(self.dim // 2 != self.shift, "shift", f"sinusoidal: `shift` must not be dim/2 = {self.shift}")
        expect.setting(self.base > 0, "base", f"sinusoidal: `base` must be positive, found {self.base}")
        return TensorType(DType.COMPUTE, (*pos.shape, Dim.const(self.dim)))

    def torch(self, t: TorchText, pos: str) -> str:
        name, last = _LAYOUTS[self.layout]
        helper = t.helper(name, _SINUSOIDAL.format(name=name, layout=_LAYOUT_TEXT[self.layout], last=last))
        more = [f"base={t.attr('base')}"] if t.attr("base") != "10000.0" else []
        more += [f"shift={t.attr('shift')}"] if t.attr("shift") != "0" else []
        return f"{helper}({', '.join([pos, t.attr('dim'), *more])}).to({t.dtype(DType.COMPUTE)})"

    def onnx(self, emit: Emitter, pos: Handle) -> Handle:
        half = self.dim // 2
        frequencies = [float(self.base) ** (-i / (half - self.shift)) for i in range(half)]
        is_sine = [True] * half + [False] * half
        if self.layout == "interleaved":
            frequencies = [f for f in frequencies for _ in range(2)]
            is_sine = [True, False] * half
        else:
            frequencies *= 2
            is_sine = is_sine if self.layout == "sin_cos" else is_sine[::-1]
        angles = emit("Mul", emit.unsqueeze(emit.cast(pos, DType.F32), (-1,)), emit.const(frequencies, DType.F32))
        # Both functions of every channel cost less than splitting the channels and joining them again.
        table = emit("Where", emit.const(is_sine, DType.BOOL), emit("Sin", angles), emit("Cos", angles))
        return emit.cast(table, DType.COMPUTE)


_LAYOUTS = {
    "interleaved": ("sinusoidal", "torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)"),
    "sin_cos": ("sinusoidal_sin_cos", "torch.cat((angles.sin(), angles.cos()), dim=-1)"),
    "cos_sin": ("sinusoidal_cos_sin", "torch.cat((angles.cos(), angles.sin()), dim=-1)"),
}
_LAYOUT_TEXT = {
    "interleaved": "sine and cosine alternate",
    "sin_cos": "first all sines, then all cosines",
    "cos_sin": "first all cosines, then all sines",
}
_SINUSOIDAL = '''\
def {name}(pos: torch.Tensor, dim: int, base: float = 10000.0, shift: int = 0) -> torch.Tensor:
    """Embed positions [..] as [.., dim], in float32: {layout}."""
    half = dim // 2
    freqs = base ** (-torch.arange(half, dtype=torch.float64) / (half - shift))
    angles = pos[..., None].float() * freqs.float().to(pos.device)
    return {last}
'''

"""Padding, rolling, reversing and repeating along an axis; triangles of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from specc.dims import Dim, Facts
from specc.op import Axis, Emitter, Handle, Number, OpError, Saved, Tensor, TorchText, axis_index
from specc.ops import expect
from specc.ops.broadcasting import Element
from specc.ops.positions import counted
from specc.ops.shape import Movement
from specc.types import DType, Scalar, TensorType


class Pad(Movement):
    """Adds `before` and `after` elements along an axis: `value`, or its own, mirrored or repeated ("replicate").

    Both are sizes, runtime ones too: `pad(x, axis = 1, before = 0, after = -T % 8)` fills up to a multiple of 8.

    example: pad(x: Tensor[B, T, 8], 1, 2, 1) -> Tensor[B, T + 3, 8]
    example: pad(x: Tensor[B, T], axis = 1, before = 0, after = 1, value = -1.0) -> Tensor[B, T + 1]
    example: pad(x: Int[B, T], 0, 1, 0) -> Int[B + 1, T]
    example: pad(x: Tensor[B, 8, T], 1, 2, 1, mode = "reflect") -> Tensor[B, 11, T]
    example: pad(x: Tensor[B, T, 8], 1, 2, 1, mode = "replicate") -> Tensor[B, T + 3, 8]
    example: pad(x: Tensor[B, T, 8], 1, 0, -T % 4) -> Tensor[B, T + -T % 4, 8]
    example: pad(x: Tensor[B, T, 8], 1, B, 2*B) -> Tensor[B, T + 3*B, 8]
    example: pad(x: Tensor[B, T, 8], 1, 0, T - 3) -> error S222
    """

    name = "pad"
    x: ClassVar[Tensor]
    axis: Axis
    before: Dim
    after: Dim
    mode: Literal["constant", "reflect", "replicate"] = "constant"
    value: float = 0.0

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        axis = axis_index(self.axis, x.rank)
        for name in ("before", "after"):
            width: Dim = getattr(self, name)
            expect.setting(
                width.value is None or width.value >= 0, name, f"pad: `{name}` must not be negative, found {width}"
            )
            expect.not_negative(facts, width, operand=name, what=f"`{name}`")
            if self.mode == "reflect":
                expect.not_negative(facts, x.shape[axis] - 1 - width, operand=0, what="the axis less what is mirrored")
        if x.dtype.is_int and self.value != int(self.value):
            raise OpError("S302", f"pad: `value` of an Int tensor must be whole, found {self.value}", operand="value")
        if x.dtype is DType.BOOL:
            raise OpError("S301", "pad: Bool tensors cannot be padded", operand=0, found=str(x), help="cast(x, i64)")
        size = x.shape[axis] + self.before + self.after
        return x.with_shape((*x.shape[:axis], size, *x.shape[axis + 1 :]))

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Any) -> Saved:
        return Saved() if self.mode == "constant" else Saved(own=(operands[0],))

    def torch(self, t: TorchText, x: str) -> str:
        operand = t.operands[0]
        assert isinstance(operand, TensorType)
        axis = axis_index(self.axis, operand.rank)
        widths = t.dims((self.before, self.after))
        if self.mode != "constant":  # torch mirrors and repeats the last axis, of matrices at least
            last = axis == operand.rank - 1
            moved = x if last else f"{x}.movedim({axis}, -1)"
            rows = f"{moved}.reshape(1, -1, {t.dim(operand.shape[axis])})"
            padded = f'F.pad({rows}, ({widths}), mode="{self.mode}")'
            shape = [d for i, d in enumerate(operand.shape) if i != axis]
            whole = f"{padded}.reshape({t.dims((*shape, t.results[0].shape[axis]))})"
            return whole if last else f"{whole}.movedim(-1, {axis})"
        zeros = "0, 0, " * (operand.rank - 1 - axis)
        if self.value == 0:
            return f"F.pad({x}, ({zeros}{widths}))"
        return f"F.pad({x}, ({zeros}{widths}), value={t.attr('value')})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        rank = x.type.rank
        axis = axis_index(self.axis, rank)
        pads = [Dim.const(0)] * (2 * rank)
        pads[axis], pads[rank + axis] = self.before, self.after
        widths = emit.shape(pads)
        shape = (*x.type.shape[:axis], x.type.shape[axis] + self.before + self.after, *x.type.shape[axis + 1 :])
        type_ = x.type.with_shape(shape)
        if self.mode == "constant":
            value = int(self.value) if x.type.dtype.is_int else self.value
            return emit("Pad", x, widths, emit.scalar(value, x), type=type_)
        return emit("Pad", x, widths, mode={"reflect": "reflect", "replicate": "edge"}[self.mode], type=type_)


class Roll(Movement):
    """Element i along the axis moves to i + n; what leaves at one end enters at the other.

    n may be computed: an Int tensor without axes.

    example: roll(x: Tensor[B, T, 8], 3, -1) -> Tensor[B, T, 8]
    example: roll(x: Tensor[B, T, 8], -2, 1) -> Tensor[B, T, 8]
    example: roll(x: Tensor[B, T, 8], n: Int[], 1) -> Tensor[B, T, 8]
    example: roll(x: Tensor[B, T, 8], n: Int[B], 1) -> error S202
    example: roll(x: Tensor[B, T, 8], 0.5, 1) -> error E125
    """

    name = "roll"
    x: ClassVar[Tensor]
    n: ClassVar[Tensor | Number]
    axis: Axis

    def infer(self, facts: Facts, x: TensorType, n: Element) -> TensorType:
        axis_index(self.axis, x.rank)
        if isinstance(n, TensorType):
            expect.indices(n, operand=1, what="n")
            expect.rank(n, (), operand=1, what="n")
        elif isinstance(n.value, (bool, float)):
            raise OpError("E125", f"roll: `n` must be a whole number, found {n}", operand=1, found=str(n))
        return x

    def torch(self, t: TorchText, x: str, n: str) -> str:
        operand, by = t.operands
        if isinstance(by, Scalar):
            return f"{x}.roll({n}, {t.attr('axis')})"
        assert isinstance(operand, TensorType)
        axis = axis_index(self.axis, operand.rank)
        size = t.dim(operand.shape[axis])
        return f"{x}.index_select({axis}, (torch.arange({size}, device={t.device()}) - {n}) % {size})"

    def onnx(self, emit: Emitter, x: Handle, n: Handle | Scalar) -> Handle:
        axis = axis_index(self.axis, x.type.rank)
        size = x.type.shape[axis]
        if not isinstance(n, Scalar):
            places = emit("Sub", counted(emit, size), emit.cast(n, DType.I64))
            return emit("Gather", x, emit("Mod", places, emit.dim(size), type=places.type), axis=axis, type=x.type)
        by = Dim.of(n.value) if isinstance(n.value, Dim) else Dim.const(int(n.value))
        at = emit.dim(size - by % size)  # where the part that moves to the front starts
        axes, start, end = emit.const([axis], DType.I64), emit.const([0], DType.I64), emit.const([2**63 - 1], DType.I64)
        front, back = emit("Slice", x, at, end, axes), emit("Slice", x, start, at, axes)
        return emit("Concat", front, back, axis=axis, type=x.type)


class Flip(Movement):
    """Reverses an axis.

    example: flip(x: Tensor[B, T, 8], 1) -> Tensor[B, T, 8]
    """

    name = "flip"
    x: ClassVar[Tensor]
    axis: Axis

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        axis_index(self.axis, x.rank)
        return x

    def torch(self, t: TorchText, x: str) -> str:
        return f"{x}.flip({t.attr('axis')})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        axis, last, before_all, step = axis_index(self.axis, x.type.rank), -1, -(2**63) + 1, -1
        bounds = [emit.const([n], DType.I64) for n in (last, before_all, axis, step)]
        return emit("Slice", x, *bounds, type=x.type)


class RepeatInterleave(Movement):
    """Every slice along the axis n times in a row.

    example: repeat_interleave(x: Tensor[B, T, 8], 3, 1) -> Tensor[B, 3*T, 8]
    """

    name = "repeat_interleave"
    x: ClassVar[Tensor]
    n: int
    axis: Axis

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        expect.setting(self.n >= 1, "n", f"repeat_interleave: `n` must be at least 1, found {self.n}")
        axis = axis_index(self.axis, x.rank)
        return x.with_shape((*x.shape[:axis], x.shape[axis] * self.n, *x.shape[axis + 1 :]))

    def torch(self, t: TorchText, x: str) -> str:
        return f"{x}.repeat_interleave({t.attr('n')}, dim={t.attr('axis')})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        axis = axis_index(self.axis, x.type.rank)
        shape = x.type.shape
        wide = (*shape[: axis + 1], Dim.const(self.n), *shape[axis + 1 :])
        repeats = emit.const([self.n if i == axis + 1 else 1 for i in range(len(wide))], DType.I64)
        repeated = emit("Expand", emit.unsqueeze(x, (axis + 1,)), repeats, type=x.type.with_shape(wide))
        return emit.reshape(repeated, (*shape[:axis], shape[axis] * self.n, *shape[axis + 1 :]))


class Tril(Movement):
    """The last two axes with all elements above diagonal k set to 0; k > 0 keeps more.

    example: tril(x: Tensor[B, T, T]) -> Tensor[B, T, T]
    example: tril(x: Bool[T, 5], k = -1) -> Bool[T, 5]
    """

    name = "tril"
    x: ClassVar[Tensor]
    k: int = 0

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        if x.rank < 2:
            raise OpError("S202", f"{self.name} needs at least 2 axes, found {x}", operand=0, found=str(x))
        return x

    def torch(self, t: TorchText, x: str) -> str:
        k = t.attr("k")
        return f"{x}.{self.name}({'' if k == '0' else k})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        k = None if self.k == 0 else emit.const(self.k, DType.I64)
        return emit("Trilu", x, k, upper=int(self.name == "triu"))


class Triu(Tril):
    """The last two axes with all elements below diagonal k set to 0; k > 0 keeps less.

    example: triu(x: Tensor[B, T, T], k = 1) -> Tensor[B, T, T]
    example: triu(x: Int[T, 5]) -> Int[T, 5]
    """

    name = "triu"

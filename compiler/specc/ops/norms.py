"""Normalisation. Statistics of f16 and bf16 are taken in f32 (LANGUAGE 8)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from specc.dims import Dim, Facts
from specc.op import Axis, Cost, Emitter, Handle, Op, OpError, Saved, Tensor, TorchText, axis_index, numel
from specc.ops import expect
from specc.ops.precision import widened
from specc.ops.reductions import reduced
from specc.types import DType, Operand, TensorType


class Norm(Op):
    """Keeps the type of its first operand; about eight operations an element."""

    x: ClassVar[Tensor]

    def cost(self, results: Sequence[TensorType], *operands: Operand) -> Cost:
        return Cost(numel(results[0]) * 8)


class LayerNorm(Norm):
    """(x - mean) / sqrt(var + eps) * w + b over one axis (Ba et al., 2016); var is the mean of squares.

    Without w it is not scaled, without b not shifted.

    example: layer_norm(x: Tensor[B, T, 8], w: Tensor[8], b: Tensor[8]) -> Tensor[B, T, 8]
    example: layer_norm(x: Tensor[B, T, 8], w: Tensor[8], eps = 0.01) -> Tensor[B, T, 8]
    example: layer_norm(x: Tensor[B, T, 8]) -> Tensor[B, T, 8]
    example: layer_norm(x: Tensor[B, T, 8], axis = 1) -> Tensor[B, T, 8]
    example: layer_norm(x: Tensor[B, 8, T], w: Tensor[8], b: Tensor[8], axis = 1) -> Tensor[B, 8, T]
    example: layer_norm(x: Tensor[B, T, 8], w: Tensor[7], b: Tensor[7]) -> error S201
    """

    name = "layer_norm"
    w: ClassVar[Tensor | None]
    b: ClassVar[Tensor | None]
    eps: float = 1e-5
    axis: Axis = -1

    def infer(self, facts: Facts, x: TensorType, w: TensorType | None, b: TensorType | None) -> TensorType:
        expect.floating(x, operand=0, what="x")
        axis = axis_index(self.axis, x.rank)
        _per_channel(facts, x, axis, w=w, b=b)
        return x

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Any) -> Saved:
        x = operands[0]
        axis = axis_index(self.axis, x.rank)
        kept = tuple(i for i in (0, 1, 2) if operands[i] is not None)
        return Saved(kept, own=_statistics(x, (*x.shape[:axis], *x.shape[axis + 1 :])))

    def torch(self, t: TorchText, x: str, w: str | None, b: str | None) -> str:
        operand = t.operands[0]
        assert isinstance(operand, TensorType)
        axis = axis_index(self.axis, operand.rank)
        size = f"{w}.shape" if w is not None else f"({t.dim(operand.shape[axis])},)"
        weights = f"{w}, {b}, {t.attr('eps')}" if (w, b) != (None, None) else f"eps={t.attr('eps')}"
        if axis == operand.rank - 1:
            return f"F.layer_norm({x}, {size}, {weights})"
        return f"F.layer_norm({x}.movedim({axis}, -1), {size}, {weights}).movedim(-1, {axis})"

    in_onnx = (("LayerNormalization", 17),)

    def onnx(self, emit: Emitter, x: Handle, w: Handle | None, b: Handle | None) -> Handle:
        rank = x.type.rank
        axis = axis_index(self.axis, rank)
        w = w or _filled(emit, x, axis, 1.0)
        there = [*(i for i in range(rank) if i != axis), axis]
        back = sorted(range(rank), key=there.__getitem__)
        y = emit("LayerNormalization", emit.transpose(x, there), w, b, axis=-1, epsilon=float(self.eps))
        return emit.transpose(y, back)


class RMSNorm(Norm):
    """x / sqrt(mean(x**2) + eps) * (offset + w) over the last axis (Zhang and Sennrich, 2019). Without w unscaled.

    example: rms_norm(x: Tensor[B, T, 8], w: Tensor[8]) -> Tensor[B, T, 8]
    example: rms_norm(x: Tensor[B, T, 8], w: Tensor[8], eps = 0.01, offset = 1.0) -> Tensor[B, T, 8]
    example: rms_norm(x: Tensor[B, T, 8]) -> Tensor[B, T, 8]
    example: rms_norm(x: Int[B, 8], w: Tensor[8]) -> error S301
    example: rms_norm(x: Tensor[B, 8], offset = 1.0) -> error E125
    """

    name = "rms_norm"
    w: ClassVar[Tensor | None]
    eps: float = 1e-6
    offset: float = 0.0

    def infer(self, facts: Facts, x: TensorType, w: TensorType | None) -> TensorType:
        expect.floating(x, operand=0, what="x")
        lone = w is None and self.offset != 0
        expect.setting(not lone, "offset", "rms_norm: `offset` is added to w, which is not given")
        _per_channel(facts, x, axis_index(-1, x.rank), w=w)
        return x

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Any) -> Saved:
        """torch computes it of smaller operators: the roots, and what is scaled."""
        x, w = operands
        own = (TensorType(DType.F32, x.shape[:-1]), x)
        if w is None:
            return Saved((0,), own=own[:1])
        return Saved((0,), own=(*own, w)) if self.offset else Saved((0, 1), own=own)

    def torch(self, t: TorchText, x: str, w: str | None) -> str:
        if w is None:
            operand = t.operands[0]
            assert isinstance(operand, TensorType)
            return f"F.rms_norm({x}, ({t.dim(operand.shape[-1])},), eps={t.attr('eps')})"
        offset = t.attr("offset")
        scale = w if offset == "0.0" else f"{offset} + {w}"
        return f"F.rms_norm({x}, {w}.shape, {scale}, {t.attr('eps')})"

    in_onnx = (("RMSNormalization", 23),)

    def onnx(self, emit: Emitter, x: Handle, w: Handle | None) -> Handle:
        scale = w if w is None or self.offset == 0 else emit("Add", w, emit.scalar(self.offset, w))
        if emit.opset >= 23:
            scale = scale or _filled(emit, x, -1, 1.0)
            return emit("RMSNormalization", x, scale, axis=-1, epsilon=float(self.eps))
        wide = widened(emit, x)
        mean = reduced(emit, "ReduceMean", emit("Mul", wide, wide), (-1,), keepdim=True)
        root = emit("Sqrt", emit("Add", mean, emit.scalar(self.eps, mean)))
        normal = emit.cast(emit("Div", wide, root), x.type.dtype)
        return normal if scale is None else emit("Mul", normal, scale)

    def mixes(self, x: TensorType, w: TensorType | None) -> Sequence[Collection[int]]:
        return [(x.rank - 1,), (0,)]


class GroupNorm(Norm):
    """(x - mean) / sqrt(var + eps) * w + b over each group of channels (axis 1) and all later axes (Wu and He, 2018).

    example: group_norm(x: Tensor[B, 8, T], 2, w: Tensor[8], b: Tensor[8]) -> Tensor[B, 8, T]
    example: group_norm(x: Tensor[B, 6, Y, X], 3, w: Tensor[6], b: Tensor[6], eps = 0.01) -> Tensor[B, 6, Y, X]
    example: group_norm(x: Tensor[B, 8, T], 2) -> Tensor[B, 8, T]
    example: group_norm(x: Tensor[B, 8, T], 3, w: Tensor[8], b: Tensor[8]) -> error S201
    """

    name = "group_norm"
    groups: int
    w: ClassVar[Tensor | None]
    b: ClassVar[Tensor | None]
    eps: float = 1e-5

    def infer(self, facts: Facts, x: TensorType, w: TensorType | None, b: TensorType | None) -> TensorType:
        _channels_first(x)
        expect.setting(self.groups >= 1, "groups", f"group_norm: `groups` must be at least 1, found {self.groups}")
        expect.multiple(facts, x.shape[1], self.groups, operand=0, what="axis 1 of x")
        _per_channel(facts, x, 1, w=w, b=b)
        return x

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Any) -> Saved:
        x = operands[0]
        kept = (0, 1) if operands[1] is not None else (0,)
        return Saved(kept, own=_statistics(x, (x.shape[0], Dim.const(self.groups))))

    def torch(self, t: TorchText, x: str, w: str | None, b: str | None) -> str:
        # F.group_norm is this call behind a check that refuses one value per group.
        return f"torch.group_norm({x}, {t.attr('groups')}, {w}, {b}, {t.attr('eps')})"

    def onnx(self, emit: Emitter, x: Handle, w: Handle | None, b: Handle | None) -> Handle:
        # onnxruntime expands GroupNormalization into 29 nodes; an instance of this form is a group.
        shape = x.type.shape
        size = Dim.const(1)
        for dim in shape[1:]:
            size = size * dim
        grouped = emit.reshape(x, (shape[0], Dim.const(self.groups), size // self.groups))
        ones, zeros = ([value] * self.groups for value in (1.0, 0.0))
        dtype = x.type.dtype
        normal = emit(
            "InstanceNormalization", grouped, emit.const(ones, dtype), emit.const(zeros, dtype), epsilon=float(self.eps)
        )
        after = range(1, x.type.rank - 1)
        scaled = emit.reshape(normal, shape)
        scaled = scaled if w is None else emit("Mul", scaled, emit.unsqueeze(w, after))
        return scaled if b is None else emit("Add", scaled, emit.unsqueeze(b, after))


class InstanceNorm(Norm):
    """(x - mean) / sqrt(var + eps) * w + b over all axes after the channels (axis 1) (Ulyanov et al., 2016).

    example: instance_norm(x: Tensor[B, 8, T, 2], w: Tensor[8], b: Tensor[8]) -> Tensor[B, 8, T, 2]
    example: instance_norm(x: Tensor[B, 3, Y, X], w: Tensor[3], b: Tensor[3], eps = 0.01) -> Tensor[B, 3, Y, X]
    example: instance_norm(x: Tensor[B, 3, T]) -> Tensor[B, 3, T]
    example: instance_norm(x: Tensor[B, 8], w: Tensor[8], b: Tensor[8]) -> error S202
    """

    name = "instance_norm"
    w: ClassVar[Tensor | None]
    b: ClassVar[Tensor | None]
    eps: float = 1e-5

    def infer(self, facts: Facts, x: TensorType, w: TensorType | None, b: TensorType | None) -> TensorType:
        _channels_first(x, at_least=3)
        _per_channel(facts, x, 1, w=w, b=b)
        return x

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Any) -> Saved:
        kept = (0, 1) if operands[1] is not None else (0,)
        return Saved(kept, own=_statistics(operands[0], operands[0].shape[:2]))

    def torch(self, t: TorchText, x: str, w: str | None, b: str | None) -> str:
        # One group per channel. F.instance_norm is the same but refuses maps of one element, which have a value: b.
        operand = t.operands[0]
        assert isinstance(operand, TensorType)
        groups = f"{w}.shape[0]" if w is not None else t.dim(operand.shape[1])
        return f"torch.group_norm({x}, {groups}, {w}, {b}, {t.attr('eps')})"

    def onnx(self, emit: Emitter, x: Handle, w: Handle | None, b: Handle | None) -> Handle:
        w, b = w or _filled(emit, x, 1, 1.0), b or _filled(emit, x, 1, 0.0)
        return emit("InstanceNormalization", x, w, b, epsilon=float(self.eps))


class BatchNorm(Norm):
    """(x - mean) / sqrt(var + eps) * w + b with running statistics per channel (axis 1) (Ioffe and Szegedy, 2015).

    In training the statistics are the batch's; `mean` and `var` move towards them by `momentum`, and `count` goes up.

    example: batch_norm(x: Tensor[B, 8, T], w: Tensor[8], b: Tensor[8], mean: Tensor[8], var: Tensor[8], count: Int[])
        -> Tensor[B, 8, T]
    example: batch_norm(x: Tensor[B, 8], w: Tensor[8], b: Tensor[8], mean: Tensor[8], var: Tensor[7], count: Int[])
        -> error S201
    """

    keeps = Saved((0, 1, 3, 4))
    name = "batch_norm"
    elementwise = True  # outside training
    w: ClassVar[Tensor]
    b: ClassVar[Tensor]
    mean: ClassVar[Tensor]
    var: ClassVar[Tensor]
    count: ClassVar[Tensor]
    eps: float = 1e-5
    momentum: float = 0.1

    def infer(
        self,
        facts: Facts,
        x: TensorType,
        w: TensorType,
        b: TensorType,
        mean: TensorType,
        var: TensorType,
        count: TensorType,
    ) -> TensorType:
        _channels_first(x)
        _per_channel(facts, x, 1, w=w, b=b, mean=mean, var=var)
        expect.indices(count, operand=5, what="count")
        expect.rank(count, [], operand=5, what="count")
        return x

    def torch(self, t: TorchText, x: str, w: str, b: str, mean: str, var: str, count: str) -> str:
        name = t.helper("batch_norm", _BATCH_NORM)
        return f"{name}({x}, {w}, {b}, {mean}, {var}, {count}, self.training, {t.attr('momentum')}, {t.attr('eps')})"

    def onnx(self, emit: Emitter, x: Handle, w: Handle, b: Handle, mean: Handle, var: Handle, count: Handle) -> Handle:
        return emit("BatchNormalization", x, w, b, mean, var, epsilon=float(self.eps))


_BATCH_NORM = '''\
def batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    count: torch.Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> torch.Tensor:
    """F.batch_norm that also counts the batches it has seen, as nn.BatchNorm2d does."""
    if training:
        count.add_(1)
    return F.batch_norm(x, mean, var, weight, bias, training, momentum, eps)
'''


def _statistics(x: TensorType, groups: Sequence[Dim]) -> tuple[TensorType, TensorType]:
    """The mean of each group, and its deviation."""
    return (TensorType(x.dtype, tuple(groups)),) * 2


def _filled(emit: Emitter, x: Handle, axis: int, value: float) -> Handle:
    """A weight for operators of ONNX that want one: `value` for each size of that axis of x."""
    size, dtype = x.type.shape[axis], x.type.dtype
    if size.value is not None:
        return emit.const([value] * size.value, dtype)
    one = emit.const(value, dtype)
    return emit("Expand", one, emit.shape((size,)), type=TensorType(dtype, (size,)))


def _channels_first(x: TensorType, at_least: int = 2) -> None:
    expect.floating(x, operand=0, what="x")
    if x.rank < at_least:
        raise OpError(
            "S202", f"x must have at least {at_least} axes, channels second; found {x}", operand=0, found=str(x)
        )


def _per_channel(facts: Facts, x: TensorType, axis: int, **weights: TensorType | None) -> None:
    """Every weight has one number for each size of that axis of x, and x's dtype."""
    for i, (name, weight) in enumerate(weights.items()):
        if weight is not None:
            expect.same_dtype(weight, x.dtype, operand=i + 1, what=name)
            expect.shape(facts, weight, [x.shape[axis]], operand=i + 1, what=name)

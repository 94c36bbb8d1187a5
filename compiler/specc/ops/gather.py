"""Reading and writing by computed positions: take, gather, take_along, scatter_add, one_hot, topk, sort."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from specc.dims import Dim, Facts
from specc.op import Axis, Cost, Emitter, Handle, Op, OpError, Saved, Tensor, TorchText, axis_index, numel
from specc.ops import expect
from specc.types import DType, TensorType


class Take(Op):
    """Elements of one axis by number; negative numbers count from the end.

    x [a.., n, b..], idx Int [J..] -> [a.., J.., b..]. Source: numpy.take, ONNX Gather.

    example: take(x: Tensor[5, 4], idx: Int[B, T]) -> Tensor[B, T, 4]
    example: take(x: Tensor[B, 5, 4], idx: Int[T], axis = 1) -> Tensor[B, T, 4]
    """

    keeps = Saved((1,))
    name = "take"
    picks = 0
    x: ClassVar[Tensor]
    idx: ClassVar[Tensor]
    axis: Axis = 0

    def infer(self, facts: Facts, x: TensorType, idx: TensorType) -> TensorType:
        axis = axis_index(self.axis, x.rank)
        expect.indices(idx, operand=1, what="idx")
        return x.with_shape((*x.shape[:axis], *idx.shape, *x.shape[axis + 1 :]))

    def torch(self, t: TorchText, x: str, idx: str) -> str:
        return f"{x}[{':, ' * axis_index(self.axis, _rank(t, 0))}{idx}]"

    def onnx(self, emit: Emitter, x: Handle, idx: Handle) -> Handle:
        axis = axis_index(self.axis, x.type.rank)
        return emit("Gather", x, idx, axis=axis)

    def cost(self, results: Sequence[TensorType], x: TensorType, idx: TensorType) -> Cost:
        return Cost(Dim.const(0))

    def mixes(self, x: TensorType, idx: TensorType) -> Sequence[Collection[int]]:
        return [self._mixed(x.rank), ()]


class Gather(Op):
    """Elements of one axis by number, chosen separately for every index of the axes before it.

    x [lead.., n, rest..], idx Int [lead.., J..] -> [lead.., J.., rest..], out[l, j] = x[l, idx[l, j]].
    Source: ONNX GatherND with batch_dims.

    example: gather(x: Tensor[B, 5, 4], idx: Int[B], axis = 1) -> Tensor[B, 4]
    example: gather(x: Tensor[B, H, 5, 4], idx: Int[B, H, T], axis = 2) -> Tensor[B, H, T, 4]
    example: gather(x: Tensor[5, 4], idx: Int[B, T], axis = 0) -> Tensor[B, T, 4]
    """

    name = "gather"
    picks = 0
    x: ClassVar[Tensor]
    idx: ClassVar[Tensor]
    axis: Axis

    def infer(self, facts: Facts, x: TensorType, idx: TensorType) -> TensorType:
        axis = axis_index(self.axis, x.rank)
        expect.indices(idx, operand=1, what="idx")
        if idx.rank < axis:
            raise OpError(
                "S202",
                f"idx must begin with the {axis} axes of x before the gathered one, found {idx.rank}",
                operand=1,
                found=str(idx),
            )
        for lead in range(axis):
            expect.size(facts, idx.shape[lead], x.shape[lead], operand=1, what=f"axis {lead} of idx")
        return x.with_shape((*x.shape[:axis], *idx.shape[axis:], *x.shape[axis + 1 :]))

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Any) -> Saved:
        """The numbers, and those of the axes before."""
        before = operands[0].shape[: axis_index(self.axis, operands[0].rank)]
        return Saved((1,), own=tuple(TensorType(DType.I64, (size,)) for size in before))

    def torch(self, t: TorchText, x: str, idx: str) -> str:
        axis, rank = axis_index(self.axis, _rank(t, 0)), _rank(t, 1)
        type_ = t.operands[0]
        assert isinstance(type_, TensorType)
        leads = []
        for lead in range(axis):
            numbers = f"torch.arange({t.dim(type_.shape[lead])}, device={t.device()})"
            leads.append(numbers if rank == lead + 1 else f"{numbers}[:{', None' * (rank - lead - 1)}]")
        return f"{x}[{', '.join([*leads, idx])}]"

    def onnx(self, emit: Emitter, x: Handle, idx: Handle) -> Handle:
        axis = axis_index(self.axis, x.type.rank)
        if axis == 0:
            return emit("Gather", x, idx, axis=0)
        return emit("GatherND", x, emit.unsqueeze(idx, [idx.type.rank]), batch_dims=axis)

    def cost(self, results: Sequence[TensorType], x: TensorType, idx: TensorType) -> Cost:
        return Cost(Dim.const(0))

    def mixes(self, x: TensorType, idx: TensorType) -> Sequence[Collection[int]]:
        return [self._mixed(x.rank), ()]


class TakeAlong(Op):
    """Elements of one axis by number, chosen separately for every index of all other axes.

    x [.., n, ..], idx Int of the same rank, no longer than x on the other axes -> idx's shape;
    out[i, j, k] = x[i, idx[i, j, k], k] for axis 1. Source: torch.gather, ONNX GatherElements.

    example: take_along(x: Tensor[B, T, 5], idx: Int[B, T, 3], axis = -1) -> Tensor[B, T, 3]
    """

    name = "take_along"
    picks = 0
    x: ClassVar[Tensor]
    idx: ClassVar[Tensor]
    axis: Axis

    def infer(self, facts: Facts, x: TensorType, idx: TensorType) -> TensorType:
        axis = axis_index(self.axis, x.rank)
        expect.indices(idx, operand=1, what="idx")
        _within(facts, idx, x, axis)
        return x.with_shape(idx.shape)

    def torch(self, t: TorchText, x: str, idx: str) -> str:
        return f"{x}.gather({t.attr('axis')}, {idx})"

    def onnx(self, emit: Emitter, x: Handle, idx: Handle) -> Handle:
        return emit("GatherElements", x, idx, axis=axis_index(self.axis, x.type.rank))

    def cost(self, results: Sequence[TensorType], x: TensorType, idx: TensorType) -> Cost:
        return Cost(Dim.const(0))


class ScatterAdd(Op):
    """x with every element of `src` added at the place that `idx` gives along one axis; repeated places add up.

    x [.., n, ..], idx Int and src of one shape, no longer than x on the other axes -> x's shape;
    out[i, idx[i, j]] += src[i, j] for axis 1. Source: torch.scatter_add, ONNX ScatterElements.

    example: scatter_add(x: Tensor[B, 4, 5], idx: Int[B, 4, T], src: Tensor[B, 4, T], axis = 2) -> Tensor[B, 4, 5]
    """

    keeps = Saved((1,))
    name = "scatter_add"
    x: ClassVar[Tensor]
    idx: ClassVar[Tensor]
    src: ClassVar[Tensor]
    axis: Axis

    def infer(self, facts: Facts, x: TensorType, idx: TensorType, src: TensorType) -> TensorType:
        axis = axis_index(self.axis, x.rank)
        expect.indices(idx, operand=1, what="idx")
        _within(facts, idx, x, axis)
        expect.same_dtype(src, x.dtype, operand=2, what="src")
        expect.shape(facts, src, idx.shape, operand=2, what="src")
        return x

    def torch(self, t: TorchText, x: str, idx: str, src: str) -> str:
        return f"{x}.scatter_add({t.attr('axis')}, {idx}, {src})"

    def onnx(self, emit: Emitter, x: Handle, idx: Handle, src: Handle) -> Handle:
        return emit("ScatterElements", x, idx, src, axis=axis_index(self.axis, x.type.rank), reduction="add")

    def cost(self, results: Sequence[TensorType], x: TensorType, idx: TensorType, src: TensorType) -> Cost:
        return Cost(numel(src))


class OneHot(Op):
    """1 where the last axis's number equals the index, else 0. Indices must lie in 0 .. n-1.

    idx Int [..] -> Int [.., n]. Source: torch.nn.functional.one_hot, ONNX OneHot.

    example: one_hot(idx: Int[B, T], 5) -> Int[B, T, 5]
    example: one_hot(idx: Int[], 5) -> Int[5]
    """

    name = "one_hot"
    idx: ClassVar[Tensor]
    n: Dim

    def infer(self, facts: Facts, idx: TensorType) -> TensorType:
        expect.indices(idx, operand=0, what="idx")
        expect.setting(self.n.value is None or self.n.value >= 1, "n", f"n must be at least 1, found {self.n}")
        return idx.with_shape((*idx.shape, self.n))

    def torch(self, t: TorchText, idx: str) -> str:
        return f"F.one_hot({idx}, {t.dim(self.n)})"

    def onnx(self, emit: Emitter, idx: Handle) -> Handle:
        type_ = idx.type.with_shape((*idx.type.shape, self.n))
        depth = emit.squeeze(emit.dim(self.n), [0]) if self.n.value is None else emit.const(self.n.value, DType.I64)
        if not idx.type.rank:  # OneHot takes no single number
            row = type_.with_shape((Dim.UNIT, self.n))
            made = emit("OneHot", emit.unsqueeze(idx, [0]), depth, emit.const([0, 1], DType.I64), type=row)
            return emit.squeeze(made, [0])
        return emit("OneHot", idx, depth, emit.const([0, 1], DType.I64), type=type_)

    def cost(self, results: Sequence[TensorType], idx: TensorType) -> Cost:
        return Cost(Dim.const(0))

    def mixes(self, idx: TensorType) -> Sequence[Collection[int]]:
        return [()]


class TopK(Op):
    """The k largest elements along an axis, largest first, and where they were.

    x [.., n, ..] -> values [.., k, ..], indices Int [.., k, ..]; k <= n. The order of equal elements is unspecified.
    Source: torch.topk, ONNX TopK.

    example: topk(x: Tensor[B, T, 8], 3, axis = -1) -> (Tensor[B, T, 3], Int[B, T, 3])
    """

    keeps = Saved(results=(1,))
    name = "topk"
    x: ClassVar[Tensor]
    k: Dim
    axis: Axis = -1

    def infer(self, facts: Facts, x: TensorType) -> tuple[TensorType, ...]:
        axis = axis_index(self.axis, x.rank)
        _ordered(x)
        proof = facts.at_least(x.shape[axis] - self.k, 0)
        if not proof:
            size = x.shape[axis]
            raise OpError(
                "S222",
                f"k = {self.k} may be more than the {size} elements of axis {axis}",
                operand="k",
                help="" if size.value is not None else f"promise it on the model:  dim {size} >= {self.k}",
                proof=proof,
            )
        expect.setting(self.k.value is None or self.k.value >= 1, "k", f"k must be at least 1, found {self.k}")
        shape = (*x.shape[:axis], self.k, *x.shape[axis + 1 :])
        return x.with_shape(shape), TensorType(DType.I64, shape)

    def torch(self, t: TorchText, x: str) -> str:
        last = axis_index(self.axis, _rank(t, 0)) == _rank(t, 0) - 1
        return f"{x}.topk({t.dim(self.k)})" if last else f"{x}.topk({t.dim(self.k)}, dim={t.attr('axis')})"

    def onnx(self, emit: Emitter, x: Handle) -> tuple[Handle, ...]:
        axis = axis_index(self.axis, x.type.rank)
        shape = (*x.type.shape[:axis], self.k, *x.type.shape[axis + 1 :])
        return _top(emit, x, axis, self.k, shape, largest=True)


class Sort(Op):
    """All elements of an axis in order, and where they were; equal elements keep their order.

    x [..] -> values [..], indices Int [..]. Source: torch.sort(stable=True), ONNX TopK.

    example: sort(x: Tensor[B, T, 8], axis = 1) -> (Tensor[B, T, 8], Int[B, T, 8])
    example: sort(x: Tensor[B, T], axis = -1, descending = true) -> (Tensor[B, T], Int[B, T])
    """

    keeps = Saved(results=(1,))
    name = "sort"
    x: ClassVar[Tensor]
    axis: Axis = -1
    descending: bool = False

    def infer(self, facts: Facts, x: TensorType) -> tuple[TensorType, ...]:
        axis_index(self.axis, x.rank)
        _ordered(x)
        return x, x.with_dtype(DType.I64)

    def torch(self, t: TorchText, x: str) -> str:
        descending = f", descending={t.attr('descending')}" if self.descending else ""
        return f"{x}.sort(dim={t.attr('axis')}{descending}, stable=True)"

    def onnx(self, emit: Emitter, x: Handle) -> tuple[Handle, ...]:
        axis = axis_index(self.axis, x.type.rank)
        return _top(emit, x, axis, x.type.shape[axis], x.type.shape, largest=self.descending)


def _rank(t: TorchText, operand: int) -> int:
    type_ = t.operands[operand]
    assert isinstance(type_, TensorType)
    return type_.rank


def _within(facts: Facts, idx: TensorType, x: TensorType, axis: int) -> None:
    """`idx` has the rank of x and is no longer than it, `axis` aside."""
    expect.same_rank(idx, x, operand=1, what="idx", as_what="x")
    for other, (found, limit) in enumerate(zip(idx.shape, x.shape, strict=True)):
        if other == axis:
            continue
        proof = facts.at_least(limit - found, 0)
        if not proof:
            raise OpError(
                "S201",
                f"axis {other} of idx must be at most {limit.label or limit}, found {found.label or found}",
                operand=1,
                expected=str(x.with_shape((*x.shape[:axis], idx.shape[axis], *x.shape[axis + 1 :]))),
                found=str(idx),
                proof=proof,
            )


def _ordered(x: TensorType) -> None:
    """Booleans have no order in ONNX's TopK; S301."""
    if x.dtype is DType.BOOL:
        raise OpError("S301", f"x must be a tensor of numbers, found {x}", operand=0, found=str(x))


def _top(emit: Emitter, x: Handle, axis: int, k: Dim, shape: tuple[Dim, ...], *, largest: bool) -> tuple[Handle, ...]:
    """Values and indices of the k first in order; ONNX settles ties by the lower index."""
    types = (x.type.with_shape(shape), TensorType(DType.I64, shape))
    return emit.many("TopK", 2, x, emit.dim(k), types=types, axis=axis, largest=int(largest))

"""Joining tensors into one, and cutting one into several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from specc.dims import Dim, Facts, Refuted
from specc.op import Axis, Emitter, Handle, Ints, OpError, Tensor, TorchText, axis_index
from specc.ops import expect
from specc.ops.broadcasting import common_dtype
from specc.ops.shape import Movement
from specc.types import Operand, TensorType


def _same_beside(facts: Facts, xs: tuple[TensorType, ...], axis: int | None, doing: str) -> None:
    """All have the first one's rank, and its sizes at every axis but `axis`: S202, S200, S220, S221."""
    first = xs[0]
    for i, x in enumerate(xs[1:], 1):
        if x.rank != first.rank:
            raise OpError(
                "S202",
                f"cannot {doing} {first} and {x}: different numbers of axes",
                operand=i,
                expected=str(first),
                found=str(x),
            )
        for at, (have, want) in enumerate(zip(x.shape, first.shape, strict=True)):
            proof = facts.equal(have, want)
            if at == axis or proof:
                continue
            both = have.value is not None and want.value is not None
            raise OpError(
                ("S200" if both else "S220") if isinstance(proof, Refuted) else "S221",
                f"cannot {doing} {first} and {x}: axis {at} is {want.label or want} and {have.label or have}",
                operand=i,
                expected=want.label or str(want),
                found=have.label or str(have),
                proof=proof,
            )


class Concat(Movement):
    """The tensors one after the other along an axis; all other sizes are equal.

    example: concat([x: Tensor[B, T, 3], y: Tensor[B, T, 5]], axis = -1) -> Tensor[B, T, 8]
    example: concat([x: Int[B, T], y: Int[B, S], z: Int[B, 2]], axis = 1) -> Int[B, T + S + 2]
    example: concat([x: Tensor[B, 3], y: Tensor[T, 3]], axis = 1) -> error S220
    example: concat([x: Tensor[B, 3], y: Int[B, 3]], axis = 1) -> error S301
    """

    name = "concat"
    xs: ClassVar[list[Tensor]]
    axis: Axis

    def infer(self, facts: Facts, *xs: TensorType) -> TensorType:
        first = xs[0]
        axis = axis_index(self.axis, first.rank)
        common_dtype(xs, "concat")
        _same_beside(facts, xs, axis, "concat")
        size = first.shape[axis]
        for x in xs[1:]:
            size = size + x.shape[axis]
        return first.with_shape((*first.shape[:axis], size, *first.shape[axis + 1 :]))

    def torch(self, t: TorchText, *xs: str) -> str:
        return f"torch.cat(({', '.join(xs)}{',' * (len(xs) == 1)}), dim={t.attr('axis')})"

    def onnx(self, emit: Emitter, *xs: Handle) -> Handle:
        axis = axis_index(self.axis, xs[0].type.rank)
        return xs[0] if len(xs) == 1 else emit("Concat", *xs, axis=axis)


class Stack(Movement):
    """The tensors, all of one type, along a new axis.

    example: stack([x: Tensor[B, T], y: Tensor[B, T]]) -> Tensor[2, B, T]
    example: stack([x: Tensor[B, T], y: Tensor[B, T]], axis = -1) -> Tensor[B, T, 2]
    """

    name = "stack"
    elementwise = True
    xs: ClassVar[list[Tensor]]
    axis: Axis = 0

    def infer(self, facts: Facts, *xs: TensorType) -> TensorType:
        first = xs[0]
        axis = axis_index(self.axis, first.rank + 1)
        common_dtype(xs, "stack")
        _same_beside(facts, xs, None, "stack")
        return first.with_shape((*first.shape[:axis], Dim.const(len(xs)), *first.shape[axis:]))

    def torch(self, t: TorchText, *xs: str) -> str:
        dim = "" if self.axis == 0 else f", dim={t.attr('axis')}"
        return f"torch.stack(({', '.join(xs)}{',' * (len(xs) == 1)}){dim})"

    def onnx(self, emit: Emitter, *xs: Handle) -> Handle:
        axis = axis_index(self.axis, xs[0].type.rank + 1)
        rows = [emit.unsqueeze(x, (axis,)) for x in xs]
        return rows[0] if len(rows) == 1 else emit("Concat", *rows, axis=axis)


class Split(Movement):
    """Cuts an axis into n equal pieces, or into pieces of given sizes.

    example: split(x: Tensor[B, T, 8], 2, axis = -1) -> Tensor[B, T, 4], Tensor[B, T, 4]
    example: split(x: Tensor[B, 8], [5, 1, 2], axis = 1) -> Tensor[B, 5], Tensor[B, 1], Tensor[B, 2]
    example: split(x: Tensor[B, 7], 2, axis = 1) -> error S201
    example: split(x: Tensor[B, 8], [5, 2], axis = 1) -> error S201
    """

    name = "split"
    x: ClassVar[Tensor]
    sizes: Ints
    axis: Axis

    def pieces(self, size: Dim) -> tuple[Dim, ...]:
        """The sizes of the pieces of an axis. One number is how many there are."""
        if len(self.sizes) == 1:
            return (size // self.sizes[0],) * self.sizes[0]
        return tuple(map(Dim.const, self.sizes))

    def infer(self, facts: Facts, x: TensorType) -> tuple[TensorType, ...]:
        axis = axis_index(self.axis, x.rank)
        expect.setting(
            all(n >= 1 for n in self.sizes), "sizes", f"split: pieces must be at least 1, found {list(self.sizes)}"
        )
        size = x.shape[axis]
        if len(self.sizes) == 1:
            expect.multiple(facts, size, self.sizes[0], operand=0, what=f"axis {axis}, to be split,")
        else:
            expect.size(facts, size, sum(self.sizes), operand=0, what=f"axis {axis}, to be split,")
        return tuple(x.with_shape((*x.shape[:axis], piece, *x.shape[axis + 1 :])) for piece in self.pieces(size))

    def views(self, order: Sequence[int] | None, *operands: Operand) -> bool:
        return True

    def torch(self, t: TorchText, x: str) -> str:
        if len(self.sizes) == 1:
            return f"{x}.chunk({t.attr('sizes')}, dim={t.attr('axis')})"
        return f"{x}.split({t.attr('sizes')}, dim={t.attr('axis')})"

    def onnx(self, emit: Emitter, x: Handle) -> tuple[Handle, ...]:
        axis = axis_index(self.axis, x.type.rank)
        pieces = self.pieces(x.type.shape[axis])
        if len(pieces) == 1:
            return (x,)
        types = [x.type.with_shape((*x.type.shape[:axis], piece, *x.type.shape[axis + 1 :])) for piece in pieces]
        if len(self.sizes) == 1 and emit.opset >= 18:
            return emit.many("Split", len(pieces), x, types=types, axis=axis, num_outputs=len(pieces))
        return emit.many("Split", len(pieces), x, emit.shape(pieces), types=types, axis=axis)

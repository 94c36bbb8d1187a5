"""Reshaping and reordering (LANGUAGE 11): nothing is implicit, every size is proved."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

from specc.dims import Dim, Facts, Refuted
from specc.op import Axis, Cost, Dims, Emitter, Handle, Ints, Op, OpError, Saved, Tensor, TorchText, axis_index, numel
from specc.ops import expect
from specc.types import Operand, TensorType, show_axes


class Movement(Op):
    """Moves data; no arithmetic."""

    keeps = Saved()

    def cost(self, results: Sequence[TensorType], *operands: Operand) -> Cost:
        return Cost(Dim.const(0))


class Reshape(Movement):
    """The same elements in the same order, in other axes. The numbers of elements must be provably equal.

    example: reshape(x: Tensor[B, T, 8], [B, T, 2, 4]) -> Tensor[B, T, 2, 4]
    example: reshape(x: Tensor[B, T, 8], [B*T, 8]) -> Tensor[B*T, 8]
    example: reshape(x: Tensor[B, T], [B, T + 1]) -> error S220
    """

    name = "reshape"
    x: ClassVar[Tensor]
    sizes: Dims

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        result = x.with_shape(self.sizes)
        before, after = numel(x), numel(result)
        proof = facts.equal(before, after)
        if not proof:
            raise OpError(
                "S220" if isinstance(proof, Refuted) else "S221",
                f"cannot reshape {x} to [{', '.join(show_axes(self.sizes))}]: {before} elements against {after}",
                operand=0,
                expected=str(before),
                found=str(after),
                proof=proof,
            )
        return result

    def views(self, order: Sequence[int] | None, *operands: Operand) -> bool:
        return order is None

    def torch(self, t: TorchText, x: str) -> str:
        return f"{x}.reshape({t.dims(self.sizes) or '()'})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        return emit.reshape(x, self.sizes)

    def mixes(self, x: TensorType) -> Sequence[Collection[int]]:
        return [[axis for axis in range(x.rank) if not _stays(x.shape, self.sizes, axis)]]


class Flatten(Movement):
    """Merges axis `start` and all later ones.

    example: flatten(x: Tensor[B, 8, Y, X]) -> Tensor[B, 8*Y*X]
    example: flatten(x: Tensor[B, T, 2, 3], start = 2) -> Tensor[B, T, 6]
    """

    name = "flatten"
    x: ClassVar[Tensor]
    start: Axis = 1

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        start = axis_index(self.start, x.rank)
        return x if start == x.rank - 1 else x.with_shape((*x.shape[:start], numel(x.with_shape(x.shape[start:]))))

    def views(self, order: Sequence[int] | None, *operands: Operand) -> bool:
        return order is None

    def torch(self, t: TorchText, x: str) -> str:
        return f"{x}.flatten({t.attr('start')})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        start = axis_index(self.start, x.type.rank)
        return emit.reshape(x, (*x.type.shape[:start], numel(x.type.with_shape(x.type.shape[start:]))))

    def mixes(self, x: TensorType) -> Sequence[Collection[int]]:
        return [()]


def _stays(before: Sequence[Dim], after: Sequence[Dim], axis: int) -> bool:
    """Whether an axis is one of the result, alone or merged with all of the axes next to it."""
    outer, inner = _product(before[:axis]), _product(before[axis + 1 :])
    for j, size in enumerate(after):
        left, right = _product(after[:j]), _product(after[j + 1 :])
        near, far = outer // left, inner // right
        if near * left == outer and far * right == inner and near * before[axis] * far == size:
            return True
    return False


def _product(sizes: Sequence[Dim]) -> Dim:
    product = Dim.const(1)
    for size in sizes:
        product = product * size
    return product


class _Permutation(Movement):
    """Axis i of the result is axis `perm[i]` of x."""

    elementwise = True
    x: ClassVar[Tensor]

    def perm(self, rank: int) -> list[int]:
        raise NotImplementedError(self.name)

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        return x.with_shape(tuple(x.shape[i] for i in self.perm(x.rank)))

    def views(self, order: Sequence[int] | None, *operands: Operand) -> bool:
        return True

    def permutation(self, rank: int) -> Sequence[int]:
        return self.perm(rank)

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        return emit.transpose(x, self.perm(x.type.rank))


class Transpose(_Permutation):
    """Swaps two axes.

    example: transpose(x: Tensor[B, T, 8], 1, 2) -> Tensor[B, 8, T]
    example: transpose(x: Tensor[B, T, 8], 0, -1) -> Tensor[8, T, B]
    """

    name = "transpose"
    a: Axis
    b: Axis

    def perm(self, rank: int) -> list[int]:
        a, b = axis_index(self.a, rank), axis_index(self.b, rank)
        perm = list(range(rank))
        perm[a], perm[b] = perm[b], perm[a]
        return perm

    def torch(self, t: TorchText, x: str) -> str:
        return f"{x}.transpose({t.attr('a')}, {t.attr('b')})"


class Permute(_Permutation):
    """Axis i of the result is axis axes[i] of x.

    example: permute(x: Tensor[B, T, 8], [2, 0, 1]) -> Tensor[8, B, T]
    example: permute(x: Tensor[B, T, 8], [0, 1]) -> error E125
    """

    name = "permute"
    axes: Ints

    def perm(self, rank: int) -> list[int]:
        perm = [axis_index(axis, rank) for axis in self.axes]
        expect.setting(
            sorted(perm) == list(range(rank)),
            "axes",
            f"permute: {list(self.axes)} does not name each of the {rank} axes once",
        )
        return perm

    def torch(self, t: TorchText, x: str) -> str:
        return f"{x}.permute({', '.join(map(str, self.axes))})"


class Expand(Movement):
    """Repeats unit axes, and adds leading ones, to reach the sizes.

    example: expand(x: Tensor[1, 8], [B, T, 8]) -> Tensor[B, T, 8]
    example: expand(x: Tensor[B, T], [B, T]) -> Tensor[B, T]
    example: expand(x: Tensor[B, T], [B, S]) -> error S200
    """

    name = "expand"
    elementwise = True
    x: ClassVar[Tensor]
    sizes: Dims

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        shown = f"[{', '.join(show_axes(self.sizes))}]"
        if len(self.sizes) < x.rank:
            raise OpError(
                "S202", f"cannot expand {x} to {shown}: it has more axes", operand=0, expected=shown, found=str(x)
            )
        for have, want in zip(reversed(x.shape), reversed(self.sizes), strict=False):
            if not have.unit:
                what = f"expand to {shown}: the size of {x}"
                expect.size(facts, have, want, operand=0, what=what, code="S200")
        return x.with_shape(self.sizes)

    def views(self, order: Sequence[int] | None, *operands: Operand) -> bool:
        return True

    def torch(self, t: TorchText, x: str) -> str:
        return f"{x}.expand({t.dims(self.sizes)})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        if x.type.shape == self.sizes:
            return x
        return emit("Expand", x, emit.shape(self.sizes), type=x.type.with_shape(self.sizes))


class Squeeze(Movement):
    """Removes an axis of size 1.

    example: squeeze(x: Tensor[B, 1, 8], 1) -> Tensor[B, 8]
    example: squeeze(x: Tensor[B, T], 1) -> error S201
    """

    name = "squeeze"
    elementwise = True
    x: ClassVar[Tensor]
    axis: Axis

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        axis = axis_index(self.axis, x.rank)
        expect.size(facts, x.shape[axis], 1, operand=0, what=f"axis {axis}, to be squeezed,")
        return x.with_shape((*x.shape[:axis], *x.shape[axis + 1 :]))

    def views(self, order: Sequence[int] | None, *operands: Operand) -> bool:
        return True

    def torch(self, t: TorchText, x: str) -> str:
        return f"{x}.squeeze({t.attr('axis')})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        return emit.squeeze(x, (axis_index(self.axis, x.type.rank),))


class Unsqueeze(Movement):
    """Adds a unit axis that becomes axis `axis` of the result.

    example: unsqueeze(x: Tensor[B, T], 1) -> Tensor[B, 1, T]
    example: unsqueeze(x: Tensor[B, T], -1) -> Tensor[B, T, 1]
    """

    name = "unsqueeze"
    elementwise = True
    x: ClassVar[Tensor]
    axis: Axis

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        axis = axis_index(self.axis, x.rank + 1)
        return x.with_shape((*x.shape[:axis], Dim.UNIT, *x.shape[axis:]))

    def views(self, order: Sequence[int] | None, *operands: Operand) -> bool:
        return True

    def torch(self, t: TorchText, x: str) -> str:
        return f"{x}.unsqueeze({t.attr('axis')})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        return emit.unsqueeze(x, (axis_index(self.axis, x.type.rank + 1),))

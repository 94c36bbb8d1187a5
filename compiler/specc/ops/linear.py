"""Matrix products and table look-up."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

from specc.dims import Facts
from specc.op import Cost, Emitter, Handle, Op, OpError, Packed, Packing, Saved, Tensor, TorchText, numel
from specc.ops import expect
from specc.ops.broadcasting import broadcast_leading, common_dtype
from specc.types import Operand, TensorType


class MatMul(Op):
    """x @ y: the matrix product of the last two axes; leading axes broadcast.

    example: (x: Tensor[B, T, 8]) @ (y: Tensor[8, 5]) -> Tensor[B, T, 5]
    example: (x: Tensor[B, 4, T, 8]) @ (y: Tensor[B, 1, 8, S]) -> Tensor[B, 4, T, S]
    example: (x: Tensor[B, T, 8]) @ (y: Tensor[7, 5]) -> error S201
    example: (x: Tensor[B, T, 8]) @ (y: Tensor[8]) -> error S202
    """

    name = "@"
    syntax = True
    factors = (0, 1)
    x: ClassVar[Tensor]
    y: ClassVar[Tensor]

    def infer(self, facts: Facts, x: TensorType, y: TensorType) -> TensorType:
        for i, operand in enumerate((x, y)):
            expect.floating(operand, operand=i, what=f"the {('left', 'right')[i]} side of `@`")
            if operand.rank < 2:
                raise OpError(
                    "S202", f"`@` multiplies matrices; {operand} has less than 2 axes", operand=i, found=str(operand)
                )
        dtype = common_dtype((x, y), "multiply")
        expect.size(facts, y.shape[-2], x.shape[-1], operand=1, what="the right side's axis -2")
        leading = broadcast_leading(facts, x.shape[:-2], y.shape[:-2], (x, y), "multiply")
        return TensorType(dtype, (*leading, x.shape[-2], y.shape[-1]))

    def torch(self, t: TorchText, x: str, y: str) -> str:
        return f"{x} @ {y}"

    def onnx(self, emit: Emitter, x: Handle, y: Handle) -> Handle:
        return emit("MatMul", x, y)

    def cost(self, results: Sequence[TensorType], *operands: Operand) -> Cost:
        x = operands[0]
        assert isinstance(x, TensorType)
        products = numel(results[0]) * x.shape[-1] * 2
        return Cost(products, products)

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Operand) -> Saved:
        """What broadcasts along leading axes is copied to the size of the product."""
        lead, kept, own = results[0].shape[:-2], list[int](), list[TensorType]()
        for i, operand in enumerate(operands):
            assert isinstance(operand, TensorType)
            if needs[1 - i] and operand.rank > 2 and operand.shape[:-2] != lead:
                own.append(operand.with_shape((*lead, *operand.shape[-2:])))
            elif needs[1 - i]:
                kept.append(i)
        return Saved(tuple(kept), own=tuple(own))

    def mixes(self, x: TensorType, y: TensorType) -> Sequence[Collection[int]]:
        return [(x.rank - 1,), (y.rank - 2,)]


class Linear(Op):
    """x @ w^T + b with w stored [out, in], as torch.nn.Linear stores it.

    In ONNX a matrix becomes one `Gemm`. For more axes `MatMul` and `Add` are faster in onnxruntime than `Gemm` between
    two reshapes (1.1x to 1.4x at 8 x 128 tokens), which copy; the transposed weight is folded when the model is loaded.

    example: linear(x: Tensor[B, T, 8], w: Tensor[5, 8], b: Tensor[5]) -> Tensor[B, T, 5]
    example: linear(x: Tensor[B, 8], w: Tensor[5, 8], b: Tensor[5]) -> Tensor[B, 5]
    example: linear(x: Tensor[B, T, 8], w: Tensor[5, 8]) -> Tensor[B, T, 5]
    example: linear(x: Tensor[B, 8], w: Tensor[5, 8], none) -> Tensor[B, 5]
    example: linear(x: Tensor[8], w: Tensor[5, 8], b: Tensor[5]) -> Tensor[5]
    example: linear(x: Tensor[B, T, 8], w: Tensor[8, 5]) -> error S201
    """

    name = "linear"
    factors = (0, 1)
    packing = Packing(1, added=2)
    x: ClassVar[Tensor]
    w: ClassVar[Tensor]
    b: ClassVar[Tensor | None]

    def infer(self, facts: Facts, x: TensorType, w: TensorType, b: TensorType | None) -> TensorType:
        expect.floating(x, operand=0, what="x")
        expect.rank(w, ["out", "in"], operand=1, what="w")
        expect.same_dtype(w, x.dtype, operand=1, what="w")
        if x.rank == 0:
            raise OpError("S202", "x must have at least 1 axis", operand=0, found=str(x))
        expect.size(facts, x.shape[-1], w.shape[1], operand=0, what="the last axis of x")
        if b is not None:
            expect.same_dtype(b, x.dtype, operand=2, what="b")
            expect.shape(facts, b, [w.shape[0]], operand=2, what="b")
        return x.with_shape((*x.shape[:-1], w.shape[0]))

    def torch(self, t: TorchText, x: str, w: str, b: str | None) -> str:
        return f"F.linear({x}, {w}, {b})" if b else f"F.linear({x}, {w})"

    in_onnx = (("MatMul", 1), ("Gemm", 1))

    def onnx(self, emit: Emitter, x: Handle, w: Handle, b: Handle | None) -> Handle:
        if x.type.rank == 2:
            return emit("Gemm", x, w, b, transB=1)
        product = emit("MatMul", x, emit.transpose(w, (1, 0)))
        return product if b is None else emit("Add", product, b)

    def onnx_packed(self, emit: Emitter, weight: Packed, x: Handle, w: Handle, b: Handle | None) -> Handle:
        return weight.product(x, b)

    def cost(self, results: Sequence[TensorType], *operands: Operand) -> Cost:
        w = operands[1]
        assert isinstance(w, TensorType)
        products = numel(results[0]) * w.shape[1] * 2
        return Cost(products, products)

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Operand) -> Saved:
        return Saved(operands=tuple(i for i in (0, 1) if needs[1 - i]))

    def mixes(self, x: TensorType, w: TensorType, b: TensorType | None) -> Sequence[Collection[int]]:
        return [(x.rank - 1,), (0, 1), (0,)]


class Embedding(Op):
    """Row ids[..] of the table w: ids [...] and w [n, d] give [..., d]. Ids must be in 0 .. n-1.

    example: embedding(ids: Int[B, T], w: Tensor[11, 8]) -> Tensor[B, T, 8]
    example: embedding(ids: Tensor[B], w: Tensor[11, 8]) -> error S301
    """

    name = "embedding"
    picks = 1
    packing = Packing(1, looked_up=True)
    ids: ClassVar[Tensor]
    w: ClassVar[Tensor]

    def infer(self, facts: Facts, ids: TensorType, w: TensorType) -> TensorType:
        expect.indices(ids, operand=0, what="ids")
        expect.rank(w, ["n", "d"], operand=1, what="w")
        expect.floating(w, operand=1, what="w")
        return w.with_shape((*ids.shape, w.shape[1]))

    def torch(self, t: TorchText, ids: str, w: str) -> str:
        return f"F.embedding({ids}, {w})"

    def onnx(self, emit: Emitter, ids: Handle, w: Handle) -> Handle:
        return emit("Gather", w, ids, axis=0)

    def onnx_packed(self, emit: Emitter, weight: Packed, ids: Handle, w: Handle) -> Handle:
        return weight.look_up(ids)

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Operand) -> Saved:
        return Saved(operands=(0,))

    def mixes(self, ids: TensorType, w: TensorType) -> Sequence[Collection[int]]:
        return [(), (0,)]

"""Mixture of experts: the rows of a tensor sorted by the expert that they are sent to, and the results put back.

`route(x, weights, idx, experts)` is these two operators with the experts' calls between them (`ir.route`). How many
rows an expert gets is known at run time only; it may be none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from specc.dims import Dim, Facts
from specc.op import Cost, Dims, Emitter, Handle, Op, OpError, Saved, Tensor, TorchText, numel
from specc.ops import expect
from specc.types import DType, Scalar, TensorType


def routed(expert: str) -> Dim:
    """How many rows the expert at a path gets; >= 0, and no input's size tells."""
    return Dim.symbol(f"routed({expert})")


def check_operands(facts: Facts, x: TensorType, weights: TensorType, idx: TensorType) -> None:
    """x [.., d], weights [.., k] and idx Int [.., k]; S202, S201, S221, S301."""
    expect.floating(x, operand=0, what="x")
    expect.floating(weights, operand=1, what="weights")
    expect.indices(idx, operand=2, what="idx")
    if not x.rank:
        raise OpError("S202", "x must have an axis, found a scalar", operand=0, found=str(x))
    for operand, type_, what in ((1, weights, "weights"), (2, idx, "idx")):
        expect.same_rank(type_, x, operand=operand, what=what, as_what="x")
        for axis in range(x.rank - 1):
            expect.size(facts, type_.shape[axis], x.shape[axis], operand=operand, what=f"axis {axis} of {what}")
    expect.size(facts, weights.shape[-1], idx.shape[-1], operand=1, what="the last axis of weights")


class Dispatch(Op):
    """The rows of x by expert: expert e gets x[t] for every pair (t, j) with idx[t, j] = e, in the order of the pairs.

    x [.., d], idx Int [.., k] -> order Int [n], the pairs' numbers t*k + j sorted by expert, then for each expert its
    rows [n_e, d]. Source: Shazeer et al. (2017); the order is that of a stable sort of idx.

    example: route(x: Tensor[B, T, 4], weights: Tensor[B, T, 2], idx: Int[B, T, 2], experts: [Identity(), Identity(),
             Identity(), Identity()]) -> Tensor[B, T, 4]
    """

    name = "= dispatch"
    syntax = True
    elementwise = True  # row by row
    x: ClassVar[Tensor]
    idx: ClassVar[Tensor]
    rows: Dims  # for each expert the size of its first axis

    def infer(self, facts: Facts, x: TensorType, idx: TensorType) -> tuple[TensorType, ...]:
        order = TensorType(DType.I64, (numel(idx),))
        return order, *(x.with_shape((rows, x.shape[-1])) for rows in self.rows)

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: TensorType) -> Saved:
        return Saved(own=(results[0],))  # which row each pair was

    def torch(self, t: TorchText, x: str, idx: str) -> str:
        return f"{t.helper('dispatch', _DISPATCH)}({x}, {idx}, {len(self.rows)})"

    def onnx(self, emit: Emitter, x: Handle, idx: Handle) -> tuple[Handle, ...]:
        """NonZero of the [experts, pairs] table of choices lists the pairs by expert; Split deals the rows out."""
        count, pairs = len(self.rows), numel(idx.type)
        number = emit.const([[e] for e in range(count)], DType.I64)
        flat = emit.reshape(idx, (pairs,))
        chosen = emit("Equal", number, flat, type=TensorType(DType.BOOL, (Dim.const(count), pairs)))
        places = emit("NonZero", chosen, type=TensorType(DType.I64, (Dim.const(2), pairs)))
        order = emit("Gather", places, emit.const(1, DType.I64), axis=0, type=TensorType(DType.I64, (pairs,)))
        token = emit("Div", order, emit.scalar(Scalar(idx.type.shape[-1]), idx))
        table = emit.reshape(x, (numel(x.type) // x.type.shape[-1], x.type.shape[-1]))
        types = [x.type.with_shape((size, x.type.shape[-1])) for size in self.rows]
        if count == 1:
            return order, emit("Gather", table, token, axis=0, type=types[0])
        rows = emit("Gather", table, token, axis=0, type=x.type.with_shape((pairs, x.type.shape[-1])))
        sizes_type = TensorType(DType.I64, (Dim.const(count),))
        sizes = emit("ReduceSum", emit.cast(chosen, DType.I64), emit.const([1], DType.I64), keepdims=0, type=sizes_type)
        return order, *emit.many("Split", count, rows, sizes, types=types, axis=0)

    def cost(self, results: Sequence[TensorType], x: TensorType, idx: TensorType) -> Cost:
        return Cost(Dim.const(0))


class Combine(Op):
    """For every row the sum over its k choices of weight * the chosen expert's result.

    weights [.., k], order Int [n] as `= dispatch` gives it, each expert's results [n_e, e] -> [.., e].

    example: route(x: Tensor[B, 4], weights: Tensor[B, 2], idx: Int[B, 2], experts: [Identity(), Identity(),
             Identity()]) -> Tensor[B, 4]
    """

    name = "= combine"
    syntax = True
    elementwise = True  # row by row
    weights: ClassVar[Tensor]
    order: ClassVar[Tensor]

    def infer(self, facts: Facts, weights: TensorType, order: TensorType, *results: TensorType) -> TensorType:
        expect.same_dtype(weights, results[0].dtype, operand=1, what="weights")
        return weights.with_shape((*weights.shape[:-1], results[0].shape[-1]))

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: TensorType) -> Saved:
        weights, order = operands[:2]
        return Saved((0,), own=(order, results[0].with_shape((*weights.shape, results[0].shape[-1]))))

    def torch(self, t: TorchText, weights: str, order: str, *results: str) -> str:
        return f"{t.helper('combine', _COMBINE)}([{', '.join(results)}], {weights}, {order})"

    def onnx(self, emit: Emitter, weights: Handle, order: Handle, *results: Handle) -> Handle:
        """The results in the order of the pairs again, then a sum over the choices: no pair is added to another's row
        by a scatter, whose order would be open."""
        first, pairs = results[0].type, numel(weights.type)
        whole = first.with_shape((pairs, first.shape[-1]))
        sorted_ = emit("Concat", *results, axis=0, type=whole) if len(results) > 1 else results[0]
        types = (order.type, order.type)
        back = emit.many("TopK", 2, order, emit.dim(pairs), types=types, axis=0, largest=0)[1]
        result = emit.reshape(emit("Gather", sorted_, back, axis=0, type=whole), (*weights.type.shape, first.shape[-1]))
        weighed = emit("Mul", result, emit.unsqueeze(weights, [-1]), type=result.type)
        axis = emit.const([weights.type.rank - 1], DType.I64)
        type_ = first.with_shape((*weights.type.shape[:-1], first.shape[-1]))
        return emit("ReduceSum", weighed, axis, keepdims=0, type=type_)

    def cost(self, results: Sequence[TensorType], weights: TensorType, *operands: TensorType) -> Cost:
        return Cost(numel(weights) * results[0].shape[-1] * 2)


_DISPATCH = '''\
def dispatch(x: torch.Tensor, idx: torch.Tensor, experts: int) -> tuple[torch.Tensor, ...]:
    """Sort the rows of x by the expert that they are sent to."""
    order = idx.flatten().argsort(stable=True)
    counts = F.one_hot(idx.flatten(), experts).sum(0).tolist()
    return order, *x.reshape(-1, x.shape[-1])[order // idx.shape[-1]].split(counts)
'''

_COMBINE = '''\
def combine(results: list[torch.Tensor], weights: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Put the experts' results back in the order of the rows and sum them by weight."""
    result = torch.cat(results)[order.argsort()].view(*weights.shape, -1)
    return (result * weights.unsqueeze(-1)).sum(-2)
'''

ROUTE = '''\
def route(x: torch.Tensor, weights: torch.Tensor, idx: torch.Tensor, experts: nn.ModuleList) -> torch.Tensor:
    """Send every row of x to the experts that idx names and sum their results by weight.

    x [..., d], weights and idx [..., k], each expert [n, d] -> [n, e]; result [..., e].
    """
    order = idx.flatten().argsort(stable=True)  # the pairs (row, choice), expert by expert
    counts = F.one_hot(idx.flatten(), len(experts)).sum(0).tolist()
    rows = x.reshape(-1, x.shape[-1])[order // idx.shape[-1]].split(counts)
    results = torch.cat([expert(some) for expert, some in zip(experts, rows, strict=True)])
    results = results[order.argsort()].view(*idx.shape, -1)
    return (results * weights.unsqueeze(-1)).sum(-2)
'''
"""The whole of `route` as one function of emitted Python: every expert runs on the rows that chose it, nothing else."""

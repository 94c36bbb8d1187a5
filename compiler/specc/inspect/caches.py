"""What an entry keeps between decoding steps, in bytes: keys and values, recurrent states, frames of convolutions.

A graph is read once for each choice of sizes, however many layers have it: `passes.incremental` follows every one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specc.dims import Dim
from specc.inspect.counts import BYTES
from specc.inspect.formulas import ZERO, Formula, total
from specc.ir.graph import Apply, Call, Graph, Loop, Model, Node, Scan, When
from specc.op import numel
from specc.ops.convolution import CausalConv1d
from specc.ops.state import Cached, Carried, Once
from specc.passes.incremental import innermost, keeps_state, step_sizes
from specc.passes.plain import Sizes, call_sizes, entry_sizes
from specc.passes.steps import StepSizes, operand_type
from specc.types import DType, TensorType


@dataclass(frozen=True)
class Cache:
    """`grown`: bytes after the positions of `along`; `token`: of each further one; `constant`: recurrent states and
    what is computed once a sequence. `batch`: how many sequences there are. `graph` at `sizes` is one step.
    """

    entry: str
    along: str
    batch: Dim
    grown: Formula
    token: Formula
    constant: Formula
    graph: Graph
    sizes: StepSizes

    @property
    def bytes(self) -> Formula:
        """All of it."""
        return total((self.grown, self.constant))


@dataclass(frozen=True)
class _Kept:
    """Bytes of one graph; `first`: the type of something that is kept."""

    grown: Formula = ZERO
    constant: Formula = ZERO
    first: TensorType | None = None


def cache(model: Model, entry: str, width: int, without: frozenset[str] = frozenset()) -> Cache | None:
    """None for an entry that keeps nothing between steps. `width`: bytes of the compute dtype."""
    if not keeps_state(model, entry):
        return None
    inner = innermost(model, entry)
    of = model.entries[inner]
    graph = of.graphs[of.full.present - without]
    sizes = step_sizes(graph)
    if sizes is None:
        return None
    kept = _Walk({**BYTES, DType.COMPUTE: width}).graph(graph, entry_sizes(graph))
    if kept.first is None or not kept.first.rank:
        return None
    token = None
    if kept.grown is not None:
        token = kept.grown.substitute({sizes.step.symbols[0]: sizes.step + 1}) - kept.grown
    batch = kept.first.shape[0].plain()
    return Cache(inner, str(sizes.step), batch, kept.grown, token, kept.constant, graph, sizes)


class _Walk:
    def __init__(self, bytes_of: dict[DType, int]) -> None:
        self._bytes_of = bytes_of
        self._known: dict[tuple[Graph, frozenset[tuple[str, Dim]]], _Kept] = {}

    def graph(self, graph: Graph, sizes: Sizes) -> _Kept:
        key = graph, frozenset(sizes.items())
        if key not in self._known:
            self._known[key] = _together([self._node(node, sizes) for node in graph.nodes])
        return self._known[key]

    def _node(self, node: Node, sizes: Sizes) -> _Kept:
        if isinstance(node, Call):
            return self.graph(node.graph, call_sizes(node.graph.inputs, [operand_type(i, sizes) for i in node.inputs]))
        if isinstance(node, Loop):
            return _together([self._node(n, sizes) for iteration in node.iterations for n in iteration.nodes])
        if isinstance(node, Scan) or (isinstance(node, When) and node.mode == "infer"):
            return _together([self._node(n, sizes) for n in node.nodes])
        if not isinstance(node, Apply) or not isinstance(node.op, (Cached, Carried, Once, CausalConv1d)):
            return _Kept()
        types = [t for t in (operand_type(i, sizes) for i in node.inputs) if isinstance(t, TensorType)]
        if isinstance(node.op, CausalConv1d):
            frames = Dim.const(node.op.frames(types[1]))
            types = [types[0].with_shape((*types[0].shape[:2], frames))]
        size = total(numel(t) * self._bytes_of[t.dtype] for t in types)
        return _Kept(size, ZERO, types[0]) if isinstance(node.op, Cached) else _Kept(ZERO, size, types[0])


def _together(kept: Sequence[_Kept]) -> _Kept:
    found = [one for one in kept if one.first is not None]
    if not found:
        return _Kept()
    return _Kept(total(one.grown for one in found), total(one.constant for one in found), found[0].first)

"""Which part of the weights one pass over given sizes reads.

Of a table only the rows that are looked up; of the experts of a route no more than the tokens choose, each another one;
nothing of what other entries have, or of what is computed once before the steps of a decoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from specc.dims import Dim
from specc.inspect.counts import Counts
from specc.ir.graph import Apply, Call, Graph, Loop, Model, Node, Path, Read, Scan, Value, When, dotted
from specc.ir.members import aliases
from specc.ir.route import Route
from specc.op import numel
from specc.passes.plain import Sizes, call_sizes
from specc.passes.steps import StepSizes, in_a_step, operand_type
from specc.types import TensorType

Shares = dict[Path, Fraction]
_WHOLE = Fraction(1)


def read_weights(model: Model, graph: Graph, sizes: Sizes, at: Mapping[str, int], stored: Mapping[str, int]) -> int:
    """Bytes of weights that one pass over `graph` at `sizes` reads, in numbers `at`. `stored`: bytes of each."""
    tied = aliases(model.module)
    shares: dict[str, Fraction] = {}
    for path, share in _Walk(at).graph(graph, sizes).items():
        name = tied.get(dotted(path), dotted(path))
        shares[name] = max(shares.get(name, share), share)
    return sum(int(stored[name] * share) for name, share in shares.items())


def unchosen_parameters(graph: Graph) -> int:
    """Parameters of experts that one token does not choose; 0 of an entry without routes."""
    known: dict[Graph, int] = {}
    counts = Counts()

    def of(graph: Graph) -> int:
        if graph not in known:
            known[graph] = sum(map(node, graph.nodes))
        return known[graph]

    def node(one: Node) -> int:
        if isinstance(one, Call):
            return of(one.graph)
        if isinstance(one, Route):
            _, _, chosen = one.operands
            count = chosen.type.shape[-1].value if isinstance(chosen, Value) else None
            left = len(one.experts) - (len(one.experts) if count is None else count)
            every = sum(counts.of(call.graph.module).parameters for call in one.calls if call.graph.module is not None)
            return every * max(0, left) // max(1, len(one.experts))
        if isinstance(one, Loop):
            return sum(node(inner) for iteration in one.iterations for inner in iteration.nodes)
        return sum(map(node, one.nodes)) if isinstance(one, (Scan, When)) else 0

    return of(graph)


class _Walk:
    """Remembers the shares of each graph, under the paths of its own module."""

    def __init__(self, at: Mapping[str, int]) -> None:
        self._at = at
        self._known: dict[tuple[Graph, frozenset[tuple[str, Dim]]], Shares] = {}

    def graph(self, graph: Graph, sizes: Sizes) -> Shares:
        key = graph, frozenset(sizes.items())
        if key not in self._known:
            found: Shares = {}
            nodes = in_a_step(graph) if isinstance(sizes, StepSizes) else graph.nodes
            self._nodes(nodes, sizes, {}, found)
            self._known[key] = found
        return self._known[key]

    def _nodes(self, nodes: Sequence[Node], sizes: Sizes, reads: dict[Value, Read], found: Shares) -> None:
        for node in nodes:
            if isinstance(node, Read):
                reads[node.output] = node
            elif isinstance(node, Apply):
                self._apply(node, sizes, reads, found)
            elif isinstance(node, Call):
                for value in node.inputs:
                    if isinstance(value, Value) and value in reads:
                        _take(found, reads[value].path, _WHOLE)
                self._call(node, sizes, _WHOLE, found)
            elif isinstance(node, Route):
                self._route(node, sizes, found)
            elif isinstance(node, Loop):
                for iteration in node.iterations:
                    self._nodes(iteration.nodes, sizes, reads, found)
            elif isinstance(node, Scan) or node.mode == "infer":
                self._nodes(node.nodes, sizes, reads, found)

    def _apply(self, node: Apply, sizes: Sizes, reads: Mapping[Value, Read], found: Shares) -> None:
        for i, value in enumerate(node.inputs):
            if isinstance(value, Value) and value in reads:
                picked = i == node.op.picks
                share = self._picked(sizes.type(node.outputs[0].type), value.type) if picked else _WHOLE
                _take(found, reads[value].path, share)

    def _picked(self, result: TensorType, table: TensorType) -> Fraction:
        return min(_WHOLE, Fraction(numel(result).evaluate(self._at), max(1, numel(table).evaluate(self._at))))

    def _call(self, node: Call, sizes: Sizes, share: Fraction, found: Shares) -> None:
        bound = call_sizes(node.graph.inputs, [operand_type(i, sizes) for i in node.inputs], sizes)
        for path, inner in self.graph(node.graph, bound).items():
            _take(found, (*node.path, *path), share * inner)

    def _route(self, route: Route, sizes: Sizes, found: Shares) -> None:
        pairs = numel(sizes.type(route.dispatch.outputs[0].type))
        share = min(_WHOLE, Fraction(pairs.evaluate(self._at), len(route.experts)))
        inside = sizes.empty()
        inside.update(sizes | {size.symbols[0]: pairs for size in route.dispatch.op.attributes["rows"]})
        for call in route.calls:
            self._call(call, inside, share, found)


def _take(found: Shares, path: Path, share: Fraction) -> None:
    found[path] = max(found.get(path, share), share)

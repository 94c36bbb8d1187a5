"""What `--position-ids` cannot reach: positions that a part of the model asks for itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from specc.diagnostics import Diagnostic
from specc.dims import Dim
from specc.elaborate.positions import POSITION_IDS
from specc.ir.graph import Apply, Call, Graph, Loop, Model, Node, Scan, When
from specc.ops.positions import Positions
from specc.passes.plain import Sizes, call_sizes, entry_sizes
from specc.passes.steps import operand_type


def positions_left(model: Model) -> Diagnostic | None:
    """B622 for a part whose positions go along the same dim as the input, and would not follow it."""
    for entry in model.entries.values():
        given = next((a for a in entry.full.inputs if a.name == POSITION_IDS), None)
        if given is None:
            continue
        for node, graph in _positions(entry.full, entry_sizes(entry.full), given.type.shape[1], set()):
            name = graph.module.name if graph.module is not None else graph.method
            message = f"{name} asks for positions of its own, which would not follow `{POSITION_IDS}`"
            return Diagnostic("B622", message, node.span, help="hand them to the part from a method of the model")
    return None


def _positions(
    graph: Graph, sizes: Sizes, along: Dim, seen: set[tuple[Graph, frozenset[str]]]
) -> Iterator[tuple[Apply, Graph]]:
    """The calls of `positions` along a dim of the entry, below a graph."""
    key = graph, frozenset(name for name in graph.dims if sizes[name] == along)
    if key in seen:
        return
    seen.add(key)
    for node in _flat(graph.nodes):
        if isinstance(node, Apply) and isinstance(node.op, Positions) and node.op.D.substitute(sizes) == along:
            yield node, graph
        elif isinstance(node, Call):
            inner = call_sizes(node.graph.inputs, [operand_type(i, sizes) for i in node.inputs], sizes)
            yield from _positions(node.graph, inner, along, seen)


def _flat(nodes: Sequence[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        if isinstance(node, Loop):
            for iteration in node.iterations:
                yield from _flat(iteration.nodes)
        elif isinstance(node, (Scan, When)):
            yield from _flat(node.nodes)

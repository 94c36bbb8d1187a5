"""Keys for the intermediate values of a run, the same for every backend: where do two programs first differ?

A key is `<path>/<n>`, then `.<j>` for result j of several, `:<name>` where the spec names the value, and `#<k>` from
the second evaluation on: `h.0.attn/5:q`. The path is the module's (with `/<fn>` for a file-level function), n the
node's index in `numbered(graph)`, which counts reads, operators and calls in the order of the text, loops unrolled and
`when` regions included. A scan counts as one node: its values are those it gives out, not those of its steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from specc.ir.graph import Apply, Call, Graph, Loop, Node, Path, Read, Scan, Value, When, dotted


def numbered(graph: Graph) -> dict[Node, int]:
    """Index of every read, operator, call and scan of a graph, those inside loops and `when` regions too."""
    return {node: index for index, node in enumerate(_flat(graph.nodes))}


def _flat(nodes: Sequence[Node]) -> Iterator[Node]:
    for node in nodes:
        if isinstance(node, Loop):
            for iteration in node.iterations:
                yield from _flat(iteration.nodes)
        elif isinstance(node, When):
            yield from _flat(node.nodes)
        else:
            yield node


def call_scope(scope: str, call: Call) -> str:
    """The path of what a call runs, given the caller's."""
    if call.graph.module is None:
        return f"{scope}/{call.graph.method}"
    part = dotted(call.path)
    return f"{scope}.{part}" if scope and part else scope or part


class TapKeys:
    """Makes keys; counts evaluations. One object per run."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def key(self, scope: str, index: int, node: Apply | Call | Scan, position: int) -> str:
        """The key of result `position` of the node numbered `index`, evaluated now."""
        result = f".{position}" if len(node.outputs) > 1 else ""
        name = node.outputs[position].name
        key = f"{scope}/{index}{result}" + (f":{name}" if name else "")
        self._seen[key] = count = self._seen.get(key, 0) + 1
        return key if count == 1 else f"{key}#{count}"


@dataclass(frozen=True, eq=False)
class Tap:
    """One intermediate value of a run outside training. `path` is the module's, without a function's name."""

    key: str
    path: Path
    node: Apply | Call | Scan
    value: Value


def walk(graph: Graph) -> Iterator[Tap]:
    """The taps of one evaluation in execution order; a call's own results follow everything inside it."""
    yield from _walk(graph, "", (), TapKeys())


def _walk(graph: Graph, scope: str, path: Path, keys: TapKeys) -> Iterator[Tap]:
    index = numbered(graph)
    for node in executed(graph.nodes):
        if isinstance(node, Read):
            continue
        if isinstance(node, Call):
            yield from _walk(node.graph, call_scope(scope, node), (*path, *node.path), keys)
        for position, value in enumerate(node.outputs):
            yield Tap(keys.key(scope, index[node], node, position), path, node, value)


def executed(nodes: Sequence[Node]) -> Iterator[Read | Apply | Call | Scan]:
    """The nodes that run outside training, in order: loops unrolled, `when train` left out."""
    for node in nodes:
        if isinstance(node, Loop):
            for iteration in node.iterations:
                yield from executed(iteration.nodes)
        elif isinstance(node, When):
            if node.mode == "infer":
                yield from executed(node.nodes)
        else:
            yield node

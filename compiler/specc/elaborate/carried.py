"""States stand beside their recurrence: `carried` is pure, so where a body names it has no meaning of its own.

Steps tell the states of a recurrence by their order, and `h = carried(..)` at the beginning of a body would otherwise
come before whatever else is kept until its loop.
"""

from __future__ import annotations

from collections.abc import Sequence

from specc.ir.graph import Apply, Loop, Node, Scan, Value, When
from specc.ops.state import Carried


def beside_readers(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes of a body, with what is carried right before its first reader where others are in between."""
    found = list(nodes)
    made = {node.outputs[0]: node for node in nodes if _is_carried(node)}
    for reader in nodes if made else ():
        if _is_carried(reader):
            continue
        group = [made[value] for value in dict.fromkeys(_read(reader)) if value in made]
        if not group or _is_beside(found, group, reader):
            continue
        found = [node for node in found if node not in group]
        at = found.index(reader)
        found[at:at] = group
    return tuple(found)


def _is_beside(nodes: Sequence[Node], group: Sequence[Node], reader: Node) -> bool:
    """Whether between the first of the group and its reader there is nothing that may keep something, in their order.

    Where a value has an earlier reader it stays there.
    """
    start = min(nodes.index(node) for node in group)
    between = nodes[start : nodes.index(reader)]
    if any(value in _read(node) for one in group for value in one.outputs for node in between):
        return True
    others = [node for node in between if not isinstance(node, Apply) or node.op.name in _KEEPING]
    return others == list(group)


_KEEPING = frozenset({"cached", "once", "carried", "causal_conv1d", "lstm", "gru"})


def _is_carried(node: Node) -> bool:
    return isinstance(node, Apply) and isinstance(node.op, Carried)


def _read(node: Node) -> list[Value]:
    """What a node and those inside it read, in order."""
    inside: list[Node] = []
    if isinstance(node, Loop):
        inside = [inner for iteration in node.iterations for inner in iteration.nodes]
    elif isinstance(node, (Scan, When)):
        inside = list(node.nodes)
    return [i for i in node.inputs if isinstance(i, Value)] + [value for inner in inside for value in _read(inner)]

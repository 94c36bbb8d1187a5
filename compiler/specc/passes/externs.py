"""The extern operations of a model: which Python files they come from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from specc.ir.graph import Apply, Call, Graph, Loop, Model, Node, Scan, When
from specc.ops.extern import Extern
from specc.source import Span


@dataclass(frozen=True, eq=False)
class ExternCall:
    """An extern function of a model. `function` is the place of its name, `at` that of its file."""

    op: Extern
    function: Span
    at: Span


def extern_calls(model: Model) -> list[ExternCall]:
    """Every extern function that the entries of a model call, once for each choice of its compile-time arguments."""
    found: dict[Graph, ExternCall] = {}
    waiting = [graph for entry in model.entries.values() for graph in entry.graphs.values()]
    seen = set(waiting)
    while waiting:
        graph = waiting.pop(0)
        for node in _nodes(graph.nodes):
            if isinstance(node, Call) and node.graph not in seen:
                seen.add(node.graph)
                waiting.append(node.graph)
            elif isinstance(node, Apply) and isinstance(node.op, Extern):
                found[graph] = ExternCall(node.op, graph.span, node.span)
    return list(found.values())


def extern_files(model: Model) -> dict[str, Span]:
    """The Python files that a model needs, by path from the project's root: where the spec names each first."""
    files: dict[str, Span] = {}
    for call in extern_calls(model):
        files.setdefault(call.op.file, call.at)
    return files


def extern_modules(model: Model) -> dict[str, str]:
    """File of extern functions -> the Python module that its copy beside the emitted source is.

    The prefix keeps a file called `torch.py` from standing in for torch.
    """
    names: dict[str, str] = {}
    for file in sorted(extern_files(model)):
        stem = re.sub(r"\W", "_", file.rpartition("/")[2].removesuffix(".py"), flags=re.ASCII)
        name, number = f"extern_{stem}", 2
        while name in names.values():
            name = f"extern_{stem}{number}"
            number += 1
        names[file] = name
    return names


def _nodes(nodes: Sequence[Node]) -> Iterator[Apply | Call]:
    """Operators and calls, those in loops, scans and regions of either mode too."""
    for node in nodes:
        if isinstance(node, Loop):
            for iteration in node.iterations:
                yield from _nodes(iteration.nodes)
        elif isinstance(node, (When, Scan)):
            yield from _nodes(node.nodes)
        elif isinstance(node, (Apply, Call)):
            yield node

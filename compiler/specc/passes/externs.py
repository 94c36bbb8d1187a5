"""The extern operations of a model: where they are called, with which types, from which Python files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from specc.ir.graph import Absent, Apply, Call, Graph, Input, Loop, Model, Node, When
from specc.ops.extern import Extern
from specc.passes.plain import Sizes, call_sizes, entry_sizes
from specc.source import Span
from specc.types import Operand, Scalar


@dataclass(frozen=True, eq=False)
class ExternCall:
    """One way an extern function is called: types over the dims of the entry.

    `function` is the place of its name, `at` that of its file.
    """

    op: Extern
    entry: str
    operands: tuple[Operand, ...]
    function: Span
    at: Span


def extern_calls(model: Model) -> list[ExternCall]:
    """Each distinct (operation, types of its operands) once, in the order of execution."""
    found: dict[object, ExternCall] = {}
    for entry in model.entries.values():
        for graph in entry.graphs.values():
            for call in _calls(graph, entry_sizes(graph), entry.name):
                found.setdefault((entry.name, call.op, call.operands), call)
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


def _calls(graph: Graph, sizes: Sizes, entry: str) -> Iterator[ExternCall]:
    for node in _nodes(graph.nodes):
        types = tuple(_type(i, sizes) for i in node.inputs)
        if isinstance(node, Call):
            yield from _calls(node.graph, call_sizes(node.graph.inputs, types), entry)
        elif isinstance(node.op, Extern):
            op = node.op.substitute(sizes)
            assert isinstance(op, Extern)
            yield ExternCall(op, entry, types, graph.span, node.span)


def _nodes(nodes: Sequence[Node]) -> Iterator[Apply | Call]:
    """Operators and calls, those in loops and in regions of either mode too."""
    for node in nodes:
        if isinstance(node, Loop):
            for iteration in node.iterations:
                yield from _nodes(iteration.nodes)
        elif isinstance(node, When):
            yield from _nodes(node.nodes)
        elif isinstance(node, (Apply, Call)):
            yield node


def _type(input_: Input, sizes: Sizes) -> Operand:
    if isinstance(input_, Absent):
        return None
    return input_ if isinstance(input_, Scalar) else sizes.type(input_.type)

"""Graphs outside any module as a Python file of functions: what a train section computes of a batch."""

from __future__ import annotations

from collections.abc import Sequence

from specc.backends.torch.file import FileBuilder
from specc.ir.graph import Graph, Model


def emit_functions(model: Model, graphs: Sequence[Graph], title: str, version: str = "") -> str:
    """The complete source: one function for each graph, called as the graph's method is, and what they call."""
    builder = FileBuilder(model, version, ())
    for graph in graphs:
        builder.method_of(graph)
    return builder.text(title)

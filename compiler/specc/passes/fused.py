"""What an incremental entry computes once a sequence, appended to the entry that gives what it is computed from.

The encoder's graph then gives the keys and values of cross-attention itself: what it gave for them to be computed from
need not leave it.
"""

from __future__ import annotations

from dataclasses import replace

from specc.diagnostics import Diagnostic
from specc.ir.graph import Graph, Model
from specc.passes.incremental import Incremental
from specc.passes.plain import Sizes, call_sizes, entry_sizes
from specc.types import TensorType


def fuse(model: Model, found: Incremental, entry: str, without: frozenset[str]) -> Incremental | Diagnostic:
    """The incremental entry whose `once` values another entry of the model gives, or why it cannot (B623).

    `without`: optional inputs that the other entry is built without.
    """
    of = model.entries[entry]
    into = of.graphs[of.full.present - without]
    reason = _refusal(found, into)
    if reason is None:
        return replace(found, into=into)
    message, help = reason
    others = [e.full for name, e in model.entries.items() if name != entry]
    fitting = [graph.method for graph in others if found.once and _refusal(found, graph) is None]
    if fitting:
        help = f"--fuse-once {fitting[0]}"
    message = f"--fuse-once {entry}: {message}"
    return Diagnostic("B623", message, into.span.head(), help=help)


def appended_sizes(found: Incremental, into: Graph) -> Sizes:
    """The sizes of the entry in those of the other one, by the inputs that this gives."""
    given = _given(into)
    read = [a for a in found.graph.inputs if a.value is not None and a.name in found.once_needs]
    bound = call_sizes(read, [given[a.name] for a in read])
    sizes = entry_sizes(found.graph)
    sizes.update(bound)
    return sizes


def _given(into: Graph) -> dict[str, TensorType]:
    sizes = entry_sizes(into)
    return {name: sizes.type(v.type) for name, (_, v) in zip(into.output_names, into.results, strict=True)}


def _refusal(found: Incremental, into: Graph) -> tuple[str, str] | None:
    if not found.once:
        return (
            f"`{found.entry}` computes nothing once a sequence",
            "k, v = once(k, v)  for what is the same in every step",
        )
    if any(state is not None for state in found.starts):
        return f"states of `{found.entry}` begin with computed values, which a graph of their own gives", ""
    given = _given(into)
    missing = sorted(found.once_needs - given.keys())
    if missing:
        message = f"it does not give `{missing[0]}`, of which `{found.entry}` computes what it keeps"
        return message, f"name its result:  -> {missing[0]}: Tensor[..]"
    sizes = appended_sizes(found, into)
    for argument in found.graph.inputs:
        if argument.name in found.once_needs and sizes.type(argument.type) != given[argument.name]:
            message = f"its `{argument.name}` is {given[argument.name]}, `{found.entry}` takes {argument.type}"
            return message, ""
    both = sorted(found.needs & given.keys())
    if both:
        return f"`{found.entry}` reads `{both[0]}` in every step, too", ""
    names = {a.name for a in into.inputs if a.value is not None}
    clash = sorted(found.needs & names)
    if clash:
        message = f"it and `{found.entry}` have an input `{clash[0]}` each, and a step would be given one of them"
        return message, "rename one of the two"
    return None

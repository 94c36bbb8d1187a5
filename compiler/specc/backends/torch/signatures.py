"""Arguments and sizes of emitted functions, as both their definitions and their calls need them."""

from __future__ import annotations

from collections.abc import Mapping

from specc.backends.torch.labels import python_name
from specc.dims import Dim
from specc.ir.graph import Argument, Graph
from specc.op import Step


def variants_of(graph: Graph) -> list[Graph]:
    """The graphs of a method: for every set of optional arguments and every rank of `...` that calls give."""
    if graph.module is None:
        return [graph]
    return graph.module.method(graph.method) or [graph]


def ellipsis_rank(graph: Graph) -> int:
    """How many axes `...` stands for in a graph."""
    sizes = (d for a in graph.inputs if a.value is not None for d in a.value.type.shape)
    return len({s for d in sizes for s in d.symbols if s.startswith("...")})


def argument_text(argument: Argument) -> str:
    """An argument in a body: its name, or the element of a list of tensors that it is."""
    if argument.of is None:
        return python_name(argument.name)
    return python_name(argument.of) + argument.name.removeprefix(argument.of)


def list_lengths(graph: Graph) -> dict[str, int]:
    """The lists of tensors of a graph, and how many each holds."""
    found: dict[str, int] = {}
    for argument in graph.inputs:
        if argument.of is not None:
            found[argument.of] = found.get(argument.of, 0) + 1
    return found


def parameters_of(graph: Graph) -> list[Argument]:
    """The arguments of the Python function: those that some call gives."""
    given = frozenset[str]().union(*(g.present for g in variants_of(graph)))
    return [a for a in graph.inputs if not a.optional or a.name in given]


def size_symbols(graph: Graph) -> list[str]:
    """The dims of a signature, and the axes that its `...` stands for."""
    axes = (s for a in graph.inputs if a.value is not None for d in a.value.type.shape for s in d.symbols)
    return list(dict.fromkeys((*graph.dims, *(s for s in axes if s.startswith("...")))))


def size_names(graph: Graph, step: Step | None = None) -> dict[str, str]:
    """Size -> the local that holds it; never the name of an argument. In a step of decoding, `start` came before."""
    taken = {python_name(a.of or a.name) for a in graph.inputs}
    names: dict[str, str] = {}
    for symbol in size_symbols(graph):
        name = python_name(symbol.replace("...", "n"))
        while name in taken:
            name += "_"
        if name.isidentifier():
            names[symbol] = name
    if step is not None:
        names[step.past.symbols[0]] = "start"
    return names


def plain_sizes(graph: Graph, step: Step | None = None) -> Mapping[str, Dim | int]:
    """In the plain entry nothing is cached: past(T) is 0. In a step of decoding the past of its own axis is not."""
    names = {s for a in graph.inputs for d in a.type.shape for s in d.symbols} | set(graph.dims)
    names |= {f"past({d})" for d in graph.dims}
    kept = step.past.symbols if step is not None else ()
    return {name: 0 for name in sorted(names) if name.startswith("past(") and name not in kept}


def given_always(graph: Graph) -> frozenset[str]:
    """The optional arguments that every call gives."""
    return frozenset.intersection(*(one.present for one in variants_of(graph)))


def argument_defaults(graph: Graph) -> dict[str, bool]:
    """Arguments of the Python function, in order, and whether each has the default `None`. A list of tensors is one.

    One that is optional has none if an argument after it has none: Python wants defaults at the end.
    """
    always = given_always(graph)
    defaults: dict[str, bool] = {}
    for argument in reversed(parameters_of(graph)):
        optional = argument.optional and argument.name not in always
        defaults[argument.of or argument.name] = optional and all(defaults.values())
    return dict(reversed(defaults.items()))

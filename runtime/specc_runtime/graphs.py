"""Which graphs a build has, and what is written into each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from specc.diagnostics import Diagnostic, Rejected
from specc.elaborate.names import available, closest, did_you_mean
from specc.ir import graph as ir
from specc.passes.incremental import innermost, keeps_state, without_cache
from specc_runtime.cache import Request as CacheRequest
from specc_runtime.cache import entry_file, incremental, once_file
from specc_runtime.record import Graph

if TYPE_CHECKING:
    from onnx import ModelProto

    from specc.backends.onnx.target import Target
    from specc_runtime.build import Request


def graphs_of(model: ir.Model, request: Request) -> list[Graph]:
    """The entries to build, each with the optional inputs to leave out. Raises `Rejected`: E103 for unknown names."""
    graphs = []
    asked = dict.fromkeys(model.entries if request.entries is None else request.entries)
    continued = _continued(model, asked, request.cache) if request.cache is not None else []
    more = [request.cache.fuse_once] if request.cache is not None and request.cache.fuse_once is not None else []
    for name in dict.fromkeys([*asked, *continued, *more]):
        if name not in model.entries:
            raise _unknown(f"{model.module.name} has no entry `{name}`", name, list(model.entries))
        graphs.append(Graph(name, entry_file(name), request.without & model.entries[name].full.present))
    optional = sorted({name for g in graphs for name in model.entries[g.entry].full.present})
    for name in sorted(request.without - {*optional}):
        raise _unknown(f"--without {name}: there is no such optional input", name, optional)
    if request.cache is None:
        return graphs
    cached = []
    for graph in graphs:
        if graph.entry in continued:
            found = incremental(model, graph.entry, graph.without, request.cache)
            cached.append(Graph(graph.entry, f"model.{found.name}.onnx", graph.without, found))
    return appended([*graphs, *cached])


def appended(graphs: Sequence[Graph]) -> list[Graph]:
    """The same graphs, where those know it that values computed once are appended to. Raises `Rejected` (B623)."""
    given: dict[str, Graph] = {}
    for graph in graphs:
        into = graph.incremental.into if graph.incremental is not None else None
        if into is not None and into.method in given:
            message = f"--fuse-once {into.method}: `{given[into.method].entry}` and `{graph.entry}` compute values once"
            raise Rejected([Diagnostic("B623", message, into.span.head(), help="one of them:  --entry NAME")])
        if into is not None:
            given[into.method] = graph
    return [
        replace(graph, once=given[graph.entry].incremental)
        if graph.incremental is None and graph.entry in given
        else graph
        for graph in graphs
    ]


def protos(model: ir.Model, graph: Graph, target: Target) -> dict[str, ModelProto]:
    """File -> the graph."""
    from specc.backends.onnx.buffers import build_buffered
    from specc.backends.onnx.cached import build_cached, build_once
    from specc.backends.onnx.export import build
    from specc.backends.onnx.fused import build_fused

    steps = graph.incremental
    if steps is not None:
        made = {graph.file: (build_buffered if steps.buffered else build_cached)(model, steps, target)}
        if steps.first and steps.into is None:
            made[once_file(steps)] = build_once(model, steps, target)
        return made
    if graph.once is not None:
        return {graph.file: build_fused(model, graph.once, target)}
    return {graph.file: build(model, target, entry=graph.entry, without=graph.without)}


def _continued(model: ir.Model, asked: Iterable[str], cache: CacheRequest) -> list[str]:
    """The entries that `--cache` is about: of those asked for, the innermost that keep something; B620 if none does."""
    names = [name for name in asked if name in model.entries]
    kept = [name for name in names if keeps_state(model, name)]
    if names and not kept:
        raise Rejected([without_cache(model, names[0])])
    return list(dict.fromkeys(innermost(model, name) for name in kept)) if cache.innermost else kept


def _unknown(message: str, name: str, known: list[str]) -> Rejected:
    guess = closest(name, known)
    help = did_you_mean(guess)
    return Rejected([Diagnostic("E103", message, help=help, notes=(("available", available(known) or "none"),))])

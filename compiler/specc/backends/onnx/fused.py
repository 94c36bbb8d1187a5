"""`build_fused`: the graph of an entry that also gives what another one computes once of its results."""

from __future__ import annotations

from onnx import ModelProto

from specc.backends.onnx.attention import merge_heads
from specc.backends.onnx.cached import OnceFlattener
from specc.backends.onnx.export import metadata
from specc.backends.onnx.flatten import Flattener
from specc.backends.onnx.products import use_gemm
from specc.backends.onnx.target import STRUCTURE, Target
from specc.ir.graph import Model
from specc.ir.members import aliases
from specc.passes.fused import appended_sizes
from specc.passes.incremental import Incremental
from specc.passes.plain import entry_sizes


def build_fused(model: Model, incremental: Incremental, target: Target = STRUCTURE) -> ModelProto:
    """The flat graph of `incremental.into` with its own results and then the `once` values."""
    graph = incremental.into
    assert graph is not None
    emit = target.emitter()
    Flattener(emit, aliases(model.module)).entry(graph, entry_sizes(graph))
    once = OnceFlattener(emit, model, incremental)
    once.append(dict(emit.outputs), appended_sizes(incremental, graph))
    target.pack(emit)
    merge_heads(emit)
    use_gemm(emit)
    about = metadata(model, graph.method, graph) | {"specc.once": incremental.once_name}
    doc = graph.doc or model.module.doc
    return target.model(emit, model.name, doc=doc, metadata=about)

"""`build_fused`: the graph of an entry that also gives what another one computes once of its results."""

from __future__ import annotations

from onnx import ModelProto

from specc.backends.onnx.attention import merge_heads
from specc.backends.onnx.cached import OnceFlattener
from specc.backends.onnx.emitter import GraphEmitter
from specc.backends.onnx.export import DEFAULT_OPSET, metadata
from specc.backends.onnx.externs import Externs, NotLoaded
from specc.backends.onnx.flatten import Flattener
from specc.backends.onnx.packed import pack
from specc.backends.onnx.products import use_gemm
from specc.backends.onnx.proto import WeightsRef, model_proto
from specc.ir.graph import Model
from specc.ir.members import aliases
from specc.passes.fused import appended_sizes
from specc.passes.incremental import Incremental
from specc.passes.plain import entry_sizes
from specc.quantisation import Scheme
from specc.types import DType


def build_fused(
    model: Model,
    incremental: Incremental,
    *,
    opset: int = DEFAULT_OPSET,
    weights: WeightsRef | None = None,
    compute: DType = DType.F32,
    version: str = "",
    externs: Externs | None = None,
    quant: Scheme | None = None,
) -> ModelProto:
    """The flat graph of `incremental.into` with its own results and then the `once` values; the rest as `build`."""
    graph = incremental.into
    assert graph is not None
    emit = GraphEmitter(opset, compute, externs or NotLoaded())
    Flattener(emit, aliases(model.module)).entry(graph, entry_sizes(graph))
    once = OnceFlattener(emit, model, incremental)
    once.append(dict(emit.outputs), appended_sizes(incremental, graph))
    if quant is not None:
        pack(emit, quant)
    merge_heads(emit)
    use_gemm(emit)
    about = metadata(model, graph.method, graph) | {"specc.once": incremental.once_name}
    doc = graph.doc or model.module.doc
    return model_proto(emit, model.name, weights=weights, doc=doc, metadata=about, version=version)

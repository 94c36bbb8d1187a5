"""`build`: a checked model becomes the ONNX model that runs; `build_debug` gives out its intermediate values too."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePath

from onnx import ModelProto

from specc.backends.onnx.attention import merge_heads
from specc.backends.onnx.emitter import GraphEmitter
from specc.backends.onnx.externs import Externs, NotLoaded
from specc.backends.onnx.flatten import Flattener
from specc.backends.onnx.packed import pack
from specc.backends.onnx.products import use_gemm
from specc.backends.onnx.proto import IR_VERSION, WeightsRef, model_proto
from specc.backends.onnx.values import Ref
from specc.diagnostics import Diagnostic, Rejected
from specc.ir.graph import Graph, Model
from specc.ir.members import aliases
from specc.passes.plain import entry_facts, entry_sizes
from specc.quantisation import Scheme
from specc.source import Span
from specc.types import DType

DEFAULT_OPSET = 23


@dataclass(frozen=True, eq=False)
class TapOutput:
    """An extra output of a debug graph: the tap's key (`ir.taps`), the output's name, the place in the spec."""

    key: str
    output: str
    span: Span


def build(
    model: Model,
    entry: str = "forward",
    *,
    opset: int = DEFAULT_OPSET,
    without: frozenset[str] = frozenset(),
    weights: WeightsRef | None = None,
    compute: DType = DType.F32,
    version: str = "",
    externs: Externs | None = None,
    quant: Scheme | None = None,
) -> ModelProto:
    """The flat graph of an entry, with every optional input but those in `without`.

    Inputs and outputs are named as in the signature (`output` where it gives no name); dims are `dim_param`s;
    initializers are state_dict names, tied ones once. `weights` says where their bytes are; None declares them as
    external data without a file. `externs` lowers extern operations; without it a model that has any is refused (X901).
    `quant`: how to store weights that operators can read packed; what it cannot pack is refused (B670).
    """
    emit, _ = _flat(model, entry, opset, without, compute, externs, quant, debug=False)
    return _finish(model, entry, emit, without, weights, version)


def build_debug(
    model: Model,
    entry: str = "forward",
    *,
    opset: int = DEFAULT_OPSET,
    without: frozenset[str] = frozenset(),
    weights: WeightsRef | None = None,
    compute: DType = DType.F32,
    version: str = "",
    externs: Externs | None = None,
) -> tuple[ModelProto, list[TapOutput]]:
    """The same graph where every value of the IR is an extra output, in the order of execution.

    Two keys may share an output: a call's result is the value that its body returns.
    """
    emit, flattener = _flat(model, entry, opset, without, compute, externs, None, debug=True)
    names: dict[int, str] = {id(ref): name for name, ref in emit.outputs}
    taps: list[TapOutput] = []
    for tap in flattener.taps:
        if id(tap.ref) not in names:
            names[id(tap.ref)] = tap.key
            emit.output(tap.key, tap.ref)
        taps.append(TapOutput(tap.key, names[id(tap.ref)], tap.span))
    return _finish(model, entry, emit, without, weights, version), taps


def select(model: Model, entry: str, without: frozenset[str]) -> Graph:
    """The graph of an entry for a choice of optional inputs. Raises KeyError for what the entry does not have."""
    found = model.entries[entry]
    optional = found.full.present
    if without - optional:
        raise KeyError(f"{entry} has no optional input {', '.join(sorted(without - optional))}")
    return found.graphs[optional - without]


def _flat(
    model: Model,
    entry: str,
    opset: int,
    without: frozenset[str],
    compute: DType,
    externs: Externs | None,
    quant: Scheme | None,
    *,
    debug: bool,
) -> tuple[GraphEmitter, Flattener]:
    if opset not in IR_VERSION:
        found = f"opset {opset} is not one of {min(IR_VERSION)} to {max(IR_VERSION)}"
        raise Rejected([Diagnostic("B601", found, help=f"the default is {DEFAULT_OPSET}")])
    emit = GraphEmitter(opset, compute, externs or NotLoaded())
    flattener = Flattener(emit, aliases(model.module))
    graph = select(model, entry, without)
    flattener.entry(graph, entry_sizes(graph))
    watched: list[Ref] = [tap.ref for tap in flattener.taps] if debug else []
    if quant is not None:
        pack(emit, quant)
    stand_ins = merge_heads(emit, watched)
    use_gemm(emit, watched)
    for tap in flattener.taps if debug else ():
        tap.ref = stand_ins.get(id(tap.ref), tap.ref)
    return emit, flattener


def _finish(
    model: Model, entry: str, emit: GraphEmitter, without: frozenset[str], weights: WeightsRef | None, version: str
) -> ModelProto:
    graph = select(model, entry, without)
    doc = graph.doc or model.module.doc
    return model_proto(
        emit, model.name, weights=weights, doc=doc, metadata=metadata(model, entry, graph), version=version
    )


def metadata(model: Model, entry: str, graph: Graph) -> dict[str, str]:
    """What a reader of the file alone wants to know: where it came from, with which hyper-parameters and promises."""
    facts = entry_facts(model, graph).statements()
    known = {
        "specc.spec": PurePath(model.file).name,
        "specc.model": model.module.name,
        "specc.preset": model.preset or "",
        "specc.entry": entry,
        "specc.hyperparameters": json.dumps({h.name: _plain(h.value) for h in model.module.hypers if not h.is_let}),
        "specc.dims": "; ".join(str(fact) for fact in facts),
    }
    return {key: value for key, value in known.items() if value}


def _plain(value: object) -> object:
    if isinstance(value, DType):
        return value.spec_name
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)

"""`build`: a checked model becomes the ONNX model that runs; `build_debug` gives out its intermediate values too."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePath

from onnx import ModelProto

from specc.backends.onnx.attention import merge_heads
from specc.backends.onnx.emitter import GraphEmitter
from specc.backends.onnx.flatten import Flattener
from specc.backends.onnx.products import use_gemm
from specc.backends.onnx.target import STRUCTURE, Target
from specc.backends.onnx.values import Ref
from specc.ir.graph import Graph, Model
from specc.ir.members import aliases
from specc.passes.plain import entry_facts, entry_sizes
from specc.source import Span
from specc.types import DType


@dataclass(frozen=True, eq=False)
class TapOutput:
    """An extra output of a debug graph: the tap's key (`ir.taps`), the output's name, the place in the spec."""

    key: str
    output: str
    span: Span


def build(
    model: Model, target: Target = STRUCTURE, *, entry: str = "forward", without: frozenset[str] = frozenset()
) -> ModelProto:
    """The flat graph of an entry, with every optional input but those in `without`.

    Inputs and outputs are named as in the signature (`output` where it gives no name); dims are `dim_param`s;
    initializers are state_dict names, tied ones once. Raises `Rejected` for what `target` cannot have, KeyError for an
    entry or input that the model does not have.
    """
    graph = select(model, entry, without)
    emit, _ = _flat(model, graph, target, debug=False)
    return _finish(model, entry, graph, emit, target)


def build_debug(
    model: Model, target: Target = STRUCTURE, *, entry: str = "forward", without: frozenset[str] = frozenset()
) -> tuple[ModelProto, list[TapOutput]]:
    """The same graph where every value of the IR is an extra output, in the order of execution.

    Two keys may share an output: a call's result is the value that its body returns.
    """
    graph = select(model, entry, without)
    emit, flattener = _flat(model, graph, target, debug=True)
    names: dict[int, str] = {id(ref): name for name, ref in emit.outputs}
    taps: list[TapOutput] = []
    for tap in flattener.taps:
        if id(tap.ref) not in names:
            names[id(tap.ref)] = tap.key
            emit.output(tap.key, tap.ref)
        taps.append(TapOutput(tap.key, names[id(tap.ref)], tap.span))
    return _finish(model, entry, graph, emit, target), taps


def select(model: Model, entry: str, without: frozenset[str]) -> Graph:
    """The graph of an entry for a choice of optional inputs. Raises KeyError for what the entry does not have."""
    found = model.entries[entry]
    optional = found.full.present
    if without - optional:
        raise KeyError(f"{entry} has no optional input {', '.join(sorted(without - optional))}")
    return found.graphs[optional - without]


def _flat(model: Model, graph: Graph, target: Target, *, debug: bool) -> tuple[GraphEmitter, Flattener]:
    emit = target.emitter()
    flattener = Flattener(emit, aliases(model.module))
    flattener.entry(graph, entry_sizes(graph))
    watched: list[Ref] = [tap.ref for tap in flattener.taps] if debug else []
    target.pack(emit)
    stand_ins = merge_heads(emit, watched)
    use_gemm(emit, watched)
    for tap in flattener.taps if debug else ():
        tap.ref = stand_ins.get(id(tap.ref), tap.ref)
    return emit, flattener


def _finish(model: Model, entry: str, graph: Graph, emit: GraphEmitter, target: Target) -> ModelProto:
    doc = graph.doc or model.module.doc
    return target.model(emit, model.name, doc=doc, metadata=metadata(model, entry, graph))


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

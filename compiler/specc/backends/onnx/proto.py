"""From a finished `GraphEmitter` to protobuf: what is used, under which name, in which bytes.

Same graph, same bytes: names are given in the order of emission, nothing carries a time or a path.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
)

from specc.backends.onnx.emitter import GraphEmitter
from specc.backends.onnx.islands import widen_undefined
from specc.backends.onnx.scans import BodyEmitter
from specc.backends.onnx.values import ELEMENT, Record, Ref, live, numbers, reads
from specc.types import DType, TensorType

IR_VERSION: Mapping[int, int] = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12, 25: 13, 26: 13}
"""Opset -> the IR version it came with; onnxruntime 1.31 reads opsets up to 26 and IR versions up to 13."""


@dataclass(frozen=True)
class Slot:
    """Where a tensor lies in a data file: bytes `offset` to `offset + length`."""

    offset: int
    length: int


@dataclass(frozen=True)
class External:
    """Weights in a file beside the model: `location` is its name, `slots` are by state_dict name."""

    location: str
    slots: Mapping[str, Slot]


@dataclass(frozen=True)
class Embedded:
    """Weights inside the model: little-endian bytes by state_dict name."""

    tensors: Mapping[str, bytes]


WeightsRef = External | Embedded
"""Without one, parameters are declared as external data that is nowhere: structure only."""

NOWHERE = "#weights"
"""The location that structure-only graphs name: onnx's checker does not look for a file whose name begins with #."""


# ---- names and liveness ----------------------------------------------------------------------------------------------


class _Names:
    """Readable unique names: `x`, `x_1`, `x_2` ..."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._next = dict.fromkeys(taken, 1)

    def take(self, wanted: str) -> str:
        if wanted not in self._next:
            self._next[wanted] = 1
            return wanted
        while True:
            name = f"{wanted}_{self._next[wanted]}"
            self._next[wanted] += 1
            if name not in self._next:
                self._next[name] = 1
                return name


@dataclass
class Listing:
    """What a graph contains once everything unused is gone and everything else has a name."""

    inputs: list[Ref]
    outputs: list[Ref]
    records: list[tuple[str, Record]]
    parameters: dict[str, Ref]
    constants: list[Ref]
    bodies: dict[int, Listing]  # id of a Scan's record -> the graph of one step

    def everything(self) -> Iterator[Record]:
        """The nodes, each before those of its body."""
        for _, record in self.records:
            yield record
            if record.body is not None:
                yield from self.bodies[id(record)].everything()


def listing(emit: GraphEmitter) -> Listing:
    records, outputs = _with_identities(emit)
    records = live(records, [ref for _, ref in outputs])
    used = {id(ref) for record in records for ref in reads(record)}
    parameters = {name: ref for name, ref in emit.parameters.items() if id(ref) in used}
    constants = [ref for ref in emit.constants if id(ref) in used]
    names = _Names([ref.name for ref in emit.inputs] + list(parameters))
    for wanted, ref in outputs:
        ref.name = names.take(wanted)
    given = [ref for _, ref in outputs]
    named, bodies = _named(records, names, _Names(), {id(ref) for ref in given})
    for ref in constants:
        ref.name = names.take(ref.hint or _constant_name(ref))
    return Listing(emit.inputs, given, named, parameters, constants, bodies)


def _named(
    records: Sequence[Record], names: _Names, node_names: _Names, done: set[int]
) -> tuple[list[tuple[str, Record]], dict[int, Listing]]:
    """Names for nodes and for what they compute, but for values in `done`; no name of a body is also one outside."""
    named: list[tuple[str, Record]] = []
    bodies: dict[int, Listing] = {}
    for record in records:
        scoped = f"{record.scope}/{record.op_type}" if record.scope else record.op_type
        node_name = node_names.take(record.label or scoped)
        named.append((node_name, record))
        for i, ref in enumerate(record.outputs):
            if id(ref) not in done:
                default = node_name if len(record.outputs) == 1 else f"{node_name}.{i}"
                ref.name = names.take(ref.hint or default)
        if record.body is not None:
            bodies[id(record)] = _body_listing(record.body, names, node_names)
    return named, bodies


def _body_listing(body: BodyEmitter, names: _Names, node_names: _Names) -> Listing:
    records, outputs = _with_identities(body)
    for ref in body.inputs:
        ref.name = names.take(ref.hint or "x")
    named, bodies = _named(records, names, node_names, set())
    return Listing(body.inputs, [ref for _, ref in outputs], named, {}, [], bodies)


def _with_identities(emit: GraphEmitter) -> tuple[list[Record], list[tuple[str, Ref]]]:
    """The outputs, each a value that a node computes for this output alone."""
    records = list(emit.records)
    outputs: list[tuple[str, Ref]] = []
    seen: set[int] = set()
    for name, ref in emit.outputs:
        if not emit.owns(ref) or id(ref) in seen:
            record = Record("Identity", "", [ref], {}, "", "")
            record.outputs.append(Ref(ref.type, ref.known, record))
            records.append(record)
            ref = record.outputs[0]
        seen.add(id(ref))
        outputs.append((name, ref))
    return records, outputs


def _constant_name(ref: Ref) -> str:
    array = ref.array
    assert array is not None
    if array.size > 6 or ref.type.dtype is DType.BF16:
        return f"const/{ref.type.dtype.value}{list(array.shape)}".replace(" ", "")
    return "const/" + numbers(array).replace(" ", "")


# ---- protobuf --------------------------------------------------------------------------------------------------------


def value_info(name: str, type_: TensorType, known: bool, compute: DType) -> ValueInfoProto:
    return ValueInfoProto(name=name, type=type_proto(type_, known, compute))


def type_proto(type_: TensorType, known: bool, compute: DType) -> TypeProto:
    """Sizes that are no numbers are `dim_param`s with the text of their formula: equal texts are equal sizes."""
    proto = TypeProto()
    proto.tensor_type.elem_type = ELEMENT[compute if type_.dtype is DType.COMPUTE else type_.dtype]
    if known:
        shape = proto.tensor_type.shape
        shape.SetInParent()
        for size in type_.shape:
            if size.value is not None:
                shape.dim.add().dim_value = size.value
            else:
                shape.dim.add().dim_param = str(size)
    return proto


def attribute(name: str, value: Any) -> AttributeProto:
    if isinstance(value, int):
        return AttributeProto(name=name, type=AttributeProto.INT, i=value)
    if isinstance(value, float):
        return AttributeProto(name=name, type=AttributeProto.FLOAT, f=value)
    if isinstance(value, str):
        return AttributeProto(name=name, type=AttributeProto.STRING, s=value.encode())
    if isinstance(value, GraphProto):
        return AttributeProto(name=name, type=AttributeProto.GRAPH, g=value)
    if isinstance(value, TensorProto):
        return AttributeProto(name=name, type=AttributeProto.TENSOR, t=value)
    if not isinstance(value, list):
        raise TypeError(f"attribute {name}: {value!r}")
    if all(isinstance(item, int) for item in value):
        return AttributeProto(name=name, type=AttributeProto.INTS, ints=value)
    if all(isinstance(item, str) for item in value):
        return AttributeProto(name=name, type=AttributeProto.STRINGS, strings=[item.encode() for item in value])
    return AttributeProto(name=name, type=AttributeProto.FLOATS, floats=value)


def _nodes(emit: GraphEmitter, parts: Listing) -> list[NodeProto]:
    nodes = []
    for name, record in parts.records:
        node = node_proto(name, record)
        if record.body is not None:
            node.attribute.append(attribute("body", _body_proto(emit, f"{name}/step", parts.bodies[id(record)])))
        nodes.append(node)
    return nodes


def _body_proto(emit: GraphEmitter, name: str, parts: Listing) -> GraphProto:
    graph = GraphProto(name=name)
    graph.input.extend(value_info(ref.name, ref.type, ref.known, emit.compute) for ref in parts.inputs)
    graph.output.extend(value_info(ref.name, ref.type, ref.known, emit.compute) for ref in parts.outputs)
    graph.node.extend(_nodes(emit, parts))
    graph.value_info.extend(intermediate_info(emit, parts))
    return graph


def node_proto(name: str, record: Record) -> NodeProto:
    node = NodeProto(
        name=name,
        op_type=record.op_type,
        domain=record.domain,
        overload=record.overload,
        input=["" if ref is None else ref.name for ref in record.inputs],
        output=[ref.name for ref in record.outputs],
        attribute=[attribute(key, value) for key, value in sorted(record.attributes.items())],
        doc_string=record.origin,
    )
    for key, value in sorted(record.metadata.items()):
        node.metadata_props.add(key=key, value=value)
    return node


def constant_proto(ref: Ref, element: int) -> TensorProto:
    assert ref.array is not None
    return TensorProto(name=ref.name, data_type=element, dims=ref.array.shape, raw_data=ref.array.tobytes())


def parameter_proto(name: str, type_: TensorType, element: int, weights: WeightsRef | None) -> TensorProto:
    proto = TensorProto(name=name, data_type=element, dims=[_static(type_, axis) for axis in range(type_.rank)])
    if isinstance(weights, Embedded):
        proto.raw_data = weights.tensors[name]
        return proto
    proto.data_location = TensorProto.EXTERNAL
    entries = {"location": NOWHERE}
    if weights is not None:
        slot = weights.slots[name]
        entries = {"location": weights.location, "offset": str(slot.offset), "length": str(slot.length)}
    for key, value in entries.items():
        proto.external_data.add(key=key, value=value)
    return proto


def _static(type_: TensorType, axis: int) -> int:
    size = type_.shape[axis].value
    assert size is not None, f"{type_} is not static"
    return size


def intermediate_info(emit: GraphEmitter, parts: Listing) -> list[ValueInfoProto]:
    """The type of every value inside whose shape is known."""
    outputs = {id(ref) for ref in parts.outputs}
    return [
        value_info(ref.name, ref.type, True, emit.compute)
        for _, record in parts.records
        for ref in record.outputs
        if ref.known and id(ref) not in outputs
    ]


def graph_proto(emit: GraphEmitter, name: str, weights: WeightsRef | None) -> GraphProto:
    parts = listing(emit)
    graph = GraphProto(name=name)
    graph.input.extend(value_info(ref.name, ref.type, ref.known, emit.compute) for ref in parts.inputs)
    graph.output.extend(value_info(ref.name, ref.type, ref.known, emit.compute) for ref in parts.outputs)
    graph.node.extend(_nodes(emit, parts))
    for key, ref in parts.parameters.items():
        graph.initializer.append(parameter_proto(key, ref.type, emit.element(ref.type.dtype), weights))
    graph.initializer.extend(constant_proto(ref, emit.element(ref.type.dtype)) for ref in parts.constants)
    graph.value_info.extend(intermediate_info(emit, parts))
    return graph


def function_proto(emit: GraphEmitter, name: str, domain: str, overload: str, doc: str) -> FunctionProto:
    """The graph as a local function: parameters become inputs after the graph's own, constants become nodes."""
    parts = listing(emit)
    function = FunctionProto(name=name, domain=domain, overload=overload, doc_string=doc)
    function.opset_import.extend(_opsets(emit))
    function.input.extend([ref.name for ref in parts.inputs] + list(parts.parameters))
    function.output.extend(ref.name for ref in parts.outputs)
    for ref in parts.constants:
        tensor = constant_proto(ref, emit.element(ref.type.dtype))
        node = NodeProto(op_type="Constant", name=ref.name, output=[ref.name])
        node.attribute.append(attribute("value", tensor))
        function.node.append(node)
    function.node.extend(_nodes(emit, parts))
    surface = [*parts.inputs, *parts.parameters.values(), *parts.outputs]
    function.value_info.extend(value_info(ref.name, ref.type, True, emit.compute) for ref in surface if ref.known)
    function.value_info.extend(intermediate_info(emit, parts))
    return function


def _opsets(emit: GraphEmitter) -> list[OperatorSetIdProto]:
    imports = [OperatorSetIdProto(domain="", version=emit.opset)]
    return imports + [OperatorSetIdProto(domain=d, version=v) for d, v in sorted(emit.functions.items())]


def model_proto(
    emit: GraphEmitter,
    name: str,
    *,
    weights: WeightsRef | None = None,
    functions: Sequence[FunctionProto] = (),
    doc: str = "",
    metadata: Mapping[str, str] | None = None,
    version: str = "",
) -> ModelProto:
    """The model; `metadata` becomes `metadata_props`, sorted by key."""
    if emit.compute is not DType.F32:
        widen_undefined(emit)
    model = ModelProto(
        ir_version=IR_VERSION[emit.opset],
        producer_name="specc",
        producer_version=version,
        doc_string=doc,
        opset_import=_opsets(emit),
        graph=graph_proto(emit, name, weights),
        functions=functions,
    )
    for key, value in sorted((metadata or {}).items()):
        model.metadata_props.add(key=key, value=value)
    return model

"""An ONNX model as text: what a golden `onnx.txt` holds. Weights are named, not printed; the same model gives the same
text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from zlib import crc32

import numpy as np
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
    numpy_helper,
)

from specc.backends.onnx.values import numbers

_SHORT = 8  # constants up to this many elements are printed whole


def onnx_text(model: ModelProto) -> str:
    """Inputs, outputs, initializers and nodes, one a line, with types and the places in the spec."""
    opsets = ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import)
    lines = [f"ir_version {model.ir_version}, opset {opsets}"]
    lines += [f"# {prop.key} = {prop.value}" for prop in model.metadata_props]
    graph = model.graph
    types = _types([*graph.input, *graph.output, *graph.value_info])
    lines += ["", f"graph {graph.name}"]
    lines += [f"  input {value.name}: {types[value.name]}" for value in graph.input]
    lines += [f"  output {value.name}: {types[value.name]}" for value in graph.output]
    lines += [f"  {_initializer(tensor)}" for tensor in graph.initializer]
    lines += [line for node in graph.node for line in _node(node, types, "  ")]
    for function in model.functions:
        lines += ["", *_function(function)]
    return "\n".join(lines) + "\n"


def _function(function: FunctionProto) -> Iterator[str]:
    types = _types(function.value_info)
    yield f"function {function.domain}.{function.name}"
    for kind, names in (("input", function.input), ("output", function.output)):
        for name in names:
            yield f"  {kind} {name}: {types.get(name, '?')}"
    for node in function.node:
        yield from _node(node, types, "  ")


def _types(values: Sequence[ValueInfoProto]) -> dict[str, str]:
    return {value.name: _type(value.type) for value in values}


def _type(type_: TypeProto) -> str:
    tensor = type_.tensor_type
    name = TensorProto.DataType.Name(tensor.elem_type).lower()
    if not tensor.HasField("shape"):
        return f"{name}[?]"
    return f"{name}[{', '.join(dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim)}]"


def _node(node: NodeProto, types: dict[str, str], indent: str) -> Iterator[str]:
    """The node's line, then the graphs inside it."""
    outputs = ", ".join(f"{name}: {types[name]}" if name in types else name for name in node.output)
    attributes = ", ".join(f"{a.name} = {_attribute(a)}" for a in node.attribute if a.type != AttributeProto.GRAPH)
    domain = f"{node.domain}." if node.domain else ""
    arguments = ", ".join(name or "-" for name in node.input)
    label = "" if node.name in node.output else f"{node.name}: "
    place = f"  @{node.doc_string}" if node.doc_string else ""
    kind = f"{domain}{node.op_type}{f'<{attributes}>' if attributes else ''}"
    yield f"{indent}{label}{outputs} = {kind}({arguments}){place}"
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield from _inner(attribute.g, indent + "  ")


def _inner(graph: GraphProto, indent: str) -> Iterator[str]:
    types = _types([*graph.input, *graph.output, *graph.value_info])
    yield f"{indent}graph {graph.name}"
    for value in graph.input:
        yield f"{indent}  input {value.name}: {types[value.name]}"
    for node in graph.node:
        yield from _node(node, types, f"{indent}  ")
    yield f"{indent}  output {', '.join(value.name for value in graph.output)}"


def _attribute(attribute: AttributeProto) -> str:
    if attribute.type == AttributeProto.INT:
        return str(attribute.i)
    if attribute.type == AttributeProto.FLOAT:
        return _float(attribute.f)
    if attribute.type == AttributeProto.STRING:
        return repr(attribute.s.decode())
    if attribute.type == AttributeProto.INTS:
        return str(list(attribute.ints))
    if attribute.type == AttributeProto.FLOATS:
        return f"[{', '.join(map(_float, attribute.floats))}]"
    if attribute.type == AttributeProto.STRINGS:
        return str([s.decode() for s in attribute.strings])
    return _content(attribute.t)


def _float(value: float) -> str:
    return str(np.float32(value))


def _initializer(tensor: TensorProto) -> str:
    kind = TensorProto.DataType.Name(tensor.data_type).lower()
    head = f"{tensor.name}: {kind}[{', '.join(map(str, tensor.dims))}]"
    if tensor.data_location == TensorProto.EXTERNAL:
        return f"weight {head}"
    return f"const {head} = {_content(tensor)}"


def _content(tensor: TensorProto) -> str:
    """Small tensors whole, others as the checksum of their bytes."""
    count = 1
    for size in tensor.dims:
        count *= size
    if count <= _SHORT and tensor.data_type != TensorProto.BFLOAT16:
        return numbers(numpy_helper.to_array(tensor))
    return f"crc32 {crc32(tensor.raw_data):08x}"

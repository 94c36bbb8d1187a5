"""ONNX graphs: weights by name, operators, shapes by ONNX's own inference, FLOPs of products by formula."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from specc.diagnostics import Diagnostic, Rejected
from specc.inspect.formulas import Formula, total
from specc.inspect.numbers import byte_text, formula, rounded
from specc_runtime.foreign.products import PRODUCTS, Shape, dim_of, flops_of
from specc_runtime.foreign.shapes import shapes_of
from specc_runtime.foreign.table import Summary, Tensor, tree

if TYPE_CHECKING:
    import onnx


def graph_summary(path: Path, at: Mapping[str, int] | None, sort: str | None) -> Summary:
    """Weights are not loaded. Raises `Rejected`: E006 for a file that is damaged, or of an operator set or version that
    the installed onnx does not know; E009 for sizes that its inputs do not have.
    """
    model = load(path)
    tensors = _placed([_tensor(t) for t in model.graph.initializer], model)
    known = {t.name for t in model.graph.initializer}
    costs, unknown = _costs(model)
    inputs = [v for v in model.graph.input if v.name not in known]
    symbols = dims(model)
    _check(path, symbols, at)
    root = tree(tensors, costs, sort)
    counts = Counter(operators(model.graph))
    facts = [
        ("inputs", ", ".join(_typed(v) for v in inputs) or "none"),
        ("outputs", ", ".join(_typed(v) for v in model.graph.output)),
        ("operators", f"{counts.total():,}: " + ", ".join(f"{n} x{c}" for n, c in counts.most_common())),
        ("opset", ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import)),
        ("producer", " ".join(p for p in (model.producer_name, model.producer_version) if p) or "not said"),
        ("parameters", f"{root.parameters:,} in {len(tensors):,} initializers, {byte_text(root.bytes)}"),
        ("FLOPs", f"{formula(root.flops)}  of matrix products, convolutions and attention"),
    ]
    if at is not None and root.flops is not None:
        facts.append(("", f"{rounded(root.flops.evaluate(at))} at {', '.join(f'{n} = {v}' for n, v in at.items())}"))
    inside = sum(map(_is_product, _every(model.graph))) - sum(map(_is_product, model.graph.node))
    missing = [
        f"{_count(unknown)} of shapes that are not known" if unknown else "",
        f"{_count(inside)} in branches or loops, which run as often as they are told to" if inside else "",
    ]
    if unknown or inside:
        facts.append(("not counted", ", ".join(filter(None, missing))))
    data = {
        "format": "onnx",
        "opset": {o.domain or "ai.onnx": o.version for o in model.opset_import},
        "inputs": [_typed(v) for v in inputs],
        "outputs": [_typed(v) for v in model.graph.output],
        "operators": dict(counts),
        "dims": symbols,
        "not_counted": unknown + inside,
    }
    return Summary(path.name, root, tuple(facts), data, at, counts_flops=True)


def products(model: onnx.ModelProto) -> Formula:
    """FLOPs of matrix products, convolutions and attention; None where not all shapes are known."""
    costs, unknown = _costs(model)
    return None if unknown else total(cost for part in costs.values() for cost in part)


def dims(model: onnx.ModelProto) -> list[str]:
    """The names in the shapes of inputs."""
    stored = {tensor.name for tensor in model.graph.initializer}
    sizes = [d for v in model.graph.input if v.name not in stored for d in map(dim_of, v.type.tensor_type.shape.dim)]
    return sorted({symbol for size in sizes if size is not None for symbol in size.symbols})


def _costs(model: onnx.ModelProto) -> tuple[dict[str, list[Formula]], int]:
    """FLOPs by part, and how many products have shapes that are not known."""
    sizes = set(dims(model))

    def cost(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> Formula:
        """None, too, if it depends on more than the sizes of the inputs: names that inference makes up."""
        found = flops_of(node, shapes)
        return found if found is not None and sizes.issuperset(found.symbols) else None

    products = [node for node in model.graph.node if _is_product(node)]
    shapes = shapes_of(model, lambda known: all(cost(node, known) is not None for node in products))
    costs: dict[str, list[Formula]] = {}
    unknown = 0
    for node in products:
        found = cost(node, shapes)
        if found is not None:
            costs.setdefault(_part_of(node), []).append(found)
        else:
            unknown += 1
    return costs, unknown


def load(path: Path) -> onnx.ModelProto:
    """The graph without its weights' bytes, local functions put in line."""
    from importlib import import_module

    import onnx

    damaged: type[Exception] = import_module("google.protobuf.message").DecodeError  # it has no stubs
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Rejected([Diagnostic("E006", f"cannot read {path}: {error.strerror}")]) from None
    try:
        model = onnx.load_model_from_string(data)
    except damaged:
        message = f"{path} is no ONNX graph, or only a part of one ({len(data):,} bytes)"
        raise Rejected([Diagnostic("E006", message, help="copy or export it again")]) from None
    if not model.opset_import or not (model.graph.node or model.graph.output):
        message = f"{path} is no ONNX graph: it has no operators and says no operator set"
        raise Rejected([Diagnostic("E006", message, help="copy or export it again")])
    newest = onnx.defs.onnx_opset_version()
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), None)
    if model.ir_version > onnx.IR_VERSION or (version is not None and not 1 <= version <= newest):
        said = f"opset {version}, format {model.ir_version}"
        message = (
            f"{path} is of {said}; the installed onnx {onnx.__version__} knows opset {newest}, format {onnx.IR_VERSION}"
        )
        help = "pip install --upgrade onnx, or convert the graph with onnx.version_converter"
        raise Rejected([Diagnostic("E006", message, help=help)])
    strange = next(
        (number for number in _elements(model.graph) if number not in onnx.TensorProto.DataType.values()), None
    )
    if strange is not None:
        message = (
            f"{path} has tensors of element type {strange}, which the installed onnx {onnx.__version__} does not know"
        )
        raise Rejected([Diagnostic("E006", message, help="pip install --upgrade onnx, or copy or export it again")])
    if model.functions:
        from onnx.inliner import inline_local_functions

        model = inline_local_functions(model)
    return model


def _elements(graph: onnx.GraphProto) -> Iterator[int]:
    """The numbers of element types that a reader of the file meets."""
    yield from (tensor.data_type for tensor in graph.initializer)
    yield from (value.type.tensor_type.elem_type for value in (*graph.input, *graph.output))


def _tensor(tensor: onnx.TensorProto) -> Tensor:
    from onnx import TensorProto, helper

    name = TensorProto.DataType.Name(tensor.data_type)
    count = 1
    for size in tensor.dims:
        count *= size
    bits = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}.get(name)
    width = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize if bits is None and name != "STRING" else 0
    return Tensor(tensor.name, name.lower(), tuple(tensor.dims), -(-count * bits // 8) if bits else count * width)


def _placed(tensors: Sequence[Tensor], model: onnx.ModelProto) -> list[Tensor]:
    """Weights that torch's scripting exporter turned around and gave a number belong where they are read."""
    readers: dict[str, set[str]] = {tensor.name: set() for tensor in tensors if tensor.name.startswith("onnx::")}
    for node in model.graph.node:
        for name in node.input:
            if name in readers:
                readers[name].add(_part_of(node))
    places = {name: parts.pop() for name, parts in readers.items() if len(parts) == 1}
    plain = {name: re.sub(r"_\d+$", "", name) for name in places}  # so that equal layers are equal
    return [replace(t, name=f"{places[t.name]}.{plain[t.name]}") if places.get(t.name) else t for t in tensors]


def operators(graph: onnx.GraphProto) -> dict[str, int]:
    """How many nodes there are of each operator, those of branches and loops included."""
    return dict(Counter(_name(node) for node in _every(graph)))


def _every(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Nodes, those of branches and loops included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _every(attribute.g)
            for inner in attribute.graphs:
                yield from _every(inner)


def _count(products: int) -> str:
    return "1 product" if products == 1 else f"{products} products"


def _is_product(node: onnx.NodeProto) -> bool:
    return node.op_type in PRODUCTS


def _name(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def _part_of(node: onnx.NodeProto) -> str:
    """The part that a node belongs to, by what torch's exporter notes of it, or by its name:
    `/model/layers.0/attn/MatMul`, `model.layers.0.attn/MatMul`.
    """
    noted = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "")
    scopes: list[str] = re.findall(r"'([^']*)'", noted)
    if len(scopes) > 1:
        return scopes[-2]
    *path, _ = node.name.strip("/").split("/") if "/" in node.name else ("",)
    return ".".join(part for part in path if part)


def _typed(value: onnx.ValueInfoProto) -> str:
    from onnx import TensorProto

    return f"{value.name}: {TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()}[{sizes(value)}]"


def sizes(value: onnx.ValueInfoProto) -> str:
    """A declared shape: names and numbers, `?` for what is neither."""
    shape = value.type.tensor_type.shape.dim
    return ", ".join(d.dim_param or (str(d.dim_value) if d.HasField("dim_value") else "?") for d in shape)


def _check(path: Path, symbols: list[str], at: Mapping[str, int] | None) -> None:
    if at is None:
        return
    notes = (("available", ", ".join(symbols) or "none: every size is fixed"),)
    for name in at:
        if name not in symbols:
            raise Rejected([Diagnostic("E009", f"{path} has no dim `{name}`", notes=notes)])
    missing = [name for name in symbols if name not in at]
    if missing:
        example = "--at " + ",".join(f"{name}=1" for name in symbols)
        message = f"no size is given for {', '.join(f'`{name}`' for name in missing)}"
        raise Rejected([Diagnostic("E009", message, notes=notes, help=example)])

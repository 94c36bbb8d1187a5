"""What is compared: a spec, a preset, a spec of a revision, a build or an ONNX file, as far as each knows itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc import driver
from specc.api import written
from specc.diagnostics import Diagnostic, Rejected
from specc.dims import Dim
from specc.elaborate.models import Options
from specc.inspect import report
from specc.ir.graph import Model, Module, PartGroup, PartList, Submodule, aliases, dotted, walk_members
from specc.types import TensorType
from specc.weights.layout import TensorInfo
from specc.weights.sections import model_tensors

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto


@dataclass(frozen=True)
class Choice:
    """Options of the command that hold for both sides."""

    preset: str | None = None
    model: str | None = None
    sets: Mapping[str, str] = field(default_factory=dict)
    entry: str = "forward"


@dataclass(frozen=True)
class Part:
    """A block in the tree: its name, and its hyper-parameters as a spec writes them."""

    block: str
    hypers: Mapping[str, str]
    leaf: bool  # a layer of std, whose inside is its own affair


@dataclass(frozen=True)
class Subject:
    """One side. What it does not know is None; `unknown` says why."""

    label: str
    tensors: Mapping[str, TensorInfo]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    operators: Mapping[str, int] | None
    hypers: Mapping[str, str] | None = None
    parts: Mapping[str, Part] | None = None
    ties: Mapping[str, str] = field(default_factory=dict)
    parameters: int | None = None
    flops: Dim | None = None
    checked: driver.Checked | None = None
    unknown: str = ""


def subject(text: str, choice: Choice, work: Path) -> Subject:
    """`FILE.spec`, a model of the zoo, `FILE:PRESET`, `FILE@REV`, `FILE@REV:PRESET`, a build's folder, `FILE.onnx`.

    Raises `Rejected` with what is wrong with it.
    """
    path = Path(text)
    if path.suffix == ".onnx":
        return _of_onnx(text, path)
    if (path / "manifest.json").is_file():
        return _of_build(text, path)
    preset = choice.preset
    if not path.exists() and ":" in text:
        text, _, preset = text.rpartition(":")
    name, at, revision = text.partition("@")
    file: str | Path = text
    if at and not Path(text).exists():
        from specc.reading import locate
        from specc_runtime.diff.revisions import at_revision

        file = at_revision(locate(name), revision, work)
    label = text + (f":{preset}" if preset and preset != choice.preset else "")
    return _of_spec(label, file, Choice(preset, choice.model, choice.sets, choice.entry))


# ---- specs -----------------------------------------------------------------------------------------------------------


def _of_spec(label: str, file: str | Path, choice: Choice) -> Subject:
    project = driver.open_project(file)
    checked = project.check(Options(choice.model, choice.preset, driver.parse_sets(choice.sets)))
    return _of_model(label, checked, choice.entry)


def _of_model(label: str, checked: driver.Checked, entry: str) -> Subject:
    from specc.backends.onnx.export import build

    model = checked.model
    found = report(model, entry)
    graph = model.entries[entry].full
    sizes = {a.name: str(_plain(a.type)) for a in graph.inputs if a.value is not None}
    outputs = {
        name: str(_plain(value.type)) for name, (_, value) in zip(graph.output_names, graph.results, strict=True)
    }
    return Subject(
        label=label,
        tensors=model_tensors(model.module),
        inputs=sizes,
        outputs=outputs,
        operators=_operators(build(model, entry)),
        hypers={h.name: _value(h.value) for h in model.module.hypers if not h.is_let},
        parts=_parts(model),
        ties=aliases(model.module),
        parameters=found.parameters,
        flops=found.root.flops,
        checked=checked,
    )


def _plain(type_: TensorType) -> TensorType:
    return TensorType(type_.dtype, tuple(size.plain() for size in type_.shape))


def _value(value: Any) -> str:
    return value if isinstance(value, str) else _written(value)


def _written(value: Any) -> str:
    try:
        return written(value)
    except TypeError:  # a dtype
        return str(value)


def _parts(model: Model) -> dict[str, Part]:
    """Every block of the tree by its path, the model itself as ""."""
    found = {"": _part(model.module)}
    for path, member, _ in walk_members(model.module):
        if isinstance(member, Submodule):
            found[dotted(path)] = _part(member.module)
        elif isinstance(member, (PartList, PartGroup)):
            found[dotted(path)] = Part("list" if isinstance(member, PartList) else "group", {}, False)
    return found


def _part(module: Module) -> Part:
    hypers = {h.name: _value(h.value) for h in module.hypers if not h.is_let}
    return Part(module.name, hypers, module.torch_class is not None)


# ---- builds and graphs -----------------------------------------------------------------------------------------------


def _of_build(text: str, folder: Path) -> Subject:
    """A build by its spec where that is found as it was, else by its manifest, its weights and its graph."""
    from specc_runtime.inputs import Interface
    from specc_runtime.module import open_build
    from specc_runtime.origin import origin_of

    made = open_build(folder)
    try:
        origin = origin_of(folder)
    except Rejected as rejected:
        unknown = rejected.diagnostics[0].message
    else:
        preset = None if origin.sets else origin.preset
        return _of_spec(text, origin.file, Choice(preset, origin.model, origin.sets))
    record = made.manifest
    of: Interface = made.interface()
    graph = record["entries"]["forward"]["onnx"]
    return Subject(
        label=text,
        tensors=_stored(made.weights),
        inputs={i.name: _shown(i.dtype, i.shape) for i in of.inputs},
        outputs={o.name: _shown(o.dtype, o.shape) for o in of.outputs},
        operators=_operators(_load(folder / graph)) if graph else None,
        hypers={name: _value(value) for name, value in record["hyperparameters"].items()},
        ties=record["weights"]["ties"] if record["weights"] else {},
        unknown=unknown,
    )


def _stored(weights: Path | None) -> Mapping[str, TensorInfo]:
    from specc_runtime.checkpoint import Checkpoint

    if weights is None:
        return {}
    checkpoint = Checkpoint.open(weights)
    try:
        return checkpoint.header()
    finally:
        checkpoint.close()


def _shown(dtype: str, shape: tuple[Dim, ...]) -> str:
    kind = {"f32": "Tensor", "i64": "Int", "bool": "Bool"}.get(dtype, dtype)
    return f"{kind}[{', '.join(map(str, shape))}]"


def _of_onnx(text: str, path: Path) -> Subject:
    from onnx import TensorProto

    proto = _load(path)
    names = {i.name for i in proto.graph.initializer}
    stored = {
        TensorProto.FLOAT: "F32", TensorProto.FLOAT16: "F16", TensorProto.BFLOAT16: "BF16", TensorProto.INT64: "I64",
        TensorProto.INT32: "I32", TensorProto.INT8: "I8", TensorProto.UINT8: "U8", TensorProto.BOOL: "BOOL",
        TensorProto.DOUBLE: "F64", TensorProto.INT16: "I16",
    }  # fmt: skip
    return Subject(
        label=text,
        tensors={
            t.name: TensorInfo(tuple(t.dims), stored.get(t.data_type, TensorProto.DataType.Name(t.data_type)))
            for t in proto.graph.initializer
            if t.dims
        },
        inputs={i.name: _declared(i) for i in proto.graph.input if i.name not in names},
        outputs={o.name: _declared(o) for o in proto.graph.output},
        operators=_operators(proto),
        unknown=f"`{path.name}` is a graph: it knows no blocks and no hyper-parameters",
    )


def _load(path: Path) -> ModelProto:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return onnx.load(path, load_external_data=False)
    except OSError as error:
        raise Rejected([Diagnostic("E006", f"cannot read {path}: {error.strerror}")]) from None
    except DecodeError:
        raise Rejected([Diagnostic("B660", f"`{path}` is no ONNX file, or one that was cut short")]) from None


def _declared(value: ValueInfoProto) -> str:
    from onnx import TensorProto

    tensor = value.type.tensor_type
    sizes = ", ".join(d.dim_param or (str(d.dim_value) if d.HasField("dim_value") else "?") for d in tensor.shape.dim)
    names = {int(TensorProto.FLOAT): "Tensor", int(TensorProto.INT64): "Int", int(TensorProto.BOOL): "Bool"}
    kind = names.get(int(tensor.elem_type)) or str(TensorProto.DataType.Name(tensor.elem_type)).lower()
    return f"{kind}[{sizes}]"


def _operators(proto: ModelProto) -> dict[str, int]:
    """Nodes by operator, those of functions and inner graphs where they are called."""
    functions = {(f.domain, f.name): f for f in proto.functions}

    def counted(nodes: Any) -> Counter[str]:
        found: Counter[str] = Counter()
        for node in nodes:
            function = functions.get((node.domain, node.op_type))
            if function is not None:
                found += counted(function.node)
                continue
            found[node.op_type] += 1
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    found += counted(attribute.g.node)
        return found

    return dict(counted(proto.graph.node))

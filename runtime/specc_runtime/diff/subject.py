"""What is compared: a spec, a preset, a spec of a revision, a build or an ONNX file, as far as each knows itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc import driver
from specc.api import written
from specc.diagnostics import Rejected
from specc.dims import Dim, Facts
from specc.elaborate.models import Options
from specc.inspect import chosen_graph, report
from specc.inspect.caches import Cache
from specc.inspect.formulas import Formula
from specc.ir.graph import Model, Module, PartGroup, PartList, Submodule, dotted
from specc.ir.members import aliases, distinct_modules, walk_members
from specc.passes.plain import entry_facts, entry_sizes
from specc.weights.layout import TensorInfo
from specc.weights.sections import model_tensors
from specc_runtime.foreign import graph as graphs

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

    from specc_runtime.inputs import Interface
    from specc_runtime.module import Build


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
    """One side. What it does not know is None; `unknown` says why.

    `made`: how it was built, of a build. `cache`: what decoding keeps, in f32; `costed`: whether there are formulas of
    all FLOPs and of the cache; `products`: FLOPs of matrix products alone, which a graph tells, too.
    `dims`, `facts`: the sizes of the entry.
    """

    label: str
    tensors: Mapping[str, TensorInfo]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    operators: Mapping[str, int] | None  # `no_operators`: why they are not known
    dims: tuple[str, ...]
    facts: Facts = field(default_factory=Facts)
    no_operators: str = ""
    made: Mapping[str, str] | None = None
    hypers: Mapping[str, str] | None = None
    parts: Mapping[str, Part] | None = None
    ties: Mapping[str, str] = field(default_factory=dict)
    parameters: int | None = None
    active: int | None = None  # parameters that one token passes through, where these are not all
    costed: bool = False
    flops: Formula = None
    products: Formula = None
    cache: Cache | None = None
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
        return _of_build(text, path, choice.entry)
    preset = choice.preset
    if not path.exists() and ":" in text:
        text, _, preset = text.rpartition(":")
        preset, at, revision = preset.partition("@")
        text += at + revision  # FILE:PRESET@REVISION, too
    name, at, revision = text.partition("@")
    label = text + (f":{preset}" if preset and preset != choice.preset else "")
    chosen = Choice(preset, choice.model, choice.sets, choice.entry)
    if not at or Path(text).exists():
        return _of_spec(label, text, chosen)
    from specc.reading import locate
    from specc_runtime.diff.revisions import at_revision, told

    file = at_revision(locate(name), revision, work)
    try:
        return _of_spec(label, file, chosen)
    except Rejected as rejected:
        raise Rejected(told(rejected.diagnostics, revision, work)) from None


# ---- specs -----------------------------------------------------------------------------------------------------------


def _of_spec(label: str, file: str | Path, choice: Choice) -> Subject:
    project = driver.open_project(file)
    checked = project.check(Options(choice.model, choice.preset, driver.parse_sets(choice.sets)))
    return _of_model(label, checked, choice.entry)


def _of_model(label: str, checked: driver.Checked, entry: str, without: frozenset[str] = frozenset()) -> Subject:
    model = checked.model
    found = report(model, entry, without=without)
    graph = chosen_graph(model, entry, without)
    sizes = entry_sizes(graph)
    outputs = {
        name: str(sizes.type(value.type).plain())
        for name, (_, value) in zip(graph.output_names, graph.results, strict=True)
    }
    operators, no_operators = _built(model, entry, without)
    return Subject(
        label=label,
        tensors=model_tensors(model.module),
        inputs={a.name: str(sizes.type(a.type).plain()) for a in graph.inputs if a.value is not None},
        outputs=outputs,
        operators=operators,
        no_operators=no_operators,
        dims=found.dims,
        facts=entry_facts(model, graph),
        hypers=_hypers(model.module),
        parts=_parts(model),
        ties=aliases(model.module),
        parameters=found.parameters,
        active=found.parameters - found.unchosen if found.unchosen else None,
        costed=True,
        flops=found.root.flops,
        products=found.spent.products,
        cache=found.cache,
        checked=checked,
    )


def _built(model: Model, entry: str, without: frozenset[str]) -> tuple[dict[str, int] | None, str]:
    """Operators of the graph, or why there are none: files of extern functions are not run to compare models."""
    from specc.backends.onnx.counting import count_operators

    try:
        return count_operators(model, entry, without=without), ""
    except Rejected as rejected:
        return None, rejected.diagnostics[0].message


def _value(value: Any) -> str:
    return value if isinstance(value, str) else _written(value)


def _written(value: Any) -> str:
    try:
        return written(value)
    except TypeError:  # a dtype
        return str(value)


def _parts(model: Model) -> dict[str, Part]:
    """Every block of the tree by its path, the model itself as ""."""
    of_module = {id(module): _part(module) for module in distinct_modules(model.module)}
    found = {"": of_module[id(model.module)]}
    for path, member, _ in walk_members(model.module):
        if isinstance(member, Submodule):
            found[dotted(path)] = of_module[id(member.module)]
        elif isinstance(member, (PartList, PartGroup)):
            found[dotted(path)] = Part("list" if isinstance(member, PartList) else "group", {}, False)
    return found


def _part(module: Module) -> Part:
    return Part(module.name, _hypers(module), module.torch_class is not None)


def _hypers(module: Module) -> dict[str, str]:
    return {h.name: _value(h.value) for h in module.hypers if not h.is_let}


# ---- builds and graphs -----------------------------------------------------------------------------------------------


def _of_build(text: str, folder: Path, entry: str) -> Subject:
    """A build by its manifest, its weights and its graph; what these do not tell by its spec, found as it was."""
    from specc_runtime.module import open_build
    from specc_runtime.origin import origin_of

    made = open_build(folder)
    own = _of_manifest(text, made, entry)
    try:
        origin = origin_of(folder)
    except Rejected as rejected:
        return replace(own, unknown=rejected.diagnostics[0].message)
    project = driver.open_project(origin.file)
    checked = project.check(
        Options(origin.model, origin.preset, driver.parse_sets(origin.sets), position_ids=origin.position_ids)
    )
    if entry not in checked.model.entries:  # one that goes on: the build's own
        why = f"`{entry}` is the build's own, its spec has no such entry"
        return replace(own, hypers=_hypers(checked.model.module), parts=_parts(checked.model), unknown=why)
    of_spec = _of_model(text, checked, entry, origin.without.get(entry, frozenset()))
    plain = made.manifest["dtype"] == "f32"  # then a build's types are those of its spec
    return replace(
        of_spec,
        tensors=own.tensors or of_spec.tensors,
        inputs=of_spec.inputs if plain else own.inputs,
        outputs=of_spec.outputs if plain else own.outputs,
        operators=own.operators if own.operators is not None else of_spec.operators,
        no_operators=of_spec.no_operators if own.operators is None else "",
        made=own.made,
    )


def _of_manifest(text: str, made: Build, entry: str) -> Subject:
    """What a build's folder tells, without its spec. Raises `Rejected` (B660) for an entry that it does not have."""
    record = made.manifest
    of: Interface = made.interface(entry)
    file = record["entries"][entry]["onnx"]
    graph = graphs.load(made.folder / file) if file else None
    tensors = _stored(made.weights) if made.weights is not None else _initializers(graph) if graph is not None else {}
    return Subject(
        label=text,
        tensors=tensors,
        inputs={i.name: _shown(i.dtype, i.shape) for i in of.inputs},
        outputs={o.name: _shown(o.dtype, o.shape) for o in of.outputs},
        operators=graphs.operators(graph.graph) if graph is not None else None,
        no_operators="" if graph is not None else f"`{text}` has no graph",
        dims=of.dims,
        facts=of.facts,
        made=_made(record, entry),
        hypers={name: _value(value) for name, value in record["hyperparameters"].items()},
        ties=record["weights"]["ties"] if record["weights"] else {},
        parameters=record["parameters"],
        products=graphs.products(graph) if graph is not None else None,
    )


def _made(record: Mapping[str, Any], entry: str) -> dict[str, str]:
    """How a model was built, as far as that makes a difference to who runs it."""
    kept = {name: made["cache"]["kind"] for name, made in record["entries"].items() if made.get("cache")}
    return {
        "dtype": record["dtype"],
        "quantisation": (record.get("quantisation") or {}).get("scheme", "none"),
        "opset": str(record["entries"][entry]["opset"]),
        "entries": ", ".join(record["entries"]),
        "cache": ", ".join(f"{name}: {kind}" for name, kind in kept.items()) or "none",
        "weights": record["weights"]["source"] if record["weights"] else "none",
    }


def _stored(weights: Path) -> Mapping[str, TensorInfo]:
    from specc_runtime.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(weights)
    try:
        return checkpoint.header()
    finally:
        checkpoint.close()


def _shown(dtype: str, shape: tuple[Dim, ...]) -> str:
    """As a spec writes it; a build in f32 does not tell `Tensor` from `f32`."""
    return f"{_kind(dtype)}[{', '.join(map(str, shape))}]"


def _kind(dtype: str) -> str:
    return "Tensor" if dtype == "f32" else {"i64": "Int", "bool": "Bool"}.get(dtype, dtype)


def _of_onnx(text: str, path: Path) -> Subject:
    proto = graphs.load(path)
    stored = {i.name for i in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in stored]
    return Subject(
        label=text,
        tensors=_initializers(proto),
        inputs={i.name: _declared(i) for i in inputs},
        outputs={o.name: _declared(o) for o in proto.graph.output},
        operators=graphs.operators(proto.graph),
        dims=tuple(graphs.dims(proto)),
        products=graphs.products(proto),
        unknown=f"`{path.name}` is a graph: it knows no blocks and no hyper-parameters",
    )


def _initializers(proto: ModelProto) -> dict[str, TensorInfo]:
    """Weights: scalars and lists of integers are axes, sizes and shapes, which exporters write as they like."""
    found = {t.name: TensorInfo(tuple(t.dims), _element(t.data_type).upper()) for t in proto.graph.initializer}
    return {n: t for n, t in found.items() if t.shape and not (len(t.shape) == 1 and t.dtype in ("I64", "I32"))}


def _declared(value: ValueInfoProto) -> str:
    element = _element(value.type.tensor_type.elem_type)
    return f"{_kind(element)}[{graphs.sizes(value)}]"


def _element(number: int) -> str:
    """`f32` by ONNX's number for it; ONNX's own name for what specc does not have."""
    from onnx import TensorProto

    name: str = TensorProto.DataType.Name(number).lower()
    return _ELEMENTS.get(name, name)


_ELEMENTS = {
    "double": "f64", "float": "f32", "float16": "f16", "bfloat16": "bf16", "int64": "i64", "int32": "i32",
    "int16": "i16", "int8": "i8", "uint8": "u8", "bool": "bool",
}  # fmt: skip

"""The proof of a build in f16 or bf16: through its fp32 form, and directly where onnxruntime runs it on a CPU.

The weights as they are stored, widened without a rounding, make an fp32 form of the build: the same source, the same
graphs in f32. It is proved as every build is, to the same limits. What is left to show is that the stored graphs are
well made and lose no more than their type loses: where the CPU provider has all their kernels they run, and have to be
within some roundings of fp32; where it has not, the certificate says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from specc import driver
from specc.diagnostics import Diagnostic, Rejected
from specc.elaborate.models import Options
from specc.ir.graph import Model
from specc.ir.members import aliases
from specc.types import DType
from specc.weights.layout import Read
from specc.weights.sections import model_tensors
from specc_runtime import divergence, manifest, programs
from specc_runtime.cache import CachedEntry, cached_entry, incremental
from specc_runtime.cache import Request as CacheRequest
from specc_runtime.certificate import Certificate, Half
from specc_runtime.checkpoint import Checkpoint
from specc_runtime.compare import Figures, compare
from specc_runtime.externs import Loaded, load_copies
from specc_runtime.fused import given, given_sizes
from specc_runtime.graphs import appended, protos
from specc_runtime.inputs import Interface, draw, interface
from specc_runtime.module import WEIGHTS, Build, extern_copies, python_name
from specc_runtime.origin import origin_of
from specc_runtime.record import Graph
from specc_runtime.saying import Say, silent
from specc_runtime.sizes import plan
from specc_runtime.steps import BufferSteps, OnnxSteps, Steps, in_parts
from specc_runtime.verify import Subject, prove
from specc_runtime.weights_writer import NewTensor, write_safetensors

if TYPE_CHECKING:
    import torch


ROUNDING = {DType.F16: 2.0**-11, DType.BF16: 2.0**-8}
"""The largest relative error of one rounding to nearest."""
ROUNDINGS = 16
"""How many of them the largest output may be off by, in a model of one block. Errors of blocks one after the other add
up like a random walk, so the limit grows with the square root of the depth."""
_PARTS, _THEN_ONE_BY_ONE = (5, 1, 2), (5, 1, 1, 1)
"""Positions of a text that go in together; a batch whose attention writes into buffers goes on position by position."""


@dataclass(frozen=True)
class Narrow:
    """What is to be proved. `graphs`: of the build, as they stand in `folder`."""

    model: Model
    folder: Path
    dtype: DType
    graphs: Sequence[Graph]
    externs: Loaded
    opset: int
    seed: int = 0
    progress: Say = silent


def prove_half(of: Narrow) -> Certificate:
    """Raises `Rejected` (B630) as `prove` does, and where a stored graph is further off than its roundings explain."""
    with fp32_form(of) as wide:
        of.progress("proving the fp32 form")
        plain = [(g.entry, g.file, g.without) for g in of.graphs if g.incremental is None]
        cached = [cached_entry(of.model, g.incremental, g.file, g.without) for g in of.graphs if g.incremental]
        certificate = prove(
            of.model,
            wide,
            entries=plain,
            cached=cached,
            opset=of.opset,
            seed=of.seed,
            progress=of.progress,
            externs=of.externs,
        )
        interfaces = tuple((name, file, interface(of.model, name, without)) for name, file, without in plain)
        source = f"{python_name(of.model.name)}.py"
        subject = Subject(wide, wide / source, wide / WEIGHTS, of.model.module.name, interfaces, tuple(cached))
        half = Half(of.dtype.value, dict(_direct(of, subject)))
    files = {name: manifest.sha256(of.folder / name) for name in certificate.files}
    return replace(certificate, files=files, half=half)


def repeat_half(folder: Path, *, progress: Say = silent) -> Certificate:
    """What `verify.repeat` does, of a build in f16 or bf16; its spec has to be at hand: the fp32 form is made of it.

    Raises `Rejected`: B660 for files that are missing or changed and for a spec that is not there, B630.
    """
    record = manifest.read(folder, "manifest.json")
    progress("checking the files")
    divergence.check_files(folder, record)
    origin = origin_of(folder)
    sets = driver.parse_sets(origin.sets)
    options = Options(origin.model, origin.preset, sets, name=record["name"], position_ids=origin.position_ids)
    model = driver.open_project(origin.file).check(options).model
    made = Build(folder, record)
    of = Narrow(
        model,
        folder,
        DType(record["dtype"]),
        appended([_graph(model, name, entry) for name, entry in record["entries"].items()]),
        load_copies(model, extern_copies(made)),
        next(entry["opset"] for entry in record["entries"].values()),
        (record["certificate"] or {}).get("seed", 0),
        progress,
    )
    return prove_half(of)


def _graph(model: Model, name: str, entry: Mapping[str, Any]) -> Graph:
    """An entry of a manifest as it was built."""
    without, cache = frozenset(entry["without"]), entry.get("cache")
    if cache is None:
        return Graph(name, entry["onnx"], without)
    asked = CacheRequest(
        cache["length"],
        logits="last" if cache["last"] else "all",
        genai=cache["kind"] == "genai",
        fuse_once=cache["once"]["of"]["method"] if cache["once"] and "of" in cache["once"] else None,
    )
    return Graph(cache["of"], entry["onnx"], without, incremental(model, cache["of"], without, asked))


@contextmanager
def fp32_form(of: Narrow) -> Iterator[Path]:
    """A temporary folder with the build's source and, widened, its weights and graphs."""
    from specc.backends.onnx.proto import External, Slot
    from specc.backends.onnx.target import Target

    with TemporaryDirectory(prefix=".fp32-", dir=of.folder) as name:
        folder = Path(name)
        for path in of.folder.glob("*.py"):
            copyfile(path, folder / path.name)
        places = _widen(of.model, of.folder / WEIGHTS, folder / WEIGHTS)
        weights = External(WEIGHTS, {name: Slot(p.offset, p.nbytes) for name, p in places.items()})
        target = Target(opset=of.opset, weights=weights, externs=of.externs)
        for graph in of.graphs:
            for file, proto in protos(of.model, graph, target).items():
                (folder / file).write_bytes(proto.SerializeToString(deterministic=True))
        yield folder


def _widen(model: Model, narrow: Path, wide: Path) -> Mapping[str, Any]:
    tied = aliases(model.module)
    with Checkpoint.open(narrow) as checkpoint:
        stored = checkpoint.header()
        tensors = [
            NewTensor(name, info, Read(name, info.shape, stored[name].dtype))
            for name, info in model_tensors(model.module).items()
            if name not in tied
        ]
        return write_safetensors(wide, tensors, checkpoint)


# ---- as it is --------------------------------------------------------------------------------------------------------


def _direct(of: Narrow, wide: Subject) -> Iterator[tuple[str, str | dict[str, Figures]]]:
    """Each graph as it is stored -> how far it is from fp32, or why it does not run here."""
    module = wide.module()
    for _, file, plain in wide.entries:
        of.progress(f"running {file} in {of.dtype.value}")
        yield file, _checked(of, file, partial(_plain, of, file, plain, module))
    for entry, graph in zip(wide.cached, [g for g in of.graphs if g.incremental], strict=True):
        of.progress(f"running {entry.file} in {of.dtype.value}")
        yield entry.file, _checked(of, entry.file, partial(_stepped, of, entry, graph, module))


def _checked(of: Narrow, file: str, run: Callable[[], dict[str, Figures]]) -> str | dict[str, Figures]:
    try:
        programs.open_session(programs.OPTIMISED, of.folder / file)
        if of.dtype is DType.BF16:
            return "numpy, which gives its inputs, has no bf16"
        figures = run()
    except programs.Crash as crash:
        return str(crash).removeprefix(f"{programs.OPTIMISED}: ")
    for output, found in figures.items():
        if found.problem:
            message = f"`{output}` of {file} in {of.dtype.value} is not what it is in fp32: {found.problem}"
            note = "its fp32 form agrees with torch: an operator loses more than the type does"
            raise Rejected([Diagnostic("B630", message, note=note, help="specc build --dtype bf16, or f32")])
    return figures


def _plain(of: Narrow, file: str, plain: Interface, module: torch.nn.Module) -> dict[str, Figures]:
    cases = [case for case in plan(plain) if not case.skipped]
    sizes = (cases[1:2] or cases[:1])[0].sizes
    feeds = draw(plain, sizes, seed=of.seed)
    reference = programs.run_torch(module, plain, feeds)
    session = programs.open_session(programs.OPTIMISED, of.folder / file)
    narrow = {name: _narrowed(value) for name, value in feeds.items()}
    found = programs.run_session(session, programs.OPTIMISED, narrow)
    return _figures(of, plain, reference, found)


def _stepped(of: Narrow, entry: CachedEntry, graph: Graph, module: torch.nn.Module) -> dict[str, Figures]:
    assert graph.incremental is not None
    stored = cached_entry(of.model, graph.incremental, graph.file, graph.without, of.dtype)
    step, room, buffered = entry.cache.step, entry.cache.room, graph.incremental.buffered
    parts: tuple[int, ...] = _THEN_ONE_BY_ONE if buffered else _PARTS
    if room is not None and room < sum(parts):
        parts = (1,)
    sizes = dict.fromkeys(entry.plain.dims, 2) | {step: sum(parts)}
    sizes |= given_sizes(entry.cache.once, entry.plain, 2)
    feeds = draw(entry.plain, sizes, seed=of.seed, masks="all true")
    feeds |= given(entry.cache.once, module, 2, of.seed)
    reference = programs.run_torch(module, entry.plain, feeds)
    session = programs.open_session(programs.OPTIMISED, of.folder / entry.file)
    first = entry.cache.once
    once = programs.open_session(programs.OPTIMISED, of.folder / first.file) if first is not None else None
    if buffered:
        steps: Steps = BufferSteps(session, stored.cache, stored.of, programs.OPTIMISED)
    else:
        steps = OnnxSteps(session, stored.cache, stored.of, programs.OPTIMISED, once)
    narrow = {name: _narrowed(value) for name, value in feeds.items()}
    found = in_parts(steps, entry.plain, narrow, parts)
    ends = [sum(parts[: i + 1]) - 1 for i in range(len(parts))]
    for output in entry.plain.outputs:
        if output.name in entry.cache.last:
            axis = next(axis for axis, dim in enumerate(output.shape) if step in dim.symbols)
            reference[output.name] = reference[output.name].take(ends, axis)
    return _figures(of, entry.plain, reference, found)


def _narrowed(value: Any) -> Any:
    return value.astype("float16") if value.dtype.kind == "f" else value


def _figures(
    of: Narrow, plain: Interface, reference: Mapping[str, Any], found: Mapping[str, Any]
) -> dict[str, Figures]:
    limit = ROUNDINGS * max(1, plain.depth) ** 0.5 * ROUNDING[of.dtype]
    return {
        o.name: compare(
            reference[o.name],
            found[o.name].astype("float32") if found[o.name].dtype.kind == "f" else found[o.name],
            limit,
        )
        for o in plain.outputs
    }

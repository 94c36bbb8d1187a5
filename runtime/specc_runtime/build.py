"""`specc build`: check, weights, graph, source, pictures, proof; published as one folder, whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import specc
from specc import driver
from specc.diagnostics import Diagnostic, Rejected
from specc.elaborate.models import Options
from specc.ir import graph as ir
from specc.ir.json import to_json
from specc.ir.members import parameter_count
from specc.quantisation import Scheme
from specc.reading import project_root
from specc.types import DType
from specc.weights.mapping import Anew
from specc_runtime import manifest, memory
from specc_runtime.cache import Request as CacheRequest
from specc_runtime.cache import cached_entry, every_choice
from specc_runtime.companions import SpecialTokens, copy_companions, folder_of, special_tokens
from specc_runtime.destination import destination
from specc_runtime.externs import Loaded, load_trusted, write_copies
from specc_runtime.genai import write_config
from specc_runtime.graphs import graphs_of, protos
from specc_runtime.module import WEIGHTS, python_name
from specc_runtime.perplexity import read as read_text
from specc_runtime.publish import publishing
from specc_runtime.quantised import Quantised, graph_file, refuse
from specc_runtime.quantised import write as write_quantised
from specc_runtime.record import Graph, record
from specc_runtime.saying import Say, silent
from specc_runtime.trained import as_trained, whole
from specc_runtime.weights import Source, Written, open_source, write_weights

if TYPE_CHECKING:
    from specc.backends.onnx.proto import WeightsRef
    from specc.backends.onnx.target import Target
    from specc_runtime.certificate import Certificate


@dataclass(frozen=True)
class Request:
    """What `specc build` was asked for."""

    target: str
    preset: str | None = None
    model: str | None = None
    sets: Mapping[str, str] = field(default_factory=dict)
    weights: str | None = None
    weights_format: str | None = None
    link: bool = False  # the build's weights file is a hard link to the checkpoint's
    emit: frozenset[str] = frozenset({"torch", "onnx"})
    verify: bool = True
    render: bool = True
    out: Path | None = None
    opset: int = 23
    dtype: DType = DType.F32  # of weights and of what is computed with them: f32, f16 or bf16
    without: frozenset[str] = frozenset()
    entries: tuple[str, ...] | None = ("forward",)  # None: all
    self_contained: bool = False
    no_weights: bool = False
    seed: int = 0
    position_ids: bool = False  # positions are an input of the entries, and not computed
    cache: CacheRequest | None = None  # also build the entries that continue their earlier calls
    quant: Scheme | None = None  # also make graphs whose weights are stored in few bits
    quant_text: Path | None = None  # whose perplexity the certificate gives with them and without
    anew: Anew | None = None  # of training: the tensors that are drawn whatever the checkpoint has
    trust: tuple[str, ...] = ()  # files of extern functions that may run this time, whatever the lock says


@dataclass(frozen=True)
class Result:
    """A finished build."""

    folder: Path
    manifest: dict[str, Any]
    warnings: tuple[Diagnostic, ...]
    proof: str  # the certificate in one line; empty if nothing was verified
    pictures: tuple[Path, ...]
    no_pictures: str  # why there are none, if they were asked for


def build(request: Request, say: Say = silent) -> Result:
    """Make a build; raises `Rejected` with what was wrong, leaving an earlier build as it was.

    B640 says that it cannot be written (a full disk), B660 that its folder holds something else, B630 that the two
    programs differ; everything else is about the spec or the checkpoint.
    """
    clock = _Clock(say)
    _refuse_half(request)
    if request.quant is not None:
        refuse(request.quant, weights=not request.no_weights, onnx="onnx" in request.emit)
    request = as_trained(request)
    with ExitStack() as opened:
        request = opened.enter_context(whole(request, build))
        with clock("checking"):
            project = driver.open_project(request.target)
            source = open_source(request.weights, request.weights_format, project, request)
            if source is not None:
                opened.callback(source.close)
            if request.quant_text is not None:  # before the build is begun that would fail in the end
                read_text(request.quant_text, folder_of(source.checkpoint) if source is not None else None)
            checked = project.check(
                Options(
                    request.model,
                    request.preset,
                    driver.parse_sets(request.sets),
                    source.config if source else {},
                    position_ids=request.position_ids,
                )
            )
            externs = load_trusted(checked, project_root(project.path), request.trust)
        graphs = graphs_of(checked.model, request)
        if request.verify and not request.no_weights and request.emit >= {"torch", "onnx"}:
            memory.check_proof(parameter_count(checked.model.module))
        target = destination(request.out, checked.model.name)
        try:
            with publishing(target) as work:
                made = _fill(work, checked, source, externs, graphs, request, clock)
        except OSError as error:
            raise Rejected([_disk_error(error, target)]) from None
    return Result(
        request.out or target,
        made.manifest,
        (*checked.warnings, *made.warnings),
        made.certificate.summary() if made.certificate is not None else "",
        tuple(target / picture for picture in made.pictures),
        made.no_pictures,
    )


def _refuse_half(request: Request) -> None:
    """B650 for what has no form in f16 or bf16 yet."""
    if request.dtype is not DType.F32 and request.quant is not None:
        message = f"--quant of a build in {request.dtype.value} is not supported yet"
        raise Rejected([Diagnostic("B650", message, help=f"--quant {request.quant.text} --dtype f32")])


@dataclass(frozen=True)
class _Made:
    """What came of filling a build's folder."""

    manifest: dict[str, Any]
    warnings: tuple[Diagnostic, ...]
    certificate: Certificate | None
    pictures: list[str]
    no_pictures: str


def _fill(
    work: Path,
    checked: driver.Checked,
    source: Source | None,
    externs: Loaded,
    graphs: list[Graph],
    request: Request,
    clock: _Clock,
) -> _Made:
    """Everything of a build, in its temporary folder."""
    model = checked.model
    written: Written | None = None
    if not request.no_weights:
        with clock("writing weights"):
            written = write_weights(
                work / WEIGHTS,
                model,
                checked,
                source,
                request.seed,
                request.dtype,
                linked=request.link,
                anew=request.anew,
            )
    try:
        _emit(work, model, written, externs, graphs, request, clock)
        if written is not None:  # threads were writing it meanwhile
            with clock("writing weights"):
                written.writing.finish()
    finally:
        if written is not None:
            written.writing.stop()
    if (request.cache is not None or request.quant_text is not None) and source is not None:
        copy_companions(source.checkpoint, work)
    quantised = None
    if request.quant is not None:
        with clock("quantising"):
            quantised = _quantise(work, model, externs, graphs, request, request.quant)
    if request.cache is not None and request.cache.genai:
        _configure_genai(work, model, source, graphs, request)
    certificate = None
    if request.verify and written is not None and request.emit >= {"torch", "onnx"}:
        with clock("verifying"):
            if request.dtype is not DType.F32:
                certificate = _prove_half(work, model, externs, graphs, request, clock)
    if certificate is None and request.verify and written is not None and request.emit >= {"torch", "onnx"}:
        with clock("verifying"):
            from specc_runtime.verify import prove

            entries = [(g.entry, g.file, g.without) for g in graphs if g.incremental is None]
            certificate = prove(
                model,
                work,
                entries=entries,
                cached=[cached_entry(model, g.incremental, g.file, g.without) for g in graphs if g.incremental],
                opset=request.opset,
                seed=request.seed,
                progress=clock.say,
                externs=externs,
                quant=request.quant,
                text=request.quant_text,
            )
    pictures: list[str] = []
    reason = ""
    if request.render and "onnx" in request.emit:
        with clock("drawing"):
            from specc_runtime.pictures import draw

            pictures, reason = draw(work, model, request.without, request.opset, externs)
    content = record(work, checked, source, written, graphs, request, certificate, clock.seconds, quantised)
    manifest.write(work, "manifest.json", content)
    return _Made(content, written.warnings if written is not None else (), certificate, pictures, reason)


def _emit(
    work: Path,
    model: ir.Model,
    written: Written | None,
    externs: Loaded,
    graphs: list[Graph],
    request: Request,
    clock: _Clock,
) -> None:
    """The two programs and the IR."""
    if "torch" in request.emit:
        with clock("emitting torch"):
            from specc.backends.torch.export import emit

            asked = request.cache or CacheRequest()
            steps = [one for g in graphs if g.incremental for one in every_choice(model, g.entry, asked)]
            text = emit(model, version=_version(), incremental=steps)
            (work / f"{python_name(model.name)}.py").write_text(text, encoding="utf-8")
            write_copies(work, model, externs)
    if "onnx" in request.emit:
        with clock("building the graph"):
            weights = written.reference(work, embed=request.self_contained) if written is not None else None
            target = _target(request, externs, weights=weights)
            for graph in graphs:
                for file, proto in protos(model, graph, target).items():
                    (work / file).write_bytes(proto.SerializeToString(deterministic=True))
    manifest.write(work, "ir.json", to_json(model))


def _target(
    request: Request, externs: Loaded, *, weights: WeightsRef | None = None, quant: Scheme | None = None
) -> Target:
    from specc.backends.onnx.target import Target

    return Target(
        opset=request.opset,
        weights=weights,
        compute=request.dtype,
        externs=externs,
        quant=quant,
        version=_version(),
    )


def _prove_half(
    work: Path, model: ir.Model, externs: Loaded, graphs: list[Graph], request: Request, clock: _Clock
) -> Certificate:
    from specc_runtime.half_proof import Narrow, prove_half

    return prove_half(
        Narrow(model, work, request.dtype, graphs, externs, request.opset, request.seed, progress=clock.say)
    )


def _quantise(
    work: Path, model: ir.Model, externs: Loaded, graphs: list[Graph], request: Request, scheme: Scheme
) -> Quantised:
    """The same graphs with weights in few bits."""
    target = _target(request, externs, quant=scheme)
    made = {graph_file(file, scheme): proto for graph in graphs for file, proto in protos(model, graph, target).items()}
    return write_quantised(work, work / WEIGHTS, made, scheme, model.module.name)


def _configure_genai(work: Path, model: ir.Model, source: Source | None, graphs: list[Graph], request: Request) -> None:
    """What onnxruntime-genai reads first: of the graph in few bits, if there is one."""
    [entry] = [cached_entry(model, g.incremental, g.file, g.without) for g in graphs if g.incremental]
    file = entry.file if request.quant is None else graph_file(entry.file, request.quant)
    write_config(work, file, entry, special_tokens(source.checkpoint) if source is not None else SpecialTokens())


def _version() -> str:
    return specc.__version__


def _disk_error(error: OSError, target: Path) -> Diagnostic:
    place = error.filename if isinstance(error.filename, str) else str(target)
    note = "an earlier build, if there was one, is as it was"
    return Diagnostic("B640", f"cannot write the build: {error.strerror or error} ({place})", note=note)


class _Clock:
    """Seconds per stage; says each stage as it starts."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self.say(stage)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

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
from specc_runtime.cache import CachedEntry, cached_entry, every_choice
from specc_runtime.cache import Request as CacheRequest
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
    from onnx import ModelProto

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
                made = _Filling(work, checked, source, externs, graphs, request, clock).fill()
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


@dataclass(frozen=True)
class _Filling:
    """A build's temporary folder `work`, and what everything in it is made of."""

    work: Path
    checked: driver.Checked
    source: Source | None
    externs: Loaded
    graphs: list[Graph]
    request: Request
    clock: _Clock

    @property
    def model(self) -> ir.Model:
        return self.checked.model

    def fill(self) -> _Made:
        """Everything of a build: weights, programs, proof, pictures, manifest."""
        request, source = self.request, self.source
        written = self._weights() if not request.no_weights else None
        try:
            self._programs(written)
            if written is not None:  # threads were writing it meanwhile
                with self.clock("writing weights"):
                    written.writing.finish()
        finally:
            if written is not None:
                written.writing.stop()
        if (request.cache is not None or request.quant_text is not None) and source is not None:
            copy_companions(source.checkpoint, self.work)
        quantised = self._quantised(request.quant) if request.quant is not None else None
        if request.cache is not None and request.cache.genai:
            self._configure_genai()
        whole = written is not None and request.emit >= {"torch", "onnx"}
        certificate = self._proof() if request.verify and whole else None
        pictures, reason = self._pictures() if request.render and "onnx" in request.emit else ([], "")
        content = record(
            self.work,
            self.checked,
            source,
            written,
            self.graphs,
            request,
            certificate,
            self.clock.seconds,
            quantised,
        )
        manifest.write(self.work, "manifest.json", content)
        return _Made(content, written.warnings if written is not None else (), certificate, pictures, reason)

    def _weights(self) -> Written:
        request = self.request
        with self.clock("writing weights"):
            return write_weights(
                self.work / WEIGHTS,
                self.model,
                self.checked,
                self.source,
                request.seed,
                request.dtype,
                linked=request.link,
                anew=request.anew,
            )

    def _programs(self, written: Written | None) -> None:
        """The two programs and the IR."""
        work, model, request = self.work, self.model, self.request
        if "torch" in request.emit:
            with self.clock("emitting torch"):
                from specc.backends.torch.export import emit

                asked = request.cache or CacheRequest()
                steps = [one for g in self.graphs if g.incremental for one in every_choice(model, g.entry, asked)]
                text = emit(model, version=_version(), incremental=steps)
                (work / f"{python_name(model.name)}.py").write_text(text, encoding="utf-8")
                write_copies(work, model, self.externs)
        if "onnx" in request.emit:
            with self.clock("building the graph"):
                weights = written.reference(work, embed=request.self_contained) if written is not None else None
                for file, proto in self._protos(self._target(weights=weights)):
                    (work / file).write_bytes(proto.SerializeToString(deterministic=True))
        manifest.write(work, "ir.json", to_json(model))

    def _target(self, *, weights: WeightsRef | None = None, quant: Scheme | None = None) -> Target:
        from specc.backends.onnx.target import Target

        return Target(
            opset=self.request.opset,
            weights=weights,
            compute=self.request.dtype,
            externs=self.externs,
            quant=quant,
            version=_version(),
        )

    def _protos(self, target: Target) -> Iterator[tuple[str, ModelProto]]:
        """(file, graph), one after the other: with its weights inside, a graph may be large."""
        for graph in self.graphs:
            yield from protos(self.model, graph, target).items()

    def _quantised(self, scheme: Scheme) -> Quantised:
        """The same graphs with weights in few bits."""
        with self.clock("quantising"):
            made = {graph_file(file, scheme): proto for file, proto in self._protos(self._target(quant=scheme))}
            return write_quantised(self.work, self.work / WEIGHTS, made, scheme, self.model.module.name)

    def _configure_genai(self) -> None:
        """What onnxruntime-genai reads first: of the graph in few bits, if there is one."""
        [entry] = self._cached()
        file = entry.file if self.request.quant is None else graph_file(entry.file, self.request.quant)
        tokens = special_tokens(self.source.checkpoint) if self.source is not None else SpecialTokens()
        write_config(self.work, file, entry, tokens)

    def _cached(self) -> list[CachedEntry]:
        return [cached_entry(self.model, g.incremental, g.file, g.without) for g in self.graphs if g.incremental]

    def _proof(self) -> Certificate:
        """Raises `Rejected` where the programs differ."""
        request, model, say = self.request, self.model, self.clock.say
        with self.clock("verifying"):
            if request.dtype is not DType.F32:
                from specc_runtime.half_proof import Narrow, prove_half

                graphs, externs = self.graphs, self.externs
                return prove_half(
                    Narrow(model, self.work, request.dtype, graphs, externs, request.opset, request.seed, progress=say)
                )
            from specc_runtime.verify import prove

            return prove(
                model,
                self.work,
                entries=[(g.entry, g.file, g.without) for g in self.graphs if g.incremental is None],
                cached=self._cached(),
                opset=request.opset,
                seed=request.seed,
                progress=say,
                externs=self.externs,
                quant=request.quant,
                text=request.quant_text,
            )

    def _pictures(self) -> tuple[list[str], str]:
        """The files of pictures, or why there are none."""
        with self.clock("drawing"):
            from specc_runtime.pictures import draw

            return draw(self.work, self.model, self.request.without, self.request.opset, self.externs)


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

"""`specc build`: check, weights, graph, source, pictures, proof; published as one folder, whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specc import driver
from specc.diagnostics import Diagnostic, Rejected
from specc.elaborate.models import Options
from specc.ir import graph as ir
from specc.ir.json import to_json
from specc_runtime import manifest
from specc_runtime.module import WEIGHTS, python_name
from specc_runtime.publish import publishing
from specc_runtime.weights import Source, Written, open_source, write_weights

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What `specc build` was asked for."""

    target: str
    preset: str | None = None
    model: str | None = None
    sets: Mapping[str, str] = field(default_factory=dict)
    weights: str | None = None
    weights_format: str | None = None
    emit: frozenset[str] = frozenset({"torch", "onnx"})
    verify: bool = True
    render: bool = True
    out: Path | None = None
    opset: int = 23
    without: frozenset[str] = frozenset()
    entries: tuple[str, ...] | None = ("forward",)  # None: all
    self_contained: bool = False
    no_weights: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """A finished build."""

    folder: Path
    manifest: dict[str, Any]
    warnings: tuple[Diagnostic, ...]
    pictures: tuple[Path, ...]
    no_pictures: str  # why there are none, if they were asked for


@dataclass(frozen=True)
class Graph:
    """An ONNX file of the build."""

    entry: str
    file: str
    without: frozenset[str]


def build(request: Request, say: Say = lambda _: None) -> Result:
    """Make a build; raises `Rejected` with what was wrong, leaving an earlier build as it was."""
    clock = _Clock(say)
    with clock("checking"):
        project = driver.open_project(request.target)
        source = open_source(request.weights, request.weights_format, project, request)
        checked = project.check(
            Options(request.model, request.preset, driver.parse_sets(request.sets), source.config if source else {}, source.name if source else None)
        )
    graphs = _graphs(checked.model, request)
    target = (request.out or Path("build") / checked.model.name).absolute()
    _check_target(target)
    try:
        with publishing(target) as work:
            result = _fill(work, checked, source, graphs, request, clock)
    except OSError as error:
        raise Rejected([_disk_error(error, target)]) from None
    finally:
        if source is not None:
            source.close()
    record, pictures, reason, warnings = result
    return Result(target, record, (*checked.warnings, *warnings), tuple(target / p for p in pictures), reason)


def _fill(
    work: Path, checked: driver.Checked, source: Source | None, graphs: list[Graph], request: Request, clock: _Clock
) -> tuple[dict[str, Any], list[str], str, tuple[Diagnostic, ...]]:
    """Everything of a build, in its temporary folder: (manifest, pictures, why there are none, warnings)."""
    model = checked.model
    written: Written | None = None
    if not request.no_weights:
        with clock("writing weights"):
            written = write_weights(work / WEIGHTS, model, checked, source, request.seed)
    try:
        _emit(work, model, written, graphs, request, clock)
        if written is not None:  # threads were writing it meanwhile
            with clock("writing weights"):
                written.writing.finish()
    finally:
        if written is not None:
            written.writing.stop()
    certificate = None
    if request.verify and not request.no_weights and request.emit >= {"torch", "onnx"}:
        with clock("verifying"):
            from specc_runtime.verify import prove

            entries = [(g.entry, g.file, g.without) for g in graphs]
            certificate = prove(model, work, entries=entries, opset=request.opset, seed=request.seed, progress=clock.say).to_json()
    pictures: list[str] = []
    reason = ""
    if request.render:
        with clock("drawing"):
            from specc_runtime.pictures import draw

            pictures, reason = draw(work, model, request.without, request.opset)
    record = _record(work, checked, source, written, graphs, request, certificate, clock.seconds)
    manifest.write(work, "manifest.json", record)
    return record, pictures, reason, written.warnings if written is not None else ()


def _emit(
    work: Path, model: ir.Model, written: Written | None, graphs: list[Graph], request: Request, clock: _Clock
) -> None:
    """The two programs and the IR."""
    if "torch" in request.emit:
        with clock("emitting torch"):
            from specc.backends.torch import emit

            (work / f"{python_name(model.name)}.py").write_text(emit(model, version=_version()), encoding="utf-8")
    if "onnx" in request.emit:
        with clock("building the graph"):
            for graph in graphs:
                _write_graph(work, model, graph, written, request)
    manifest.write(work, "ir.json", to_json(model))


def _graphs(model: ir.Model, request: Request) -> list[Graph]:
    """The entries to build, each with the optional inputs to leave out."""
    names = request.entries if request.entries is not None else tuple(model.entries)
    graphs = []
    for name in names:
        entry = model.entries.get(name)
        if entry is None:
            known = (("available", ", ".join(model.entries)),)
            raise Rejected([Diagnostic("E103", f"{model.module.name} has no entry `{name}`", notes=known)])
        file = "model.onnx" if name == "forward" else f"model.{name}.onnx"
        graphs.append(Graph(name, file, request.without & entry.full.present))
    optional = {o for g in graphs for o in model.entries[g.entry].full.present}
    unknown = sorted(request.without - optional)
    if unknown:
        known = (("available", ", ".join(sorted(optional)) or "none"),)
        raise Rejected([Diagnostic("E103", f"--without {unknown[0]}: there is no such optional input", notes=known)])
    return graphs


def _write_graph(work: Path, model: ir.Model, graph: Graph, written: Written | None, request: Request) -> None:
    from specc.backends.onnx.export import build as build_onnx

    weights = written.reference(work, embed=request.self_contained) if written is not None else None
    proto = build_onnx(model, graph.entry, opset=request.opset, without=graph.without, weights=weights, version=_version())
    data = proto.SerializeToString(deterministic=True)
    (work / graph.file).write_bytes(data)


def _record(
    work: Path, checked: driver.Checked, source: Source | None, written: Written | None, graphs: list[Graph], request: Request,
    certificate: dict[str, Any] | None, timings: Mapping[str, float],
) -> dict[str, Any]:  # fmt: skip
    from specc_runtime.inputs import describe

    model = checked.model
    hypers = {h.name: _plain(h.value) for h in model.module.hypers if not h.is_let}
    sources = {file.source.name: _text_hash(file.source.text) for file in sorted(checked.elaborator.files.by_key.values(), key=lambda f: f.source.name)}
    files = {}
    for path in sorted(p for p in work.rglob("*") if p.is_file() and not p.name.startswith(".")):
        name = path.relative_to(work).as_posix()
        # Hashing costs about as much as copying: the weights are hashed where a certificate speaks of them.
        digest = None if name == WEIGHTS and certificate is None else manifest.sha256(path)
        files[name] = {"bytes": path.stat().st_size, "sha256": digest}
    with_onnx = "onnx" in request.emit
    return {
        "format": "specc-build/1",
        "specc": _version(),
        "name": model.name,
        "model": model.module.name,
        "preset": model.preset,
        "spec": {"files": sources, "set": dict(request.sets)},
        "hyperparameters": hypers,
        "parameters": ir.parameter_count(model.module),
        "entries": {
            g.entry: {
                "onnx": g.file if with_onnx else None,
                "opset": request.opset,
                "without": sorted(g.without),
                "interface": describe(model, g.entry),
            }
            for g in graphs
        },
        "weights": written.to_json(source, request.seed) if written is not None else None,
        "files": files,
        "certificate": certificate,
        "versions": manifest.versions(),
        "timings": {stage: round(seconds, 3) for stage, seconds in timings.items()},
    }


def _plain(value: Any) -> Any:
    from specc.ir.json import plain

    return plain(value)


def _text_hash(text: str) -> str:
    from hashlib import sha256

    return sha256(text.encode()).hexdigest()


def _version() -> str:
    return manifest.versions()["specc-ml"]


def _check_target(target: Path) -> None:
    """Refuse to replace a folder that is not a build."""
    if target.is_dir() and any(target.iterdir()) and not (target / "manifest.json").is_file():
        help = "choose another place with -o DIR, or delete it"
        raise Rejected([Diagnostic("B660", f"`{target}` exists and is not a build: nothing was written", help=help)])
    if target.exists() and not target.is_dir():
        raise Rejected([Diagnostic("B660", f"`{target}` is a file", help="choose another place with -o DIR")])


def _disk_error(error: OSError, target: Path) -> Diagnostic:
    place = error.filename or target
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

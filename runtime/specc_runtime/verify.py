"""The proof: the emitted module and the finished graph give the same numbers, or the build is refused.

Torch in eager mode is the reference; onnxruntime runs the file as it was written, with all optimisations and with none,
at the sizes of `sizes.plan`. Then both get other weights (`programs.perturb`): fresh ones hide faults.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc import driver
from specc.backends.onnx.target import DEFAULT_OPSET
from specc.diagnostics import Rejected
from specc.elaborate.models import Options
from specc.ir.graph import Model
from specc.quantisation import Scheme
from specc_runtime import divergence, manifest, programs, quant_proof, quantised, taps
from specc_runtime.buffer_proof import BufferProof
from specc_runtime.cache import Cache, CachedEntry
from specc_runtime.cached_proof import CachedProof
from specc_runtime.certificate import Certificate, Entry, Run, Skipped
from specc_runtime.compare import Figures, compare, tolerance
from specc_runtime.divergence import Mismatch
from specc_runtime.externs import Loaded, copies, load_copies
from specc_runtime.inputs import Interface, Masks, chosen_graph, describe, draw, interface
from specc_runtime.module import WEIGHTS, Build, extern_copies, load_module, python_name
from specc_runtime.programs import PROGRAMS, Crash, Outputs
from specc_runtime.python_file import UserFile, blaming
from specc_runtime.saying import Say, silent
from specc_runtime.sizes import Case, plan

if TYPE_CHECKING:
    import onnxruntime
    import torch


@dataclass(frozen=True)
class Subject:
    """A finished build folder: what is to be compared. `entries`: (name, ONNX file, interface)."""

    folder: Path
    source: Path
    weights: Path | None
    class_name: str
    entries: tuple[tuple[str, str, Interface], ...]
    cached: tuple[CachedEntry, ...] = ()
    externs: tuple[UserFile, ...] = ()  # the files of extern functions that the source imports, in this folder

    def module(self) -> torch.nn.Module:
        return load_module(self.source, self.weights, self.class_name, self.externs)

    def hashes(self) -> dict[str, str]:
        """File -> SHA-256 of everything that takes part."""
        files = [self.source, *([self.weights] if self.weights else []), *(self.folder / e[1] for e in self.entries)]
        files += [self.folder / file for entry in self.cached for file in entry.files]
        files += [file.path for file in self.externs]
        return {path.name: manifest.sha256(path) for path in files}


def prove(
    model: Model,
    folder: Path,
    *,
    entries: Sequence[tuple[str, str, frozenset[str]]],
    cached: Sequence[CachedEntry] = (),
    opset: int = DEFAULT_OPSET,
    seed: int = 0,
    progress: Say = silent,
    externs: Loaded | None = None,
    quant: Scheme | None = None,
    text: Path | None = None,
) -> Certificate:
    """Compare the finished files of a build folder; `entries` are (name, ONNX file, optional inputs left out), `cached`
    those that continue one of them. `quant`: what the graphs in few bits are, `text` what their perplexity is told of.

    Raises `Rejected` with B630, placed at the line of the first value that differs; before that X903 X904 where an
    extern function does not do what its signature says.
    """
    interfaces = tuple((name, file, interface(model, name, without)) for name, file, without in entries)
    weights = folder / WEIGHTS
    source = folder / f"{python_name(model.name)}.py"
    beside = tuple(UserFile(name, folder / file, (folder / file).read_bytes()) for file, name in copies(model).items())
    stored = weights if weights.exists() else None
    subject = Subject(folder, source, stored, model.module.name, interfaces, tuple(cached), beside)
    if externs is not None and externs.files:
        check_externs(model, subject.module(), [(name, without) for name, _, without in entries], externs, seed)
    try:
        certificate = compare_programs(subject, seed=seed, progress=progress)
    except Mismatch as mismatch:
        progress("looking for the first value that differs")
        mismatch.externs = externs
        steps = next((entry for entry in cached if entry.name == mismatch.entry), None)
        if steps is not None:
            graph = model.entries[steps.cache.of].full
            raise Rejected([divergence.stepped(mismatch, steps.cache.of, graph.span.head())]) from None
        without = next(w for name, _, w in entries if name == mismatch.entry)
        raise Rejected([divergence.located(mismatch, model, without, opset, folder)]) from None
    return certificate if quant is None else _with_quantised(certificate, subject, quant, text, progress)


def _with_quantised(
    certificate: Certificate, subject: Subject, scheme: Scheme, text: Path | None, progress: Say
) -> Certificate:
    """The certificate, now also of the graphs with weights in few bits."""
    entries: list[quant_proof.Plain | quant_proof.Stepping] = [
        *(quant_proof.Plain(file, of) for _, file, of in subject.entries),
        *map(quant_proof.Stepping, subject.cached),
    ]
    return quant_proof.certified(certificate, subject.folder, entries, scheme, text, progress)


def check_externs(
    model: Model,
    module: torch.nn.Module,
    entries: Sequence[tuple[str, frozenset[str]]],
    externs: Loaded,
    seed: int = 0,
) -> None:
    """Run each extern function once on what it is given in the model, and hold its results against its signature.

    `entries` are (name, optional inputs left out). Raises `Rejected` (X903, X904).
    """
    import torch

    for name, without in entries:
        of = interface(model, name, without)
        cases = [case for case in plan(of) if not case.skipped]
        for case in cases[1:2] or cases[:1]:
            feeds = {key: torch.from_numpy(value) for key, value in draw(of, case.sizes, seed=seed).items()}
            taps.run(chosen_graph(model, name, without), module, feeds, externs)


def compare_programs(subject: Subject, *, seed: int = 0, progress: Say = silent) -> Certificate:
    """Compare at every size; raises `Mismatch` at the first difference, `Rejected` (X904) if an extern fails."""
    with blaming(subject.externs):
        return _compared(subject, seed, progress)


def _compared(subject: Subject, seed: int, progress: Say) -> Certificate:
    records = {name: Entry(of.depth, tolerance(of.depth)) for name, _, of in subject.entries}
    module = subject.module()
    for name, file, of in subject.entries:
        with_build = _Comparison(subject, module, name, file, of, seed, "build", progress)
        _record(records[name], with_build)
    proofs = [
        (CachedProof if entry.cache.mask is None else BufferProof)(subject.folder, entry, seed, progress)
        for entry in subject.cached
    ]
    for proof in proofs:
        depth = proof.plain.depth
        runs = list(proof.run(module, "build"))
        records[proof.entry.name] = Entry(depth, tolerance(depth), runs, list(proof.skipped), proof.padded)
    programs.perturb(module, seed)
    for proof in proofs:
        records[proof.entry.name].runs.extend(proof.run(module, "perturbed"))
    for name, file, of in subject.entries:
        perturbed = _Comparison(subject, module, name, file, of, seed, "perturbed", progress)
        _record(records[name], perturbed)
    return Certificate(seed=seed, files=subject.hashes(), versions=versions(), entries=records)


def _record(entry: Entry, comparison: _Comparison) -> None:
    for case, runs in comparison.run():
        if case.skipped:
            entry.skipped.append(Skipped(dict(case.sizes), case.purpose, case.skipped))
        entry.runs.extend(runs)


def versions() -> dict[str, str]:
    """What took part in a comparison."""
    return {name: version for name, version in manifest.versions().items() if name != "netron"}


@dataclass
class _Comparison:
    """One entry with one set of weights."""

    subject: Subject
    module: torch.nn.Module
    entry: str
    file: str
    of: Interface
    seed: int
    weights: str  # build | perturbed
    progress: Say
    sessions: dict[str, onnxruntime.InferenceSession] = field(default_factory=dict)

    def run(self) -> Iterator[tuple[Case, list[Run]]]:
        try:
            for case in self._cases():
                runs = [] if case.skipped else [self._one(case, masks) for masks in self._masks(case)]
                yield case, runs
        finally:
            self.sessions.clear()

    def _cases(self) -> list[Case]:
        """The whole plan; with perturbed weights one small case, at distinct sizes."""
        cases = plan(self.of)
        if self.weights == "build":
            return cases
        small = [case for case in cases if not case.skipped]
        return small[1:2] or small[:1]

    def _masks(self, case: Case) -> tuple[Masks, ...]:
        if not self.of.has_masks or self.weights == "perturbed":
            return ("random",)
        return (
            ("all true",) if case.at_bound else ("random", "all true")
        )  # only all keys visible reach the last position

    def _one(self, case: Case, masks: Masks) -> Run:
        shown = ", ".join(f"{name} = {size}" for name, size in case.sizes.items())
        self.progress(f"comparing {self.entry} at {shown}" if shown else f"comparing {self.entry}")
        feeds = draw(self.of, case.sizes, seed=self.seed, masks=masks)
        known = Mismatch(self.entry, self.of, dict(case.sizes), feeds, self.weights, self.module, self.file)
        try:
            reference = programs.run_torch(self.module, self.of, feeds)
            figures = {}
            for program in PROGRAMS:
                found = programs.run_session(self._session(program), program, feeds)
                figures[program] = self._compare(reference, found, known, program)
        except Crash as crash:
            known.crash = crash
            raise known from crash
        return Run(dict(case.sizes), case.purpose, masks if self.of.has_masks else None, self.weights, figures)

    def _session(self, program: str) -> onnxruntime.InferenceSession:
        if program not in self.sessions:
            module = None if self.weights == "build" else self.module
            self.sessions[program] = programs.session_on(program, self.subject.folder / self.file, module)
        return self.sessions[program]

    def _compare(self, reference: Outputs, found: Outputs, known: Mismatch, program: str) -> dict[str, Figures]:
        figures: dict[str, Figures] = {}
        for output in self.of.outputs:
            expected = tuple(dim.evaluate(known.sizes) for dim in output.shape)
            value = reference[output.name]
            result = compare(value, found[output.name], tolerance(self.of.depth))
            if value.shape != expected:
                result = Figures(problem=f"its shape in torch is {list(value.shape)}, the spec says {list(expected)}")
            if result.problem:
                known.output, known.figures, known.program = output.name, result, program
                raise known
            figures[output.name] = result
        return figures


def repeat(folder: Path, *, progress: Say = silent, text: Path | None = None) -> Certificate:
    """Check the recorded hashes of a published build and compare its programs again, with the files of the folder
    alone.

    Raises `Rejected`: B660 for files that are missing or changed, B630 for programs that differ.
    """
    record = manifest.read(folder, "manifest.json")
    progress("checking the files")
    divergence.check_files(folder, record)
    entries = tuple(
        (name, entry["onnx"], Interface.from_json(entry["interface"]))
        for name, entry in record["entries"].items()
        if entry["onnx"] and "cache" not in entry
    )
    source = folder / f"{python_name(record['name'])}.py"
    if not entries or not source.is_file():
        raise Rejected([divergence.nothing_to_compare(folder)])
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise Rejected([divergence.no_weights(folder)])
    beside = extern_copies(Build(folder, record))
    cached = tuple(_cached_entry(name, record["entries"]) for name, e in record["entries"].items() if "cache" in e)
    subject = Subject(folder, source, weights, record["model"], entries, cached, tuple(beside.values()))
    seed = (record["certificate"] or {}).get("seed", 0)
    try:
        certificate = compare_programs(subject, seed=seed, progress=progress)
    except Mismatch as mismatch:
        entry = record["entries"][mismatch.entry]
        without = frozenset(entry["without"])
        if "cache" in entry:
            raise Rejected([divergence.stepped(mismatch, entry["cache"]["of"], None)]) from None
        model = spec_at_hand(record)
        if model is None or describe(model, mismatch.entry, without) != entry["interface"]:
            raise Rejected([divergence.unlocated(mismatch, rebuild_command(record))]) from None
        progress("looking for the first value that differs")
        mismatch.externs = load_copies(model, beside)
        raise Rejected([divergence.located(mismatch, model, without, entry["opset"], folder)]) from None
    quant = record.get("quantisation")
    if quant is None:
        return certificate
    return _with_quantised(certificate, subject, quantised.parse(quant["scheme"]), text, progress)


def _cached_entry(name: str, entries: Mapping[str, Any]) -> CachedEntry:
    entry = entries[name]
    cache = Cache.from_json(entry["cache"])
    plain = Interface.from_json(entries[cache.of]["interface"])
    return CachedEntry(entry["onnx"], plain, Interface.from_json(entry["interface"]), cache)


def spec_at_hand(record: Mapping[str, Any]) -> Model | None:
    """The model that a build was made from, if its files are here (or in the zoo) as they were."""
    name = next(iter(record["spec"]["files"]), "")
    try:
        project = driver.open_project(name if Path(name).is_file() else Path(name).stem)
        checked = project.check(
            Options(
                record["model"],
                record["preset"],
                driver.parse_sets(record["spec"]["set"]),
                name=record["name"],
                position_ids=record["spec"].get("position_ids", False),
            )
        )
    except Rejected:
        return None
    sources = {file.source.name: file.source.text for file in checked.elaborator.files.by_key.values()}
    for file, digest in record["spec"]["files"].items():
        if sha256(sources.get(file, "").encode()).hexdigest() != digest:
            return None
    return checked.model


def rebuild_command(record: Mapping[str, Any]) -> str:
    """The command that makes this build again, and names the first value that differs if it cannot."""
    from shlex import join

    spec = next(iter(record["spec"]["files"]), "FILE")
    words = ["specc", "build", spec]
    if record["preset"]:
        words += ["--preset", record["preset"]]
    for name, value in record["spec"]["set"].items():
        words += ["--set", f"{name}={value}"]
    if record["spec"].get("position_ids"):
        words.append("--position-ids")
    return join(words)

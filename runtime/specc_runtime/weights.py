"""Where a build's weights come from, and the one file they go to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc import driver
from specc.diagnostics import Collector, Diagnostic, Rejected
from specc.elaborate.evaluate import Evaluator
from specc.elaborate.models import Given, Options, preset_chain
from specc.elaborate.values import Fail
from specc.ir.graph import Model
from specc.ir.initial import initializers
from specc.ir.members import aliases
from specc.syntax import ast
from specc.types import DType
from specc.weights.config import file_functions, read_config
from specc.weights.mapping import Anew, Plan, plan_import
from specc.weights.moved import read_moves
from specc.weights.renames import explain_renames
from specc.weights.sections import choose, model_tensors, sections
from specc_runtime.checkpoint import Checkpoint
from specc_runtime.folding import has_adapters
from specc_runtime.linking import Linked, link
from specc_runtime.weights_writer import Place, Writing, check_duplicates, copy_range, new_tensors

if TYPE_CHECKING:
    from specc.backends.onnx.proto import WeightsRef
    from specc_runtime.build import Request


@dataclass(frozen=True)
class Source:
    """An opened checkpoint, the section that reads it, and the hyper-parameters its config gives."""

    checkpoint: Checkpoint
    section: ast.Weights | None
    config: Mapping[str, Given]

    @property
    def name(self) -> str:
        """The folder's or file's name, for the record."""
        path = self.checkpoint.path.resolve()  # `.` has a name too
        return path.name if path.is_dir() else path.stem

    @property
    def read_by(self) -> str | None:
        """The section's source that the checkpoint is of (`hf:qwen2`), its first if nothing tells."""
        if self.section is None:
            return None
        sources = [source.value for source in self.section.sources]
        own = f"hf:{self.checkpoint.model_type}"
        return own if own in sources else sources[0]

    def close(self) -> None:
        self.checkpoint.close()


def open_source(where: str | None, format: str | None, project: driver.Project, request: Request) -> Source | None:
    """Open a checkpoint and read its config by the model's `weights` section; raises `Rejected`."""
    if where is None:
        return None
    if has_adapters(Path(where)):
        message = f"{where} has adapters alone, which are not folded into weights yet"
        raise Rejected([Diagnostic("B660", message, help=f"specc merge {where}")])
    options = Options(request.model, request.preset)
    model = driver.model_of(project, options)
    decl = next(d for d in project.file.models() if d.name == model)
    checkpoint = Checkpoint.open(where)
    collector = Collector()
    try:
        section = choose(
            sections(project.file.tree, model),
            collector,
            model_type=checkpoint.model_type,
            format=format,
            path=str(where),
        )
        config: dict[str, Given] = {}
        if section is not None and checkpoint.config is not None:
            found = read_config(
                section,
                decl.node.params,
                checkpoint.config,
                collector,
                names=file_functions(project.file),
                given=_given(project, decl.node.params, request),
            )
            config = {name: Given(None, setting.value, setting.origin) for name, setting in found.items()}
        collector.stop_on_errors()
    except BaseException:
        checkpoint.close()
        raise
    return Source(checkpoint, section, config)


def _given(project: driver.Project, params: Sequence[ast.Param], request: Request) -> set[str]:
    """Hyper-parameters that `--set` or the preset give: the config need not."""
    given = {*request.sets}
    if request.preset is None:
        return given
    try:
        _, chain = preset_chain(project.file, request.preset)
    except Fail as fail:
        raise Rejected([fail.diagnostic]) from None
    names = [p.name.id for p in params]
    for preset in chain:
        for position, arg in enumerate(preset.args):
            if isinstance(arg, ast.Arg):
                given |= {arg.name.id} if arg.name is not None else set(names[position : position + 1])
    return given


@dataclass(frozen=True)
class Written:
    """The weights file of a build: where each tensor lies, what made it. It is complete after `writing.finish()`."""

    path: Path
    writing: Writing | Linked
    places: Mapping[str, Place]
    ties: Mapping[str, str]
    plan: Plan | None
    warnings: tuple[Diagnostic, ...]

    def reference(self, folder: Path, *, embed: bool) -> WeightsRef:
        """The same tensors for the ONNX graph: the very file, or (`embed`) a copy inside the model.

        What is too large for that is copied to a file beside the model.
        """
        from specc.backends.onnx.proto import Embedded, External, Slot

        if not embed:
            return External(self.path.name, {name: Slot(p.offset, p.nbytes) for name, p in self.places.items()})
        self.writing.finish()
        start = min((p.offset for p in self.places.values()), default=0)
        end = max((p.offset + p.nbytes for p in self.places.values()), default=0)
        with self.path.open("rb") as file:
            if end - start > MAX_EMBEDDED:
                with (folder / COPY).open("wb") as copy:
                    copy_range(file.fileno(), start, copy.fileno(), 0, end - start, self.path)
                return External(COPY, {name: Slot(p.offset - start, p.nbytes) for name, p in self.places.items()})
            data = {name: os.pread(file.fileno(), p.nbytes, p.offset) for name, p in self.places.items()}
        return Embedded(data)

    def to_json(self, source: Source | None, seed: int) -> dict[str, Any]:
        record: dict[str, Any] = {
            "source": source.name if source is not None else "random",
            "section": source.read_by if source is not None else None,
            "tensors": len(self.places),
            "bytes": sum(p.nbytes for p in self.places.values()),
            "ties": dict(self.ties),
            "fresh": list(self.plan.fresh) if self.plan is not None else [],
        }
        if source is None or record["fresh"]:
            record["seed"] = seed
        if self.plan is not None and self.plan.replaced:
            record["replaced"] = {name: list(shape) for name, shape in self.plan.replaced.items()}
        return record


MAX_EMBEDDED = 2**31 - 2**24
"""Bytes. Protocol buffers hold at most 2 GiB; some of it is left for the graph."""

COPY = "model.onnx.data"
"""The weights of a self-contained graph that is too large to hold them, beside it; all entries share it."""


def plan_weights(
    checked: driver.Checked, source: Source, collector: Collector, anew: Anew | None = None
) -> Plan | None:
    """How a checkpoint makes the model's tensors, from headers alone; None after an error, which is collected.

    A file with the model's own names may have those of before a rename: `moved` lines tell the new ones, and W320 the
    lines that are missing. `anew`: see `plan_import`.
    """
    model, elaborator = checked.model, checked.elaborator
    tensors, tied, file = model_tensors(model.module), aliases(model.module), source.checkpoint.header()
    renamed: dict[str, str] = {}
    if source.section is None:
        renamed = read_moves(model, elaborator, collector).names(file, tensors)
        here = {renamed.get(name, name) for name in file}
        strange = {name: info for name, info in file.items() if renamed.get(name, name) not in tensors}
        lacking = {name: info for name, info in tensors.items() if name not in here and name not in tied}
        renamed |= explain_renames(strange, lacking, (model, elaborator), collector, source.checkpoint.name)
    return plan_import(
        source.section,
        tensors,
        tied,
        file,
        Evaluator(elaborator, elaborator.instance_of(model.module).scope).value,
        collector,
        file_name=source.checkpoint.name,
        renamed=renamed,
        anew=anew,
    )


def write_weights(
    path: Path,
    model: Model,
    checked: driver.Checked,
    source: Source | None,
    seed: int,
    compute: DType = DType.F32,
    *,
    linked: bool = False,
    anew: Anew | None = None,
) -> Written:
    """Start writing `model.safetensors`: mapped from the checkpoint, or drawn by the model's initialisers.

    `linked`: a link to the checkpoint's file instead. `anew`: see `plan_import`. Raises `Rejected` where the
    checkpoint does not fit, `OSError` where the file cannot be written.
    """
    tensors = model_tensors(model.module, compute)
    tied = aliases(model.module)
    collector = Collector()
    plan = None
    if source is not None:
        plan = plan_weights(checked, source, collector, anew)
        collector.stop_on_errors()
        assert plan is not None
        check_duplicates(plan, source.checkpoint)
    drawn = {name: init for name, init in initializers(model.module).items() if init is not None}
    new = new_tensors(tensors, tied, drawn, plan)
    checkpoint = source.checkpoint if source is not None else None
    writing = link(path, new, checkpoint) if linked else Writing(path, new, checkpoint, seed=seed)
    return Written(
        path, writing, writing.places, tied, plan, tuple(d for d in collector.found if d.severity != "error")
    )

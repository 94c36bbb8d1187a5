"""Where a build's weights come from, and the one file they go to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc import driver
from specc.diagnostics import Collector, Diagnostic, Rejected
from specc.elaborate.evaluate import Evaluator
from specc.elaborate.models import Given, Options, preset_chain
from specc.ir.graph import Model, aliases
from specc.ir.initial import initializers
from specc.syntax import ast
from specc.weights.config import file_functions, read_config
from specc.weights.mapping import Plan, plan_import
from specc.weights.sections import choose, model_tensors, sections
from specc_runtime.checkpoint import Checkpoint
from specc_runtime.weights_writer import Place, Writing, check_duplicates, new_tensors

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
        """What a build of this checkpoint is called: the folder's or file's name."""
        path = self.checkpoint.path.resolve()  # `.` has a name too
        return path.name if path.is_dir() else path.stem

    def close(self) -> None:
        self.checkpoint.close()


def open_source(where: str | None, format: str | None, project: driver.Project, request: Request) -> Source | None:
    """Open a checkpoint and read its config by the model's `weights` section; raises `Rejected`."""
    if where is None:
        return None
    options = Options(request.model, request.preset)
    model = driver.model_of(project, options)
    decl = next(d for d in project.file.models() if d.name == model)
    checkpoint = Checkpoint.open(where)
    collector = Collector()
    try:
        section = choose(
            sections(project.file.tree, model), collector, model_type=checkpoint.model_type, format=format, path=str(where)
        )
        config: dict[str, Given] = {}
        if section is not None and checkpoint.config is not None:
            given = {*request.sets}
            if request.preset is not None:
                _, chain = preset_chain(project.file, request.preset)
                given |= {a.name.id for p in chain for a in p.args if isinstance(a, ast.Arg) and a.name is not None}
            found = read_config(
                section, decl.node.params, checkpoint.config, collector, names=file_functions(project.file), given=given
            )
            config = {name: Given(None, setting.value, setting.origin) for name, setting in found.items()}
        collector.stop_on_errors()
    except BaseException:
        checkpoint.close()
        raise
    return Source(checkpoint, section, config)


@dataclass(frozen=True)
class Written:
    """The weights file of a build: where each tensor lies, and what made it. It is complete after `writing.finish()`."""

    path: Path
    writing: Writing
    places: Mapping[str, Place]
    ties: Mapping[str, str]
    plan: Plan | None
    warnings: tuple[Diagnostic, ...]

    def reference(self, folder: Path, *, embed: bool) -> WeightsRef:
        """The same tensors for the ONNX graph: the very file, or (`embed`) a copy inside the model."""
        from specc.backends.onnx.proto import Embedded, External, Slot

        if not embed:
            return External(self.path.name, {name: Slot(p.offset, p.nbytes) for name, p in self.places.items()})
        total = sum(p.nbytes for p in self.places.values())
        if total > MAX_EMBEDDED:
            help = "build without --self-contained: the graph then refers to model.safetensors beside it"
            raise Rejected([Diagnostic("B660", f"{total / 1e9:.1f} GB of weights do not fit inside an .onnx file (limit 2 GB)", help=help)])
        self.writing.finish()
        with (folder / self.path.name).open("rb") as file:
            tensors = {}
            for name, place in self.places.items():
                file.seek(place.offset)
                tensors[name] = file.read(place.nbytes)
        return Embedded(tensors)

    def to_json(self, source: Source | None, seed: int) -> dict[str, Any]:
        record: dict[str, Any] = {
            "source": source.name if source is not None else "random",
            "section": source.section.sources[0].value if source is not None and source.section is not None else None,
            "tensors": len(self.places),
            "bytes": sum(p.nbytes for p in self.places.values()),
            "ties": dict(self.ties),
            "fresh": list(self.plan.fresh) if self.plan is not None else [],
        }
        if source is None or record["fresh"]:
            record["seed"] = seed
        return record


MAX_EMBEDDED = 2**31 - 2**20
"""Protocol buffers hold at most 2 GiB; a megabyte is left for the graph."""


def write_weights(path: Path, model: Model, checked: driver.Checked, source: Source | None, seed: int) -> Written:
    """Start writing `model.safetensors`: mapped from the checkpoint, or drawn by the model's initialisers.

    Raises `Rejected` where the checkpoint does not fit, `OSError` where the file cannot be written.
    """
    tensors = model_tensors(model.module)
    tied = aliases(model.module)
    collector = Collector()
    plan = None
    if source is not None:
        scope = checked.elaborator.instance_of(model.module).scope
        evaluate = Evaluator(checked.elaborator, scope).value
        plan = plan_import(
            source.section, tensors, tied, source.checkpoint.header(), evaluate, collector, file_name=source.checkpoint.name
        )
        collector.stop_on_errors()
        assert plan is not None
        check_duplicates(plan, source.checkpoint)
    drawn = {name: init for name, init in initializers(model.module).items() if init is not None}
    new = new_tensors(tensors, tied, drawn, plan)
    writing = Writing(path, new, source.checkpoint if source is not None else None, seed=seed)
    return Written(path, writing, writing.places, tied, plan, tuple(d for d in collector.found if d.severity != "error"))

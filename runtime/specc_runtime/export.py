"""`specc export`: a build as a Hugging Face folder, config.json and model.safetensors with the family's names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from specc import driver
from specc.diagnostics import Collector, Diagnostic, Rejected
from specc.elaborate.evaluate import Evaluator
from specc.elaborate.models import Given, Options
from specc.elaborate.values import show
from specc.ir.graph import Module
from specc.ir.members import aliases
from specc.syntax import ast
from specc.types import DType
from specc.weights.config import file_functions, read_config
from specc.weights.config_writer import unsaid, write_config
from specc.weights.layout import TensorInfo, reads
from specc.weights.mapping import plan_export
from specc.weights.rules import section_path
from specc.weights.sections import model_tensors, sections
from specc_runtime.checkpoint import CONFIG, Checkpoint, read_json
from specc_runtime.module import WEIGHTS, open_build
from specc_runtime.origin import origin_of
from specc_runtime.publish import publishing
from specc_runtime.weights_writer import NewTensor, write_safetensors

Config = dict[str, Any]

TORCH_NAMES = {DType.F32: "float32", DType.F16: "float16", DType.BF16: "bfloat16"}
"""How a config.json names the element type of its tensors."""


@dataclass(frozen=True)
class Exported:
    """A folder that transformers loads. `source`: the section's source it is written by (`hf:llama`)."""

    folder: Path
    source: str
    tensors: int
    bytes: int
    warnings: tuple[Diagnostic, ...]


def export(build: Path, to: str, *, config: str | None = None, format: str | None = None) -> Exported:
    """Write a build with the names, layouts and config of its `weights` section.

    `config`: a config.json, or its folder, whose other keys are kept. `format`: the source to write by (`hf:qwen2`);
    otherwise what the config or the build says, else the first whose config reads back. Raises `Rejected`: B640 B660
    where it cannot be written or the build is not whole, W332 W341 W350 where the section cannot be written.
    W335 is a warning.
    """
    made = open_build(build)
    if made.weights is None:
        raise Rejected([Diagnostic("B660", f"`{build}` has no weights", help="build it without --no-weights")])
    compute = DType(made.manifest["dtype"])
    origin = origin_of(build)
    project = driver.open_project(origin.file)
    options = Options(origin.model, origin.preset, driver.parse_sets(origin.sets))
    checked = project.check(options)
    base = _base(config)
    candidates = _candidates(project, origin.model, format, base, made.manifest["weights"]["section"])
    node, source, written = _config(project, checked.model.module, candidates, base)
    collector = Collector()
    module = checked.model.module
    if base is None:
        values = {h.name: h.value for h in module.hypers if not h.is_let}
        for warning in unsaid(node, written, values, names=file_functions(project.file)):
            collector.add(warning)
    for key in {"dtype", "torch_dtype"} & written.keys():
        written[key] = TORCH_NAMES[compute]
    target = _target(to)
    evaluate = Evaluator(checked.elaborator, checked.elaborator.instance_of(module).scope).value
    plan = plan_export(node, model_tensors(module, compute), aliases(module), evaluate, collector)
    collector.stop_on_errors()
    assert plan is not None
    tensors = [
        NewTensor(name, TensorInfo(expr.shape, next(reads(expr)).dtype), expr) for name, expr in plan.sources.items()
    ]
    try:
        with publishing(target) as work, Checkpoint.open(made.weights) as checkpoint:
            write_safetensors(work / WEIGHTS, tensors, checkpoint)
            text = json.dumps(written, indent=2, ensure_ascii=False, sort_keys=True)
            (work / CONFIG).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        message = f"cannot write `{to}`: {error.strerror or error}"
        raise Rejected([Diagnostic("B640", message, note="nothing was left there")]) from None
    return Exported(target, source, len(tensors), sum(t.nbytes for t in tensors), tuple(collector.found))


def _target(to: str) -> Path:
    """The absolute folder to write; raises `Rejected` (B660) where something is already."""
    shown = to.removeprefix("hf:")
    target = Path(os.path.realpath(shown))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        help = "choose another place, or remove it first"
        raise Rejected([Diagnostic("B660", f"`{shown}` exists already: nothing was written", help=help)])
    return target


# ---- the section -----------------------------------------------------------------------------------------------------


def _candidates(
    project: driver.Project, model: str, format: str | None, base: Config | None, recorded: str | None
) -> list[tuple[ast.Weights, str]]:
    """The Hugging Face sources to try, each with its section; raises `Rejected` (W350) where there is none."""
    known = [
        (node, text.value)
        for node in sections(project.file.tree, model)
        for text in node.sources
        if text.value.startswith("hf:")
    ]
    wanted = format if format is None or format.startswith("hf:") else f"hf:{format}"
    if wanted is None and base is not None and isinstance(base.get("model_type"), str):
        wanted = f"hf:{base['model_type']}"
    found = [(node, source) for node, source in known if wanted in (None, source)]
    if not found:
        available = ", ".join(source for _, source in known) or "none"
        message = f"{model} has no weights section for {wanted or 'Hugging Face'}"
        raise Rejected([Diagnostic("W350", message, notes=(("available", available),))])
    return sorted(found, key=lambda pair: pair[1] != recorded)


def _base(path: str | None) -> Config | None:
    """The config to start from; raises `Rejected` (E006)."""
    if path is None:
        return None
    place = Path(path.removeprefix("hf:"))
    return read_json(place / CONFIG if place.is_dir() else place)


# ---- config.json -----------------------------------------------------------------------------------------------------


def _config(
    project: driver.Project, module: Module, candidates: list[tuple[ast.Weights, str]], base: Config | None
) -> tuple[ast.Weights, str, Config]:
    """The first section and config that read back as the build's hyper-parameters; raises `Rejected` (W332)."""
    wanted = {h.name: h.value for h in module.hypers if not h.is_let}
    problems: list[list[Diagnostic]] = []
    for node, source in candidates:
        start = {**(base or {}), "model_type": source.removeprefix("hf:")}
        problem: list[Diagnostic] = []
        for config in _attempts(project, node, module.name, wanted, start, whole=base is None):
            problem = _differences(project, node, source, module.name, wanted, config)
            if not problem:
                return node, source, config
        problems.append(problem)
    raise Rejected(problems[0])


def _attempts(
    project: driver.Project, node: ast.Weights, model: str, wanted: Mapping[str, Any], start: Config, *, whole: bool
) -> Iterator[Config]:
    """Configs that may say what is wanted: as it is (unless everything has to be written), then with keys written
    until nothing changes.
    """
    names = file_functions(project.file)
    config = start
    if whole:
        config = write_config(node, config, wanted, set(wanted), names=names)
    for _ in range(4):
        yield config
        found = _read(project, node, model, config)
        which = {n for n, value in wanted.items() if not isinstance(found, dict) or not _same(found.get(n), value)}
        config = write_config(node, config, wanted, which, names=names)


def _read(project: driver.Project, node: ast.Weights, model: str, config: Config) -> dict[str, Any] | list[Diagnostic]:
    """Every hyper-parameter of the model by a config, defaults included; what is wrong if it gives no model."""
    decl = next(d for d in project.file.models() if d.name == model)
    collector = Collector()
    read = read_config(node, decl.node.params, config, collector, names=file_functions(project.file))
    if collector.errors:
        return collector.errors
    given = {name: Given(None, setting.value, setting.origin) for name, setting in read.items()}
    try:
        checked = project.check(Options(model=model, config=given))
    except Rejected as rejected:
        return list(rejected.diagnostics)
    return {h.name: h.value for h in checked.model.module.hypers if not h.is_let}


def _differences(
    project: driver.Project, node: ast.Weights, source: str, model: str, wanted: Mapping[str, Any], config: Config
) -> list[Diagnostic]:
    """W332 for each hyper-parameter that a config does not give as it is in the build."""
    found = _read(project, node, model, config)
    if not isinstance(found, dict):
        return [replace(d, code="W332", message=f"the written config does not read back: {d.message}") for d in found]
    settings = {s.name.id: s for r in node.rules if isinstance(r, ast.WConfig) for s in r.settings}
    return [
        Diagnostic(
            "W332",
            f"the config of {source} does not say `{name} = {show(value)}`: it reads back as {show(found.get(name))}",
            settings[name].span if name in settings else node.sources[0].span,
            path=section_path(node, CONFIG),
            help="--config DIR starts from a config.json that does, --format NAME writes another family's"
            if name in settings
            else f"let the section read it:  config {{ {name} = KEY }};  --format NAME writes another family's",
        )
        for name, value in wanted.items()
        if not _same(found.get(name), value)
    ]


def _same(a: Any, b: Any) -> bool:
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)

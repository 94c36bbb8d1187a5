"""`specc train`: a section is checked, planned, rehearsed on one batch, run by Lightning, written as a run folder."""

from __future__ import annotations

import json
import os
import shlex
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Rejected
from specc.syntax.unparse import unparse
from specc_runtime.build import Request as BuildRequest
from specc_runtime.build import build
from specc_runtime.module import WEIGHTS, Build, open_build
from specc_runtime.training.footprint import saving
from specc_runtime.training.overview import described, overview
from specc_runtime.training.plan import Plan, bound, check_data, folder, plan
from specc_runtime.training.section import Section, open_section, unsupported

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint

    from specc_runtime.training.loop import Fit

Say = Callable[[str], None]
NEEDED = ("lightning", "torchmetrics")


@dataclass(frozen=True)
class Request:
    """What `specc train` was asked for."""

    target: str
    name: str | None = None
    sets: Mapping[str, str] = field(default_factory=dict)
    out: Path | None = None
    weights: str | None = None
    max_steps: int | None = None
    dry_run: bool = False
    trust: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A run folder, and whether Ctrl-C ended the run before its last step."""

    folder: Path
    interrupted: bool


def train(request: Request, say: Say = lambda _: None) -> Run | None:
    """Run a section; None for a plan alone. Raises `Rejected` with what was wrong."""
    for name in NEEDED:
        if find_spec(name) is None:
            message = f"`specc train` needs {name}, which is not installed"
            raise Rejected([Diagnostic("B650", message, help="pip install 'specc-ml[train]'")])
    section = open_section(request.target, request.name, request.sets)
    counts = plan(section, request.max_steps)
    with tempfile.TemporaryDirectory(prefix="specc-train-") as work:
        made = _built(section, request, Path(work), counts)
        of = made.interface(_entry(section))
        counts = replace(
            counts,
            train=check_data(section, counts.train, of),
            val=check_data(section, counts.val, of) if counts.val is not None else None,
        )
        return _run(section, counts, request, made, say)


def _entry(section: Section) -> str:
    return str(section.value("entry", "forward"))


def _built(section: Section, request: Request, work: Path, counts: Plan) -> Build:
    """The section's configuration as a build without a proof: the emitted module and its first weights."""
    entry = _entry(section)
    fed = {*counts.train.fields, *bound(section)}
    arguments = section.checked.model.entries[entry].full.inputs
    without = frozenset(a.name for a in arguments if a.optional and a.name not in fed)
    given = section.value("weights", None)
    if given is not None and not isinstance(given, str):
        raise Rejected([Diagnostic("E125", "`weights` is a path, a string", section.span("weights"))])
    weights = request.weights
    if weights is None and given is not None:
        weights = str(section.folder / given.removeprefix("hf:"))
    asked = BuildRequest(
        request.target,
        preset=section.preset,
        model=section.model,
        sets=section.sets,
        weights=weights,
        emit=frozenset({"torch"}),
        verify=False,
        render=False,
        out=work / "build",
        without=without,
        entries=(entry,),
        seed=counts.seed,
        trust=request.trust,
    )
    return open_build(build(asked).folder)


def _run(section: Section, counts: Plan, request: Request, made: Build, say: Say) -> Run | None:
    """Rehearse, tell the plan, train, write."""
    import logging

    import lightning

    from specc_runtime.training import loop, progress
    from specc_runtime.training.optimisers import freeze

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    lightning.seed_everything(counts.seed, verbose=False)
    module = made.module()
    freeze(section, module)
    fit = loop.Fit(section, module, made.interface(_entry(section)), counts)
    fit.configure_optimizers()
    with saving(module) as saved:
        fit.rehearse(next(iter(loop.loader(counts.train, counts.batch, None))))
    run = folder(request.out, section)
    saver, every = loop.keeping(section, counts, run)
    how = {"precision": _precision(section), **_validating(section, counts, every)}
    callbacks = [saver, *loop.stopping(section, counts), progress.bars(counts, say)]
    say(described(overview(section, counts, fit, saved, run), progress.columns()))
    if request.dry_run:
        return None
    try:
        step, interrupted = _fitted(section, counts, made, fit, run, say, saver, how, callbacks)
    except OSError as error:
        raise Rejected([Diagnostic("B640", f"cannot write the run: {error.strerror or error} ({run})")]) from None
    say(_closing(section, request, run, step, counts, interrupted))
    return Run(run, interrupted)


def _fitted(
    section: Section,
    counts: Plan,
    made: Build,
    fit: Fit,
    run: Path,
    say: Say,
    saver: ModelCheckpoint,
    how: Mapping[str, Any],
    callbacks: list[Callback],
) -> tuple[int, bool]:
    """Train and write the run folder; the last step, and whether Ctrl-C ended it."""
    import warnings

    import lightning
    from lightning.pytorch.loggers import CSVLogger

    from specc_runtime.training import loop, progress

    run.mkdir(parents=True, exist_ok=True)
    _record(run, section, counts, {"status": "running"})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", module="torch.optim.lr_scheduler")
        trainer = lightning.Trainer(
            accelerator="auto",
            devices=1,
            logger=CSVLogger(run, name="", version=""),
            callbacks=callbacks,
            max_epochs=counts.epochs if counts.epochs is not None else -1,
            max_steps=counts.last,
            min_epochs=0,
            accumulate_grad_batches=counts.accumulate,
            gradient_clip_val=section.value("clip", None),
            log_every_n_steps=max(1, counts.last // 200),
            enable_model_summary=False,
            enable_progress_bar=progress.on_terminal(),
            num_sanity_val_steps=0,
            deterministic="warn",
            **how,
        )
        with loop.interruptible(trainer, say) as interrupted:
            held = loop.loader(counts.val, counts.batch, None) if counts.val is not None else None
            try:
                trainer.fit(fit, loop.loader(counts.train, counts.batch, counts.seed), held)
            except Rejected:
                _record(run, section, counts, {"status": "failed", "step": trainer.global_step})
                raise
    best = saver.best_model_path if saver.monitor is not None else ""
    _save(run, fit, made, best)
    final = {name: float(value) for name, value in trainer.callback_metrics.items()}
    status = "interrupted" if interrupted else "finished"
    _record(run, section, counts, {"status": status, "step": trainer.global_step, "metrics": final})
    return trainer.global_step, bool(interrupted)


def _validating(section: Section, counts: Plan, every: int | None) -> dict[str, Any]:
    """When Lightning validates: after each epoch, or after a number of batches."""
    asked = section.value("val_every", "epoch")
    steps = every if asked == "epoch" else asked
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        message = '`val_every` is "epoch" or a number of steps'
        raise Rejected([Diagnostic("E125", message, section.span("val_every"))])
    if counts.val is None or (steps is None and counts.epochs is not None):
        return {}
    batches = steps * counts.accumulate if steps is not None else counts.batches
    return {"val_check_interval": min(batches, counts.last * counts.accumulate), "check_val_every_n_epoch": None}


def _precision(section: Section) -> Any:
    import torch

    asked = str(section.value("precision", "32"))
    if asked == "bf16-true" or (asked == "16-mixed" and not torch.cuda.is_available()):
        what = f'`precision = "{asked}"`' + (" without a GPU" if asked == "16-mixed" else "")
        raise unsupported(what, section.span("precision"), 'precision = "bf16-mixed"')
    return "32-true" if asked == "32" else asked


# ---- what is told and written ----------------------------------------------------------------------------------------


def _record(run: Path, section: Section, counts: Plan, more: Mapping[str, Any]) -> None:
    """The spec, and the settings as they were resolved."""
    (run / section.project.path.name).write_text(section.project.file.source.text, "utf-8")
    if counts.train.tokenizer is not None:
        (run / "tokenizer.json").write_text(counts.train.tokenizer, "utf-8")
    content = {
        "format": "specc-run/1",
        "spec": section.project.path.name,
        "model": section.model,
        "section": section.name,
        "preset": section.preset,
        "sets": dict(section.sets),
        "settings": {name: unparse(value) for name, value in section.settings.items()},
        "seed": counts.seed,
        "rows": len(counts.train),
        "validation_rows": len(counts.val) if counts.val is not None else 0,
        "steps": counts.last,
        **more,
    }
    (run / "run.json").write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _save(run: Path, fit: Fit, made: Build, best: str) -> None:
    """The weights, of the best checkpoint if one was chosen: a safetensors file with the model's own names."""
    import torch
    from safetensors.torch import save_file

    if best:
        state = torch.load(best, map_location="cpu", weights_only=True)["state_dict"]
        fit.load_state_dict(state)
    ties = made.manifest["weights"]["ties"]
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in fit.model.state_dict().items() if name not in ties
    }
    save_file(tensors, run / f"{WEIGHTS}.part")
    os.replace(run / f"{WEIGHTS}.part", run / WEIGHTS)


def _closing(section: Section, request: Request, run: Path, step: int, counts: Plan, interrupted: bool) -> str:
    """What to run next."""
    chosen = ["--preset", section.preset] if section.preset else []
    if len(list(section.project.file.models())) > 1 and not section.preset:
        chosen += ["--model", section.model]
    for name, text in section.sets.items():
        chosen += ["--set", f"{name}={text}"]
    command = shlex.join(["specc", "build", request.target, *chosen, "--weights", str(run)])
    if not interrupted:
        return f"trained {step:,} steps; next:\n  {command}"
    which = [request.name] if request.name is not None else []
    again = shlex.join(["specc", "train", request.target, *which, "--weights", str(run)])
    return f"stopped after step {step:,} of {counts.last:,}; a new run from these weights:\n  {again}\nor\n  {command}"

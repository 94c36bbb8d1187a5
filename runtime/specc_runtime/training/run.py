"""`specc train`: a section is checked, planned, rehearsed on one batch, run by Lightning, written as a run folder."""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from specc.diagnostics import Diagnostic, Rejected
from specc.elaborate.names import counted
from specc.elaborate.partwise import matches
from specc_runtime.libraries import needs
from specc_runtime.module import Build
from specc_runtime.saying import Say, silent
from specc_runtime.trained import RUN
from specc_runtime.training.adapters import adapted, reaching
from specc_runtime.training.emitted import emitted
from specc_runtime.training.footprint import saving
from specc_runtime.training.frozen import hold
from specc_runtime.training.history import reached
from specc_runtime.training.optimisers import patterns_of
from specc_runtime.training.overview import described, fresh_tensors, overview
from specc_runtime.training.plan import Plan, check_data, folder, plan
from specc_runtime.training.request import Request as Request
from specc_runtime.training.request import resuming
from specc_runtime.training.resume import Record, continued
from specc_runtime.training.section import Section, failed, open_section

if TYPE_CHECKING:
    from specc_runtime.training.fitting import Done

NEEDED = ("lightning", "torchmetrics")


@dataclass(frozen=True)
class Run:
    """A run folder, and whether Ctrl-C ended the run before its last step."""

    folder: Path
    interrupted: bool


def train(request: Request, say: Say = silent) -> Run | None:
    """Run a section; None for a plan alone. Raises `Rejected` with what was wrong."""
    needs("`specc train`", *NEEDED)
    record = None
    if request.resume is not None and not request.joined:
        run = request.resume
        request, record = continued(request, run)
        if record["status"] == "finished" and (request.max_steps or 0) <= record["step"]:
            return _nothing(run, record, say)
    section = open_section(request.target, request.name, request.sets, request.weights)
    run = request.resume or folder(request.out, section)
    counts = plan(section, request.max_steps)
    if record is not None and record["status"] == "finished" and counts.last <= record["step"]:
        return _nothing(run, record, say)
    with tempfile.TemporaryDirectory(prefix="specc-train-") as work:
        made = _built(section, request, Path(work), counts)
        of = made.interface(section.entry)
        counts = replace(
            counts,
            train=check_data(section, counts.train, of),
            val=check_data(section, counts.val, of) if counts.val is not None else None,
        )
        return _run(section, counts, request, run, made, record, say)


def _nothing(run: Path, record: Record, say: Say) -> Run:
    say(f"{run} is finished after {record['step']:,} steps: there is nothing to resume")
    return Run(run, interrupted=False)


def _built(section: Section, request: Request, work: Path, counts: Plan) -> Build:
    """The emitted module with the weights that the run begins with."""
    anew = patterns_of("fresh", section.value("fresh", ()), section.span("fresh"))
    if section.weights is None and section.call("lora") is not None:
        message = "`lora` adapts weights that were trained: the section has none"
        raise failed("E124", message, section.span("lora"), 'weights = "DIR" in the section, or --weights DIR')
    how = {"seed": counts.seed, "anew": lambda name: matches(name, anew)}
    return emitted(section, counts, request.target, work, request.trust, **how)


def _run(
    section: Section, counts: Plan, request: Request, run: Path, made: Build, record: Record | None, say: Say
) -> Run | None:
    """Rehearse, tell the plan, train, write."""
    import logging

    import lightning

    from specc_runtime.training import loop, progress
    from specc_runtime.training.batches import loader
    from specc_runtime.training.fitting import Fitting
    from specc_runtime.training.optimisers import freeze
    from specc_runtime.training.processes import rank

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    lightning.seed_everything(counts.seed + rank(), verbose=False)
    module = made.module()
    freeze(section, module)
    batch = next(iter(loader(counts.train, counts.batch, None, counts.tokens)))
    adapters, whole = adapted(section, counts, made, module, batch)
    hold(module)
    fit = loop.Fit(section, module, made.interface(section.entry), counts)
    fit.configure_optimizers()
    with saving(module) as saved, reaching(section, adapters):
        fit.rehearse(batch)
    fit.rehearse_ending(batch)
    fitting = Fitting(section, counts, made, fit, run, request, say, adapters)
    trainer = fitting.prepared()
    if request.joined:
        fitting.join(trainer)
        return None
    told = replace(
        overview(section, counts, fit, batch, saved, run), fresh=fresh_tensors(made), adapters=adapters, whole=whole
    )
    say(described(told, progress.columns()))
    if request.dry_run:
        return None
    try:
        done = fitting.run(trainer, record)
    except OSError as error:
        message = f"cannot write the run: {error.strerror or error} ({run})"
        again = f"what was kept stays; mend it, then go on:  {resuming(request, run)}"
        help = again if (run / RUN).is_file() else "choose another place with --out DIR"
        raise Rejected([Diagnostic("B640", message, help=help)]) from None
    say(_closing(section, request, run, counts, done))
    return Run(run, done.interrupted)


def _closing(section: Section, request: Request, run: Path, counts: Plan, done: Done) -> str:
    """What to run next."""
    chosen = ["--preset", section.preset] if section.preset else []
    if len(list(section.project.file.models())) > 1 and not section.preset:
        chosen += ["--model", section.model]
    for name, text in section.sets.items():
        chosen += ["--set", f"{name}={text}"]
    command = shlex.join(["specc", "build", request.target, *chosen, "--weights", str(run)])
    if not done.interrupted:
        early = done.step < counts.last and "early_stop" in section.settings
        steps = f"{done.step:,} of {counts.last:,} steps, as early_stop has it" if early else counted(done.step, "step")
        return f"trained {steps}{reached(run)}\nnext:\n  {command}"
    again = resuming(request, run)
    return (
        f"stopped after step {done.step:,} of {counts.last:,}; to go on:\n  {again}\nor, of what there is:\n  {command}"
    )

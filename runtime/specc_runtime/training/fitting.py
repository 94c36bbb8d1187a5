"""Lightning's `Trainer` for a run, and the run folder that it leaves: new, or continued from its last checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from safetensors.torch import load_file

from specc.diagnostics import Rejected
from specc_runtime.companions import GENERATION_CONFIG
from specc_runtime.folding import base_of
from specc_runtime.manifest import versions
from specc_runtime.module import WEIGHTS, Build
from specc_runtime.saying import Say
from specc_runtime.tokens import TOKENIZER
from specc_runtime.trained import FORMAT
from specc_runtime.training import checkpoints, curves, loop, processes, progress, resume
from specc_runtime.training.adapters import Adapters
from specc_runtime.training.batches import loader
from specc_runtime.training.data.vocabulary import generation_config
from specc_runtime.training.events import going_on, loggers
from specc_runtime.training.failures import exhausted
from specc_runtime.training.keeping import FINAL, Keeper, Stopped, interruptible
from specc_runtime.training.plan import Plan
from specc_runtime.training.request import Request, resuming
from specc_runtime.training.resolved import FILE as RESOLVED
from specc_runtime.training.resolved import resolved
from specc_runtime.training.section import Section, failed, unsupported

ROWS = 200
"""About how many rows of a run's losses metrics.csv has."""


@dataclass(frozen=True)
class Done:
    """The last step, and whether Ctrl-C ended the run there."""

    step: int
    interrupted: bool


@dataclass(frozen=True)
class Prepared:
    """A trainer, and what keeps its states."""

    trainer: lightning.Trainer
    keeper: Keeper


@dataclass(frozen=True)
class Fitting:
    """A run whose objective was rehearsed."""

    section: Section
    counts: Plan
    made: Build
    fit: loop.Fit
    folder: Path
    request: Request
    say: Say
    adapters: Adapters | None = None

    def prepared(self) -> Prepared:
        """The trainer, with every setting checked; nothing is written yet. Raises `Rejected`."""
        section, counts = self.section, self.counts
        keeper, every = loop.keeping(section, counts, self.folder)
        best = [keeper.best] if keeper.best is not None else []
        callbacks = [*loop.averaging(section), *loop.stopping(section, counts), progress.bars(counts, self.say)]
        how = {"precision": precision_of(section), **_validating(section, counts, every)}
        strategy = processes.strategy_of(section, counts.processes, self.fit.unused)
        self.fit.sharded = isinstance(strategy, processes.Sharded)
        loop.compiled(self.fit)
        with _quiet():
            trainer = lightning.Trainer(
                accelerator="auto",
                devices=counts.processes,
                strategy=strategy,
                use_distributed_sampler=False,
                logger=loggers(section, self.folder),
                plugins=[checkpoints.Store(self.folder, self.made.manifest["weights"]["ties"])],
                callbacks=[*callbacks, *best, keeper],
                max_epochs=counts.epochs if counts.epochs is not None else -1,
                max_steps=counts.last,
                min_epochs=0,
                accumulate_grad_batches=counts.accumulate,
                gradient_clip_val=section.value("clip", None),
                log_every_n_steps=max(1, counts.last // ROWS),
                enable_model_summary=False,
                enable_progress_bar=progress.on_terminal(),
                num_sanity_val_steps=0,
                deterministic="warn",
                **how,
            )
        return Prepared(trainer, keeper)

    def run(self, prepared: Prepared, record: resume.Record | None) -> Done:
        """Train to the end or to Ctrl-C, and write the run folder; raises `Rejected` (T532, T533) and `OSError`."""
        trainer, keeper = prepared.trainer, prepared.keeper
        facts = resume.facts(self.section, self.counts, self.made)
        if record is not None:
            resume.compare(record, facts, self.section, self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        with resume.holding(self.folder):
            state = self._state(record)
            going_on(trainer, state)
            base = {"versions": versions(), "asked": resume.asked(self.request, self.section, self.folder), **facts}
            base |= self._base()
            self._copies()
            self._record(base, "running", keeper.last)
            try:
                interrupted = self._trained(prepared, state)
            except Rejected:
                curves.draw(self.folder)
                self._record(base, "failed", trainer.global_step)
                raise
            self._finish(prepared, interrupted)
            curves.draw(self.folder)
            final = {name: float(value) for name, value in trainer.callback_metrics.items()}
            step = keeper.last if interrupted else trainer.global_step
            self._record(base, "interrupted" if interrupted else "finished", step, metrics=final)
        return Done(step, interrupted)

    def _base(self) -> dict[str, Any]:
        """What the adapters are for, if there are any."""
        section = self.section
        if self.adapters is None or section.weights is None:
            return {}
        base = base_of(self.made, section.project.path, section.weights, section.entry, self.counts.seed)
        return {"base": base.to_json(self.folder)}

    def join(self, prepared: Prepared) -> None:
        """Take part in a run that another process leads."""
        state = self.request.state
        self._trained(prepared, Path(state) if state is not None else None)

    # ---- before ----------------------------------------------------------------------------------------------------

    def _state(self, record: resume.Record | None) -> Path | None:
        """The checkpoint to go on from; metrics.csv is then that of its step, and later checkpoints are gone."""
        if record is None:
            return None
        folder = self.folder / "checkpoints"
        found = checkpoints.latest(folder, self.say)
        checkpoints.sweep(folder)
        for path in checkpoints.states(folder):
            if path == found:
                break
            checkpoints.remove(path)
        rows = self.folder / checkpoints.METRICS
        kept = found / checkpoints.METRICS if found is not None else None
        if kept is not None and kept.exists():
            shutil.copyfile(kept, rows)
        else:
            rows.unlink(missing_ok=True)
        step = found.name.removeprefix("step-") if found is not None else ""
        self.say(f"continuing after step {int(step):,}" if step else "no checkpoint yet: beginning again")
        changed = resume.strangers(record)
        if changed:
            self.say(changed)
        return found

    def _copies(self) -> None:
        """The spec, as it is and as it was resolved, what is computed of a batch, the tokenizer and how texts begin."""
        (self.folder / self.section.project.path.name).write_text(self.section.project.file.source.text, "utf-8")
        (self.folder / RESOLVED).write_text(resolved(self.section), "utf-8")
        (self.folder / "objective.py").write_text(self.fit.objective.source, "utf-8")
        if self.counts.train.tokenizer is not None:
            (self.folder / TOKENIZER).write_text(self.counts.train.tokenizer, "utf-8")
            if texts := generation_config(self.counts.train):
                (self.folder / GENERATION_CONFIG).write_text(json.dumps(texts, indent=1) + "\n", "utf-8")

    def _record(self, base: Mapping[str, Any], status: str, step: int, **more: Any) -> None:
        content = {"format": FORMAT, "spec": self.section.project.path.name, **base, "steps": self.counts.last}
        content["classes"] = {name: list(found) for name, found in self.counts.train.classes.items()}
        resume.write(self.folder, {**content, "status": status, "step": step, **more})

    # ---- training, and after -----------------------------------------------------------------------------------------

    def _trained(self, prepared: Prepared, state: Path | None) -> bool:
        """Whether Ctrl-C ended it."""
        counts = self.counts
        how = (counts.tokens, counts.workers)
        held = loader(counts.val, counts.batch, None, *how) if counts.val is not None else None
        part = (processes.rank(), counts.processes)
        shuffled = loader(counts.train, counts.batch, counts.seed, *how, part=part)
        path = str(state) if state is not None else None
        told = processes.job(self.request, self.folder, path)
        others = processes.together(prepared.trainer.strategy, told, resuming(self.request, self.folder))
        with _quiet(), interruptible(prepared.keeper, self.say), others:
            try:
                prepared.trainer.fit(self.fit, shuffled, held, ckpt_path=path, weights_only=True)
            except Stopped:
                return True
            except SystemExit:  # what Lightning makes of a second Ctrl-C
                return True
            except (RuntimeError, MemoryError) as error:  # of a backward pass, or a step of the optimiser
                raise exhausted(error, f"at step {prepared.trainer.global_step + 1}") or error from None
        return False

    def _finish(self, prepared: Prepared, interrupted: bool) -> None:
        """The weights: the best weights if they were asked for, else the last or their average."""
        best, folder = prepared.keeper.best, self.folder / "checkpoints"
        chosen = Path(best.best_model_path) if best is not None and best.best_model_path else None
        final = folder / FINAL
        if chosen is None and self.fit.sharded and not interrupted:
            chosen = final
        if chosen is None and interrupted:  # the average, if there is one, is in the state alone
            chosen = folder / f"step-{prepared.keeper.last}"
            if not chosen.exists():
                return  # before the first step
        ties: Mapping[str, str] = self.made.manifest["weights"]["ties"]
        weights = (
            load_file(chosen / WEIGHTS)
            if chosen is not None
            else checkpoints.named(self.fit.model.state_dict(prefix=checkpoints.PREFIX), ties)
        )
        self._write({name: self._stored(name, tensor) for name, tensor in weights.items()})
        checkpoints.remove(final)
        if best is not None and not interrupted:
            best.needed.clear()
            best.mark()
            prepared.keeper.sweep()

    def _write(self, weights: Mapping[str, torch.Tensor]) -> None:
        """`model.safetensors`, or the adapters among the weights."""
        if self.adapters is not None:
            self.adapters.save(self.folder, weights)
            return
        part = self.folder / f".{WEIGHTS}.part"
        try:
            checkpoints.write_weights(weights, part)
            os.replace(part, self.folder / WEIGHTS)
        finally:
            part.unlink(missing_ok=True)

    def _stored(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """In the dtype of the build, which training in half precision gave up."""
        return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


@contextlib.contextmanager
def _quiet() -> Any:
    """Without Lightning's advice on settings that the section decides."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", module="torch.optim.lr_scheduler")
        yield


def _validating(section: Section, counts: Plan, every: int | None) -> dict[str, Any]:
    """When Lightning validates: after each epoch, or after a number of batches."""
    asked = section.value("val_every", "epoch")
    steps = every if asked == "epoch" else asked
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise failed("E125", '`val_every` is "epoch" or a number of steps', section.span("val_every"))
    if counts.val is None or (steps is None and counts.epochs is not None):
        return {}
    batches = steps * counts.accumulate if steps is not None else counts.batches
    return {"val_check_interval": min(batches, counts.last * counts.accumulate), "check_val_every_n_epoch": None}


def precision_of(section: Section) -> Any:
    """Lightning's name of `precision`; raises `Rejected` (B650)."""
    asked = str(section.value("precision", "32"))
    if asked == "16-mixed" and not torch.cuda.is_available():
        message = '`precision = "16-mixed"` without a GPU'
        raise unsupported(message, section.span("precision"), 'precision = "bf16-mixed"')
    return "32-true" if asked == "32" else asked

"""The emitted module in Lightning: one thin `LightningModule`, and the callbacks that a section asks for."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from torch.distributed.fsdp import FSDPModule
from torchmetrics import Metric

from specc.elaborate.names import closest
from specc_runtime.inputs import Interface
from specc_runtime.programs import TORCH_ERRORS
from specc_runtime.training.batches import Batch
from specc_runtime.training.failures import exhausted
from specc_runtime.training.history import less_is_better
from specc_runtime.training.keeping import Best, Keeper, average
from specc_runtime.training.metrics import Meter, meters
from specc_runtime.training.objective import Objective, typed
from specc_runtime.training.optimisers import optimiser
from specc_runtime.training.plan import Plan
from specc_runtime.training.plateau import Plateau
from specc_runtime.training.processes import shard
from specc_runtime.training.schedules import known_or_none, schedule, stepped, watched
from specc_runtime.training.section import Section, failed


class Fit(lightning.LightningModule):
    """The model with its objective: what Lightning's `Trainer` needs to know."""

    def __init__(self, section: Section, module: torch.nn.Module, of: Interface, plan: Plan) -> None:
        super().__init__()
        self.model, self.section, self.of, self.plan = module, section, of, plan
        self.objective = Objective(section, plan.train, of)
        if plan.val is not None:
            typed(section, plan.val, f", of {plan.val.name} to validate on")
        self.meters: list[Meter] = meters(section)
        self.measures = torch.nn.ModuleList()
        self.sharded = False
        self.unused = False  # whether a parameter has no part in the loss of the first batch

    def __deepcopy__(self, memo: dict[int, Any]) -> Fit:
        """An average of the weights is another model, of the same section."""
        for kept in auxiliaries(self.model):
            kept.clear()  # tensors that are computed cannot be copied
        shared = ("section", "of", "plan", "objective", "meters")
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        state = self.__getstate__()
        made.__dict__.update({k: v if k in shared else copy.deepcopy(v, memo) for k, v in state.items()})
        return made

    # ---- one batch -----------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> torch.Tensor:
        """Run the model on a batch; its outputs and lets are then known to the objective."""
        self.objective.module = self.model
        feeds = self.objective.feeds(batch)
        given = auxiliaries(self.model)
        for kept in given:
            kept.clear()
        found = (self.model if self.of.method == "forward" else getattr(self.model, self.of.method))(**feeds)
        results = found if isinstance(found, tuple) else (found,)
        nothing = torch.zeros((), device=results[0].device)
        auxiliary = {
            name: sum((kept[name] for kept in given if name in kept), nothing)
            for name in self.section.checker.place.aux_names
        }
        return self.objective.loss(results, auxiliary)

    def rehearse(self, batch: Batch) -> None:
        """One batch without a trace: what cannot be evaluated is refused before anything is written."""
        state = torch.random.get_rng_state()
        self.model.eval()
        span = self.section.span("loss")
        try:
            loss = self.loss(batch)
            if not bool(torch.isfinite(loss)):
                raise self.not_finite(batch, "the loss of the first rows is not finite before any step", "")
            if self.plan.processes > 1 and loss.requires_grad:
                trained = [p for p in self.model.parameters() if p.requires_grad]
                found = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
                self.unused = any(gradient is None for gradient in found)
            auxiliary = bool(self.objective.stages.auxiliary)  # of training alone
            self.unused = self.unused or auxiliary
            if not loss.requires_grad and not auxiliary:
                raise failed("T505", "no parameter that is trained has a part in the loss", span)
            for meter in self.meters:
                span = meter.span
                metric = meter.create(self.objective)
                meter.update(metric, self.objective, loss.detach())
                metric.reset()
                self.measures.append(metric)
        except TORCH_ERRORS as error:
            first = str(error).strip().partition("\n")[0]
            message = f"this cannot be computed of the data: {first}"
            raise exhausted(error, "in the first batch", span) or failed("E125", message, span) from None
        self.model.train()
        torch.random.set_rng_state(state)

    def rehearse_ending(self, batch: Batch) -> None:
        """An epoch that ends with a batch of one row: E125 where that cannot be trained on, as with a batch norm."""
        if self.plan.tokens is not None or self.plan.ending > 1 or self.plan.batch == 1:
            return
        state, kept = torch.random.get_rng_state(), [(b, b.clone()) for b in self.model.buffers()]
        try:
            with torch.no_grad():
                self.loss({name: values[:1] for name, values in batch.items()})
        except TORCH_ERRORS as error:
            first, count = str(error).strip().partition("\n")[0], len(self.plan.train)
            message = f"an epoch ends with a batch of 1 row, which cannot be trained on: {first}"
            other = next((b for b in range(self.plan.batch + 1, count + 1) if count % b != 1), 0)
            raise failed("E125", message, self.section.span("batch"), f"batch = {other}" if other else "") from None
        finally:
            for buffer, value in kept:
                buffer.copy_(value)
            torch.random.set_rng_state(state)

    # ---- what Lightning calls ------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        drawn = torch.get_rng_state()
        try:
            loss = self.loss(batch)
        except TORCH_ERRORS as error:
            first, step = str(error).strip().partition("\n")[0], self.trainer.global_step + 1
            message = f"step {step} cannot be computed of its {rows(batch)} rows: {first}"
            raise exhausted(error, f"at step {step}") or failed("E125", message, self.section.span("loss")) from None
        finite = bool(torch.isfinite(loss))
        if self.trainer.world_size > 1:
            finite = self.trainer.strategy.reduce_boolean_decision(finite)
        if not finite:
            torch.set_rng_state(drawn)
            where = f"the loss is not finite at step {self.trainer.global_step + 1}"
            raise self.not_finite(batch, where, "a lower lr, warmup, or clip = 1.0")
        several = self.trainer.world_size > 1
        self.log("loss", loss.detach(), prog_bar=True, batch_size=rows(batch), sync_dist=several)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"], prog_bar=True, batch_size=rows(batch))
        if self.plan.val is None:
            self.measure(loss.detach())
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        try:
            loss = self.loss(batch)
            self.measure(loss)
        except TORCH_ERRORS as error:
            first = str(error).strip().partition("\n")[0]
            message = f"batch {index + 1} of the data to validate on cannot be computed: {first}"
            raise exhausted(error, "in validation") or failed("E125", message, self.section.span("val")) from None
        self.log("val_loss", loss, prog_bar=True, batch_size=rows(batch))

    def on_train_epoch_end(self) -> None:
        if self.plan.val is None:
            self.tell("")

    def on_validation_epoch_end(self) -> None:
        self.tell("val_")

    def measure(self, loss: torch.Tensor) -> None:
        for meter, metric in self.running():
            meter.update(metric, self.objective, loss)

    def tell(self, prefix: str) -> None:
        for meter, metric in self.running():
            self.log(f"{prefix}{meter.name}", meter.value(metric), prog_bar=True)
            metric.reset()

    def running(self) -> Iterator[tuple[Meter, Metric]]:
        """The metrics of the section, each with its value so far."""
        for meter, metric in zip(self.meters, self.measures, strict=True):
            assert isinstance(metric, Metric)
            yield meter, metric

    def configure_model(self) -> None:
        if self.sharded and not isinstance(self.model, FSDPModule):
            assert self.device_mesh is not None
            shard(self.model, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        chosen = optimiser(self.section, self.model)
        found = schedule(self.section, chosen, self.plan.steps)
        if found is None:
            return chosen
        watched(self.section, measured(self.section, self.plan))
        return {"optimizer": chosen, "lr_scheduler": stepped(found)}

    def configure_callbacks(self) -> list[Callback]:
        monitor = watched(self.section, measured(self.section, self.plan))
        return [Plateau(monitor, self.plan.val is not None)] if monitor is not None else []

    # ---- when the loss is no number ------------------------------------------------------------------------------

    def not_finite(self, batch: Batch, message: str, help: str) -> Exception:
        """T532: `message`, and the first part of the model whose output, or input already, was not finite."""
        first: list[str] = []

        def watch(name: str) -> Callable[..., None]:
            def seen(part: torch.nn.Module, inputs: Any, output: Any) -> None:
                if not first and not _finite(output if isinstance(output, tuple) else (output,)):
                    what = "output" if _finite(inputs) else "input"
                    first.append(f"the first {what} that is not finite is that of {name}")

            return seen

        hooks = [part.register_forward_hook(watch(name)) for name, part in self.model.named_modules() if name]
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # compiled code calls no hooks
            self.loss(batch)
        for hook in hooks:
            hook.remove()
        broken = next((n for n, p in self.model.named_parameters() if not bool(torch.isfinite(p).all())), None)
        where = first[0] if first else "the outputs are finite, the loss of them is not"
        note = where + (f"; {broken} is not finite itself" if broken else "")
        return failed("T532", f"{message}: {note}", self.section.span("loss"), help)


def auxiliaries(model: torch.nn.Module) -> list[dict[str, torch.Tensor]]:
    """What the parts of a model keep of `aux` values: for each part that has any its own, by name."""
    found = (getattr(part, "aux", None) for part in model.modules())
    return [kept for kept in found if isinstance(kept, dict)]


def _finite(values: Iterable[Any]) -> bool:
    tensors = [t for t in values if torch.is_tensor(t) and t.is_floating_point()]
    return all(bool(torch.isfinite(t).all()) for t in tensors)


def rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))


# ---- callbacks -------------------------------------------------------------------------------------------------------


def measured(section: Section, plan: Plan) -> list[str]:
    """What `best` and `early_stopping` may look at."""
    names = [m.name for m in meters(section)]
    return ["val_loss", *(f"val_{name}" for name in names)] if plan.val is not None else names


def _monitored(section: Section, plan: Plan, setting: str, names: tuple[str, ...]) -> dict[str, Any] | None:
    """The arguments of `best(..)` or `early_stopping(..)`; without a `mode`, what is measured tells which way is up."""
    call = section.call(setting)
    if call is None:
        return None
    given = call.arguments(("monitor", *names), 1)
    given.setdefault("mode", "min" if less_is_better(str(given["monitor"])) else "max")
    known = measured(section, plan)
    if given["monitor"] not in known:
        guess = closest(str(given["monitor"]), known)
        help = f'did you mean "{guess}"?' if guess else known_or_none(known)
        raise failed("E103", f'{call.name}: nothing measured is called "{given["monitor"]}"', call.expr.span, help)
    if given["mode"] not in ("min", "max"):
        raise failed("E125", f'{call.name}: `mode` is "min" or "max"', call.expr.span)
    for key in ("patience", "keep", "every"):
        value = given.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise failed("E125", f"{call.name}: `{key}` is a whole number of at least 1", call.expr.span)
    delta = given.get("min_delta", 0.0)
    if isinstance(delta, bool) or not isinstance(delta, (int, float)):
        raise failed("E125", f"{call.name}: `min_delta` is a number", call.expr.span)
    return given


def stopping(section: Section, plan: Plan) -> list[Callback]:
    """`early_stop`."""
    given = _monitored(section, plan, "early_stop", ("patience", "mode", "min_delta"))
    return [EarlyStopping(**given, strict=False)] if given is not None else []


def keeping(section: Section, plan: Plan, run: Path) -> tuple[Keeper, int | None]:
    """`save_every` and `checkpoint`, and after how many steps that asks for a validation."""
    folder = run / "checkpoints"
    often = section.value("save_every", None)
    if often is not None and often != "epoch" and (isinstance(often, bool) or not isinstance(often, int) or often < 1):
        raise failed("E125", '`save_every` is "epoch" or a number of steps', section.span("save_every"))
    given = _monitored(section, plan, "checkpoint", ("mode", "keep", "every"))
    if given is None:
        return Keeper(folder, often, None), None
    best = Best(folder, given["monitor"], given["mode"], int(given.get("keep", 1)))
    every = given.get("every")
    return Keeper(folder, often, best), int(every) if every else None


def averaging(section: Section) -> list[Callback]:
    """`ema`."""
    decay = section.value("ema", None)
    if decay is None:
        return []
    if not 0 < decay < 1:
        raise failed("E125", "`ema` is a decay between 0.0 and 1.0", section.span("ema"), "ema = 0.999")
    return [average(decay)]


def compiled(fit: Fit) -> None:
    """`compile`: the entry goes through torch.compile, under the same names of weights."""
    asked = fit.section.value("compile", False)
    if not isinstance(asked, bool):
        raise failed("E125", "`compile` is true or false", fit.section.span("compile"))
    if not asked:
        return
    if not torch.cuda.is_available() and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        message = "`compile = true` needs a C++ compiler, and none was found"
        raise failed("B650", message, fit.section.span("compile"), "install g++, or set CXX")
    if fit.of.method == "forward":
        fit.model.compile()
    else:
        setattr(fit.model, fit.of.method, torch.compile(getattr(fit.model, fit.of.method)))

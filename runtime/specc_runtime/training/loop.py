"""The emitted module in Lightning: one thin `LightningModule`, and the callbacks that a section asks for."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader

from specc.elaborate.names import available, closest
from specc_runtime.inputs import Interface
from specc_runtime.programs import TORCH_ERRORS
from specc_runtime.training.metrics import Meter, meters
from specc_runtime.training.objective import Objective
from specc_runtime.training.optimisers import optimiser, schedule
from specc_runtime.training.plan import Plan
from specc_runtime.training.section import Section, failed
from specc_runtime.training.sources import Data

Batch = Mapping[str, torch.Tensor]
Say = Callable[[str], None]


def loader(data: Data, batch: int, seed: int | None) -> DataLoader[Any]:
    """Batches of a data set; with a seed in an order that each epoch draws anew."""
    fields = {name: torch.from_numpy(values) for name, values in data.fields.items()}

    def collate(rows: list[int]) -> Batch:
        index = torch.tensor(rows)
        return {name: values[index] for name, values in fields.items()}

    order = None if seed is None else torch.Generator().manual_seed(seed)
    rows: Any = range(len(data))
    return DataLoader(rows, batch, shuffle=seed is not None, generator=order, collate_fn=collate)


class Fit(lightning.LightningModule):
    """The model with its objective: what Lightning's `Trainer` needs to know."""

    def __init__(self, section: Section, module: torch.nn.Module, of: Interface, plan: Plan) -> None:
        super().__init__()
        self.model, self.section, self.of, self.plan = module, section, of, plan
        self.objective = Objective(section, plan.train, of)
        self.meters: list[Meter] = meters(section)
        self.measures = torch.nn.ModuleList()

    # ---- one batch -----------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> torch.Tensor:
        """Run the model on a batch; its outputs and lets are then known to the objective."""
        feeds = self.objective.feeds(batch)
        parts = [part for part in self.model.modules() if isinstance(getattr(part, "aux", None), dict)]
        for part in parts:
            part.aux.clear()  # type: ignore[union-attr, operator]
        found = (self.model if self.of.method == "forward" else getattr(self.model, self.of.method))(**feeds)
        results = found if isinstance(found, tuple) else (found,)
        names = self.section.checker.place.aux_names
        auxiliary = {
            name: sum((p.aux[name] for p in parts if name in p.aux), torch.zeros((), device=results[0].device))  # type: ignore[index, operator]
            for name in names
        }
        return self.objective.loss(results, auxiliary)

    def rehearse(self, batch: Batch) -> None:
        """One batch without a trace: what cannot be evaluated is refused before anything is written."""
        state = torch.random.get_rng_state()
        self.model.eval()
        span = self.section.span("loss")
        try:
            loss = self.loss(batch)
            if not loss.requires_grad:
                raise failed("T505", "no parameter that is trained has a part in the loss", span)
            for meter in self.meters:
                metric = meter.create(self.objective)
                meter.update(metric, self.objective, loss.detach())
                metric.reset()
                self.measures.append(metric)
        except TORCH_ERRORS as error:
            first = str(error).strip().partition("\n")[0]
            raise failed("E125", f"the loss and metrics cannot be computed of this data: {first}", span) from None
        self.model.train()
        torch.random.set_rng_state(state)

    # ---- what Lightning calls ------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        loss = self.loss(batch)
        if not bool(torch.isfinite(loss)):
            raise self.not_finite(batch)
        self.log("loss", loss.detach(), prog_bar=True, batch_size=rows(batch))
        rates = [group["lr"] for group in self.optimizers().param_groups]  # type: ignore[union-attr]
        self.log("lr", rates[0], prog_bar=True, batch_size=rows(batch))
        if self.plan.val is None:
            self.measure(loss.detach())
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        loss = self.loss(batch)
        self.log("val_loss", loss, prog_bar=True, batch_size=rows(batch))
        self.measure(loss)

    def on_train_epoch_end(self) -> None:
        if self.plan.val is None:
            self.tell("")

    def on_validation_epoch_end(self) -> None:
        self.tell("val_")

    def measure(self, loss: torch.Tensor) -> None:
        for meter, metric in zip(self.meters, self.measures, strict=True):
            meter.update(metric, self.objective, loss)  # type: ignore[arg-type]

    def tell(self, prefix: str) -> None:
        for meter, metric in zip(self.meters, self.measures, strict=True):
            self.log(f"{prefix}{meter.name}", meter.value(metric), prog_bar=True)  # type: ignore[arg-type]
            metric.reset()  # type: ignore[operator]

    def configure_optimizers(self) -> Any:
        chosen = optimiser(self.section, self.model)
        found = schedule(self.section, chosen, self.plan.steps)
        if found is None:
            return chosen
        return {"optimizer": chosen, "lr_scheduler": {"scheduler": found, "interval": "step"}}

    # ---- when the loss is no number ------------------------------------------------------------------------------

    def not_finite(self, batch: Batch) -> Exception:
        """T532: the step, and the first part of the model whose output was not finite."""
        first: list[str] = []

        def watch(name: str) -> Callable[..., None]:
            def seen(part: torch.nn.Module, inputs: Any, output: Any) -> None:
                found = output if isinstance(output, tuple) else (output,)
                if not first and any(
                    t.is_floating_point() and not bool(torch.isfinite(t).all()) for t in found if torch.is_tensor(t)
                ):
                    first.append(name)

            return seen

        hooks = [part.register_forward_hook(watch(name)) for name, part in self.model.named_modules() if name]
        with torch.no_grad():
            self.loss(batch)
        for hook in hooks:
            hook.remove()
        broken = next((n for n, p in self.model.named_parameters() if not bool(torch.isfinite(p).all())), None)
        where = f"the first output that is not finite is that of {first[0]}" if first else ""
        where = where or "the outputs are finite, the loss of them is not"
        note = where + (f"; {broken} is not finite itself" if broken else "")
        message = f"the loss is not finite at step {self.trainer.global_step + 1}"
        error = failed("T532", f"{message}: {note}", self.section.span("loss"), "a lower lr, warmup, or clip = 1.0")
        return error


def rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))


# ---- callbacks -------------------------------------------------------------------------------------------------------


def measured(section: Section, plan: Plan) -> list[str]:
    """What `best` and `early_stopping` may look at."""
    names = [m.name for m in meters(section)]
    return ["val_loss", *(f"val_{name}" for name in names)] if plan.val is not None else names


def _monitored(section: Section, plan: Plan, setting: str, names: tuple[str, ...]) -> dict[str, Any] | None:
    """The arguments of `best(..)` or `early_stopping(..)`."""
    call = section.call(setting)
    if call is None:
        return None
    given = call.arguments(("monitor", *names), 1)
    known = measured(section, plan)
    if given["monitor"] not in known:
        guess = closest(str(given["monitor"]), known)
        help = f'did you mean "{guess}"?' if guess else f"available: {available(known) or 'none: give `val`'}"
        raise failed("E103", f'{call.name}: nothing measured is called "{given["monitor"]}"', call.expr.span, help)
    if given.get("mode", "min") not in ("min", "max"):
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


def keeping(section: Section, plan: Plan, run: Path | None) -> tuple[ModelCheckpoint, int | None]:
    """`checkpoint`, and after how many steps it asks for a validation; without one the last state is kept."""
    where = run / "checkpoints" if run is not None else None
    given = _monitored(section, plan, "checkpoint", ("mode", "keep", "every"))
    if given is None:
        return ModelCheckpoint(where, filename="last", enable_version_counter=False), None
    made = ModelCheckpoint(
        where,
        filename="step-{step}",
        monitor=given["monitor"],
        mode=given.get("mode", "min"),
        save_top_k=int(given.get("keep", 1)),
        save_last=True,
        auto_insert_metric_name=False,
        enable_version_counter=False,
    )
    every = given.get("every")
    return made, int(every) if every else None


@contextmanager
def interruptible(trainer: lightning.Trainer, say: Say) -> Iterator[list[bool]]:
    """The first Ctrl-C ends the run after the batch at hand, with everything written; a second one ends it at once."""
    interrupted: list[bool] = []
    before = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: FrameType | None) -> None:
        interrupted.append(True)
        trainer.should_stop = True
        signal.signal(signal.SIGINT, before)
        say("stopping after this batch")

    try:
        signal.signal(signal.SIGINT, stop)
    except ValueError:  # not the main thread: whoever started this one handles signals
        yield interrupted
        return
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)

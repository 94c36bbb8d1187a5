"""How far a run is: Lightning's progress bar on a terminal, lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.callbacks import Callback, RichProgressBar
from rich.progress import ProgressColumn, Task
from rich.text import Text

from specc_runtime.saying import Say
from specc_runtime.training.batches import Batch
from specc_runtime.training.loop import Fit, rows
from specc_runtime.training.overview import ids
from specc_runtime.training.plan import Plan

PER_SECOND = 10
"""How often the bar is drawn; its numbers are read as often, for each reading waits for the device."""
WIDTH = 16
"""Columns of the bar itself."""
LINES = 20
SILENCE = 60.0
"""Seconds after which a line is due."""


class Rate:
    """Samples or tokens per second of training; validation stops the clock."""

    def __init__(self) -> None:
        self.unit = "samples/s"
        self.restart()

    def restart(self) -> None:
        self.count, self.since, self.paused = 0, time.perf_counter(), 0.0

    def add(self, trainer: Any, fit: Fit, batch: Batch) -> None:
        tokens = ids(fit.of, batch)
        self.unit = "samples/s" if tokens is None else "tokens/s"
        self.count += (rows(batch) if tokens is None else tokens) * trainer.world_size

    def pause(self) -> None:
        self.paused = time.perf_counter()

    def go_on(self) -> None:
        self.since += time.perf_counter() - self.paused

    def __str__(self) -> str:
        return f"{self.count / max(time.perf_counter() - self.since, 1e-9):,.0f}"


class Lines(Callback):
    """About twenty lines of a run with the loss, the rate and the learning rate, and one for every validation."""

    def __init__(self, plan: Plan, say: Say) -> None:
        self.plan, self.say, self.every = plan, say, max(1, plan.last // LINES)
        self.told, self.when, self.rate = 0, time.perf_counter(), Rate()

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.told, self.when = trainer.global_step, time.perf_counter()
        self.rate.restart()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Batch, index: int) -> None:
        self.rate.add(trainer, module, batch)
        step = trainer.global_step
        due = step % self.every == 0 or step in (1, self.plan.last) or time.perf_counter() - self.when > SILENCE
        if step == self.told or not due:
            return
        values = {name: trainer.callback_metrics[name] for name in ("loss", "lr") if name in trainer.callback_metrics}
        self.tell(trainer, values, f"  {self.rate} {self.rate.unit}")
        self.told, self.when = step, time.perf_counter()
        self.rate.restart()

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        self.rate.pause()

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        self.rate.go_on()
        if trainer.state.fn == "fit":
            self.tell(trainer, {n: v for n, v in trainer.callback_metrics.items() if n.startswith("val_")})

    def tell(self, trainer: Any, values: Mapping[str, Any], more: str = "") -> None:
        width = len(str(self.plan.last))
        shown = "  ".join(f"{name} {float(value):.4g}" for name, value in values.items())
        self.say(f"step {trainer.global_step:>{width}}/{self.plan.last}  {shown}{more}")


class Numbers(ProgressColumn):
    """What is measured, beside the bar of training; a line is never broken between a name and its value."""

    def __init__(self, bar: Bar) -> None:
        super().__init__()
        self.bar = bar

    def render(self, task: Task) -> Text:
        shown = self.bar.shown.items() if task.id == self.bar.train_progress_bar_id else ()
        return Text("  ".join(f"{name}={f'{v:.4g}' if isinstance(v, float) else v}" for name, v in shown))


class Bar(RichProgressBar):
    """Lightning's progress bar, with steps and the rate of the epoch at hand; epochs are counted from 1."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(refresh_rate=PER_SECOND)
        self.plan, self.rate, self.read = plan, Rate(), 0.0
        self.shown: dict[str, Any] = {}

    def configure_columns(self, trainer: Any) -> list[Any]:
        """A short bar, which leaves room for the numbers; the rate is among them, so that of batches is left out."""
        description, bar, *others, _ = super().configure_columns(trainer)
        bar.bar_width = WIDTH
        return [description, bar, *others, Numbers(self)]

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        super().on_train_epoch_start(trainer, module)
        self.rate.restart()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.rate.add(trainer, module, batch)
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        super().on_validation_start(trainer, module)
        self.rate.pause()

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        self.rate.go_on()
        self.read = 0.0
        super().on_validation_end(trainer, module)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.read = 0.0
        super().on_train_epoch_end(trainer, module)

    def get_metrics(self, trainer: Any, module: Any) -> dict[str, int | str | float | dict[str, float]]:
        """Nothing for Lightning's own column, which breaks lines anywhere: `Numbers` shows them."""
        if time.perf_counter() - self.read > 1 / PER_SECOND:
            found = super().get_metrics(trainer, module)
            found.pop("v_num", None)
            step = f"{trainer.global_step}/{self.plan.last}"
            self.shown = {"step": step, **found, self.rate.unit: str(self.rate)}
            self.read = time.perf_counter()
        return {}

    def _get_train_description(self, current_epoch: int) -> str:
        of = f"/{self.plan.epochs}" if self.plan.epochs is not None else ""
        return f"{f'Epoch {current_epoch + 1}{of}':{len(self.validation_description)}}"


def bars(plan: Plan, say: Say) -> Callback:
    """Lightning's progress bar on a terminal, lines elsewhere."""
    return Bar(plan) if on_terminal() else Lines(plan, say)


def on_terminal() -> bool:
    return sys.stderr.isatty() and sys.stdout.isatty()


def columns() -> int | None:
    """The width of the terminal, if there is one."""
    return shutil.get_terminal_size().columns if on_terminal() else None

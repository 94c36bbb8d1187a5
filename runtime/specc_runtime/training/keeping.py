"""What a run keeps while it goes: the state that it is resumed from, the best weights, an average of the weights.

Lightning calls `on_train_batch_start` when everything of the batches before is over: their rows are logged, the
validation after them, if there was one, has stopped or kept what it had to. States are taken there and put back there,
so a resumed run has the numbers of one that was never interrupted.
"""

from __future__ import annotations

import copy
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint, EMAWeightAveraging, ModelCheckpoint

from specc_runtime.saying import Say
from specc_runtime.training import randomness
from specc_runtime.training.checkpoints import remove, states

KEPT = 2
"""States to resume from: the last one, and the one before for the case that it is damaged."""
FINAL = "final"
PART = 50
"""Saving without being asked to takes at most this part of the time."""
LONGEST = 300.0
"""Seconds of an epoch after which a state is kept in the midst of it."""


class Stopped(Exception):
    """Ctrl-C: the state is kept, the run ends."""


class Keeper(Checkpoint):
    """Keeps the last states of a run, and restores one at the place where it was taken.

    `every` is a number of steps or "epoch"; None is after epochs, and within long ones, as long as that takes no more
    than a fraction of the time.
    """

    def __init__(self, folder: Path, every: int | str | None, best: Best | None) -> None:
        self.folder, self.every, self.best = folder, every, best
        self.stop = False
        self.last = 0  # the step of the last state
        self.since, self.cost = time.monotonic(), 0.0
        self.resumed: dict[str, Any] | None = None

    # ---- when ----------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        self.since = time.monotonic()
        if self.resumed is not None and trainer.is_global_zero:
            self.sweep()  # the process may have been killed before it did

    def on_train_batch_start(self, trainer: lightning.Trainer, module: Any, batch: Any, index: int) -> None:
        if self.resumed is not None:
            self._put_back(trainer, module, self.resumed)
            self.resumed = None
        if index % trainer.accumulate_grad_batches:
            return  # the gradients of a step are not whole
        stop = self.stop
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if trainer.global_step > self.last and (stop or self._due(trainer, index)):
            self.save(trainer, index)
        if stop:
            raise Stopped

    def _due(self, trainer: lightning.Trainer, index: int) -> bool:
        if isinstance(self.every, int):
            return trainer.global_step % self.every == 0
        if self.every == "epoch":
            return index == 0
        least = PART * self.cost
        due = time.monotonic() - self.since >= (least if index == 0 else max(LONGEST, least))
        return bool(trainer.strategy.broadcast(due))  # clocks differ

    # ---- saving --------------------------------------------------------------------------------------------------

    def save(self, trainer: lightning.Trainer, index: int) -> None:
        """Keep the state before a batch of this index; raises `OSError`, and the states before are as they were."""
        began = time.monotonic()
        for logger in trainer.loggers:
            logger.save()
        loader: Any = trainer.train_dataloader
        loader.trained = index
        if self.best is not None:
            self.best.mark()
        trainer.save_checkpoint(self.folder / f"step-{trainer.global_step}")
        self.last = trainer.global_step
        if trainer.is_global_zero:
            self.sweep()
        self.since = time.monotonic()
        self.cost = self.since - began

    def sweep(self) -> None:
        """Remove states beyond those kept, and weights that were the best once.

        The state before this one may name weights that are not the best any more; they stay as long as it does.
        """
        for path in states(self.folder)[KEPT:]:
            remove(path)
        if self.best is not None:
            needed = set().union(*self.best.needed)
            for path in self.folder.glob("best-*"):
                if path.name not in needed:
                    remove(path)

    def on_save_checkpoint(self, trainer: lightning.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        loop = trainer.fit_loop.epoch_loop
        # Whether the batch at hand, which is not trained on yet, is the epoch's last: Lightning would take it as done.
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False
        own = {"random": randomness.taken(), "meters": [_state(meter) for meter in module.measures]}
        processes: list[Any] = [own]
        if trainer.world_size > 1:
            processes = [None] * trainer.world_size
            torch.distributed.all_gather_object(processes, own)
        checkpoint["specc"] = {
            "processes": processes,
            "logged": loop._batches_that_stepped,
            "metrics": {name: torch.as_tensor(value) for name, value in trainer.callback_metrics.items()},
        }

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Weights of which each process has a part are put together while all are there."""
        if module.sharded:
            trainer.save_checkpoint(self.folder / FINAL, storage_options="weights")

    # ---- resuming ------------------------------------------------------------------------------------------------

    def on_load_checkpoint(self, trainer: lightning.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        self.resumed = checkpoint["specc"]
        self.last = checkpoint["global_step"]

    def _put_back(self, trainer: lightning.Trainer, module: Any, state: dict[str, Any]) -> None:
        """What Lightning does not restore, or counts on from the batch that it had taken but not trained on."""
        loop = trainer.fit_loop.epoch_loop
        loop.batch_progress.total.ready = loop.batch_progress.total.completed + 1
        loop._batches_that_stepped = state["logged"]
        trainer.callback_metrics.update(state["metrics"])
        own = state["processes"][trainer.global_rank]
        for meter, kept in zip(module.measures, own["meters"], strict=True):
            for name, value in kept["values"].items():
                setattr(meter, name, value)
            meter._update_count = kept["count"]
        randomness.put_back(own["random"])


def _state(meter: Any) -> dict[str, Any]:
    """What a metric has gathered of an epoch."""
    return {"values": copy.deepcopy(meter.metric_state), "count": meter._update_count}


class Best(ModelCheckpoint):
    """The weights with the best value of something measured: without the trainer's state, by names, not by paths."""

    FILE_EXTENSION = ""

    def __init__(self, folder: Path, monitor: str, mode: str, keep: int) -> None:
        super().__init__(
            folder,
            filename="best-{step}",
            monitor=monitor,
            mode=mode,
            save_top_k=keep,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self.needed: deque[set[str]] = deque(maxlen=KEPT)  # by the states that are kept

    def mark(self) -> None:
        """A state is about to be kept that relies on the weights that are the best now."""
        self.needed.append({Path(path).name for path in self.best_k_models})

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["best_k_models"] = {Path(path).name: value for path, value in self.best_k_models.items()}
        for key in ("best_model_path", "kth_best_model_path"):
            state[key] = Path(state[key]).name
        return {**state, "dirpath": "", "needed": [sorted(names) for names in self.needed]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        folder = Path(str(self.dirpath))
        state = dict(state_dict)
        self.needed.extend(map(set, state.pop("needed")))
        state["best_k_models"] = {str(folder / name): value for name, value in state["best_k_models"].items()}
        for key in ("best_model_path", "kth_best_model_path"):
            state[key] = str(folder / state[key]) if state[key] else ""
        super().load_state_dict({**state, "dirpath": self.dirpath})

    def _save_checkpoint(self, trainer: lightning.Trainer, filepath: str) -> None:
        trainer.save_checkpoint(filepath, storage_options="weights")
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath

    def _remove_checkpoint(self, trainer: lightning.Trainer, filepath: str) -> None:
        """The keeper does it, once a state is kept that does not name them."""


def average(decay: float) -> EMAWeightAveraging:
    """The average of the weights that is validated and kept; buffers are those of the model."""
    return EMAWeightAveraging(decay=decay, use_buffers=False)


@contextmanager
def interruptible(keeper: Keeper, say: Say) -> Iterator[None]:
    """The first Ctrl-C, or a request to end, ends the run before its next step; a second one ends it at once."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def stop(number: int, frame: FrameType | None) -> None:
        keeper.stop = True
        say("stopping after this step")
        for name, handler in before.items():
            signal.signal(name, handler)

    try:
        for number in signals:
            signal.signal(number, stop)
    except ValueError:  # not the main thread: whoever started this one handles signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""`sched = plateau(..)`: the rate falls when what is watched no longer gets better."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import Callback


class Plateau(Callback):
    """Steps the schedule after each validation of a run; without `val`, after each epoch."""

    def __init__(self, watched: str, validated: bool) -> None:
        self.watched, self.validated = watched, validated

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        if self.validated:
            self._step(trainer, module)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        if not self.validated:
            self._step(trainer, module)

    def _step(self, trainer: Any, module: Any) -> None:
        found = trainer.callback_metrics.get(self.watched)
        if found is not None and trainer.state.fn == "fit":
            module.lr_schedulers().step(float(found))

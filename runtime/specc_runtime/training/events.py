"""`log`: metrics.csv always, and TensorBoard's events in `tensorboard/` of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from specc.elaborate.settings import CHOICES
from specc_runtime.libraries import installed, needs
from specc_runtime.training.logs import Metrics
from specc_runtime.training.section import Section

FOLDER = "tensorboard"
FLUSHED = 10  # seconds


class Events(TensorBoardLogger):
    """Lightning's logger; the section's settings are in run.json, so there is no file of hyper-parameters."""

    def __init__(self, run: Path) -> None:
        super().__init__(run, name="", version=FOLDER, default_hp_metric=False, flush_secs=FLUSHED)

    def begin(self, step: int) -> None:
        """Events of later steps, which a run that was killed has written, are not shown."""
        self._kwargs["purge_step"] = step

    def save(self) -> None:
        """Lightning would sync the disk after every row; the writer does every few seconds, and at the end."""


def loggers(section: Section, run: Path) -> list[Logger]:
    """What `log` asks for; without it both, as far as they are installed. Raises `Rejected` (B650)."""
    asked = section.value("log", None)
    names = asked if isinstance(asked, tuple) else (asked,) if asked is not None else CHOICES["log"]
    there = any(map(installed, ("tensorboardX", "tensorboard")))
    if asked is not None and "tensorboard" in names and not there:
        needs('`log = "tensorboard"`', "tensorboardX", span=section.span("log"))
    return [Metrics(run), Events(run)] if "tensorboard" in names and there else [Metrics(run)]


def going_on(trainer: Any, state: Path | None) -> None:
    """Tell the events from which step on a run goes on, that of its checkpoint `step-120`."""
    for logger in trainer.loggers:
        if isinstance(logger, Events) and state is not None:
            logger.begin(int(state.name.removeprefix("step-")))

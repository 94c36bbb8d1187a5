"""metrics.csv as Lightning writes it, except that a resumed run goes on with the file it finds."""

from __future__ import annotations

import csv
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter


class Rows(ExperimentWriter):
    """The rows of a file, those that are there already included."""

    def _check_log_dir_exists(self) -> None:
        """Lightning would remove the file."""
        try:
            with open(self.metrics_file_path, newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])
        except FileNotFoundError:
            pass


class Metrics(CSVLogger):
    """Rows of `metrics.csv` in a run's folder."""

    def __init__(self, folder: Any) -> None:
        super().__init__(folder, name="", version="")

    @property
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = Rows(self.log_dir)
        return self._experiment

"""What a run measured: `metrics.csv`, as one series per name."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

METRICS, CURVES = "metrics.csv", "curves.svg"
NOT_MEASURED = ("epoch", "step", "lr")
LESS_IS_BETTER = ("loss", "perplexity", "error", "error_rate")
"""Ends of names whose best value is the smallest."""


@dataclass(frozen=True)
class Series:
    """Finite values by step, the first step being 1."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


def history(run: Path) -> dict[str, Series]:
    """Everything that is in a run's `metrics.csv`; nothing without one. Raises `ValueError` for what is no such table.

    Rows that a process which was killed wrote half are left out.
    """
    try:
        with (run / METRICS).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return {}
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{METRICS} is no table: {error}") from None
    if rows and "step" not in rows[0]:
        raise ValueError(f"{METRICS} has no column `step`")
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        for name, text in row.items():
            if name not in ("epoch", "step") and name is not None and text:
                try:
                    step, value = int(row["step"]) + 1, float(text)
                except (ValueError, TypeError):
                    continue
                if math.isfinite(value):
                    found.setdefault(name, {})[step] = value
    return {name: Series(tuple(points), tuple(points.values())) for name, points in found.items()}


def reached(run: Path) -> str:
    """What a run came to, and where its course is drawn: `: best val_loss 0.31 (runs/a/curves.svg)`."""
    found = best(history(run))
    held = {name: value for name, value in found.items() if name.startswith("val_")}
    told = ", ".join(f"best {name} {value:.4g}" for name, value in sorted((held or found).items(), key=loss_first))
    drawn = run / CURVES
    return (f": {told}" if told else "") + (f" ({drawn})" if drawn.is_file() else "")


def loss_first(item: tuple[str, float]) -> tuple[bool, str]:
    return not item[0].endswith("loss"), item[0]


def less_is_better(name: str) -> bool:
    """Whether the best value is the smallest: of losses and errors, and not of accuracies; `perplexity_2` is one."""
    return re.sub(r"_\d+$", "", name).endswith(LESS_IS_BETTER)


def best(found: Mapping[str, Series]) -> dict[str, float]:
    """The best value of everything that was measured."""
    return {
        name: (min if less_is_better(name) else max)(series.values)
        for name, series in found.items()
        if name not in NOT_MEASURED
    }

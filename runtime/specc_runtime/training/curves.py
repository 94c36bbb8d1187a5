"""`curves.svg`: the course of a run. The same metrics give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc_runtime.atomic import write_atomically
from specc_runtime.libraries import installed
from specc_runtime.training.history import CURVES, Series, history

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 7.2, 1.9  # inches, of one panel
INK = "#808080"  # reads on white and on black, as the lines do
TRAIN, HELD, RATE = "#3b8fd6", "#e0812c", "#7aa33a"
MANY = 60
"""Points of a series above which a running mean is drawn over it."""
STYLE: Mapping[str, Any] = {
    "svg.hashsalt": "specc",  # ids of elements
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.6,
    "path.simplify": True,
}


def panels(found: Mapping[str, Series]) -> dict[str, dict[str, Series]]:
    """Names to draw together: a metric of the training and that of the validation; the loss first, the rate last."""
    measured = sorted({name.removeprefix("val_") for name in found if name != "lr"}, key=lambda n: (n != "loss", n))
    drawn = {name: {n: found[n] for n in (name, f"val_{name}") if n in found} for name in measured}
    return {**drawn, "lr": {"lr": found["lr"]}} if "lr" in found else drawn


def svg(found: Mapping[str, Series]) -> bytes:
    """The picture of a history, on a transparent ground."""
    import matplotlib
    from matplotlib.figure import Figure

    drawn = panels(found)
    style: dict[Any, Any] = {**matplotlib.rcParamsDefault, **STYLE}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(WIDTH, HEIGHT * len(drawn) + 0.4), layout="constrained")
        axes = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
        for at, (name, series) in zip(axes, drawn.items(), strict=True):
            _panel(at, name, series)
        axes[-1].set_xlabel("step")
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def _panel(at: Axes, name: str, series: Mapping[str, Series]) -> None:
    at.set_ylabel(name if len(series) > 1 else next(iter(series)))
    at.ticklabel_format(axis="y", scilimits=(-3, 4), useOffset=False)
    at.grid(True)
    for label, points in series.items():
        held = label.startswith("val_")
        color = HELD if held else RATE if label == "lr" else TRAIN
        noisy = not held and label != "lr" and len(points.steps) > MANY
        mark = "o" if len(points.steps) <= 30 and label != "lr" else None
        shown = label if not noisy else "_"
        at.plot(points.steps, points.values, marker=mark, ms=3, color=color, alpha=0.35 if noisy else 1, label=shown)
        if noisy:
            at.plot(points.steps, smooth(points.values), color=color, label=f"{label}, running mean")
    if len(series) > 1 or (any(len(points.steps) > MANY for points in series.values()) and name != "lr"):
        at.legend(frameon=False, loc="best", fontsize=8)


def smooth(values: tuple[float, ...]) -> list[float]:
    """The mean of what is around each value: a twentieth of all of them to either side, less at the ends."""
    reach = max(1, len(values) // 20)
    found = []
    for i in range(len(values)):
        side = min(i, len(values) - 1 - i, reach)
        near = values[i - side : i + side + 1]
        found.append(sum(near) / len(near))
    return found


def draw(run: Path) -> bool:
    """Write `curves.svg` into a run's folder, if matplotlib is there and something was measured. Raises `OSError`."""
    found = history(run)
    if not found or not installed("matplotlib"):
        return False
    write_atomically(run / CURVES, svg(found))
    return True

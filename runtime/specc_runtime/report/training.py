"""A run of training for the page: how far it went, what it reached, its settings, its curves."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime.report.figures import Fact


@dataclass(frozen=True)
class Training:
    """`curves`: an SVG as a data address, empty where nothing was measured or matplotlib is missing."""

    title: str
    facts: tuple[Fact, ...]
    measures: tuple[tuple[str, str, str], ...]
    settings: tuple[Fact, ...]
    curves: str


def training(folder: Path, model: str | None) -> Training:
    """Of a run's folder; raises `Rejected` (B660) for one that is none, or that trained something else than `model`."""
    from specc_runtime.training.curves import svg
    from specc_runtime.training.history import CURVES, history
    from specc_runtime.training.runs import measures, opened

    run = opened(folder)
    if model is not None and run.model != model:
        help = "`specc runs` lists those below runs/"
        raise Rejected([Diagnostic("B660", f"`{folder}` trained {run.model}, this is {model}", help=help)])
    found = history(folder)
    drawn = b""
    if found and find_spec("matplotlib") is not None:
        drawn = svg(found)
    elif (folder / CURVES).is_file():
        drawn = (folder / CURVES).read_bytes()
    facts = [
        Fact("status", run.status),
        Fact("steps", f"{run.step:,}" if run.step == run.steps else f"{run.step:,} of {run.steps:,}"),
    ]
    if run.preset is not None:
        facts.append(Fact("preset", run.preset))
    facts += [Fact(name, value) for name, value in run.sets.items()]
    return Training(
        title=run.title,
        facts=tuple(facts),
        measures=tuple((n, f"{run.best[n]:.4g}", f"{run.last[n]:.4g}") for n in measures([run]) if n in run.last),
        settings=tuple(Fact(name, value) for name, value in run.settings.items()),
        curves=f"data:image/svg+xml;base64,{b64encode(drawn).decode()}" if drawn else "",
    )

"""`specc eval`: the loss and the metrics of a run's weights, on the rows that it validates on or on others."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime.module import Build
from specc_runtime.trained import RUN
from specc_runtime.training.emitted import emitted
from specc_runtime.training.plan import Plan, check_data, plan
from specc_runtime.training.runs import opened
from specc_runtime.training.section import Section, open_section

NOT_OF_WEIGHTS = ("weights", "lora", "freeze", "fresh", "strategy", "devices", "compile")
"""Settings of a run that say how its weights came about, or where."""


@dataclass(frozen=True)
class Request:
    """What `specc eval` was asked for. `data`: another source than the run's; `weights`: others than the run's."""

    run: Path
    data: str | None = None
    sets: Mapping[str, str] = field(default_factory=dict)
    weights: str | None = None
    spec: str | None = None
    trust: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """What came out: the loss, then the metrics in the section's order. `held`: of rows that were not trained on."""

    run: Path
    title: str
    weights: str
    data: str
    rows: int
    held: bool
    values: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        return {
            "run": str(self.run),
            "weights": self.weights,
            "data": self.data,
            "rows": self.rows,
            "trained_on": not self.held,
            "values": dict(self.values),
        }


def evaluate(request: Request) -> Measured:
    """Measure a run's weights; raises `Rejected`: B660 for what is no run, and all that its section may be wrong in."""
    known = opened(request.run)
    target, name = _asked(request)
    settings = {key: text for key, text in known.settings.items() if key not in NOT_OF_WEIGHTS}
    weights = request.weights or str(request.run)
    given = {"val": request.data} if request.data is not None else {}
    section = open_section(target, name, {**settings, **known.sets, **given, **request.sets}, weights)
    for setting in NOT_OF_WEIGHTS:
        if setting != "weights":
            section = replace(section, settings={k: v for k, v in section.settings.items() if k != setting})
    counts = plan(section, None)
    with tempfile.TemporaryDirectory(prefix="specc-eval-") as work:
        made = emitted(section, counts, target, Path(work), request.trust)
        held = counts.val if counts.val is not None else counts.train
        held = check_data(section, held, made.interface(section.entry))
        values = _values(section, made, replace(counts, val=held))
    title = f'{section.model} "{section.name}"'
    return Measured(request.run, title, weights, held.name, len(held), counts.val is not None, values)


def _asked(request: Request) -> tuple[str, str | None]:
    """The spec of a run, and the section's name; raises `Rejected` (B660)."""
    try:
        given = json.loads((request.run / RUN).read_bytes())["asked"]
        path, name = request.run / str(given["spec"]), given["name"]
    except (OSError, ValueError, KeyError, TypeError):
        message = f"{request.run / RUN} is damaged or from another version of specc"
        raise Rejected([Diagnostic("B660", message)]) from None
    if request.spec is not None:
        return request.spec, name
    if not path.exists():
        message = f"the spec of this run is not at {os.path.normpath(path)} any more"
        raise Rejected([Diagnostic("B660", message, help=f"specc eval {request.run} --spec FILE")])
    return os.path.relpath(path), name


def _values(section: Section, made: Build, counts: Plan) -> dict[str, float]:
    """Lightning's validation of the rows in `counts.val`."""
    import logging
    import warnings

    import lightning
    from lightning.pytorch.callbacks import RichProgressBar

    from specc_runtime.training import loop, progress
    from specc_runtime.training.batches import loader
    from specc_runtime.training.fitting import precision_of

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    lightning.seed_everything(counts.seed, verbose=False)
    assert counts.val is not None
    how = (counts.batch, None, counts.tokens)
    fit = loop.Fit(section, made.module(), made.interface(section.entry), counts)
    fit.rehearse(next(iter(loader(counts.val, *how))))
    shown = progress.on_terminal()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer = lightning.Trainer(
            accelerator="auto",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            callbacks=[RichProgressBar(progress.PER_SECOND)] if shown else [],
            enable_progress_bar=shown,
            enable_model_summary=False,
            precision=precision_of(section),
        )
        (found,) = trainer.validate(fit, loader(counts.val, *how, counts.workers), verbose=False)
    return {name.removeprefix("val_"): float(value) for name, value in found.items()}

"""The plan of a run as it is told before training starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from specc.syntax.unparse import unparse
from specc_runtime.training.plan import Plan
from specc_runtime.training.section import Section

if TYPE_CHECKING:
    import torch


def described(section: Section, counts: Plan, module: torch.nn.Module, run: Path) -> str:
    """The plan, in lines."""
    total = sum(p.numel() for p in module.parameters())
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    size = sum(p.numel() * p.element_size() for p in module.state_dict().values())
    rows = f"{len(counts.train):,} rows of {counts.train.name}"
    if counts.val is not None:
        rows += f", {len(counts.val):,} to validate"
    epochs = f"{counts.epochs} epochs of" if counts.epochs is not None else "epochs of"
    length = f"{counts.last:,} steps, {epochs} {counts.batches:,} batches of {counts.batch}"
    if counts.accumulate > 1:
        length += f", {counts.accumulate} to a step"
    sched = section.settings.get("sched")
    lines = [
        ("data", rows),
        ("steps", length),
        ("parameters", f"{trained:,} trained, {total - trained:,} frozen, {size / 1e6:,.3g} MB"),
        ("optimiser", unparse(section.settings["optim"]) + (f", {unparse(sched)}" if sched is not None else "")),
        ("checkpoint", unparse(kept) if (kept := section.settings.get("checkpoint")) is not None else "the last state"),
        ("run folder", str(run)),
    ]
    title = f'{section.model} "{section.name}"' + (f", preset {section.preset}" if section.preset else "")
    return "\n".join([title, *(f"  {name:<11} {text}" for name, text in lines)])

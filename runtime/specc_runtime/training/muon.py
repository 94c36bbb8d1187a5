"""Muon for matrices and AdamW for what is none, as one optimiser (Jordan et al., 2024)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch


class MuonAdamW(torch.optim.Optimizer):
    """torch's Muon and AdamW, each over its groups: those with `muon` true, and the others.

    Both work on this optimiser's groups and state, so that schedules and checkpoints see one optimiser.
    """

    def __init__(self, groups: Sequence[Mapping[str, Any]], muon: Mapping[str, Any], adamw: Mapping[str, Any]) -> None:
        settings = {
            True: torch.optim.Muon([torch.zeros(1, 1)], **muon),
            False: torch.optim.AdamW([torch.zeros(1)], **adamw),
        }
        self.parts = settings
        super().__init__([{**settings[g["muon"]].defaults, **g} for g in groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for kind, part in self.parts.items():
            part.param_groups = [g for g in self.param_groups if g["muon"] is kind]
            part.state = self.state
            if part.param_groups:
                part.step()
        return loss

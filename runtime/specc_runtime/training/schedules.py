"""How the learning rate goes, from `sched` of a section."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from specc.elaborate import settings
from specc.elaborate.names import available, closest
from specc.source import Span
from specc_runtime.training.history import less_is_better
from specc_runtime.training.section import Called, Section, failed

if TYPE_CHECKING:
    import torch


def schedule(
    section: Section, optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LRScheduler | None:
    """The schedule, counted in steps of the optimiser (`plateau`: in validations); None if the rate stays."""
    from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau

    call = section.call("sched")
    if call is None:
        return None
    given = call.arguments(settings.ARGUMENTS[call.name], settings.REQUIRED.get(call.name, 0))
    for key, value in given.items():
        if key not in settings.WORDS and (isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0):
            raise failed("E125", f"{call.name}: `{key}` is a number of at least 0", call.expr.span)
        if key in ("warmup", "total") and value >= 1 and value != int(value):
            message = f"{call.name}: `{key}` is a number of steps, or a part of all of them below 1.0"
            raise failed("E125", message, call.expr.span)
    total = _count(given.get("total", steps), steps)
    if call.name == "one_cycle" and total < steps:
        raise failed("E125", f"one_cycle: `total` is {total} steps, the run has {steps}", call.expr.span)
    try:
        if call.name == "one_cycle":
            cycled = any(key in group for group in optimizer.param_groups for key in ("momentum", "betas"))
            return OneCycleLR(optimizer, max_lr=given["max_lr"], total_steps=total, cycle_momentum=cycled)
        if call.name == "plateau":
            mode = "min" if less_is_better(str(given.pop("monitor", "val_loss"))) else "max"
            return ReduceLROnPlateau(optimizer, **{"mode": mode, **given})
    except (ValueError, TypeError) as error:
        raise failed("E125", f"{call.name}: {error}", call.expr.span) from None
    warmup = _count(given.get("warmup", 0), steps)
    rates = [group["lr"] for group in optimizer.param_groups]
    return LambdaLR(optimizer, [_factor(call, given, rate, warmup, total) for rate in rates])


def stepped(found: torch.optim.lr_scheduler.LRScheduler) -> dict[str, Any]:
    """The schedule as Lightning takes it: after each step, or, for `plateau`, when `Plateau` says so."""
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    if isinstance(found, ReduceLROnPlateau):
        return {"scheduler": found, "interval": "epoch", "frequency": 2**31, "monitor": "loss", "strict": False}
    return {"scheduler": found, "interval": "step"}


def watched(section: Section, known: list[str]) -> str | None:
    """What `plateau` looks at; raises `Rejected` (E103) for what is not measured."""
    call = section.call("sched")
    if call is None or call.name != "plateau":
        return None
    name = str(call.named.get("monitor", call.positional[0] if call.positional else "val_loss"))
    if name not in known:
        guess = closest(name, known)
        help = f'did you mean "{guess}"?' if guess else known_or_none(known)
        raise failed("E103", f'plateau: nothing measured is called "{name}"', call.expr.span, help)
    return name


def known_or_none(known: list[str]) -> str:
    """What is measured, for a help."""
    return f"available: {available(known)}" if known else "nothing is measured: give `val`"


def _count(value: float, steps: int) -> int:
    """Steps; a fraction is of all."""
    return round(value * steps) if isinstance(value, float) and value < 1 else int(value)


def _factor(call: Called, given: dict[str, Any], lr: float, warmup: int, total: int) -> Callable[[int], float]:
    """The learning rate of a step as a multiple of `lr`; warming up it grows from lr / warmup on."""
    low = given.get("min_lr", 0.0) / lr if lr else 0.0
    span: Span = call.expr.span
    if call.name in ("linear", "cosine") and total <= warmup:
        raise failed("E125", f"{call.name}: the warmup of {warmup} steps leaves none of {total}", span)
    for name, key in (("step", "step_size"), ("noam", "dim")):
        if call.name == name and given[key] < 1:
            raise failed("E125", f"{name}: `{key}` is at least 1", span)

    def after(step: int) -> float:
        """From the end of the warm-up on."""
        done = min(1.0, (step - warmup) / max(1, total - warmup))
        match call.name:
            case "linear":
                return low + (1 - low) * (1 - done)
            case "cosine":
                return low + (1 - low) * (1 + math.cos(math.pi * done)) / 2
            case "step":
                return float(given.get("gamma", 0.1) ** (step // given["step_size"]))
            case _:
                return 1.0

    def noam(step: int) -> float:
        at = step + 1
        return float(given["dim"] ** -0.5 * min(at**-0.5, at * max(1, warmup) ** -1.5))

    if call.name == "noam":
        return noam
    return lambda step: (step + 1) / warmup if step < warmup else after(step)

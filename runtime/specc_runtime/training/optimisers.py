"""Optimisers and schedules of torch, from `optim` and `sched` of a section."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from specc.elaborate.partwise import matches
from specc.source import Span
from specc_runtime.folding import own_name
from specc_runtime.training.section import Called, Section, failed, unsupported

if TYPE_CHECKING:
    import torch

CLASSES = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop", "adagrad": "Adagrad"}

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "constant": ("warmup",),
    "linear": ("warmup", "total", "min_lr"),
    "cosine": ("warmup", "total", "min_lr"),
    "step": ("step_size", "gamma", "warmup"),
    "noam": ("dim", "warmup"),
    "one_cycle": ("max_lr", "total"),
}
REQUIRED = {"step": 1, "noam": 2, "one_cycle": 1}


def patterns_of(name: str, value: Any, span: Span) -> tuple[str, ...]:
    """A pattern or a list of them; raises `Rejected` (E125)."""
    found = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(pattern, str) for pattern in found):
        raise failed("E125", f"`{name}` is a list of patterns", span, f'{name} = ["*.bias"]')
    return found


def freeze(section: Section, module: torch.nn.Module) -> None:
    """Parameters that `freeze` names are not trained; T505 if none is left."""
    patterns = patterns_of("freeze", section.value("freeze", ()), section.span("freeze"))
    for name, parameter in module.named_parameters():
        if matches(name, patterns):
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in module.parameters()):
        what = "freezes every parameter" if "freeze" in section.settings else "is of a model without parameters"
        raise failed("T505", f"the section {what}", section.span("freeze"), "train at least one")


def optimiser(section: Section, module: torch.nn.Module) -> torch.optim.Optimizer:
    """torch's optimiser over the parameters that are trained; those of `no_decay` are a group of their own."""
    import torch

    call = section.call("optim")
    assert call is not None
    if call.name not in CLASSES:
        raise unsupported(f"`optim = {call.name}(..)`", call.expr.func.span, "one of " + ", ".join(CLASSES))
    kind = getattr(torch.optim, CLASSES[call.name])
    names = [name for name in inspect.signature(kind).parameters if name not in ("self", "params")]
    given = call.arguments([*names, "no_decay"])
    given.setdefault("lr", kind([torch.zeros(1)]).defaults["lr"])
    patterns = patterns_of("no_decay", given.pop("no_decay", ()), call.expr.span)
    trained = [(own_name(name), p) for name, p in module.named_parameters() if p.requires_grad]
    spared = [p for name, p in trained if matches(name, patterns)]
    inside = {id(p) for p in spared}
    groups: list[dict[str, Any]] = [{"params": [p for _, p in trained if id(p) not in inside]}]
    if spared:
        groups.append({"params": spared, "weight_decay": 0.0})
    try:
        made: torch.optim.Optimizer = kind([g for g in groups if g["params"]], **given)
    except (ValueError, TypeError) as error:
        raise failed("E125", f"{call.name}: {error}", call.expr.span) from None
    return made


def schedule(
    section: Section, optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LRScheduler | None:
    """How the learning rate goes, counted in steps of the optimiser; None if it stays."""
    from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

    call = section.call("sched")
    if call is None:
        return None
    if call.name not in ARGUMENTS:
        raise unsupported(f"`sched = {call.name}(..)`", call.expr.func.span, "one of " + ", ".join(ARGUMENTS))
    given = call.arguments(ARGUMENTS[call.name], REQUIRED.get(call.name, 0))
    for key, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise failed("E125", f"{call.name}: `{key}` is a number of at least 0", call.expr.span)
    total = _count(given.get("total", steps), steps)
    if call.name == "one_cycle":
        if total < steps:
            raise failed("E125", f"one_cycle: `total` is {total} steps, the run has {steps}", call.expr.span)
        try:
            return OneCycleLR(optimizer, max_lr=given["max_lr"], total_steps=total)
        except ValueError as error:
            raise failed("E125", f"one_cycle: {error}", call.expr.span) from None
    warmup = _count(given.get("warmup", 0), steps)
    rates = [group["lr"] for group in optimizer.param_groups]
    return LambdaLR(optimizer, [_factor(call, given, rate, warmup, total) for rate in rates])


def _count(value: float, steps: int) -> int:
    """Steps; a fraction is of all."""
    return round(value * steps) if isinstance(value, float) and value < 1 else int(value)


def _factor(call: Called, given: dict[str, Any], lr: float, warmup: int, total: int) -> Callable[[int], float]:
    """The learning rate of a step as a multiple of `lr`; warming up it grows from lr / warmup on."""
    low = given.get("min_lr", 0.0) / lr if lr else 0.0
    span: Span = call.expr.span
    if call.name in ("linear", "cosine") and total <= warmup:
        raise failed("E125", f"{call.name}: the warmup of {warmup} steps leaves none of {total}", span)

    def after(step: int) -> float:
        """From the end of the warm-up on."""
        done = min(1.0, (step - warmup) / max(1, total - warmup))
        match call.name:
            case "linear":
                return low + (1 - low) * (1 - done)
            case "cosine":
                return low + (1 - low) * (1 + math.cos(math.pi * done)) / 2
            case "step":
                size = given["step_size"]
                if not size:
                    raise failed("E125", "step: `step_size` is at least 1", span)
                return float(given.get("gamma", 0.1) ** (step // size))
            case _:
                return 1.0

    def noam(step: int) -> float:
        at = step + 1
        return float(given["dim"] ** -0.5 * min(at**-0.5, at * max(1, warmup) ** -1.5))

    if call.name == "noam":
        return noam
    return lambda step: (step + 1) / warmup if step < warmup else after(step)

"""Optimisers of torch and lion-pytorch over the parameters that are trained, from `optim` of a section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from specc.elaborate import settings as known
from specc.elaborate.groups import Group
from specc.elaborate.partwise import matches as matches
from specc.elaborate.values import number, show
from specc.source import Span
from specc_runtime.folding import own_name
from specc_runtime.training.section import Called, Section, failed

if TYPE_CHECKING:
    import torch

CLASSES = {
    "sgd": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "rmsprop": "RMSprop",
    "adagrad": "Adagrad",
    "adafactor": "Adafactor",
}
"""Functions of `optim` -> classes of torch.optim."""

FUSED = {"sgd": {"cpu", "cuda"}, "adam": {"cpu", "cuda"}, "adamw": {"cpu", "cuda"}, "adagrad": {"cpu"}}
"""Where torch has one kernel for a step of all parameters."""

Groups = list[dict[str, Any]]


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
    """The optimiser of a section; raises `Rejected` (E125)."""
    call = section.call("optim")
    assert call is not None
    given = call.arguments([*known.ARGUMENTS[call.name], *known.OPTIMISER])
    spared = patterns_of("no_decay", given.pop("no_decay", ()), call.expr.span)
    special = given.pop("groups", ())
    if not isinstance(special, tuple) or not all(isinstance(g, Group) for g in special):
        raise failed(
            "E125", "`groups` is a list of groups", call.expr.span, 'groups = [group(["*.head.*"], lr = 1e-3)]'
        )
    for key, value in given.items():
        _check(call, key, value)
    trained = {own_name(name): p for name, p in module.named_parameters() if p.requires_grad}
    try:
        if call.name == "muon":
            return _muon(call, given, module, trained, spared, special)
        kind = _kind(call.name)
        given.setdefault("lr", _default_lr(kind))
        if fusible(call, trained):
            given["fused"] = True
        made: torch.optim.Optimizer = kind(_groups(trained, spared, special), **given)
        # A fused kernel could scale gradients of fp16 itself; those that are to be clipped have to be scaled before.
        made._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        return made
    except (ValueError, TypeError) as error:
        raise failed("E125", f"{call.name}: {error}", call.expr.span) from None


def _check(call: Called, key: str, value: Any) -> None:
    """E125 for a value that is none of its argument's kind: torch would tell some of them at the first step."""
    count = 2 if (call.name, key) == ("adafactor", "eps") else known.SEVERAL.get(key, 1)
    if key in known.WORDS:
        return
    if key in known.FLAGS:
        fits, what = value is None or isinstance(value, bool), "true or false"
    elif count > 1:
        several = isinstance(value, tuple) and len(value) == count
        # the first eps of adafactor may be none
        fits, what = several and all(number(v) or v is None for v in value), f"{count} numbers"
    else:
        fits, what = number(value), "a number"
    if not fits:
        raise failed("E125", f"{call.name}: `{key}` is {what}, found {show(value)}", call.expr.span)


def fusible(call: Called, trained: Mapping[str, torch.nn.Parameter]) -> bool:
    """Whether torch steps all parameters by one kernel, several times as fast and equal to rounding, unless the section
    chooses otherwise.
    """
    chosen = not {"fused", "foreach", "differentiable", "capturable"}.isdisjoint(call.named)
    return not chosen and {p.device.type for p in trained.values()} <= FUSED.get(call.name, set())


def _kind(name: str) -> Any:
    import torch

    if name != "lion":
        return getattr(torch.optim, CLASSES[name])
    from lion_pytorch import Lion

    return Lion


def _default_lr(kind: Any) -> float:
    import torch

    return float(kind([torch.zeros(1)]).defaults["lr"])


def _groups(
    trained: Mapping[str, torch.nn.Parameter],
    spared: Sequence[str],
    special: Sequence[Group],
    settings: Mapping[str, Any] | None = None,
) -> Groups:
    """Parameters by the first group that names them, and those without weight decay apart."""
    found: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in trained.items():
        index = next((i for i, group in enumerate(special) if matches(name, group.patterns)), len(special))
        free = matches(name, spared)
        if (index, free) not in found:
            own = dict(special[index].settings) if index < len(special) else {}
            found[index, free] = {"params": [], **(settings or {}), **own, **({"weight_decay": 0.0} if free else {})}
        found[index, free]["params"].append(parameter)
    return [found[key] for key in sorted(found, key=lambda key: (key[0] != len(special), *key))]


def _muon(
    call: Called,
    given: dict[str, Any],
    module: torch.nn.Module,
    trained: Mapping[str, torch.nn.Parameter],
    spared: Sequence[str],
    special: Sequence[Group],
) -> torch.optim.Optimizer:
    """Muon for the matrices of hidden layers; AdamW for embeddings, what `adamw` names, and what is no matrix."""
    from torch import nn

    from specc_runtime.training.muon import MuonAdamW

    other = patterns_of("adamw", given.pop("adamw", ()), call.expr.span)
    adamw = {"lr": given.pop("adamw_lr", 3e-4), "betas": given.pop("betas", (0.9, 0.95))}
    adamw["weight_decay"] = given.get("weight_decay", 0.1)
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    matrices = {n: p for n, p in trained.items() if p.dim() == 2 and id(p) not in tables and not matches(n, other)}
    rest = {n: p for n, p in trained.items() if n not in matrices}
    groups = _groups(matrices, spared, special, {"muon": True}) + _groups(rest, spared, special, {"muon": False})
    return MuonAdamW(groups, given, adamw)

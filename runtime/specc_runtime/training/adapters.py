"""`lora`: adapters of peft in the emitted module, which train in place of its weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc.elaborate.names import available, fold
from specc.elaborate.partwise import LORA, Parts, matches, targeted
from specc.ir.members import aliases
from specc_runtime.folding import ADAPTER, library, write_adapter
from specc_runtime.module import WEIGHTS
from specc_runtime.training.footprint import Footprint, footprint, saving
from specc_runtime.training.optimisers import patterns_of
from specc_runtime.training.section import Section, failed, unsupported

if TYPE_CHECKING:
    import peft
    import torch

    from specc_runtime.module import Build
    from specc_runtime.training.plan import Plan


@dataclass(frozen=True)
class Adapters:
    """The adapters of a module. `targets`: the parts that have one; `whole`: parts that are trained besides, as what
    the checkpoint left fresh; `count`: parameters of the adapters alone.
    """

    model: peft.PeftModel
    targets: tuple[str, ...]
    whole: tuple[str, ...]
    count: int

    def save(self, run: Path, weights: Mapping[str, torch.Tensor]) -> None:
        """Write those among the weights of a state into a run folder, in peft's format. Raises `OSError`.

        Weights that were folded of earlier ones go.
        """
        write_adapter(self.model, run / ADAPTER, weights)
        (run / WEIGHTS).unlink(missing_ok=True)


def adapt(section: Section, module: torch.nn.Module, fresh: Sequence[str], seed: int) -> Adapters | None:
    """Put adapters into a module as `lora` says, and freeze the rest but parts with `fresh` tensors; None without it.

    What the adapters begin with is drawn from `seed`. Raises `Rejected`: T505 where nothing is left to adapt, B650 for
    a fresh tensor that no part of its own has.
    """
    call = section.call("lora")
    if call is None:
        return None
    given = call.arguments(LORA, 2)
    patterns = patterns_of("targets", given["targets"], call.expr.span)
    frozen = patterns_of("freeze", section.value("freeze", ()), section.span("freeze"))
    whole = _whole(section, module, [name for name in fresh if not matches(name, frozen)])
    chosen = targeted(Parts.of(section.checked.model), patterns)
    targets = [path for path in chosen if not matches(path, whole)]
    if not targets:
        message = f"`lora` adapts nothing: {available(fold(chosen)) or 'what it names'} is fresh and trained whole"
        raise failed("T505", message, call.expr.span, "targets among the parts that the checkpoint has")
    import torch

    peft = library()
    config = peft.LoraConfig(
        r=given["rank"],
        lora_alpha=given["alpha"],
        lora_dropout=given.get("dropout", 0.0),
        target_modules="|".join(re.escape(path) for path in targets),
        modules_to_save=whole or None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            model = peft.get_peft_model(module, config)
        except ValueError as error:
            raise failed("E125", f"lora: {error}", call.expr.span) from None
    kept = {name for name, part in module.named_modules() if isinstance(part, peft.utils.ModulesToSaveWrapper)}
    if kept != {*whole}:  # peft takes every part whose name ends with that of one to train
        what = f"`lora` beside a fresh part whose name {min(kept - {*whole})} ends with"
        raise unsupported(what, call.expr.span, "call one of them otherwise, or freeze the fresh one")
    adapter = sum(p.numel() for name, p in module.named_parameters() if ".lora_" in name)
    return Adapters(model, tuple(targets), tuple(whole), adapter)


def _whole(section: Section, module: torch.nn.Module, fresh: Sequence[str]) -> list[str]:
    """The parts whose tensors are fresh."""
    found = list(dict.fromkeys(name.rpartition(".")[0] for name in fresh))
    ties = aliases(section.checked.model.module)
    for path in found:
        tied = next((name for name in (*ties, *ties.values()) if name.rpartition(".")[0] == path), None)
        if tied is not None:  # peft would train a copy of it
            what = f"`lora` beside the fresh tensor {tied}, which is tied to another,"
            raise unsupported(what, section.span("lora"), "train without lora, or freeze it")
        if not path or any(True for _ in module.get_submodule(path).children()):
            name = next(name for name in fresh if name.rpartition(".")[0] == path)
            what = f"`lora` beside the fresh tensor {name}, which has no part of its own"
            raise unsupported(what, section.span("lora"), "train without lora, or freeze it")
    return found


def shadowed(module: torch.nn.Module) -> set[int]:
    """The ids of parameters that nothing uses: of parts that are trained whole, peft keeps what they began with."""
    return {
        id(p)
        for name, part in module.named_modules()
        if name.rpartition(".")[2] == "original_module"
        for p in part.parameters()
    }


def adapted(
    section: Section, counts: Plan, made: Build, module: torch.nn.Module, batch: Mapping[str, torch.Tensor]
) -> tuple[Adapters | None, Footprint | None]:
    """The adapters of `lora`, and the memory that a step without them takes; None for both without `lora`."""
    from specc_runtime.training.loop import Fit
    from specc_runtime.training.optimisers import optimiser

    if section.call("lora") is None:
        return None, None
    fit = Fit(section, module, made.interface(section.entry), counts)
    with saving(module) as saved:
        fit.rehearse(batch)
    precision = str(section.value("precision", "32"))
    whole = footprint(module, lambda other: optimiser(section, other), saved, precision)
    return adapt(section, module, made.manifest["weights"]["fresh"], counts.seed), whole


@contextmanager
def reaching(section: Section, adapters: Adapters | None) -> Iterator[None]:
    """Raises `Rejected` (T505) where what runs meanwhile passes by an adapter: it would learn nothing."""
    if adapters is None:
        yield
        return
    missed = set(adapters.targets)
    module: Any = adapters.model.base_model.model

    def hook(path: str) -> Any:
        return lambda *_: missed.discard(path)

    hooks = [module.get_submodule(path).register_forward_hook(hook(path)) for path in adapters.targets]
    yield
    for one in hooks:
        one.remove()
    if missed:
        which = available(fold(path for path in adapters.targets if path in missed))
        message = f"`lora` adapts {which}, which the entry does not call: its weight is used by name, or not at all"
        raise failed("T505", message, section.span("lora"), "adapt other parts")

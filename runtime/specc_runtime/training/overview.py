"""The plan of a run: what it reads, how far it goes, what it trains, what memory that takes, what it keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from specc.elaborate.names import counted
from specc.syntax.unparse import unparse
from specc_runtime.memory import available
from specc_runtime.screen import rendered
from specc_runtime.training.adapters import Adapters, shadowed
from specc_runtime.training.footprint import Footprint, Saved, footprint
from specc_runtime.training.plan import Plan
from specc_runtime.training.section import Section
from specc_runtime.units import size

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from specc_runtime.inputs import Interface
    from specc_runtime.module import Build
    from specc_runtime.training.batches import Batch
    from specc_runtime.training.loop import Fit

MOST_FRESH = 6
"""Fresh tensors that the plan names; further ones are counted."""

MOST_BLOCKS = 12
"""Blocks that the plan lists; further ones are summed up."""

MORE = {
    "sched": "schedule",
    "clip": "clip",
    "ema": "average",
    "freeze": "frozen",
    "early_stop": "early stop",
}
"""Settings that are told as they are written."""


@dataclass(frozen=True)
class Part:
    """A block of the model: its path, what is there, its parameters. Tied ones are of the first that has them."""

    path: str
    kind: str
    parameters: int
    trained: int


@dataclass(frozen=True)
class Overview:
    """A run in numbers, before it starts. `tokens` of a step, None without sequences of ids."""

    section: Section
    counts: Plan
    folder: Path
    parts: tuple[Part, ...]
    memory: Footprint
    tokens: int | None
    device: str
    fresh: tuple[str, ...] = ()  # tensors that the checkpoint lacks, or has in another size
    adapters: Adapters | None = None
    whole: Footprint | None = None  # the memory without them

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts)

    @property
    def trained(self) -> int:
        return sum(part.trained for part in self.parts)


def overview(section: Section, counts: Plan, fit: Fit, batch: Batch, saved: Saved, folder: Path) -> Overview:
    """Of a run whose first batch was rehearsed: `saved` is what that kept for its backward pass."""
    from specc_runtime.training.optimisers import optimiser

    precision = str(section.value("precision", "32"))
    memory = footprint(fit.model, lambda module: optimiser(section, module), saved, precision)
    if "ema" in section.settings:
        memory = replace(memory, average=memory.weights)
    tokens = ids(fit.of, batch)
    if tokens is not None:
        tokens *= counts.accumulate * counts.processes
    return Overview(section, counts, folder, tuple(parts_of(fit.model)), memory, tokens, device())


def ids(of: Interface, batch: Batch) -> int | None:
    """Ids in a batch: of one input for every length that inputs of ids have; None without such an input."""
    shapes = {
        item.shape[1]: batch[item.name].shape
        for item in of.inputs
        if item.dtype.startswith("i") and len(item.shape) == 2 and item.shape[1].value is None and item.name in batch
    }
    return sum(shape.numel() for shape in shapes.values()) if shapes else None


def device() -> str:
    """What Lightning's `accelerator = "auto"` takes."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "mps" if torch.backends.mps.is_available() else "cpu"


def room() -> int | None:
    """Bytes that are free where the run will be; None where nothing tells."""
    import torch

    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else available()


def parts_of(module: torch.nn.Module) -> Iterator[Part]:
    """The top-level blocks; of a model that is wrapped in one block, those of that."""
    seen = shadowed(module)
    path = ""
    while not list(module.parameters(recurse=False)):
        filled = [
            (name, child) for name, child in module.named_children() if next(child.parameters(), None) is not None
        ]
        if len(filled) != 1:
            break
        path, module = f"{path}{filled[0][0]}.", filled[0][1]
        if not list(module.named_children()):
            yield _part(path[:-1], module, seen)
            return
    for name, parameter in module.named_parameters(recurse=False):
        count = _new([parameter], seen)
        yield Part(path + name, "parameter", count, count if parameter.requires_grad else 0)
    for name, child in _filled(module):
        yield _part(path + name, child, seen)


def _filled(module: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """Children with parameters."""
    return [(name, child) for name, child in module.named_children() if next(child.parameters(), None) is not None]


def _part(path: str, module: torch.nn.Module, seen: set[int]) -> Part:
    """One block with everything in it; a group of a single member is that."""
    import torch

    while type(module) is torch.nn.Module and len(inside := _filled(module)) == 1:
        path, module = f"{path}.{inside[0][0]}", inside[0][1]
    parameters = list(module.parameters())
    trained = {id(p) for p in parameters if p.requires_grad}
    new = [p for p in parameters if id(p) not in seen]
    count = _new(parameters, seen)
    return Part(path, _kind(module), count, sum(p.numel() for p in new if id(p) in trained))


def _new(parameters: list[torch.nn.Parameter], seen: set[int]) -> int:
    """Elements of those that no block before had."""
    found = [p for p in parameters if id(p) not in seen]
    seen.update(map(id, found))
    return sum(p.numel() for p in found)


def _kind(module: torch.nn.Module) -> str:
    """`12 x Block` for a list of equal blocks."""
    import torch

    name = type(getattr(module, "original_module", module)).__name__
    if type(module) is torch.nn.Module:
        return ", ".join(child for child, _ in _filled(module))
    if not isinstance(module, (torch.nn.ModuleList, torch.nn.Sequential)):
        return name
    kinds = list(dict.fromkeys(type(item).__name__ for item in module))
    return f"{len(module)} x {kinds[0]}" if len(kinds) == 1 else f"{name} of {len(module)}"


# ---- as text ---------------------------------------------------------------------------------------------------------


def described(plan: Overview, width: int | None = None) -> str:
    """The plan in lines: plain, or for a terminal that is `width` columns wide."""
    from rich.text import Text

    section = plan.section
    title = Text.assemble((f'{section.model} "{section.name}"', "bold"), _configured(section))
    return rendered(title, _settings(_counted(plan)), _blocks(plan), _settings(_kept(plan)), width=width)


def _configured(section: Section) -> str:
    found = [f"preset {section.preset}"] if section.preset else []
    found += [f"{name} = {text}" for name, text in section.sets.items()]
    return f", {', '.join(found)}" if found else ""


def _settings(rows: Iterator[tuple[str, str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=13, style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(f"  {name}", Text(text))
    return table


def _counted(plan: Overview) -> Iterator[tuple[str, str]]:
    counts, section = plan.counts, plan.section
    rows = f"{counted(len(counts.train), 'row')} of {counts.train.name}"
    if counts.val is not None:
        other = f" of {counts.val.name}" if counts.val.name != counts.train.name else ""
        rows += f", {len(counts.val):,}{other} to validate"
    yield "data", rows
    whole = counts.epochs is not None and counts.last == counts.steps
    passes = counts.epochs if whole else counts.last * counts.accumulate / counts.batches
    epochs = f"{passes:.3g} epoch{'s' if passes != 1 else ''}"
    batches = "1 batch" if counts.batches == 1 else f"{counts.batches:,} batches"
    limited = f" of {counts.steps:,}" if counts.last < counts.steps else ""
    most = f"at most {counts.tokens:,} ids, about " if counts.tokens is not None else ""
    length = f"{counts.last:,}{limited}: {epochs} of {batches} of {most}{counted(counts.batch, 'row')}"
    if counts.processes > 1:
        length += f" in each of {counts.processes} processes"
    if counts.accumulate > 1:
        length += f", {counts.accumulate} batches to a step"
    yield "steps", length
    if plan.tokens is not None:
        even = counts.tokens is None and len(counts.train) % (counts.batch * counts.accumulate * counts.processes) == 0
        yield "tokens", f"{plan.tokens:,} a step, {'' if even else 'about '}{plan.tokens * counts.last:,} in all"
    overridden = [f"{name} = {text}" for name, text in section.overrides.items()]
    if overridden:
        yield "overridden", ", ".join(overridden)
    yield "parameters", f"{plan.trained:,} trained, {plan.parameters - plan.trained:,} frozen"


def _blocks(plan: Overview) -> Table:
    """The blocks of the model with what is trained of each."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=13)
    table.add_column()
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column()
    shown = plan.parts if len(plan.parts) <= MOST_BLOCKS else plan.parts[: MOST_BLOCKS - 1]
    for part in shown:
        table.add_row("", part.path, part.kind, f"{part.parameters:,}", _trained(part))
    rest = plan.parts[len(shown) :]
    if rest:
        other = Part("", "", sum(p.parameters for p in rest), sum(p.trained for p in rest))
        table.add_row("", f"{len(rest)} more", "", f"{other.parameters:,}", _trained(other))
    return table


def _trained(part: Part) -> str:
    if not part.parameters:
        return "tied"
    if part.trained in (0, part.parameters):
        return "trained" if part.trained else "frozen"
    return f"{part.trained:,} trained"


def _kept(plan: Overview) -> Iterator[tuple[str, str]]:
    section, memory = plan.section, plan.memory
    free = room()
    short = f", more than the {size(free)} that are free" if free is not None and memory.total > free else ""
    yield "memory", f"about {size(memory.total)} (estimate){short}: {_amounts(memory)}"
    if plan.adapters is not None:
        count = f"{plan.adapters.count:,} parameters in {counted(len(plan.adapters.targets), 'part')}"
        yield "adapters", f"{count}: {unparse(section.settings['lora'])}"
    if plan.whole is not None:
        yield "full tuning", f"about {size(plan.whole.total)}: {_amounts(plan.whole)}"
    if plan.fresh:
        more = len(plan.fresh) - MOST_FRESH
        yield "fresh", "; ".join([*plan.fresh[:MOST_FRESH], *([f"{more} more tensors"] if more > 0 else [])])
    yield "optimiser", unparse(section.settings["optim"])
    for setting, name in MORE.items():
        if setting in section.settings:
            yield name, unparse(section.settings[setting])
    yield "precision", f"{section.value('precision', '32')} on {plan.device}"
    yield "checkpoints", _checkpoints(section)
    yield "run folder", str(plan.folder)


def _checkpoints(section: Section) -> str:
    kept = section.settings.get("checkpoint")
    often = section.value("save_every", None)
    rare = "after epochs" if often is None else "after every epoch" if often == "epoch" else ""
    when = rare or ("after every step" if often == 1 else f"every {often:,} steps")
    return f"{unparse(kept) if kept is not None else 'the last weights'}; states to resume from {when}"


def _amounts(memory: Footprint) -> str:
    parts = (
        ("weights", memory.weights),
        ("gradients", memory.gradients),
        ("optimiser", memory.optimiser),
        ("activations", memory.activations),
        ("average", memory.average),
    )
    return ", ".join(f"{name} {size(count)}" for name, count in parts if count)


def fresh_tensors(made: Build) -> tuple[str, ...]:
    """What is drawn although there is a checkpoint: `head.weight [2, 768] (the checkpoint has [3, 768])`."""
    record = made.manifest["weights"]
    if not record["fresh"]:
        return ()
    shapes = {name: list(tensor.shape) for name, tensor in made.module().state_dict().items()}
    replaced = record.get("replaced", {})
    return tuple(
        f"{name} {shapes[name]}"
        + (f" (the checkpoint has {replaced[name]})" if replaced.get(name, shapes[name]) != shapes[name] else "")
        for name in record["fresh"]
    )

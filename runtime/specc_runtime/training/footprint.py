"""How much memory a step of training takes: counted, and for activations measured on the batch that is rehearsed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    Optimiser = Callable[[torch.nn.Module], torch.optim.Optimizer]


@dataclass(frozen=True)
class Footprint:
    """Bytes of one process. An estimate: what the allocator and the kernels take beside them is not in it."""

    weights: int
    gradients: int
    optimiser: int
    activations: int
    average: int = 0
    """Of the weights, with `ema`."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimiser + self.activations + self.average


@dataclass
class Saved:
    """What a forward pass keeps for the backward pass, each storage once."""

    storages: dict[int, tuple[int, bool]] = field(default_factory=dict)  # address: bytes, whether of float32

    def bytes(self, half: bool) -> int:
        """`half`: autocast keeps activations in 16 bits."""
        return sum(size // 2 if half and single else size for size, single in self.storages.values())


@contextmanager
def saving(module: torch.nn.Module) -> Iterator[Saved]:
    """Note what is kept for the backward pass; the parameters, which are there anyway, are not counted."""
    import torch

    found = Saved()
    own = {t.untyped_storage().data_ptr() for t in chain(module.parameters(), module.buffers())}
    kept: list[torch.Tensor] = []  # alive until the end, so that an address stays that of one tensor

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found.storages[storage.data_ptr()] = storage.nbytes(), tensor.dtype == torch.float32
            kept.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found
    kept.clear()


def footprint(module: torch.nn.Module, optimiser: Optimiser, saved: Saved, precision: str) -> Footprint:
    """Of a step; `optimiser` makes the optimiser of a module like this one, `precision` is Lightning's."""
    short = precision in ("bf16-true", "16-true")
    tensors = list(chain(module.parameters(), module.buffers()))
    weights = sum(t.numel() * (2 if short and t.is_floating_point() else t.element_size()) for t in tensors)
    gradients = sum(p.numel() * (2 if short else p.element_size()) for p in module.parameters() if p.requires_grad)
    states = states_of(module, optimiser)
    return Footprint(weights, gradients, states // 2 if short else states, saved.bytes(half="16" in precision))


def states_of(module: torch.nn.Module, optimiser: Optimiser) -> int:
    """Bytes of the optimiser's state after its first step, which is taken by parameters without values."""
    try:
        return _stepped(module, optimiser, "meta")
    except RuntimeError:  # it reads values, as Adafactor does: give it some
        return _stepped(module, optimiser, "cpu")


def _stepped(module: torch.nn.Module, optimiser: Optimiser, device: str) -> int:
    import torch

    alike: dict[int, torch.Tensor] = {}
    for p in module.parameters():
        alike[id(p)] = torch.nn.Parameter(torch.zeros_like(p, device=device), p.requires_grad)
    for b in module.buffers():
        alike[id(b)] = torch.empty_like(b, device="meta")
    chosen = optimiser(copy.deepcopy(module, dict(alike)))
    for group in chosen.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    chosen.step()
    states = (value for state in chosen.state.values() for value in state.values())
    return sum(value.numel() * value.element_size() for value in states if isinstance(value, torch.Tensor))

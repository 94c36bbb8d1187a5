"""Parts that are not trained stay as they are: their running statistics, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def hold(module: torch.nn.Module) -> None:
    """Keep every frozen part with buffers of its own in eval mode, whatever mode the module is put into.

    A batch norm would go on averaging what it sees: its part would change though it is frozen, and of a run with
    adapters, which keeps nothing else, be lost.
    """
    for part in module.modules():
        own = list(part.parameters(recurse=False))
        kept = [name for name, _ in part.named_buffers(recurse=False) if name not in part._non_persistent_buffers_set]
        if own and kept and not any(p.requires_grad for p in own) and not any(True for _ in part.children()):
            part.eval()
            part.train = _stay  # type: ignore[method-assign, assignment]


def _stay(mode: bool = True) -> None:
    """In place of a part's `train`; of this module, so that the part can be pickled."""

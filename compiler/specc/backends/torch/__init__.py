"""Torch source: the IR becomes a Python file that reads as if a person wrote it. Nothing here imports torch."""

from __future__ import annotations

from specc.backends.torch.file import FileBuilder
from specc.ir.graph import Model

__all__ = ["emit"]


def emit(model: Model, version: str = "0.1.0") -> str:
    """The complete source of `<name>.py` for a checked model.

    State_dict keys are the spec's paths; the model's class comes last, its defaults are the built configuration's
    values. The text is deterministic, formatted as `ruff format --line-length 100` does, and needs torch alone.
    """
    return FileBuilder(model, version).build()

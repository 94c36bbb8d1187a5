"""`emit`: a checked model becomes a Python file. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence

from specc.backends.torch.file import FileBuilder
from specc.ir.graph import Model
from specc.passes.incremental import Incremental


def emit(model: Model, version: str = "", incremental: Sequence[Incremental] = ()) -> str:
    """The complete source of `<name>.py` for a checked model.

    State_dict keys are the spec's paths; the model's class comes last, its defaults are the built configuration's
    values. The text is deterministic, formatted as `ruff format --line-length 100` does, and needs torch alone; its
    docstring names the spec and, if given, the version of specc. `incremental`: entries (for each choice of optional
    inputs) that get a method `<entry>_cached` beside their own.
    """
    return FileBuilder(model, version, incremental).build()

"""What `specc train` was asked for."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Request:
    """A section of a spec with overrides, or a run to `resume`, whose own request then fills in what is not given."""

    target: str = ""
    name: str | None = None
    sets: Mapping[str, str] = field(default_factory=dict)
    out: Path | None = None
    weights: str | None = None
    max_steps: int | None = None
    dry_run: bool = False
    trust: tuple[str, ...] = ()
    resume: Path | None = None
    joined: bool = False  # a further process of the run in `resume`, from the checkpoint `state` if there is one
    state: str | None = None


def resuming(request: Request, folder: Path) -> str:
    """The command that continues a run."""
    trusted = [part for file in request.trust for part in ("--trust", file)]
    return shlex.join(["specc", "train", "--resume", str(folder), *trusted])

"""`specc merge`: the adapters of a run folded into its weights, in the run's folder or in one of their own."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime.build import Request, build
from specc_runtime.module import WEIGHTS
from specc_runtime.publish import publishing
from specc_runtime.trained import Trained, merge, own_copy, trained


@dataclass(frozen=True)
class Merged:
    """Weights with adapters folded into them, and the command that builds them."""

    file: Path
    tensors: int
    next: str


def merge_run(
    folder: Path,
    out: Path | None = None,
    *,
    weights: str | None = None,
    target: str | None = None,
    trust: tuple[str, ...] = (),
) -> Merged:
    """Fold a run's adapters; see `trained.merge`. Raises `Rejected`: B660, B640 where nothing can be written."""
    run = trained(folder)
    if run is None:
        raise Rejected([Diagnostic("B660", f"`{folder}` is no run of `specc train`", help="specc train FILE")])
    to = out if out is not None else folder
    spec = target or _spec_of(run)
    request = Request(spec, trust=trust)
    try:
        if out is None or out.resolve() == folder.resolve():
            count = merge(run, folder, build, request, weights)
        else:
            count = _published(run, out, request, weights)
    except OSError as error:
        message = f"cannot write `{to}`: {error.strerror or error}"
        raise Rejected([Diagnostic("B640", message, note="nothing was left there")]) from None
    return Merged(to / WEIGHTS, count, shlex.join(["specc", "build", _shown(spec), "--weights", str(to)]))


def _spec_of(run: Trained) -> str:
    """The run's spec, or the copy in its folder."""
    if run.base is None:
        return "FILE"
    spec = Path(run.base.target)
    copy = run.folder / spec.name
    return str(copy if not spec.exists() and copy.exists() else spec)


def _published(run: Trained, out: Path, request: Request, weights: str | None) -> int:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        message = f"`{out}` exists: nothing was written"
        raise Rejected([Diagnostic("B660", message, help="choose another place with --out DIR")])
    with publishing(Path(os.path.realpath(out))) as work:
        count = merge(run, work, build, request, weights)
        own_copy(run, work)
    return count


def _shown(spec: str) -> str:
    """A path as it is seen from here, if it lies below."""
    path = Path(spec)
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_absolute() and path.is_relative_to(here) else spec

"""What a run of `specc train` says about its weights: a build of them is of the same configuration, unasked."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime.atomic import write_atomically
from specc_runtime.companions import FILES
from specc_runtime.folding import ADAPTER, Base, fold, has_adapters
from specc_runtime.module import WEIGHTS

if TYPE_CHECKING:
    from specc_runtime.build import Request, Result

    Build = Callable[[Request], Result]

RUN = "run.json"
FORMAT = "specc-run/1"


@dataclass(frozen=True)
class Trained:
    """The configuration of a run folder, and of what its adapters are part, if it has any."""

    folder: Path
    model: str
    preset: str | None
    sets: dict[str, str]
    base: Base | None


def trained(weights: str | Path | None) -> Trained | None:
    """What a run folder says; None for anything else. Raises `Rejected` (B660) for one that cannot be read."""
    file = Path(weights) / RUN if weights else None
    if file is None or not file.is_file():
        return None
    try:
        run: dict[str, Any] = json.loads(file.read_text("utf-8"))
        base = Base.from_json(run["base"], file.parent) if run.get("base") is not None else None
        found = Trained(file.parent, run["model"], run["preset"], dict(run["sets"]), base)
        known = run["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        known = False
    if not known:
        raise Rejected([Diagnostic("B660", f"{file} is damaged or from another version of specc")])
    if not has_adapters(found.folder) and not (found.folder / WEIGHTS).is_file():
        raise Rejected([_unfinished(found.folder)])
    return found


def _unfinished(run: Path) -> Diagnostic:
    """B660 for a run that was ended before it wrote its weights."""
    states = {int(path.parent.name[5:]): path.parent for path in run.glob(f"checkpoints/step-*/{WEIGHTS}")}
    help = f"specc train --resume {run}" + (f",  or --weights {states[max(states)]}" if states else "")
    return Diagnostic("B660", f"{run} has no weights: it was ended before it wrote them", help=help)


def as_trained(request: Request) -> Request:
    """The request with the model, preset and hyper-parameters of the run that its weights come from.

    What the request gives itself stays, and all of it if it is of another model or preset. Raises `Rejected` with B660
    for a run folder that cannot be read.
    """
    run = trained(request.weights)
    if run is None or request.preset not in (None, run.preset) or request.model not in (None, run.model):
        return request
    sets = {**run.sets, **request.sets}
    return replace(request, model=None if run.preset else run.model, preset=run.preset, sets=sets)


@contextmanager
def whole(request: Request, build: Build) -> Iterator[Request]:
    """The request with weights that need no folding: those of a run's adapters are folded into a temporary folder.

    `build` makes the build of what the run began with. Raises `Rejected` (B660) where that is not what it was.
    """
    if request.weights is None or not has_adapters(Path(request.weights)):
        yield request
        return
    run = trained(request.weights)
    assert run is not None
    with TemporaryDirectory(prefix="specc-merged-") as work:
        folder = Path(work) / run.folder.resolve().name  # the build's record names it
        folder.mkdir()
        merge(run, folder, build, request)
        yield replace(request, weights=str(folder))


def merge(run: Trained, to: Path, build: Build, request: Request, weights: str | None = None) -> int:
    """Write a run's weights with its adapters folded into them to a folder; the number of tensors.

    Of the `request`, the spec and whom it trusts count; `weights`: where what the run began with lies now. Raises
    `Rejected` (B660) without adapters or where they do not fit, `OSError` where the folder cannot be written.
    """
    if run.base is None or not (run.folder / ADAPTER).is_dir():
        message = f"{run.folder} has no adapters to fold: its {WEIGHTS} is whole"
        raise Rejected([Diagnostic("B660", message, help=f"specc build FILE --weights {run.folder}")])
    base = run.base if weights is None else replace(run.base, weights=weights)
    if not Path(base.weights).exists():
        message = f"the adapters of {run.folder} are for {base.weights}, which is not there any more"
        raise Rejected([Diagnostic("B660", message, help=f"specc merge {run.folder} --weights DIR")])
    asked = type(request)(
        request.target,
        preset=run.preset,
        model=None if run.preset else run.model,
        sets=run.sets,
        weights=base.weights,
        emit=frozenset({"torch"}),
        verify=False,
        render=False,
        entries=(base.entry,),
        seed=base.seed,
        anew=lambda name: name in base.fresh,
        trust=request.trust,
    )
    count = fold(run.folder, base, to / WEIGHTS, lambda out: build(replace(asked, out=out)).folder)
    if to.resolve() != run.folder.resolve():
        for name in FILES:
            if (run.folder / name).is_file():
                shutil.copyfile(run.folder / name, to / name)
    return count


def own_copy(run: Trained, to: Path) -> None:
    """Beside weights in another folder: what a build of them has to know. Raises `OSError`."""
    record: dict[str, Any] = json.loads((run.folder / RUN).read_text("utf-8"))
    del record["base"]
    asked = record.get("asked", {})
    for key in ("spec", "weights"):  # as they are from the run's folder
        if isinstance(asked.get(key), str) and (run.folder / asked[key]).exists():
            asked[key] = os.path.relpath(run.folder.resolve() / asked[key], to.resolve())
    write_atomically(to / RUN, (json.dumps(record, indent=2) + "\n").encode())

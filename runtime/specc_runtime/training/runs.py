"""Run folders as they lie on the disk: listed, sorted, set side by side. Nothing here loads torch."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specc.diagnostics import Diagnostic, Rejected
from specc.elaborate.names import available, closest, did_you_mean
from specc_runtime.trained import FORMAT, RUN
from specc_runtime.training.history import best, history, less_is_better


@dataclass(frozen=True)
class Known:
    """A run. `when`: its last change, in seconds since 1970; `best` and `last`: values of what it measured."""

    folder: Path
    model: str
    section: str
    preset: str | None
    status: str
    step: int
    steps: int
    settings: Mapping[str, str]
    sets: Mapping[str, str]
    best: Mapping[str, float]
    last: Mapping[str, float]
    when: float
    size: int

    @property
    def title(self) -> str:
        return f'{self.model} "{self.section}"'

    def to_json(self) -> dict[str, Any]:
        return {
            "run": str(self.folder),
            "model": self.model,
            "section": self.section,
            "preset": self.preset,
            "sets": dict(self.sets),
            "settings": dict(self.settings),
            "status": self.status,
            "step": self.step,
            "steps": self.steps,
            "best": dict(self.best),
            "last": dict(self.last),
            "when": round(self.when, 3),
            "bytes": self.size,
        }


class NoRun(Exception):
    """A folder that is no run, or a damaged one, and why."""


def read(folder: Path) -> Known:
    """A run's record and measures; raises `NoRun`."""
    try:
        record = json.loads((folder / RUN).read_bytes())
        if record["format"] != FORMAT:
            raise NoRun(f"{RUN} is of another version of specc")
        found = history(folder)
        held = record["status"] == "running" and _held(folder)
        status = "killed" if record["status"] == "running" and not held else str(record["status"])
        settings = {str(k): str(v) for k, v in record["settings"].items()}
        begun = record.get("asked", {}).get("weights")
        if begun is not None:  # given by --weights
            path = folder / str(begun)
            settings["weights"] = json.dumps(os.path.normpath(path) if path.exists() else str(begun))
        reached = max((series.steps[-1] for series in found.values()), default=0)  # a record is of the beginning or end
        return Known(
            folder,
            str(record["model"]),
            str(record["section"]),
            str(record["preset"]) if record["preset"] is not None else None,
            status,
            max(int(record.get("step", 0)), reached if status in ("running", "killed") else 0),
            int(record["steps"]),
            settings,
            {str(k): str(v) for k, v in record["sets"].items()},
            best(found),
            {name: series.values[-1] for name, series in found.items()},
            (folder / RUN).stat().st_mtime,
            sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        )
    except FileNotFoundError:
        raise NoRun(f"no {RUN}") from None
    except OSError as error:
        raise NoRun(f"cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = str(error) if str(error).startswith("metrics") else f"{RUN} is damaged"
        raise NoRun(why) from None


def _held(folder: Path) -> bool:
    """Whether a process has the folder for itself, as one that trains it does."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def opened(folder: Path) -> Known:
    """One run by its folder; raises `Rejected` (B660)."""
    try:
        return read(folder)
    except NoRun as reason:
        what = f"`{folder}` is no run: {reason}" if folder.exists() else f"there is no folder `{folder}`"
        raise Rejected([Diagnostic("B660", what, help="`specc runs` lists those below runs/")]) from None


def below(folder: Path) -> tuple[list[Known], list[tuple[Path, str]]]:
    """The runs in a folder, latest first, and its other folders with why they are none; raises `Rejected` (B660)."""
    try:
        folders = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        message = f"cannot list `{folder}`: {error.strerror or error}"
        raise Rejected([Diagnostic("B660", message, help="runs are below runs/, or where --out said")]) from None
    found: list[Known] = []
    others: list[tuple[Path, str]] = []
    for path in folders:
        try:
            found.append(read(path))
        except NoRun as reason:
            others.append((path, str(reason)))
    return sorted(found, key=lambda run: (-run.when, run.folder)), others


def measures(runs: Iterable[Known]) -> list[str]:
    """What is measured, the loss and that of the validation first."""
    names = {name for run in runs for name in run.best}
    return sorted(names, key=lambda name: (not name.endswith("loss"), name))


def ordered(runs: Sequence[Known], by: str) -> list[Known]:
    """Runs by a column, or best first by a measure, those without it last; raises `Rejected` (E103)."""
    keys: Mapping[str, Any] = {
        "run": lambda run: str(run.folder),
        "section": lambda run: run.title,
        "preset": lambda run: run.preset or "",
        "when": lambda run: -run.when,
        "status": lambda run: run.status,
        "steps": lambda run: -run.step,
        "size": lambda run: -run.size,
    }
    if by in keys:
        return sorted(runs, key=keys[by])
    names = measures(runs)
    if by not in names:
        guess = closest(by, [*names, *keys])
        help = did_you_mean(guess)
        notes = (("available", available([*names, *keys])),)
        raise Rejected([Diagnostic("E103", f"no run has measured `{by}`", help=help, notes=notes)])
    sign = 1 if less_is_better(by) else -1
    return sorted(runs, key=lambda run: (by not in run.best, sign * run.best.get(by, 0.0)))


def compared(runs: Sequence[Known]) -> dict[str, list[str | float | None]]:
    """What several runs do not share, one value for each: of what, settings, hyper-parameters, how far they went."""
    rows: dict[str, list[str | float | None]] = {
        "section": [run.title for run in runs],
        "preset": [run.preset for run in runs],
    }
    for name in dict.fromkeys(name for run in runs for name in run.settings):
        rows[name] = [run.settings.get(name) for run in runs]
    for name in dict.fromkeys(name for run in runs for name in run.sets):
        rows[f"{name} (hyper-parameter)"] = [run.sets.get(name) for run in runs]
    return {name: values for name, values in rows.items() if len(set(values)) > 1}

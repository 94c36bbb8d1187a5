"""`run.json`: what a run is of, so that it can be continued, and whether spec, settings and data still are that."""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from specc.diagnostics import Diagnostic, Rejected
from specc.syntax.unparse import unparse
from specc_runtime.atomic import write_atomically
from specc_runtime.manifest import versions
from specc_runtime.module import Build
from specc_runtime.trained import FORMAT, RUN
from specc_runtime.training.plan import Plan
from specc_runtime.training.request import Request
from specc_runtime.training.section import Section, failed

Record = dict[str, Any]
MOST = 8
"""Lines of a spec that are told to differ."""


def facts(section: Section, counts: Plan, made: Build) -> Record:
    """What has to be the same for a run to be continued."""
    return {
        "model": section.model,
        "section": section.name,
        "preset": section.preset,
        "sets": section.given,
        "settings": {n: unparse(v) for n, v in section.settings.items()} | dict.fromkeys(section.without, "none"),
        "lets": {let.name.id: unparse(let.value) for let in section.lets},
        "seed": counts.seed,
        "rows": len(counts.train),
        "validation_rows": len(counts.val) if counts.val is not None else 0,
        "data": counts.train.digest(),
        "validation_data": counts.val.digest() if counts.val is not None else None,
        "module": hashlib.sha256(_code(made.source.read_text("utf-8")).encode()).hexdigest(),
    }


def _code(source: str) -> str:
    """A module without what it says of itself: the name of its spec, the version of specc."""
    return source.split('"""', 2)[2]


def asked(request: Request, section: Section, folder: Path) -> Record:
    """What was asked for; paths as they are from the run's folder, so that both can be moved together."""

    def away(text: str) -> str:
        return os.path.relpath(Path(text).resolve(), folder.resolve()) if Path(text).exists() else text

    return {
        "spec": away(str(section.project.path)),
        "name": section.node.name.value if section.node.name is not None else section.model,
        "sets": dict(request.sets),
        "weights": away(request.weights) if request.weights is not None else None,
        "max_steps": request.max_steps,
    }


def write(folder: Path, record: Mapping[str, Any]) -> None:
    """The whole of `run.json`, or what it was before. Raises `OSError`."""
    write_atomically(folder / RUN, (json.dumps(record, indent=2) + "\n").encode())


def continued(request: Request, folder: Path) -> tuple[Request, Record]:
    """The request that a run was begun with, and its record; raises `Rejected` (T533).

    What is given beside `--resume` stays: it is compared with the run's later.
    """
    try:
        record: Record = json.loads((folder / RUN).read_bytes())
        known, given = record["format"] == FORMAT, record["asked"]
        spec, name, sets, weights = given["spec"], given["name"], dict(given["sets"]), given["weights"]
    except (FileNotFoundError, NotADirectoryError):
        what = "is not a run" if folder.exists() else "does not exist"
        raise failed("T533", f"`{folder}` {what}: no {RUN}", help="name the folder that `specc train` told") from None
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise failed("T533", f"{folder / RUN} is damaged or from another version of specc")
    if request.out is not None:
        raise failed("T533", "a run that is continued stays in its folder: leave out --out")

    def back(text: str) -> str:
        path = folder / text
        return os.path.relpath(path) if path.exists() else text

    found = replace(
        request,
        target=request.target or back(spec),
        name=request.name or name,
        sets={**sets, **request.sets},
        weights=request.weights or (back(weights) if weights is not None else None),
        max_steps=request.max_steps or given["max_steps"],
    )
    if not request.target and not Path(found.target).exists():
        message = f"the spec of this run is not at {found.target} any more"
        raise failed("T533", message, help=f"specc train FILE --resume {folder}")
    return found, record


def compare(record: Record, now: Mapping[str, Any], section: Section, folder: Path) -> None:
    """Raises `Rejected` (T533) with everything that differs."""
    found = [
        (name, f"{record.get(key)} in the run, {now[key]} now")
        for key, name in (("model", "model"), ("section", "section"), ("preset", "preset"))
        if record.get(key) != now[key]
    ]
    for key in ("settings", "sets", "lets"):
        before, after = record.get(key, {}), now[key]
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                found.append((name, f"{before.get(name, 'not')} in the run, {after.get(name, 'not')} now"))
    for key, name in (("", "data"), ("validation_", "val")):
        if record.get(f"{key}rows") != now[f"{key}rows"]:
            found.append((name, f"{record.get(f'{key}rows')} rows in the run, {now[f'{key}rows']} now"))
        elif record.get(f"{key}data") != now[f"{key}data"]:
            found.append((name, "as many rows as in the run, with other values"))
    if record.get("module") != now["module"]:
        found += list(_lines(section, folder)) or [("model", "it is emitted as another module than the run's")]
    if found:
        message = f"`{folder}` is a run of something else"
        help = f"undo the change, or begin a new run from its weights:  {_again(section, folder)}"
        raise Rejected([Diagnostic("T533", message, help=help, notes=tuple(found))])


def _again(section: Section, folder: Path) -> str:
    return shlex.join(["specc", "train", str(section.project.path), section.name, "--weights", str(folder)])


def _lines(section: Section, folder: Path) -> Iterator[tuple[str, str]]:
    """Lines of the spec that are not those of the run's copy."""
    name = section.project.path.name
    try:
        before = (folder / name).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    after = section.project.file.source.text.splitlines()
    changed = [line for line in difflib.ndiff(before, after) if line[:2] in ("- ", "+ ")]
    for line in changed[:MOST]:
        yield name, f"{line[2:].strip()}  ({'in the run' if line[0] == '-' else 'now'})"


def strangers(record: Record) -> str:
    """What is not as it was when the run began, and may round differently; empty if nothing."""
    before, now = record.get("versions", {}), versions()
    changed = [f"{name} {before[name]}, now {now[name]}" for name in before if now.get(name) != before[name]]
    return f"the run began with {', '.join(changed)}: its numbers may differ from there on" if changed else ""


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """The run's folder for one process alone; T533 if another one trains it. A process that is killed lets go."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise failed("T533", f"`{folder}` is being trained by another process") from None
    finally:
        os.close(handle)

"""The spec that a build was made from, in the configuration that was built.

A build records names and hashes of its specs, no place of them on this machine: they are looked for where builds are
usually made from, and taken only if not a byte differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from specc.api import written
from specc.diagnostics import Diagnostic, Rejected
from specc.reading import PACKAGE, zoo_folders
from specc_runtime import manifest


@dataclass(frozen=True)
class Origin:
    """What to check again. `sets`: every hyper-parameter of the build, as `--set` takes them."""

    file: Path
    model: str
    preset: str | None
    sets: dict[str, str]
    position_ids: bool
    without: dict[str, frozenset[str]]  # entry -> the optional inputs that its graph leaves out


def origin_of(folder: Path) -> Origin:
    """Raises `Rejected` (B660) if the folder is no build, or if its spec isn't found as it was."""
    record = manifest.read(folder, "manifest.json")
    name, digest = next(iter(record["spec"]["files"].items()))
    return Origin(
        file=_find(folder, name, digest),
        model=record["model"],
        preset=record["preset"],
        sets={key: _setting(value) for key, value in record["hyperparameters"].items()},
        position_ids=record["spec"].get("position_ids", False),
        without={entry: frozenset(made["without"]) for entry, made in record["entries"].items()},
    )


def sources_of(folder: Path) -> dict[str, Path]:
    """The files that a build was made from, by the names that it has for them: those that are found as they were.

    Raises `Rejected` (B660) where the spec itself isn't.
    """
    record = manifest.read(folder, "manifest.json")
    main, *others = record["spec"]["files"]
    found = {main: origin_of(folder).file}
    for name in others:
        for root in (PACKAGE, *found[main].parents):
            if _is(root / name, record["spec"]["files"][name]):
                found[name] = root / name
                break
    return found


def _is(path: Path, digest: str) -> bool:
    try:
        return sha256(path.read_bytes()).hexdigest() == digest
    except OSError:
        return False


def _setting(value: Any) -> str:
    """Text is as it was: it may be a string, the name of a function, or a function with some arguments given."""
    return value if isinstance(value, str) else written(value)


def _find(folder: Path, name: str, digest: str) -> Path:
    changed = None
    for place in _places(folder.absolute()):
        path = place / name
        try:
            if sha256(path.read_bytes()).hexdigest() == digest:
                return path
        except OSError:
            continue
        changed = changed or path
    if changed is not None:
        why = f"{changed} is another version of it"
    else:
        why = "it is neither here nor beside the build"
    message = f"`{folder}` was built from `{name}`, which isn't found"
    help = f"put `{name}`, as it was, into the current folder or beside the build"
    raise Rejected([Diagnostic("B660", message, notes=(("why", why),), help=help)])


def _places(folder: Path) -> Iterator[Path]:
    """The current folder and its `specs`, those above the build (`build/NAME` is two down), the zoo."""
    here = Path.cwd()
    for root in dict.fromkeys([here, folder.parent.parent, folder.parent]):
        yield root
        yield root / "specs"
    yield from zoo_folders()

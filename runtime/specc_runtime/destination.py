"""Where a build goes: which folder, and whether it may be replaced."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from specc.diagnostics import Diagnostic, Rejected

BUILDS = Path("build")
_LONGEST = 60  # characters of a name; file systems allow 255 bytes
_IGNORED = frozenset({"__pycache__", ".DS_Store"})
_ELSEWHERE = "choose another place with -o DIR"


def destination(out: Path | None, name: str) -> Path:
    """The absolute folder of a build: `out`, else `build/<name>` in the current folder.

    A symbolic link is followed: what it points to is replaced. Raises `Rejected` (B660) for a place that is not a
    build's alone, B640 for one that cannot be looked at.
    """
    shown = out or BUILDS / folder_name(name)
    target = Path(os.path.realpath(shown))
    try:
        problem = _problem(target)
    except OSError as error:
        raise Rejected([Diagnostic("B640", f"cannot write to `{shown}`: {error.strerror or error}")]) from None
    if problem is not None:
        raise Rejected([Diagnostic("B660", f"`{shown}` {problem}: nothing was written", help=_ELSEWHERE)])
    return target


def folder_name(name: str) -> str:
    """A preset's or file's name as the name of one folder.

    Names come from specs, so no separator or leading dot survives; names that differ stay different.
    """
    clean = re.sub(r"[^\w .+-]+", "-", name)[:_LONGEST].strip(" .-")
    if clean == name != "":
        return name
    return f"{clean or 'model'}-{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _problem(target: Path) -> str | None:
    """Why a folder cannot become a build's, or None."""
    if target in (Path.cwd(), *Path.cwd().parents):
        return "is the current folder or one above it, and a build replaces its folder as a whole"
    if not target.exists():
        above = next(folder for folder in target.parents if folder.exists())
        return None if above.is_dir() else f"cannot be a folder: {above} is a file"
    if not target.is_dir():
        return "is a file"
    if not any(target.iterdir()):
        return None
    known = _files(target)
    if known is None:
        return "exists and is not a build"
    stray = next((file for file in _content(target) if file not in known), None)
    return f"holds {stray}, which is not of the build and would be lost" if stray is not None else None


def _files(target: Path) -> frozenset[str] | None:
    """What a build's manifest says the build consists of; None for a folder without one. Other versions' are read."""
    try:
        record = json.loads((target / "manifest.json").read_bytes())
        if not record["format"].startswith("specc-build/"):
            return None
        return frozenset({"manifest.json", *record["files"]})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _content(target: Path) -> Iterator[str]:
    for root, folders, files in os.walk(target):
        folders[:] = sorted(set(folders) - _IGNORED)
        for name in sorted(set(files) - _IGNORED):
            yield (Path(root) / name).relative_to(target).as_posix()

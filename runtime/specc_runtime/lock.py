"""`specc.lock`: the Python files that a project trusts, by path from its root and SHA-256 of their content."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime.atomic import left_over, write_atomically

LOCK = "specc.lock"
_HEAD = """\
# Python files that this project lets `specc build`, `test` and `train` run. Written by `specc trust`: keep it under
# version control, and read what changes.
version = 1
"""


def read_lock(root: Path) -> dict[str, str]:
    """Path -> SHA-256, empty without a lock file; raises `Rejected` (X905) for one that cannot be read."""
    place = root / LOCK
    try:
        content = tomllib.loads(place.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _damaged(place, error.strerror or str(error)) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise _damaged(place, str(error) or "it is nested too deep") from None
    if content.get("version") != 1:
        raise _damaged(place, f"its version is {content.get('version')!r}, this specc reads version 1")
    entries = content.get("extern", [])
    if set(content) - {"version", "extern"} or not isinstance(entries, list):
        raise _damaged(place, "it holds something besides `version` and [[extern]] tables")
    trusted: dict[str, str] = {}
    for entry in entries:
        wrong = _problem(entry)
        if wrong or entry["path"] in trusted:
            raise _damaged(place, wrong or f"`{entry['path']}` is there twice")
        trusted[entry["path"]] = entry["sha256"]
    return trusted


def _problem(entry: Any) -> str:
    """Why a table is none of ours; empty if it is."""
    if not isinstance(entry, dict) or set(entry) != {"path", "sha256"}:
        return "an [[extern]] table has a path and a sha256"
    if not isinstance(entry["path"], str) or not isinstance(entry["sha256"], str):
        return "path and sha256 are strings"
    if not re.fullmatch(r"[0-9a-f]{64}", entry["sha256"]):
        return f"the sha256 of `{entry['path']}` is not 64 hexadecimal digits"
    return ""


@contextmanager
def changing(root: Path) -> Iterator[dict[str, str]]:
    """What is trusted, to be changed in place; written when the block ends, unless it raises or changes nothing.

    Others wait meanwhile, so that two commands at once both take effect; what a killed one left goes. Raises as
    `read_lock` and `write_lock` do.
    """
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # no locks on this file system
            fcntl.flock(handle, fcntl.LOCK_EX)
            for left in left_over(root / LOCK):
                left.unlink(missing_ok=True)
        trusted = read_lock(root)
        before = dict(trusted)
        yield trusted
        if trusted != before:
            write_lock(root, trusted)
    finally:
        os.close(handle)


def write_lock(root: Path, trusted: Mapping[str, str]) -> None:
    """Replace the lock file in one step; raises `OSError` where it cannot be written."""
    tables = [f"\n[[extern]]\npath = {_quoted(path)}\nsha256 = {_quoted(trusted[path])}\n" for path in sorted(trusted)]
    write_atomically(root / LOCK, (_HEAD + "".join(tables)).encode("utf-8"))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _damaged(place: Path, why: str) -> Rejected:
    help = "take it back from version control, or delete it and trust the files again"
    return Rejected([Diagnostic("X905", f"{place.name} is damaged: {why}", notes=(("file", str(place)),), help=help)])

"""A spec as it was in a revision of git: its files, copied to a folder of their own."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from specc.diagnostics import Diagnostic, Rejected

NEEDED = (".spec", ".py", "specc.toml")
"""What a spec may import, and what marks the root that imports are relative to."""


def at_revision(file: Path, revision: str, to: Path) -> Path:
    """The path of `file` in `to`, which then holds what the revision has of specs. Raises `Rejected` (E006)."""
    folder = next((f for f in file.absolute().parents if f.is_dir()), Path.cwd())
    root = Path(_git(folder, "rev-parse", "--show-toplevel", why=f"`{folder}` is in no git repository").strip())
    commit = _git(
        root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}",
        why=f"git has no revision `{revision}`",
    ).strip()  # fmt: skip
    name = file.resolve().relative_to(root.resolve()).as_posix()
    listed = [line.split("\t", 1) for line in _git(root, "ls-tree", "-r", "-z", commit).split("\0") if line]
    blobs = {path: told.split()[2] for told, path in listed if told.split()[1] == "blob" and path.endswith(NEEDED)}
    if name not in blobs:
        message = f"`{name}` is not in revision `{revision}`"
        recent = _git(root, "log", "--all", "-1", "--format=%h %s", "--", name).strip()
        notes = (("last change", recent),) if recent else ()
        raise Rejected([Diagnostic("E006", message, notes=notes)])
    below = Path(name).parent.parts[:1]  # imports stay inside the root, which is no higher than a specc.toml
    wanted = {
        path: blob for path, blob in blobs.items()
        if not below or Path(path).parts[:1] == below or path.endswith("specc.toml")
    }  # fmt: skip
    for path, content in zip(wanted, _contents(root, list(wanted.values())), strict=True):
        place = to / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return to / name


def told(found: Sequence[Diagnostic], revision: str, folder: Path) -> list[Diagnostic]:
    """Findings about a revision's files by their places in the repository: the folder is gone when they are read."""
    place = re.compile(rf"[^\s`]*{re.escape(f'{folder.parent.name}/{folder.name}')}/")
    for diagnostic in found:
        for span in (diagnostic.span, *(label.span for label in diagnostic.others)):
            if span is not None:
                span.source.display = place.sub("", span.source.display)
    return [
        replace(
            diagnostic,
            message=place.sub("", diagnostic.message),
            help=place.sub("", diagnostic.help),
            notes=(*((name, place.sub("", text)) for name, text in diagnostic.notes), ("in revision", revision)),
        )
        for diagnostic in found
    ]


def _contents(root: Path, blobs: Sequence[str]) -> Iterator[bytes]:
    """The bytes of objects, read by one process."""
    data = _run(root, ["cat-file", "--batch"], "".join(f"{blob}\n" for blob in blobs).encode("ascii"))
    at = 0
    for _ in blobs:
        start = data.index(b"\n", at) + 1
        size = int(data[at:start].split()[2])
        yield data[start : start + size]
        at = start + size + 1


def _git(folder: Path, *arguments: str, why: str = "") -> str:
    """What git prints, names of files among it; raises `Rejected` (E006) with its reason where it fails."""
    return os.fsdecode(_run(folder, arguments, why=why))


def _run(folder: Path, arguments: Sequence[str], given: bytes = b"", why: str = "") -> bytes:
    # A hook's git has told its own repository, relative to another folder.
    surroundings = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], input=given, capture_output=True, env=surroundings, check=False
        )
    except OSError as error:
        raise Rejected([Diagnostic("E006", f"git cannot be run: {error.strerror}")]) from None
    if done.returncode:
        said = os.fsdecode(done.stderr).strip()
        notes = (("git", said.splitlines()[0]),) if said else ()
        raise Rejected([Diagnostic("E006", why or f"git {arguments[0]} fails", notes=notes)])
    return done.stdout

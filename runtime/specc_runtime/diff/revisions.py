"""A spec as it was in a revision of git: its files, copied to a folder of their own."""

from __future__ import annotations

import subprocess
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
    names = [n for n in _git(root, "ls-tree", "-r", "-z", "--name-only", commit).split("\0") if n.endswith(NEEDED)]
    if name not in names:
        message = f"`{name}` is not in revision `{revision}`"
        recent = _git(root, "log", "--all", "-1", "--format=%h %s", "--", name).strip()
        notes = (("last change", recent),) if recent else ()
        raise Rejected([Diagnostic("E006", message, notes=notes)])
    below = Path(name).parent.parts[:1]  # imports stay inside the root, which is no higher than a specc.toml
    for each in names:
        if below and Path(each).parts[:1] != below and not each.endswith("specc.toml"):
            continue
        path = to / each
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_git(root, "show", f"{commit}:{each}"), "utf-8")
    return to / name


def _git(folder: Path, *arguments: str, why: str = "") -> str:
    """What git prints; raises `Rejected` (E006) with its reason where it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, encoding="utf-8", check=False
        )
    except OSError as error:
        raise Rejected([Diagnostic("E006", f"git cannot be run: {error.strerror}")]) from None
    if done.returncode:
        notes = (("git", done.stderr.strip().splitlines()[0]),) if done.stderr.strip() else ()
        raise Rejected([Diagnostic("E006", why or f"git {arguments[0]} fails", notes=notes)])
    return done.stdout

"""Mechanical fixes, written back to the spec: a file is replaced whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from specc.diagnostics import Diagnostic, Rejected
from specc.report import apply_edits
from specc.source import Source
from specc_runtime.atomic import write_atomically


def apply_fixes(diagnostics: Iterable[Diagnostic]) -> str:
    """Apply the edits of fixable diagnostics to their files; what was done, or "" if nothing changed.

    A fix may uncover another: check and apply again until nothing is fixable. A file that is no longer what was checked
    is left alone. Raises `Rejected` (B640) if a file can't be written; those before it are then fixed.
    """
    fixable = [d for d in diagnostics if d.edits]
    sources: dict[str, Source] = {}
    for diagnostic in fixable:
        for edit in diagnostic.edits:
            sources.setdefault(edit.span.source.display, edit.span.source)
    done = []
    for name, source in sources.items():
        path = Path(name)
        own = [d for d in fixable if all(e.span.source.display == name for e in d.edits)]
        text = apply_edits(source.text, own)
        if text == source.text or not _holds(path, source.text):
            continue
        try:
            write_atomically(path, text.encode("utf-8"))
        except OSError as error:
            raise Rejected([Diagnostic("B640", f"cannot write `{name}`: {error.strerror or error}")]) from None
        done.append(f"fixed {name}: {', '.join(dict.fromkeys(d.code for d in own))}")
    return "\n".join(done)


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode("utf-8")
    except OSError:
        return False

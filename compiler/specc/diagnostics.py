"""Diagnostics as data: a stable code, labelled spans, the origin of every size named, a fix.

A message is collected, not thrown; `Rejected` carries what was collected across a stage that cannot go on. How messages
are printed is the business of `report.py`; what a code means is told by `specc explain CODE` (`codes.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from specc.source import Span

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Label:
    """A place and what is to be said of it."""

    span: Span
    text: str = ""


@dataclass(frozen=True)
class Size:
    """A size as a message prints it: `hidden = 3072   4*dim (gpt2.spec:36)`."""

    name: str
    value: str
    origin: str = ""


@dataclass(frozen=True)
class Edit:
    """A mechanical fix: replace the span's text. `specc check --fix` applies only edits of `fixable` diagnostics."""

    span: Span
    text: str


@dataclass(frozen=True)
class Diagnostic:
    """One finding. `span` is the primary place, None for findings about no text (a missing file, a full disk)."""

    code: str
    message: str
    span: Span | None = None
    label: str = ""  # what the primary place is
    others: tuple[Label, ...] = ()  # secondary places
    path: str = ""  # instance path, preset or section: "in GPT2 > h.0 > mlp: GPT2MLP"
    sizes: tuple[Size, ...] = ()
    # ("why" | "found" | "expected" | "available" | "counter-example" | ..., text)
    notes: tuple[tuple[str, str], ...] = ()
    help: str = ""
    edits: tuple[Edit, ...] = ()  # not empty: the help is `(fixable)`
    note: str = ""
    severity: Severity = "error"
    cause: str = ""  # what is missing, by name: findings of one file with one cause and one help are one finding


ALSO = "also"
"""The note that names further lines with the same cause."""
_LINES = re.compile(r"\d+")


class Rejected(Exception):
    """The input cannot be compiled; carries every diagnostic found so far."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("; ".join(f"{d.code}: {d.message}" for d in self.diagnostics))


@dataclass
class Collector:
    """Where a stage puts its findings. The same finding at the same place is kept once."""

    found: list[Diagnostic] = field(default_factory=list)
    _seen: set[tuple[object, ...]] = field(default_factory=set)
    _causes: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def add(self, diagnostic: Diagnostic) -> None:
        span = diagnostic.span
        key = (diagnostic.code, diagnostic.message, span and (span.source.name, span.start))
        if key in self._seen:
            return
        self._seen.add(key)
        if diagnostic.cause and span is not None:
            cause = (span.source.name, diagnostic.cause, diagnostic.help)
            at = self._causes.setdefault(cause, len(self.found))
            if at < len(self.found):
                self.found[at] = _merged(self.found[at], diagnostic)
                return
        self.found.append(diagnostic)

    @property
    def errors(self) -> list[Diagnostic]:
        return [d for d in self.found if d.severity == "error"]

    def stop_on_errors(self) -> None:
        """Raise `Rejected` if there was an error."""
        if self.errors:
            raise Rejected(self.found)


def _merged(one: Diagnostic, other: Diagnostic) -> Diagnostic:
    """Two findings of one cause as the first of them in the text, which says where the others are."""
    first, second = sorted((one, other), key=lambda d: d.span.start if d.span else 0)
    assert first.span is not None and second.span is not None
    lines = {
        int(line) for d in (first, second) for name, text in d.notes if name == ALSO for line in _LINES.findall(text)
    }
    lines = (lines | {second.span.line}) - {first.span.line}
    shown = ", ".join(map(str, sorted(lines)))
    notes = tuple(note for note in first.notes if note[0] != ALSO)
    if lines:
        notes = (*notes, (ALSO, f"line{'s' * (len(lines) > 1)} {shown}"))
    return replace(first, notes=notes, edits=tuple(dict.fromkeys((*first.edits, *second.edits))))

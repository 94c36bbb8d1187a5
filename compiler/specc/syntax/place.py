"""The place of a syntax error as mistakes are recognised by it: tokens beside it, its line, what it stands in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from specc.diagnostics import Diagnostic, Edit
from specc.source import Source, Span

_TOKEN_END = r'(?:[A-Za-z_0-9.]*\w|"(?:\\.|[^"\\\n])*"|\|>|->|\.\.\.|\*\*|//|[<>=!~]=|\S)\Z'
# What a container can hold tells what it is.
_KINDS = (
    ("import_stmt", "file"), ("config_keys", "config"), ("require", "block"), ("part", "group"), ("assign", "body"),
    ("init_rule", "init"), ("wkey", "weights"), ("expect", "test"), ("let_stmt", "train"), ("setting", "config"),
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    diagnostic: Diagnostic
    resume: int | None = None  # the text up to here belongs to the same mistake; None: the statement


@dataclass(frozen=True)
class Place:
    """A token that does not fit. Offsets are into the text; `text` has comments and insignificant newlines blanked."""

    source: Source
    text: str
    at: int  # the token
    end: int
    before: int  # where the token before it ends; 0: there is none
    start: int  # where the statement starts; `at` if the token is its first
    within: frozenset[str]  # what may stand where the statement starts: names of grammar rules
    innermost: str  # the innermost open bracket: one of ( [ {, or empty

    @cached_property
    def token(self) -> str:
        return self.text[self.at : self.end]

    @cached_property
    def previous(self) -> str:
        """The token before."""
        line = self.text[max(0, self.before - 200) : self.before]
        found = re.compile(_TOKEN_END).search(line)
        return found.group() if found else ""

    @cached_property
    def kind(self) -> str:
        """What the statement stands in: file, block, group, body, init, weights, config, train or test."""
        return next((kind for rule, kind in _KINDS if rule in self.within), "")

    @cached_property
    def statement(self) -> str:
        """From the start of the statement to the end of the line of the token."""
        return self.text[self.start : self._line_end(self.at)]

    @property
    def here(self) -> Span:
        return self.span(self.at, max(self.end, self.at + 1))

    @property
    def first_on_line(self) -> bool:
        return self.first_on_line_at(self.at)

    def first_on_line_at(self, offset: int) -> bool:
        return not self.source.text[self.source.text.rfind("\n", 0, offset) + 1 : offset].strip()

    def span(self, start: int, end: int) -> Span:
        return Span(self.source, max(start, 0), end)

    def edit(self, start: int, end: int, text: str) -> Edit:
        return Edit(self.span(start, end), text)

    def _line_end(self, offset: int) -> int:
        end = self.source.text.find("\n", offset)
        return len(self.text) if end < 0 else end

    def line(self, offset: int) -> tuple[int, int]:
        """Start and end of the line of an offset."""
        return self.source.text.rfind("\n", 0, offset) + 1, self._line_end(offset)

    def rest_of_line(self, offset: int) -> str:
        """The code from an offset to the end of its line."""
        return self.text[offset : self._line_end(offset)].strip()

    def line_text(self, offset: int, *edits: Edit) -> str:
        """The code of a line, without indentation and comment, after edits: what a help shows."""
        start, end = self.line(offset)
        line = self.text[start:end]
        for edit in sorted(edits, key=lambda e: e.span.start, reverse=True):
            if start <= edit.span.start <= end:
                line = line[: edit.span.start - start] + edit.text + line[edit.span.end - start :]
        return line.strip()

    def finding(
        self,
        code: str,
        message: str,
        span: Span,
        *,
        label: str = "",
        help: str = "",
        edits: tuple[Edit, ...] = (),
        note: str = "",
        resume: int | None = None,
    ) -> Finding:
        diagnostic = Diagnostic(code, message, span, label=label, help=help, edits=edits, note=note)
        return Finding(diagnostic, resume)

"""The linear scan before the parser: comments, newlines that do not end a statement, brackets, limits.

What the parser gets has the same length as the text: comments and insignificant newlines are blanked, so every
offset is
an offset into the original. Nothing here depends on parser state.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from specc.diagnostics import Collector
from specc.source import Source
from specc.syntax import lexical
from specc.syntax.indentation import CONTINUED, CONTINUES
from specc.syntax.lexical import CLOSING, MAX_LINE, MAX_SIZE

MAX_DEPTH = 64

# What an ASCII text may not have: control characters (a carriage return only before a newline), long lines.
_SUSPICIOUS = re.compile(rf"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|[^\n]{{{MAX_LINE + 1}}}")
# Everything with a meaning for layout; text in between is code of one line.
_EVENT = re.compile(r'[\n(){}\[\]]|#[^\n]*|"(?:\\.|[^"\\\n])*("?)')


@dataclass
class Layout:
    """The text for the parser and what the scan learned on the way."""

    text: str
    docs: dict[int, str] = field(default_factory=dict)  # offset of the first token behind `##` lines -> their text
    pairs: dict[int, int] = field(default_factory=dict)  # offset of an opening bracket -> of its closing one


class _Scan:
    def __init__(self, source: Source, collector: Collector) -> None:
        self.source = source
        self.collector = collector
        self.layout = Layout("")
        self.out: list[str] = []  # pieces of the blanked text
        self.stack: list[int] = []  # offsets of open brackets
        self.last = ""  # the last code or bracket seen, to tell whether its line goes on
        self.pending: list[int] = []  # pieces that are newlines since then
        self.doc: list[str] = []
        self.blank_line = True

    def run(self) -> Layout | None:
        text = self.source.text
        at = 0
        for match in _EVENT.finditer(text):
            start, end = match.span()
            if start > at:
                self.code(text[at:start], at)
            char = text[start]
            if char == "\n":
                self.newline()
            elif char == "#":
                self.comment(match.group())
            elif char == '"':
                if not match.group(1):
                    lexical.open_string(self.source, start, end, self.collector)
                    return None
                self.token(match.group(), start)
            elif not self.bracket(char, start):
                return None
            at = end
        self.code(text[at:], at)
        if self.stack:
            lexical.unclosed(self.source, self.stack, self.collector)
            return None
        self.layout.text = "".join(self.out)
        return self.layout

    def code(self, text: str, at: int) -> None:
        text = text.replace("\ufeff", " ")  # a byte order mark; elsewhere it was refused
        stripped = text.strip(" \t\r\f")
        if not stripped:
            self.out.append(" " * len(text))
            return
        self.settle(text)
        self.attach(at + text.index(stripped[0]))
        if not text.isascii():
            lexical.non_ascii(self.source, at, at + len(text), self.collector)
        self.out.append(text.replace("\r", " "))
        self.last = stripped

    def token(self, text: str, at: int) -> None:
        self.settle(text)
        self.attach(at)
        self.out.append(text)
        self.last = text[-1]

    def comment(self, text: str) -> None:
        if self.blank_line and text.startswith("##"):
            self.doc.append(text.rstrip("\r")[2:].removeprefix(" "))
        elif self.blank_line:
            self.doc = []
        self.out.append(" " * len(text))
        self.blank_line = False

    def newline(self) -> None:
        if self.blank_line:
            self.doc = []
        self.blank_line = True
        self.pending.append(len(self.out))
        self.out.append("\n")

    def bracket(self, char: str, at: int) -> bool:
        self.token(char, at)
        if char in CLOSING:
            self.stack.append(at)
            if len(self.stack) > MAX_DEPTH:
                lexical.too_deep(self.source, at, MAX_DEPTH, self.collector)
                return False
            return True
        if not self.stack:
            lexical.unopened(self.source, at, self.collector)
            return False
        opened = self.stack.pop()
        if CLOSING[self.source.text[opened]] != char:
            lexical.mismatched(self.source, opened, at, self.collector)
            return False
        self.layout.pairs[opened] = at
        return True

    def settle(self, following: str) -> None:
        """Decide about the newlines before `following`: those that end no statement become blanks."""
        if not self.pending:
            return
        inside = bool(self.stack) and self.source.text[self.stack[-1]] != "{"
        if inside or CONTINUES.search(self.last) or CONTINUED.match(following):
            for piece in self.pending:
                self.out[piece] = " "
        self.pending = []

    def attach(self, at: int) -> None:
        """A token at `at`: the comment lines directly before it are its documentation."""
        if self.blank_line and self.doc:
            self.layout.docs[at] = "\n".join(self.doc)
        if self.blank_line:
            self.doc = []
        self.blank_line = False


def scan(source: Source, collector: Collector) -> Layout | None:
    """The layout of a text, or None when its brackets, strings or size leave nothing to parse (reported)."""
    text = source.text
    suspicious = len(text) > MAX_SIZE or not text.isascii() or _SUSPICIOUS.search(text)
    if suspicious and not lexical.admit(source, collector):
        return None
    before = len(collector.errors)
    layout = _Scan(source, collector).run()
    return layout if len(collector.errors) == before else None

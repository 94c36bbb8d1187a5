"""Diagnostics as text for people (`full`, `concise`) and for programs (`json`, `github`, `sarif`); their
mechanical fixes.

A message has numbered source lines, carets with what the place is, aligned `= name = value` rows, and the fix.
Source text
is escaped and cut, so no input can disturb a terminal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from specc.codes import title
from specc.diagnostics import Diagnostic, Edit, Label
from specc.source import Source, Span

MAX_ERRORS = 20
WIDTH = 160  # columns of source text that are shown

_UNSAFE = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e0fff\ud800-\udfff]"
)
_IGNORE = re.compile(r"#\s*specc:\s*ignore\[([A-Z0-9,\s]+)\]")
_COLOURS = {
    "error": "\x1b[1;31m",
    "warning": "\x1b[1;33m",
    "note": "\x1b[1;36m",
    "line": "\x1b[1;34m",
    "bold": "\x1b[1m",
}
_RESET = "\x1b[0m"


def ordered(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    """Without those that a comment silences, file by file in the order met, in the order of the text."""
    kept = [d for d in diagnostics if not suppressed(d)]
    files: dict[str, int] = {}
    for d in kept:
        files.setdefault(d.span.source.display if d.span else "", len(files))
    return sorted(kept, key=lambda d: (files[d.span.source.display], d.span.start) if d.span else (files[""], 0))


def suppressed(diagnostic: Diagnostic) -> bool:
    """Whether `# specc: ignore[CODE]` at the end of its line silences a warning or note. Errors are never silenced."""
    if diagnostic.span is None or diagnostic.severity == "error":
        return False
    found = _IGNORE.search(diagnostic.span.source.line(diagnostic.span.line))
    return found is not None and diagnostic.code in re.split(r"[,\s]+", found.group(1))


# ---- for people ------------------------------------------------------------------------------------------------------


def full(diagnostics: Iterable[Diagnostic], *, color: bool = False) -> str:
    """Messages with their source lines, at most 20 errors and then a count; empty if there is nothing to say."""
    shown, errors, hidden = [], 0, 0
    for d in ordered(diagnostics):
        errors += d.severity == "error"
        if errors > MAX_ERRORS:
            hidden += d.severity == "error"
        else:
            shown.append(_Message(d, color).text())
    if hidden:
        shown.append(f"{hidden} more error{'s' * (hidden > 1)}\n")
    return "\n".join(shown)


def concise(diagnostics: Iterable[Diagnostic]) -> str:
    """One line each: `file:line:col: error[S201]: message`."""
    lines = []
    for d in ordered(diagnostics):
        where = f"{escape(d.span.source.display)}:{d.span.line}:{d.span.column}: " if d.span else ""
        lines.append(f"{where}{d.severity}[{d.code}]: {escape(d.message)}\n")
    return "".join(lines)


def escape(text: str) -> str:
    """Text with control and bidirectional characters made visible: `<U+202E>`. A tab becomes one blank:
    columns stay."""
    return _UNSAFE.sub(lambda m: f"<U+{ord(m.group()):04X}>", text).replace("\t", " ")


@dataclass
class _Line:
    """A source line as it is shown, and where its characters went."""

    text: str
    columns: list[int]  # character of the source line -> column of the shown text

    @classmethod
    def of(cls, source: Source, number: int, around: tuple[int, int]) -> _Line:
        """A line cut to `WIDTH` columns around the characters `around`; comments only stay when there is room."""
        raw = source.line(number)
        pieces = [escape(c) for c in raw]
        columns = [0]
        for piece in pieces:
            columns.append(columns[-1] + len(piece))
        if columns[-1] <= WIDTH:
            return cls("".join(pieces), columns)
        first, last = columns[min(around[0], len(raw))], columns[min(around[1], len(raw))]
        start = max(0, min(first - 20, last - WIDTH // 2, columns[-1] - WIDTH + 8))
        cut = "".join(pieces)[start : start + WIDTH - 8]
        head = "... " if start else ""
        tail = " ..." if start + WIDTH - 8 < columns[-1] else ""
        limit = len(head) + len(cut)
        return cls(head + cut + tail, [min(max(c - start, 0) + len(head), limit) for c in columns])

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Columns of the shown text for characters of the source line; never empty."""
        last = len(self.columns) - 1
        left = self.columns[start] if start <= last else self.columns[last] + start - last
        right = self.columns[min(end, last)]
        return left, max(right, left + 1)


class _Message:
    def __init__(self, diagnostic: Diagnostic, color: bool) -> None:
        self.d = diagnostic
        self.color = color
        span = diagnostic.span
        self.labels = [(Label(span, diagnostic.label), True)] if span else []
        # A place in another file is told by a row of its own.
        self.labels += [(o, False) for o in diagnostic.others if span and o.span.source is span.source]
        self.foreign = [o for o in diagnostic.others if not span or o.span.source is not span.source]
        lines = [label.span.line for label, _ in self.labels]
        self.context = _context(span, diagnostic) if span else []
        self.gutter = len(str(max([*lines, *self.context]))) if lines else 1

    def text(self) -> str:
        d = self.d
        out = [self.paint(f"{d.severity}[{d.code}]", d.severity) + self.paint(f": {escape(d.message)}", "bold")]
        if d.span:
            path = f"   ({escape(d.path)})" if d.path else ""
            where = f"{escape(d.span.source.display)}:{d.span.line}:{d.span.column}"
            out.append(" " * self.gutter + self.paint("--> ", "line") + where + path)
            out += self.source_lines()
        elif d.path:
            out.append(f"  ({escape(d.path)})")
        out += self.rows()
        return "\n".join(line.rstrip() for line in out) + "\n"

    def source_lines(self) -> list[str]:
        by_line: dict[int, list[tuple[Label, bool]]] = {number: [] for number in self.context}
        for label, primary in self.labels:
            by_line.setdefault(label.span.line, []).append((label, primary))
        out = []
        for number in sorted(by_line):
            out += self.source_line(number, by_line[number])
        return out

    def source_line(self, number: int, labels: list[tuple[Label, bool]]) -> list[str]:
        """A numbered line and the carets under it: texts stand behind their carets where there is room, else below."""
        source = (self.d.span or self.labels[0][0].span).source
        begin = source.line_starts[number - 1]
        stop = begin + len(source.line(number))
        focus = labels[0][0].span if labels else None
        around = (focus.start - begin, min(focus.end, stop) - begin) if focus else (0, 0)
        line = _Line.of(source, number, around)
        out = [self.paint(f"{number:>{self.gutter}} |", "line") + " " + line.text]
        marks = sorted(
            (
                (*line.place(label.span.start - begin, min(label.span.end, stop) - begin), label.text, primary)
                for label, primary in labels
            ),
            key=lambda mark: mark[0],
        )
        return out + [self.margin() + row for row in _carets(marks, self.paint, self.d.severity)]

    def margin(self) -> str:
        return " " * self.gutter + self.paint(" | ", "line")

    def rows(self) -> list[str]:
        """What stands under the source: sizes, notes, help."""
        d = self.d
        start = " " * self.gutter + self.paint(" = ", "line")
        out = []
        names = max((len(size.name) for size in d.sizes), default=0)
        values = max((len(size.value) for size in d.sizes if size.origin), default=0)
        for size in d.sizes:
            tail = f"{size.value:<{values}}   {size.origin}" if size.origin else size.value
            out.append(f"{start}{escape(f'{size.name:<{names}} = {tail}')}")
        for label in self.foreign:
            out.append(f"{start}{self.paint('see', 'bold')}: {escape(label.span.where)}: {escape(label.text)}")
        for name, text in d.notes:
            out += self.row(start, name, text)
        if d.help:
            out += self.row(start, "help", d.help + ("      (fixable)" if d.edits else ""))
        if d.note:
            out += self.row(start, "note", d.note)
        return out

    def row(self, start: str, name: str, text: str) -> list[str]:
        head = self.paint(f"{escape(name)}:", "bold") if name else ""
        first, *rest = text.split("\n")
        lead = f"{start}{head} " if name else start
        indent = " " * (self.gutter + 3 + (len(name) + 2 if name else 0))
        return [lead + escape(first), *(indent + escape(line) for line in rest)]

    def paint(self, text: str, colour: str) -> str:
        return f"{_COLOURS[colour]}{text}{_RESET}" if self.color else text


def _context(span: Span, diagnostic: Diagnostic) -> list[int]:
    """Lines to show beside those with a label: what a structural mistake needs to be understood."""
    number, last = span.line, len(span.source.line_starts)
    if diagnostic.code == "P014":
        return [number - 1]
    if diagnostic.code == "P009":
        return [number + 1] if number < last else []
    if diagnostic.code == "P020":
        cited = [int(n) for _, text in diagnostic.notes for n in re.findall(r"^line (\d+) ", text)]
        return [n for c in cited for n in (number + 1, c - 1, c) if number < n <= last and (n == c or n < c)]
    return []


def _carets(marks: Sequence[tuple[int, int, str, bool]], paint: Any, severity: str) -> list[str]:
    """Rows of carets (dashes: secondary places). The last text stands beside its caret, others below, right to left."""
    if not marks:
        return []
    row, at = "", 0
    for left, right, _, primary in marks:
        left = max(left, at)
        if right <= left:
            continue
        row += " " * (left - at) + paint(("^" if primary else "-") * (right - left), severity if primary else "line")
        at = right
    *rest, last = marks
    rows = [row + (f" {escape(last[2])}" if last[2] else "")]
    rows += [" " * left + escape(text) for left, _, text, _ in reversed(rest) if text]
    return rows


# ---- for programs ----------------------------------------------------------------------------------------------------


def as_json(diagnostics: Iterable[Diagnostic]) -> str:
    """A JSON list with code, severity, message, range, instance path, sizes, labels and fixes of every finding."""
    return json.dumps([_as_data(d) for d in ordered(diagnostics)], indent=2, ensure_ascii=True) + "\n"


def _as_data(d: Diagnostic) -> dict[str, Any]:
    return {
        "code": d.code,
        "severity": d.severity,
        "message": d.message,
        "file": d.span.source.display if d.span else None,
        "range": _range(d.span) if d.span else None,
        "label": d.label,
        "related": [{"file": o.span.source.display, "range": _range(o.span), "text": o.text} for o in d.others],
        "path": d.path,
        "sizes": [{"name": s.name, "value": s.value, "origin": s.origin} for s in d.sizes],
        "notes": [{"kind": kind, "text": text} for kind, text in d.notes],
        "help": d.help,
        "note": d.note,
        "fixes": [{"file": e.span.source.display, "range": _range(e.span), "text": e.text} for e in d.edits],
    }


def _range(span: Span) -> dict[str, dict[str, int]]:
    """Lines and columns from 1, in characters; the end is exclusive. Offsets are into the text."""
    ends = {}
    for name, offset in (("start", span.start), ("end", span.end)):
        line, column = span.source.position(offset)
        ends[name] = {"line": line, "column": column, "offset": offset}
    return ends


def github(diagnostics: Iterable[Diagnostic]) -> str:
    """Workflow commands that annotate a pull request."""
    lines = []
    for d in ordered(diagnostics):
        level = "notice" if d.severity == "note" else d.severity
        place = ""
        if d.span:
            end = d.span.head()
            line, column = d.span.source.position(end.end)
            place = f"file={_property(d.span.source.display)},line={d.span.line},col={d.span.column},"
            place += f"endLine={line},endColumn={column},"
        text = d.message + (f"\nhelp: {d.help}" if d.help else "")
        data = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        lines.append(f"::{level} {place}title=specc {d.code}::{data}\n")
    return "".join(lines)


def _property(text: str) -> str:
    for char, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A"), (":", "%3A"), (",", "%2C")):
        text = text.replace(char, code)
    return text


def sarif(diagnostics: Iterable[Diagnostic]) -> str:
    """A SARIF 2.1.0 log, the exchange format of static analysis tools."""
    found = ordered(diagnostics)
    codes = sorted({d.code for d in found})
    rules = [{"id": code, "shortDescription": {"text": title(code)}} for code in codes]
    results = []
    for d in found:
        text = d.message + (f"\nhelp: {d.help}" if d.help else "")
        result: dict[str, Any] = {
            "ruleId": d.code,
            "ruleIndex": codes.index(d.code),
            "level": d.severity,
            "message": {"text": text},
        }
        if d.span:
            result["locations"] = [{"physicalLocation": _location(d.span)}]
            result["relatedLocations"] = [
                {"physicalLocation": _location(o.span), "message": {"text": o.text}} for o in d.others
            ]
        if d.edits:
            changes = [
                {
                    "artifactLocation": {"uri": e.span.source.display},
                    "replacements": [{"deletedRegion": _region(e.span), "insertedContent": {"text": e.text}}],
                }
                for e in d.edits
            ]
            result["fixes"] = [{"description": {"text": d.help}, "artifactChanges": changes}]
        results.append(result)
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "specc", "rules": rules}},
                "columnKind": "unicodeCodePoints",
                "results": results,
            }
        ],
    }
    return json.dumps(log, indent=2) + "\n"


def _location(span: Span) -> dict[str, Any]:
    return {"artifactLocation": {"uri": span.source.display}, "region": _region(span)}


def _region(span: Span) -> dict[str, int]:
    (line, column), (end_line, end_column) = (span.source.position(offset) for offset in (span.start, span.end))
    return {"startLine": line, "startColumn": column, "endLine": end_line, "endColumn": end_column}


# ---- fixes -----------------------------------------------------------------------------------------------------------


def apply_edits(text: str, diagnostics: Iterable[Diagnostic]) -> str:
    """The text with the edits of fixable diagnostics: all edits of one diagnostic, or none if one overlaps an
    earlier edit.

    Edits of other sources than the one with this text are left out. A fix may uncover another: apply until
    none is left.
    """
    taken: list[Edit] = []
    for d in diagnostics:
        edits = [e for e in d.edits if e.span.source.text == text]
        if len(edits) == len(d.edits) and not any(_overlap(e, t) for e in edits for t in taken):
            taken += [e for e in edits if not any(_same(e, t) for t in taken)]
    for edit in sorted(taken, key=lambda e: (e.span.start, e.span.end), reverse=True):
        text = text[: edit.span.start] + edit.text + text[edit.span.end :]
    return text


def _same(a: Edit, b: Edit) -> bool:
    return (a.span.start, a.span.end, a.text) == (b.span.start, b.span.end, b.text)


def _overlap(a: Edit, b: Edit) -> bool:
    """Whether the order of two edits would matter. The same edit twice is one."""
    if _same(a, b):
        return False
    if a.span.start == a.span.end or b.span.start == b.span.end:
        return (
            (a.span.start == b.span.start and a.text != b.text)
            or a.span.start < b.span.start < a.span.end
            or (b.span.start < a.span.start < b.span.end)
        )
    return a.span.start < b.span.end and b.span.start < a.span.end

"""The texts of a spec as lines of HTML, and the lines that each part of the model is from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from specc.inspect.formats import walk
from specc.ir.graph import Submodule, dotted
from specc.ir.members import walk_members

if TYPE_CHECKING:
    from specc.driver import Checked
    from specc.inspect import Report
    from specc.source import Span

_RESERVED = "and or not if else for in return true false none"
_STARTING = (
    "block model dim let param buffer require tie moved init fn extern when emit aux scan from preset weights config "
    "strip add rename ignore fresh train test expect"
)
"""Words that are of the language where they begin a statement, and else are names."""
_TOKEN = re.compile(
    rf"(?P<comment>#.*)|(?P<string>\"(?:\\.|[^\"\\])*\"?)"
    rf"|(?P<word>\b(?:{_RESERVED.replace(' ', '|')}|import)\b"
    rf"|(?:^|(?<=\s\s))(?:{_STARTING.replace(' ', '|')})\b(?!\s*[:=]))"
    rf"|(?P<digit>\b\d[\w.]*)"
)


@dataclass(frozen=True)
class Text:
    """A file of a spec; `lines` are HTML."""

    name: str
    lines: tuple[Markup, ...]


@dataclass(frozen=True)
class Lines:
    """Lines of the file with this number, counted from 1, both ends included."""

    file: int
    first: int
    last: int


def texts(checked: Checked) -> list[Text]:
    """The spec, then what it imports but for the standard library, in the order in which they are read."""
    scopes = checked.elaborator.files.by_key.values()
    found = [checked.file, *(scope for scope in scopes if scope is not checked.file and not scope.is_std)]
    return [
        Text(scope.source.name, tuple(_marked(line) for line in scope.source.text.rstrip("\n").split("\n")))
        for scope in found
    ]


def _marked(line: str) -> Markup:
    """A line with comments, strings, words of the language and numbers in spans."""
    found, at = Markup(""), 0
    for match in _TOKEN.finditer(line):
        found += escape(line[at : match.start()])
        found += Markup('<span class="{}">{}</span>').format(match.lastgroup, match.group())
        at = match.end()
    return found + escape(line[at:])


def places(checked: Checked, files: list[Text], report: Report) -> Iterator[Lines | None]:
    """For every row of the tree, in its order, the lines of its block; of one of the standard library where the part
    is declared.
    """
    numbers = {text.name: i for i, text in enumerate(files)}
    declared = [item.span for file in checked.elaborator.files.by_key.values() for item in file.tree.items]
    parts = {dotted(path): member for path, member, _ in walk_members(checked.model.module)}

    def lines(span: Span) -> Lines | None:
        number = numbers.get(span.source.name)
        if number is None:
            return None
        return Lines(number, span.line, span.source.position(max(span.start, span.end - 1))[0])

    def declaration(name: Span) -> Lines | None:
        """Of a block, by the span of its name."""
        spans = (s for s in declared if s.source is name.source and s.start <= name.start < s.end)
        return lines(next(spans, name))

    for path, depth, block in walk(report.root):
        member = parts.get(re.sub(r"\{(\d+)\.\.\d+\}", r"\1", path))
        if depth == 0:
            yield declaration(checked.model.module.span)
        elif isinstance(member, Submodule) and block.name:
            yield declaration(member.module.span) or lines(member.span)
        else:
            yield lines(member.span) if member is not None else None

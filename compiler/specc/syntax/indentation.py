"""Which brace was forgotten, by the indentation that people give their text: it is read only when brackets don't match.

A `}` that begins a line stands below the first line of the statement whose `{` it closes. The first one that does not
tells what is missing: the `{` of a line above it at its own indentation, or a `}` of something deeper.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from specc.source import Source

CONTINUES = re.compile(r"(?:[-+*/%@,=<>~]|\b(?:and|or|not|in|if|else))\Z")
"""A line that ends so goes on."""
CONTINUED = re.compile(r"[ \t]*(?:\|>|->|else\b)")
"""A line that starts so belongs to the one before."""

_HEADER = re.compile(r"[ \t]*(?:(?:block|model|fn|weights|train|test|init|config|forward|if|for|when)\b|\w+:[ \t]*$)")
_CODE = re.compile(r'"(?:\\.|[^"\\\n])*"?|#.*')


@dataclass(frozen=True)
class Unopened:
    """A header without its `{`. Offsets: of its last character + 1, and of the `}` that shows it."""

    header: int
    end: int
    closed: int


@dataclass(frozen=True)
class Unclosed:
    """Offsets: of a `{` that nothing closes, and of the `}` that stands for something further out."""

    opened: int
    closed: int


def misplaced(source: Source) -> Unopened | Unclosed | None:
    """The first `}` whose indentation is not that of what it closes."""
    open_braces: list[tuple[int, int]] = []  # indentation of the statement, offset of the brace
    heads: dict[int, tuple[int, int]] = {}  # indentation -> the last statement there: where it starts and ends
    depth, indent, start = 0, 0, 0
    before = ""  # the code of the line before
    for begin in source.line_starts:
        end = source.text.find("\n", begin)
        line = source.text[begin : end if end >= 0 else None]
        code = _CODE.sub(lambda m: " " * len(m.group()), line)
        if not code.strip():
            continue
        starts = depth == 0 and not CONTINUES.search(before) and not CONTINUED.match(code)
        before = code.rstrip()
        if starts:
            start = begin + len(code) - len(code.lstrip())
            indent = start - begin
        if code.lstrip()[0] == "}" and starts:
            expected = open_braces[-1][0] if open_braces else -1
            if indent > expected:
                head = heads.get(indent)
                return _unopened(source, head, start) if head is not None else None
            if indent < expected:
                return Unclosed(open_braces[-1][1], start)
        for at, char in enumerate(code):
            if char in "([":
                depth += 1
            elif char in ")]":
                depth = max(0, depth - 1)
            elif char == "{":
                open_braces.append((indent, begin + at))
            elif char == "}" and open_braces:
                open_braces.pop()
        heads[indent] = (start, begin + len(code.rstrip()))
    return None


def _unopened(source: Source, head: tuple[int, int], closed: int) -> Unopened | None:
    start, end = head
    text = _CODE.sub("", source.text[start:end])
    known = _HEADER.match(text) is not None and "{" not in text
    return Unopened(start, end, closed) if known else None

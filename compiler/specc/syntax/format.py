"""`specc fmt`: one layout for a text, its tokens and comments kept.

What is decided here: indentation, blanks between tokens, blank lines (at most one), that a `}` stands at the start of a
line if its `{` ends one, and where a line of more than `TOLERATED` characters breaks (after commas, to `WIDTH`). What
the author decides: all other line breaks, `a*b` or `a * b`, and columns: tokens of neighbouring lines that stand under
each other behind more than one blank go on doing so, as do comments behind code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any

from specc.diagnostics import Collector, Rejected
from specc.source import Source, Span
from specc.syntax import ast, columns
from specc.syntax.columns import Line, Token
from specc.syntax.layout import Layout, scan
from specc.syntax.parser import parse

WIDTH = 120  # where a line that is too long is broken
TOLERATED = 140  # up to here a line stays as its author broke it
_ROUNDS = 10  # breaking a line may undo a column beside it, which is seen one round later; two rounds are usual

_TOKEN = re.compile(
    r'(?P<code>"(?:\\.|[^"\\\n])*"|\.\.\.|[A-Za-z_]\w*|[0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+|[kMGT])?'
    r"|\|>|->|\*\*|//|[-+*/<>=!~]=|[^\s#\ufeff])|(?P<comment>#[^\n]*)|(?P<newline>\n)"
)
_OPERATOR_WORDS = frozenset("and or not if else for in return".split())
# Before a parenthesis or a sign these may be keywords of a statement or names: a blank there is the author's.
_STATEMENT_WORDS = frozenset("require expect emit dim within aux along with init moved".split())
_TIGHT_BEFORE = frozenset(",;)].?")
_TIGHT_BEHIND = frozenset("([.")
_COMMENT = re.compile(r'"(?:\\.|[^"\\\n])*"|(#[^\n]*)')


def format_text(source: Source) -> str:
    """The text of a spec in the layout of the standard library; formatting the result again gives the same.

    Comments are kept, and the result has the tree of `source` (checked before it is returned).
    Raises `Rejected` when the text has errors of syntax.
    """
    collector = Collector()
    tree = parse(source, collector)
    if tree is None:
        raise Rejected(collector.found)
    text = source.text
    for _ in range(_ROUNDS):
        before, text = text, _round(text)
        if text == before:
            break
    again = parse(Source(source.name, text), Collector())
    if not same_tree(tree, again) or _comments(source.text) != _comments(text):
        raise RuntimeError(f"formatting would change the meaning of {source.display}")
    if "\r\n" in source.text[: source.text.find("\n") + 1]:
        text = text.replace("\n", "\r\n")
    return text


def same_tree(one: object, other: object) -> bool:
    """Whether two trees are equal but for their places and blanks at the end of lines of documentation."""
    pairs: list[tuple[Any, Any]] = [(one, other)]
    while pairs:  # no recursion: a tree may be deeper than Python's stack
        a, b = pairs.pop()
        if type(a) is not type(b):
            return False
        if isinstance(a, ast.Node):
            for item in fields(a):
                x, y = getattr(a, item.name), getattr(b, item.name)
                if item.name == "doc":
                    x, y = _stripped(x), _stripped(y)
                pairs.append((x, y))
        elif isinstance(a, (tuple, list)):
            if len(a) != len(b):
                return False
            pairs += zip(a, b, strict=True)
        elif not isinstance(a, Span) and a != b:
            return False
    return True


def _stripped(doc: str) -> list[str]:
    return [line.rstrip() for line in doc.split("\n")]


def _comments(text: str) -> list[str]:
    return [found[1].rstrip() for found in _COMMENT.finditer(text) if found[1]]


def _round(text: str) -> str:
    layout = scan(Source("", text), Collector())
    assert layout is not None, "only what parses is formatted"
    lines = _lines(text, layout)
    columns.align(lines)
    return _Writer().write(lines)


# ---- reading ---------------------------------------------------------------------------------------------------------


def _lines(text: str, layout: Layout) -> list[Line]:
    """The lines that hold something, with the blanks that each token is to have before it."""
    lines: list[Line] = []
    line = Line()
    start = end = 0  # of the line, and of its last token
    blank = False
    for found in _TOKEN.finditer(text):
        at = found.start()
        if found["newline"]:
            if line.tokens or line.comment:
                lines.append(line)
                blank = False
            else:
                blank = bool(lines)
            line = Line(continues=layout.text[at] != "\n")
            start = end = at + 1
            continue
        if not (line.tokens or line.comment):
            line.indent, line.blank = at - start, blank
        if found["comment"]:
            line.comment, line.comment_column = found[0].rstrip(), at - start
        else:
            line.tokens.append(Token(found[0], at - end, at - start - line.indent))
        end = found.end()
    if line.tokens or line.comment:
        lines.append(line)
    lines = _close_blocks(lines)
    _drop_semicolons(lines)
    _space(lines)
    return lines


def _close_blocks(lines: list[Line]) -> list[Line]:
    """A `}` whose `{` ends a line starts one."""
    done: list[Line] = []
    hangs: list[bool] = []  # for every open bracket
    for line in lines:
        done.append(line)
        start, tokens = 0, line.tokens
        for index, token in enumerate(tokens):
            if token.text in ("(", "[", "{"):
                hangs.append(token.text == "{" and index + 1 == len(tokens))
            elif token.text in (")", "]", "}") and hangs.pop() and index > start:
                done[-1].tokens = tokens[start:index]
                done.append(Line(tokens[index:], line.comment, line.comment_column, line.indent))
                done[-2].comment = ""
                start = index
    return done


def _drop_semicolons(lines: list[Line]) -> None:
    """A `;` at the end of a line says what the newline says."""
    following: Line | None = None
    for line in reversed(lines):
        while len(line.tokens) > 1 and line.tokens[-1].text == ";" and not (following and following.continues):
            line.tokens.pop()
        if line.tokens:
            following = line


def _space(lines: list[Line]) -> None:
    """Decide for every token whether a blank stands before it, and which brackets are open where its line starts."""
    stack: list[int] = [-1]  # numbers of the open brackets
    brackets: list[str] = [""]
    previous: Token | None = None
    number = 0
    for line in lines:
        line.place = stack[-1]
        for index, token in enumerate(line.tokens):
            following = line.tokens[index + 1] if index + 1 < len(line.tokens) else None
            _classify(token, previous, following, first=index == 0, line=line)
            token.space = int(index > 0 and previous is not None and _apart(previous, token, brackets[-1]))
            if token.text in ("(", "[", "{"):
                number += 1
                stack.append(number)
                brackets.append(token.text)
            elif token.text in (")", "]", "}"):
                stack.pop()
                brackets.pop()
            previous = token


def _classify(token: Token, previous: Token | None, following: Token | None, *, first: bool, line: Line) -> None:
    """Mark signs, decorators, and products that their author wrote without blanks."""
    loose = first or token.gap > 0
    if token.text == "-":
        if previous is not None and previous.text in _STATEMENT_WORDS:
            token.binds = loose and following is not None and following.gap == 0
        else:
            token.binds = previous is None or not (previous.is_operand or previous.text in (")", "]", "}", "?"))
            token.binds = token.binds or (previous is not None and previous.text in _OPERATOR_WORDS)
    elif token.text == "@":
        token.binds = first and not line.continues
    elif token.text in ("*", "**") and previous is not None and previous.text not in ("(", ","):
        token.tight = not loose and following is not None and following.gap == 0


def _apart(before: Token, token: Token, bracket: str) -> bool:
    """Whether a blank stands between two tokens of a line; `bracket` is the innermost that is open."""
    if token.text in _TIGHT_BEFORE or before.text in _TIGHT_BEHIND or before.binds or before.tight or token.tight:
        return False
    if token.text == ":":
        return before.text == ","
    if before.text == ":" and bracket == "[":
        return False
    if token.text in ("(", "["):
        if before.text in _STATEMENT_WORDS:
            return token.gap > 0
        return not (before.is_operand or before.text in (")", "]")) or before.text in _OPERATOR_WORDS
    return True


# ---- writing ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Bracket:
    brace: bool
    column: int  # where lines inside it start
    closing: int  # where it stands when it is closed at the start of a line
    statement: int  # indentation of the statement around it


def _value(line: Line, indent: int) -> tuple[int, int]:
    """Columns, in the input and the result, of what stands behind the first `=` of a line."""
    column = indent - line.tokens[0].space
    for before, token in zip([None, *line.tokens], line.tokens, strict=False):
        column += token.space
        if before is not None and before.text == "=":
            return line.indent + token.column, column
        column += len(token.text)
    return -1, 0


@dataclass(slots=True)
class _Writer:
    done: list[columns.Written] = field(default_factory=list)
    open: list[_Bracket] = field(default_factory=list)
    statement: int = 0  # indentation of the statement that is being written
    last: str = ""  # the last token written
    value: tuple[int, int] = (-1, 0)  # columns in the input and the result of what the statement gives a name to

    def write(self, lines: list[Line]) -> str:
        waiting: list[Line] = []  # comments of their own, which stand where the code after them stands
        for line in lines:
            if not line.tokens:
                waiting.append(line)
                continue
            indent = self.indentation(line)
            closes = line.tokens[0].text in (")", "]", "}")
            self.comments(waiting, self.open[-1].column if closes else indent)
            waiting = []
            blank = line.blank and not closes and not (self.opened and self.done[-1].code)
            self.code(line, indent, blank)
        self.comments(waiting, 0)
        return columns.join(self.done, TOLERATED)

    @property
    def opened(self) -> bool:
        return self.last in ("(", "[", "{")

    def comments(self, waiting: list[Line], indent: int) -> None:
        for line in waiting:
            blank = line.blank and not (self.opened and bool(self.done[-1].code))
            self.done.append(columns.Written("", line.comment, indent, line.comment_column, blank))

    def indentation(self, line: Line) -> int:
        """Where a line starts; when a statement starts with it, that is remembered."""
        if line.tokens[0].text in (")", "]", "}"):
            return self.open[-1].closing
        if self.open and not self.open[-1].brace:
            return self.open[-1].column + (2 if line.tokens[0].text == "=" else 0)
        if line.continues:
            return self.continuation(line)
        self.statement = self.open[-1].column if self.open else 0
        return self.statement

    def continuation(self, line: Line) -> int:
        """Where a line starts that goes on with a statement outside parentheses."""
        first = line.tokens[0].text
        if first == "else" and self.last == "}":
            return self.statement
        if line.indent == self.value[0]:
            return self.value[1]
        return self.statement + (2 if first == "|>" else 4)

    def code(self, line: Line, indent: int, blank: bool) -> None:
        """Write a line, in several if it is too long."""
        tokens, moved = line.tokens, indent - line.indent
        while True:
            size = indent + sum(t.space + len(t.text) for t in tokens) - tokens[0].space
            cut = self.cut(tokens, indent) if size > TOLERATED else 0
            part = tokens[:cut] if cut else tokens
            text = part[0].text + "".join(" " * t.space + t.text for t in part[1:])
            self.follow(part, indent)
            if not line.continues and part[0] is line.tokens[0]:
                self.value = _value(line, indent)
            if not cut:
                column = line.comment_column + moved
                self.done.append(columns.Written(" " * indent + text, line.comment, indent, column, blank))
                return
            self.done.append(columns.Written(" " * indent + text, "", indent, 0, blank))
            tokens, indent, blank = tokens[cut:], self.open[-1].column, False

    def follow(self, tokens: list[Token], indent: int) -> None:
        """Keep account of the brackets of a written line."""
        column = indent - tokens[0].space
        for index, token in enumerate(tokens):
            column += token.space
            if token.text == "{":
                inside = bool(self.open) and not self.open[-1].brace
                base = indent if inside else self.statement
                inner, closing = base + 2, base
                if inside and index + 1 < len(tokens):  # a group in a list: its members stand under the first
                    inner, closing = column + 2, column
                self.open.append(_Bracket(True, inner, closing, self.statement))
                self.statement = base
            elif token.text in ("(", "["):
                hangs = index + 1 == len(tokens)
                inner, closing = (indent + 2, indent) if hangs else (column + 1, column)
                self.open.append(_Bracket(False, inner, closing, self.statement))
            elif token.text in (")", "]", "}"):
                self.statement = self.open.pop().statement
            column += len(token.text)
        self.last = tokens[-1].text

    def cut(self, tokens: list[Token], indent: int) -> int:
        """Where to break a line: behind the last comma before `WIDTH` of those in the fewest brackets; 0 if nowhere."""
        inside = [(bracket.brace, bracket.column) for bracket in self.open]
        column = indent - tokens[0].space
        best, fewest = 0, len(inside) + len(tokens)
        for index, token in enumerate(tokens[:-1]):
            column += token.space
            if token.text in ("(", "[", "{"):
                inside.append((token.text == "{", column + 1))
            elif token.text in (")", "]", "}"):
                inside.pop()
            column += len(token.text)
            if token.text != "," or not inside or inside[-1][0] or (column > WIDTH and best):
                continue
            if len(inside) <= fewest and inside[-1][1] < column:
                best, fewest = index + 1, len(inside)
        return best

"""Columns that an author made: which of them `specc fmt` keeps, and how wide they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(slots=True)
class Token:
    """A token of a line. `gap` and `column` (from the line's first token) are the input's, `space` the result's."""

    text: str
    gap: int
    column: int
    space: int = 0
    binds: bool = False  # a sign or a decorator: belongs to what follows
    tight: bool = False  # `*` or `**` without blanks

    @property
    def is_operand(self) -> bool:
        return self.text[0].isalnum() or self.text[0] in '_"'


@dataclass(slots=True)
class Line:
    """A line of the input that holds code, a comment or both."""

    tokens: list[Token] = field(default_factory=list)
    comment: str = ""
    comment_column: int = 0
    indent: int = 0
    blank: bool = False  # an empty line stands before it
    continues: bool = False  # its first token belongs to the statement of an earlier line
    place: int = -1  # which bracket is innermost at its start


@dataclass(slots=True)
class Written:
    """A line of the result: its code with the indentation, and the comment that is to stand at a column."""

    code: str
    comment: str
    indent: int
    column: int
    blank: bool


# ---- columns of code -------------------------------------------------------------------------------------------------


def align(lines: list[Line]) -> None:
    """Widen the blanks of tokens that stood under each other in lines that follow each other, as far as needed."""
    runs: dict[int, list[Line]] = {}
    for line in lines:
        if not line.tokens:
            continue
        if line.continues and line.place < 0:
            continue
        run = runs.setdefault(line.place, [])
        if line.blank and run:
            _align_run(run)
            run.clear()
        run.append(line)
    for run in runs.values():
        _align_run(run)


def _align_run(run: list[Line]) -> None:
    """Slot by slot from the left: the n-th blank of a line with the n-th of its neighbours, if they part the same."""
    if not any(token.gap > 1 for line in run for token in line.tokens):
        return
    slots = [[i for i, token in enumerate(line.tokens) if token.space] for line in run]
    signs = [[_sign(line, i) for i in indices] for line, indices in zip(run, slots, strict=True)]
    for number in range(max(map(len, slots))):
        group: list[int] = []
        for at in range(len(run) + 1):
            if at < len(run) and group and _together(run, slots, signs, group[-1], at, number):
                group.append(at)
                continue
            _align_group([(run[i], slots[i][number]) for i in group])
            group = [at] if at < len(run) and number < len(slots[at]) else []


def _sign(line: Line, index: int) -> tuple[str, str]:
    """What a blank stands behind, else what it stands before; names and numbers are all the same."""
    before, behind = line.tokens[index - 1], line.tokens[index]
    if not before.is_operand and before.text not in (")", "]"):
        return before.text, ""
    return "", "" if behind.is_operand else behind.text


def _together(
    run: list[Line], slots: list[list[int]], signs: list[list[tuple[str, str]]], one: int, two: int, number: int
) -> bool:
    if number >= len(slots[two]) or signs[one][: number + 1] != signs[two][: number + 1]:
        return False
    return run[one].tokens[slots[one][number]].column == run[two].tokens[slots[two][number]].column


def _align_group(group: list[tuple[Line, int]]) -> None:
    if len(group) < 2 or all(line.tokens[index].gap < 2 for line, index in group):
        return
    ends = [sum(t.space + len(t.text) for t in line.tokens[:index]) for line, index in group]
    for (line, index), end in zip(group, ends, strict=True):
        line.tokens[index].space = max(ends) + 1 - end


# ---- columns of comments ---------------------------------------------------------------------------------------------


def join(written: list[Written], width: int) -> str:
    """The text of the lines. A comment behind code keeps its column, at least two blanks behind the code.

    Comments that stood under each other move together, also those of lines without code of their own.
    """
    follows = [bool(line.code and line.comment) for line in written[:1]]
    for before, line in pairwise(written):
        under = follows[-1] and not line.blank and line.column == before.column and line.column > line.indent
        follows.append(bool(line.comment) and (bool(line.code) or under))
    group: list[Written] = []
    for line, behind in zip(written, follows, strict=True):
        if group and not (behind and not line.blank and line.column == group[-1].column):
            _place(group, width)
            group = []
        if behind:
            group.append(line)
        elif line.comment:
            line.code, line.comment = " " * line.indent + line.comment, ""
    _place(group, width)
    out = []
    for line in written:
        comment = " " * (line.column - len(line.code)) + line.comment if line.comment else ""
        out.append(("\n" if line.blank else "") + (line.code + comment).rstrip() + "\n")
    return "".join(out)


def _place(group: list[Written], width: int) -> None:
    if not group:
        return
    nearest = max(len(line.code) + 2 for line in group if line.code)
    column = max(nearest, *(line.column for line in group))
    if any(column + len(line.comment) > width for line in group):
        column = nearest
    for line in group:
        line.column = column

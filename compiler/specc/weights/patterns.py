"""Patterns of tensor names (LANGUAGE 15): `h.{i}.attn.*`, `layer{s+1}.{i}.conv{k+1}.weight`.

A pattern matches a whole name or nothing. `{i}` stands for a decimal integer without leading zeros, `{s+1}` for the
integer one above s, `*` for any text, at most once. A capture never touches a digit, another capture or `*`, so there
is one way to match at most: matching needs no backtracking, and rendering with what was captured gives the name back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

MAX_CAPTURES = 8
MAX_DIGITS = 9
STAR = "*"

Captures = Mapping[str, int | str]
"""Capture name -> the integer; `STAR` -> the text that `*` stands for."""

_TOKEN = re.compile(r"\{([A-Za-z_]\w*)([+-]\d{1,9})?\}|(\*)|([^{}*]+)")


class PatternError(Exception):
    """Why a text is no pattern (W340)."""


@dataclass(frozen=True)
class Capture:
    """`{name}` or `{name+shift}`: its text is the integer `name + shift`."""

    name: str
    shift: int


@dataclass(frozen=True)
class Pattern:
    """`pieces`: literal texts, captures, and None for `*`."""

    text: str
    pieces: tuple[str | Capture | None, ...]

    @cached_property
    def captures(self) -> frozenset[str]:
        """Names of the captures, with `STAR` if there is a `*`."""
        return frozenset(STAR if p is None else p.name for p in self.pieces if not isinstance(p, str))

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        number = rf"(0|[1-9]\d{{0,{MAX_DIGITS - 1}}})"
        parts = ("(.*)" if p is None else number if isinstance(p, Capture) else re.escape(p) for p in self.pieces)
        return re.compile("".join(parts), re.DOTALL)

    def match(self, name: str) -> dict[str, int | str] | None:
        """What the captures stand for in `name`, or None if it does not match."""
        found = self._regex.fullmatch(name)
        if found is None:
            return None
        captures: dict[str, int | str] = {}
        holes = (p for p in self.pieces if not isinstance(p, str))
        for piece, text in zip(holes, found.groups(), strict=True):
            key, value = (STAR, text) if piece is None else (piece.name, int(text) - piece.shift)
            if captures.setdefault(key, value) != value or (piece is not None and int(text) < piece.shift):
                return None
        return captures

    def unheard(self, names: Iterable[str]) -> str | None:
        """The first segment that is neither an index nor one of these names, or None; `*` may stand for anything."""
        known = {*names, "0"}
        for segment in self.text.split("."):
            if segment not in known and not segment.isdecimal():
                shape = pattern(segment)
                if not any(shape._regex.fullmatch(name) for name in known):
                    return segment
        return None

    def render(self, captures: Captures) -> str:
        """The name that these captures give."""
        return "".join(_text(piece, captures) for piece in self.pieces)


def _text(piece: str | Capture | None, captures: Captures) -> str:
    if isinstance(piece, str):
        return piece
    return str(captures[STAR]) if piece is None else str(int(captures[piece.name]) + piece.shift)


def pattern(text: str) -> Pattern:
    """The pattern a text writes; raises `PatternError`."""
    pieces: list[str | Capture | None] = []
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise PatternError(_bad_brace(text, at))
        name, shift, star, literal = token.groups()
        pieces.append(literal if literal is not None else None if star else Capture(name, int(shift or 0)))
        at = token.end()
    if not pieces:
        raise PatternError("it is empty")
    if sum(p is None for p in pieces) > 1:
        raise PatternError("`*` stands in it more than once")
    holes = sum(isinstance(p, Capture) for p in pieces)
    if holes > MAX_CAPTURES:
        raise PatternError(f"it has {holes} captures (limit {MAX_CAPTURES})")
    for left, right in pairwise(pieces):
        _check_neighbours(left, right)
    return Pattern(text, tuple(pieces))


def any_match(patterns: Iterable[Pattern], name: str) -> bool:
    return any(p.match(name) is not None for p in patterns)


def _check_neighbours(left: str | Capture | None, right: str | Capture | None) -> None:
    for piece, other, edge in ((left, right, 0), (right, left, -1)):
        if not isinstance(piece, Capture):
            continue
        if not isinstance(other, str):
            neighbour = "`*`" if other is None else f"{{{other.name}}}"
            raise PatternError(f"{{{piece.name}}} touches {neighbour}: where one ends is not told")
        if other[edge].isdigit():
            raise PatternError(f"{{{piece.name}}} touches the digit {other[edge]}: where the number ends is not told")


def _bad_brace(text: str, at: int) -> str:
    end = text.find("}", at)
    if text[at] == "}" or end < 0:
        return f"`{text[at]}` without its partner"
    return f"`{text[at : end + 1]}` is not `{{name}}` or `{{name+1}}`"

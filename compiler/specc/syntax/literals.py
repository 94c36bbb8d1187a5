"""Literals and ranges as Python and other languages write them: P005, P010, P012, P013, P015, P016."""

from __future__ import annotations

import re
from collections.abc import Callable

from specc.diagnostics import Diagnostic, Edit
from specc.syntax import ast
from specc.syntax.place import Finding, Place

_RANGE = r"(\w+|\))?[ \t]*(\.\.=?)[ \t]*(\w+)?"
_OPEN_FLOAT = r"(?<![\w.])\d[\d_]*\.(?![\d.])(?:[eE][-+]?\d+)?"
LITERALS = {"True": "true", "False": "false", "None": "none"}


def literal(name: ast.Ident) -> Diagnostic:
    """P005 for a `True`, `False` or `None` that was read as a name."""
    instead = LITERALS[name.id]
    return Diagnostic(
        "P005",
        f"write `{instead}`",
        name.span,
        help="true, false and none are lower case",
        edits=(Edit(name.span, instead),),
    )


def _single_quotes(place: Place) -> Finding | None:
    """P010"""
    start = place.at
    if not place.token.startswith("'"):
        # Words like `preset` are only recognised before a string.
        word = re.match(r"(?:preset|moved|strip|add|rename|ignore|fresh)[ \t]+'", place.statement)
        if not word or place.at != place.start:
            return None
        start += word.end() - 1
    match = re.compile(r"'''|'((?:\\.|[^'\\\n])*)'").match(place.source.text, start)
    if not match or match[1] is None:
        return place.finding("P010", "strings are in double quotes", place.here, help='"..."')
    inner = match[1].replace("\\'", "'")
    instead = f'"{inner}"'
    edits = (place.edit(*match.span(), instead),) if '"' not in inner else ()
    return place.finding(
        "P010",
        "strings are in double quotes",
        place.span(*match.span()),
        help=instead if edits else '"..."',
        edits=edits,
    )


def _float(place: Place) -> Finding | None:
    """P013: `.5` and `5.`"""
    text = place.text
    match = re.compile(r"\.(\d[\d_]*(?:[eE][-+]?\d+)?)(?![\w.])").match(text, place.at)
    if match and not re.match(r"[\w)\].]", text[max(place.at - 1, 0)]):
        return place.finding(
            "P013",
            "a float has digits on both sides of the point",
            place.span(*match.span()),
            help=f"0{match.group()}",
            edits=(place.edit(place.at, place.at, "0"),),
        )
    line_start = text.rfind("\n", 0, place.at) + 1
    match = re.compile(_OPEN_FLOAT).search(text, max(line_start, place.before - 24), place.end + 24)
    if match and match.start() <= place.at <= match.end() + 1:
        point = text.index(".", match.start()) + 1
        fixed = text[match.start() : point] + "0" + text[point : match.end()]
        return place.finding(
            "P013",
            "a float has digits on both sides of the point",
            place.span(*match.span()),
            help=fixed,
            edits=(place.edit(point, point, "0"),),
        )
    return None


def _docstring(place: Place) -> Finding | None:
    """P012: a docstring on one line; longer ones end in the layout scan."""
    match = re.compile(r'"""([^"\n]*)"""').match(place.source.text, place.at)
    if not match:
        return None
    return place.finding(
        "P012",
        "documentation stands in `##` lines above a declaration",
        place.span(*match.span()),
        help=f"## {match[1].strip()}",
    )


def _string_prefix(place: Place) -> Finding | None:
    """P015"""
    text = place.text
    at = place.at if text[place.end : place.end + 1] in ('"', "'") else place.before - len(place.previous)
    match = re.compile(r"""([fFrRbBuU]{1,2})("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')""").match(text, max(at, 0))
    if not match or match.end() < place.at:
        return None
    prefix, string = match.groups()
    formatted = "f" in prefix.lower() and "{" in string
    edits = () if formatted or "\\" in string else (place.edit(*match.span(1), ""),)
    return place.finding(
        "P015",
        "there are no f-strings" if "f" in prefix.lower() else "strings have no prefix",
        place.span(*match.span()),
        help=string if edits else "write the text; messages print the values of names by themselves",
        edits=edits,
    )


def _dots(place: Place) -> Finding | None:
    """P016: `0..12`"""
    start, end = max(place.before - 40, place.start), place.end + 40
    near = [
        match
        for match in re.compile(_RANGE).finditer(place.text, start, end)
        if match.start(2) <= place.at <= match.end(2)
    ]
    match = near[0] if near else None
    if not match or place.text[match.start(2) : match.start(2) + 3] == "...":
        return None
    low, dots, high = match.groups()
    edits: tuple[Edit, ...] = ()
    help_text = "range(a, b)"
    if low and low != ")" and high:
        last = high if dots == ".." else str(int(high) + 1) if high.isdigit() else f"{high} + 1"
        help_text = f"range({last})" if low == "0" else f"range({low}, {last})"
        edits = (place.edit(match.start(1), match.end(3), help_text),)
    return place.finding("P016", "ranges are written range(n)", place.span(*match.span(2)), help=help_text, edits=edits)


RECOGNISERS: tuple[Callable[[Place], Finding | None], ...] = (
    _single_quotes,
    _docstring,
    _string_prefix,
    _dots,
    _float,
)

"""Statements that bodies do not have: a value is written, and nothing is done with it."""

from __future__ import annotations

import re
from collections.abc import Callable

from specc.syntax.place import Finding, Place


def _nothing_returned(place: Place) -> Finding | None:
    if place.statement.startswith("return") and place.previous == "return" and place.token in ("\n", ";", "}"):
        return place.finding(
            "P000",
            "`return` needs a value",
            place.span(place.start, place.before),
            note="every entry has a declared result",
        )
    return None


def _statement_of_an_expression(place: Place) -> Finding | None:
    """P000: statements that do nothing, or change a value in place."""
    if place.kind != "body" or not re.match(r"[A-Za-z_][\w.]*[ \t]*[\[(.]", place.statement) or place.before == 0:
        return None
    if place.token in ("[", ".") and re.match(r"[\w.\[\]:, \-+*/]*[ \t]*[-+*/]?=(?!=)", place.statement):
        return place.finding(
            "P000",
            "values are not changed in place",
            place.here,
            help="bind a new value: x = where(cond, a, x), concat([..], axis = 0)",
        )
    if place.token == "|>" and re.match(r"[A-Za-z_][\w.]*[ \t]*\|>", place.statement):
        return place.finding(
            "P000",
            "this value is not used",
            place.span(place.start, place.at),
            help=f"return {place.line_text(place.start)}",
            note="a body has no effects; every statement binds a name",
        )
    if place.token in ("(", "[", ".") and re.match(r"[A-Za-z_]\w*\Z", place.statement[: place.before - place.start]):
        if place.statement.startswith("print"):
            return place.finding(
                "P000", "a body computes values; there is no `print`", place.span(place.start, place.before)
            )
        return place.finding(
            "P000",
            "this value is not used",
            place.span(place.start, place.end - 1),
            help=f"x = {place.line_text(place.start)},  or return it",
            note="a body has no effects; every statement binds a name",
        )
    return None


def _several_values(place: Place) -> Finding | None:
    """P000: a tuple without parentheses on the right of `=`."""
    if (
        place.kind != "body"
        or place.token != ","
        or not re.match(r"\w+(?:, *\w+)* *= *", place.statement)
        or place.innermost in ("(", "[")
    ):
        return None
    return place.finding(
        "P000",
        "one value stands on the right of `=`",
        place.here,
        help="one statement for each name",
        note="only `return` lists values",
    )


RECOGNISERS: tuple[Callable[[Place], Finding | None], ...] = (
    _nothing_returned,
    _statement_of_an_expression,
    _several_values,
)

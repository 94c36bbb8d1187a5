"""Malformed input to messages: Python habits and slips are recognised by the line they are on, never by parser state."""

from __future__ import annotations

from dataclasses import dataclass

from specc.diagnostics import Collector, Diagnostic
from specc.source import Source, Span


@dataclass(frozen=True)
class Place:
    """A token that does not fit, and what surrounds it."""

    source: Source
    text: str  # of the same length as the source's, comments and insignificant newlines blanked
    at: int  # the token
    end: int
    before: int  # where the token before it ends
    start: int  # where the statement starts
    within: frozenset[str]  # kinds of statement that may stand here
    symbol: str  # what was read last
    legal: frozenset[str]  # terminals that would fit; never printed

    @property
    def token(self) -> str:
        return self.text[self.at : self.end]


def report(place: Place, collector: Collector) -> int | None:
    """Report one error. The offset up to which the text belongs to the same mistake, None: the statement."""
    span = Span(place.source, place.at, place.end)
    collector.add(Diagnostic("P000", f"unexpected `{place.token}`" if place.token.strip() else "unexpected end", span))
    return None

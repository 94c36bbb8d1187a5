"""Steps that repeat each other but for the numbers in names (`h.11`, `h.10`, ..), shown once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_NUMBER = re.compile(r"(?<=\.)\d+\b")
Row = tuple[str, ...]


def folded(rows: Sequence[Row]) -> Iterator[tuple[list[Row], int]]:
    """(rows, how often they follow each other); of repeated ones the first, with what its numbers run through."""
    keys = [tuple(_NUMBER.sub("*", cell) for cell in row) for row in rows]
    at = 0
    while at < len(rows):
        period, times = _cycle(keys, at)
        first, last = rows[at : at + period], rows[at + period * (times - 1) : at + period * times]
        yield [tuple(map(_range, one, other)) for one, other in zip(first, last, strict=True)], times
        at += period * times


def _cycle(keys: Sequence[Row], at: int) -> tuple[int, int]:
    """(how many rows, how often): what covers most, of such the shortest; one row once if nothing repeats."""
    best = 1, 1
    for period in range(1, (len(keys) - at) // 2 + 1):
        times = 1
        while keys[at : at + period] == keys[at + period * times : at + period * (times + 1)]:
            times += 1
        if times > 1 and period * times > best[0] * best[1]:
            best = period, times
    return best


def _range(first: str, last: str) -> str:
    """`h.11` and `h.0` as `h.{11..0}`."""
    ends = iter(_NUMBER.findall(last))

    def both(found: re.Match[str]) -> str:
        end = next(ends)
        return found[0] if end == found[0] else f"{{{found[0]}..{end}}}"

    return _NUMBER.sub(both, first)

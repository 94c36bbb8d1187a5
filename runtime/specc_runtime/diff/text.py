"""A difference for people: one line per change, then what becomes of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import click

from specc.inspect.numbers import grouped
from specc_runtime.diff.changes import MOVED, Change, Difference, Fate

WIDEST = 72
_COLORS = {"+": "green", "-": "red", "~": "yellow"}


def lines(found: Difference) -> Iterator[str]:
    """The text, styled; what shows it strips the styles where there is no terminal."""
    yield click.style(f"{found.before} -> {found.after}", bold=True)
    for section in found.sections:
        if section.changes:
            yield ""
            yield section.title
            grouping = grouped if section.title == "cost" else str
            yield from _table(section.changes, grouping)
    reasons = dict.fromkeys(section.unknown for section in found.sections if section.unknown)
    if reasons:
        yield ""
    for why in reasons:
        missing = [section.title for section in found.sections if section.unknown == why]
        yield f"not compared: {', '.join(missing)} ({why})"
    yield ""
    yield from _fate(found.checkpoint, found)
    yield ""
    counts = {sign: sum(c.action == sign for s in found.sections for c in s.changes) for sign in _COLORS}
    told = f"{counts['+']} added, {counts['~']} changed, {counts['-']} removed"
    yield "no differences" if found.equal else told


def _table(changes: Iterable[Change], written: Callable[[str], str] = str) -> Iterator[str]:
    """`written`: how sides are."""
    rows = list(changes)
    width = min(56, max((len(row.name) for row in rows), default=0))
    for row in rows:
        sides = " -> ".join(_short(written(side)) for side in (row.before, row.after) if side)
        if row.action == "~" and not row.before:
            sides = row.after
        if row.percent:
            sides += f"  ({row.percent})"
        times = f"   ({row.count} of these)" if row.count > 1 and "{" not in row.name else ""
        yield "  " + click.style(row.action, fg=_COLORS[row.action]) + f" {row.name:<{width}}  {sides}{times}".rstrip()


def _short(text: str) -> str:
    """A list of a hundred layers is told by its beginning."""
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 2]}.."


def _fate(fate: Fate, found: Difference) -> Iterator[str]:
    """`a checkpoint of A in B`."""
    head = f"a checkpoint of {found.before} in {found.after}: "
    if fate.fits and not fate.changes:
        yield head + click.style("loads as it is", fg="green")
        return
    renamed = sum(c.count for c in fate.changes if c.after.startswith(MOVED))
    reshaped = sum(c.count for c in fate.changes if c.action == "~") - renamed
    absent, left = (sum(c.count for c in fate.changes if c.action == sign) for sign in "+-")
    told = [
        ("1 tensor loads" if fate.loads == 1 else f"{fate.loads} tensors load")
        + (f" ({renamed} by `moved` lines)" if renamed else "")
    ]
    told += [f"{n} {what}" for n, what in (
        (reshaped, "of another shape"), (absent, "missing in it"), (left, "left over"),
    ) if n]  # fmt: skip
    yield head + click.style("loads" if fate.fits else "does not load", fg="green" if fate.fits else "red")
    yield "  " + ", ".join(told)
    yield from _table([change for change in fate.changes if change.after.startswith(MOVED)])
    for one in fate.renames:
        count = "1 tensor more" if one.tensors == 1 else f"{one.tensors} tensors more"
        yield f"  renamed? with  {one.line}  in {one.block}, {count} would load"

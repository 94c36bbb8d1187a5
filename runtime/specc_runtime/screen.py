"""Tables for people, drawn by rich: with colours on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

UNFOLDED = 10_000
"""Columns of a line that is not for a terminal."""


def columns() -> int | None:
    """The width of the terminal that stdout is; None where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def rendered(*parts: RenderableType, width: int | None, fold: bool = True) -> str:
    """Text of tables and lines: plain and unfolded, or coloured for a terminal that is `width` columns wide.

    `fold`: cells are folded to fit it; else that is left to the terminal.
    """
    from rich.console import Console

    stream = StringIO()
    terminal = width is not None
    console = Console(
        file=stream, force_terminal=terminal, width=(width if fold else None) or UNFOLDED, highlight=False
    )
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().split("\n"))


def grid(
    head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[str] = (), *, show_header: bool = True
) -> Table:
    """Columns under their names; those of `numbers` to the right."""
    from rich.table import Table
    from rich.text import Text

    right = set(numbers)
    table = Table(
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="bold cyan",
        show_header=show_header,
    )
    for name in head:
        table.add_column(Text(name), justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table

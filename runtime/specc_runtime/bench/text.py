"""Results as tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from specc_runtime.bench.profile import LineTime
from specc_runtime.bench.request import Case
from specc_runtime.bench.results import Row
from specc_runtime.units import size

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = 15
"""Lines of a profile."""


def results(rows: Sequence[Row], compared: bool) -> Iterator[Table]:
    """A table for each choice of sizes and threads, the backends below each other."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((sizes_of(row.measured.case), row.measured.case.threads), []).append(row)
    for (sizes, threads), members in groups.items():
        yield _group(f"{sizes}, {threads} thread{'s' if threads > 1 else ''}", members, compared)


def sizes_of(case: Case) -> str:
    """`forward B=1,T=128`."""
    return f"{case.entry} {','.join(f'{name}={n}' for name, n in case.sizes.items())}".rstrip()


def _group(title: str, rows: Iterable[Row], compared: bool) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold")
    table.add_column("backend", no_wrap=True)
    for name in ("median", "spread", "rate", "loading", "memory", *(["against"] if compared else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        backend = row.measured.case.backend + (" quantized" if row.measured.case.quantized else "")
        if row.measured.failed:
            table.add_row(backend, "-", "-", "-", "-", "-", *(["-"] if compared else []))
            continue
        spread = f"{(row.high - row.low) / row.median:.0%}"
        rate = f"{row.rate:,.0f}" if row.rate >= 100 else f"{row.rate:.3g}"
        cells = [
            seconds(row.median),
            spread,
            f"{rate} {row.unit}/s",
            seconds(row.measured.loading),
            size(row.measured.peak),
        ]
        table.add_row(backend, *cells, *([_against(row)] if compared else []))
    return table


def _against(row: Row) -> str:
    """The ratio to the earlier median; a difference that the quartiles cover is none."""
    if row.ratio is None or row.earlier is None:
        return "new"
    if row.low <= row.earlier <= row.high:
        return f"{row.ratio:.2f} x  same"
    color, word = ("red", "slower") if row.ratio > 1 else ("green", "faster")
    return f"[{color}]{row.ratio:.2f} x  {word}[/]"


def lines(found: Iterable[LineTime], specs: Mapping[str, Path]) -> Table:
    """The slowest lines of a spec, with their text; `specs`: where the files are that lines name."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("time", "share", "nodes"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("operators", max_width=30)
    table.add_column("line")
    every = list(found)
    total = sum(one.seconds for one in every) or 1.0
    for one in every[:SHOWN]:
        where = one.line or "(added for sizes and layouts)"
        text = f"{where}  {_source(one.line, specs)}".rstrip()
        share = f"{one.seconds / total:.1%}"
        table.add_row(seconds(one.seconds), share, str(one.nodes), ", ".join(one.operators), escape(text))
    rest = every[SHOWN:]
    if rest:
        left = sum(one.seconds for one in rest)
        table.add_row(
            seconds(left), f"{left / total:.1%}", str(sum(o.nodes for o in rest)), "", f"{len(rest)} more lines"
        )
    return table


def _source(line: str, specs: Mapping[str, Path]) -> str:
    """The text of `gpt2.spec:52`."""
    name, _, number = line.partition(":")
    number = number.partition(":")[0]
    if name not in specs or not number.isdigit():
        return ""
    text = specs[name].read_text("utf-8").splitlines()
    return text[int(number) - 1].strip() if 0 < int(number) <= len(text) else ""


def seconds(value: float) -> str:
    """Three digits: 1.23 ms."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"

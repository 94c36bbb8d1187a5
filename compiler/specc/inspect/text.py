"""A report as a table for people. Formulas are exact; numbers in units (MB, GFLOPs) are rounded to four digits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from specc.inspect.caches import Cache
from specc.inspect.columns import COLUMNS, default_columns, title
from specc.inspect.formulas import ZERO
from specc.inspect.numbers import MIN_FORMULA, aligned, byte_text, folded, formula, rounded
from specc.inspect.tree import Block

if TYPE_CHECKING:
    from specc.inspect.reports import Report


def table(report: Report, width: int | None = None, columns: Sequence[str] = ()) -> str:
    """The tree, one line a block. `width`: columns of the screen; formulas fold to fit, None folds nothing.

    `columns`: names of `COLUMNS`, by default as many as tell the most in 100 columns.
    """
    chosen = tuple(columns) or default_columns(report)
    rows, left = _grid(report, chosen)
    while not columns and width is not None and report.at is not None and len(chosen) > LEAST:
        if _wide(rows) <= width:
            break
        chosen = chosen[:-1] if _wide(rows, 1) > width or "result" not in chosen else chosen[1:]
        rows, left = _grid(report, chosen)
    lines = [_title(report), "", *aligned(rows, left, width), "", *_totals(report, width)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


LEAST = 2
"""Columns that a narrow screen has, too."""


def _grid(report: Report, chosen: Sequence[str]) -> tuple[list[tuple[str, ...]], tuple[bool, ...]]:
    """The cells, and which columns are to the left."""
    rows = [("block", *(COLUMNS[name].heading for name in chosen))]
    rows += _rows(report, report.root, 0, chosen)
    if report.unused:
        rows.append(("not in this entry:", *("" for _ in chosen)))
        rows += [row for b in report.unused for row in _rows(report, b, 1, chosen)]
    return rows, (True, *(COLUMNS[name].left or (report.at is None and COLUMNS[name].formula) for name in chosen))


def _wide(rows: Sequence[Sequence[str]], without: int | None = None) -> int:
    """Columns of the screen that the cells take, those of one column left out."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0])) if i != without]
    return sum(widths) + 2 * (len(widths) - 1)


def _rows(report: Report, block: Block, depth: int, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    path = f"{block.path}  " if block.path else ""
    yield "  " * depth + path + title(block), *(COLUMNS[name].cell(report, block) for name in columns)
    for child in block.children:
        yield from _rows(report, child, depth + 1, columns)


def _title(report: Report) -> str:
    preset = f' preset "{report.preset}"' if report.preset else ""
    inputs = ", ".join(f"{name}: {type_}" for name, type_ in report.inputs)
    facts = f"   {', '.join(report.facts)}" if report.facts else ""
    return f"{report.model}{preset}  {report.entry}({inputs}){facts}"


def _totals(report: Report, width: int | None) -> Iterator[str]:
    """The whole entry: formulas, and numbers below them."""
    spent = report.spent
    yield f"parameters  {report.parameters:,}"
    if report.unchosen:
        yield f"active      {report.parameters - report.unchosen:,}  that one token passes through"
    packed = {**report.weights.dtypes, **report.weights.schemes}
    by_size: dict[int, list[str]] = {}
    for name, size in packed.items():
        by_size.setdefault(size, []).append(name)
    yield "weights     " + ", ".join(f"{byte_text(size)} in {' or '.join(names)}" for size, names in by_size.items())
    lines: list[tuple[str, str, str]] = []
    for name, what, unit in (
        ("FLOPs", spent.flops, ""),
        ("training", spent.training, "FLOPs, forward and gradients"),
        ("activation", spent.saved, f"bytes kept for the gradients, in {report.dtype}"),
    ):
        lines.append((name, formula(what), unit))
        number = report.number(what)
        if number is not None:
            shown = f"{number:,}" if name == "FLOPs" else (rounded(number) if name == "training" else byte_text(number))
            lines.append(("", shown, ""))
    first, *others = [formula(candidate) for candidate in spent.peak] or ["0"]
    lines.append(("live", first, f"bytes of activations at most in inference, in {report.dtype}"))
    lines += [("", other, "or this, whichever is more") for other in others[: MAX_PEAKS - 1]]
    if len(others) >= MAX_PEAKS:
        lines.append(("", f"or one of {len(others) - MAX_PEAKS + 1} more", ""))
    peak = report.largest(spent.peak)
    if peak is not None:
        lines.append(("", byte_text(peak), ""))
    if report.cache is not None:
        lines += _cache(report, report.cache)
    intensity = report.intensity(spent)
    if intensity is not None:
        lines.append(("intensity", f"{intensity:,.1f} FLOPs", "for each byte that operators read and write"))
    for name, text, unit in lines:
        room = None if width is None else max(MIN_FORMULA, width - 12)
        first, *rest = folded(f"{text}  {unit}" if unit and len(text) < MIN_FORMULA * 2 else text, room)
        yield f"{name:<11} {first}"
        yield from (" " * 12 + part for part in rest)
        if unit and len(text) >= MIN_FORMULA * 2:
            yield " " * 12 + unit
    if report.at is not None and report.at:
        yield f"{'at':<11} {', '.join(f'{name} = {value}' for name, value in report.at.items())}"
    ties = [f"{left} = {right}" for left, right in report.ties]
    for i, tie in enumerate(ties[:MAX_TIES]):
        more = f"   and {len(ties) - MAX_TIES} more" if i == MAX_TIES - 1 and len(ties) > MAX_TIES else ""
        yield f"{'tied' if i == 0 else '':<11} {tie}{more}"


def _cache(report: Report, cache: Cache) -> Iterator[tuple[str, str, str]]:
    """What decoding keeps."""
    entry = "" if cache.entry == report.entry else f" of {cache.entry}"
    if cache.token is not None and cache.token != ZERO:
        yield "cache", formula(cache.token), f"bytes for each position{entry}, in {report.dtype}"
    if cache.constant is not None and cache.constant != ZERO:
        yield "" if cache.token else "cache", formula(cache.constant), f"bytes that do not grow{entry}"
    if report.at is not None and cache.bytes is not None and set(cache.bytes.symbols) <= report.at.keys():
        yield "", byte_text(cache.bytes.evaluate(report.at)), "after these positions"


MAX_TIES, MAX_PEAKS = 6, 3

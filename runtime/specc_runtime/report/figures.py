"""What a model is and costs, as rows of tables: the tree of blocks, totals, inputs, hyper-parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from specc.api import written
from specc.inspect.columns import COLUMNS, title
from specc.inspect.formats import walk
from specc.inspect.numbers import byte_text, formula, rounded

if TYPE_CHECKING:
    from specc.inspect import Block, Report
    from specc.ir.graph import Model
    from specc_runtime.report.source import Lines

SHOWN = ("result", "params", "flops", "training", "activation", "moved")
"""Columns of the table of costs, by the names of `specc inspect --columns`."""


@dataclass(frozen=True)
class Row:
    """A block. `share`: of all FLOPs, that of all equal blocks together; `below`: it has rows of its own below it."""

    depth: int
    path: str
    title: str
    cells: tuple[str, ...]
    share: float
    lines: Lines | None
    below: bool


@dataclass(frozen=True)
class Fact:
    """A line of a list. `formula`: in letters of the entry's dims, beside the number."""

    name: str
    value: str
    formula: str = ""


def rows(report: Report, places: Sequence[Lines | None]) -> list[Row]:
    """The tree with its figures; `places` has one for each row."""
    total = report.number(report.root.flops)
    found = []
    counts: list[int] = []
    for (_, depth, block), lines in zip(walk(report.root), places, strict=True):
        del counts[depth:]
        counts.append((counts[-1] if counts else 1) * block.count)
        flops = report.number(block.flops)
        share = flops * counts[-1] / total if flops is not None and total else 0.0
        cells = tuple(COLUMNS[name].cell(report, block) for name in SHOWN)
        found.append(Row(depth, block.path, title(block), cells, share, lines, bool(block.children)))
    return found


def unused(report: Report) -> list[tuple[str, str, str]]:
    """Parts that the entry does not reach: path, block, parameters."""

    def row(block: Block) -> tuple[str, str, str]:
        return block.path, title(block), COLUMNS["params"].cell(report, block)

    return [row(block) for block in report.unused]


def headings() -> list[str]:
    return [COLUMNS[name].heading for name in SHOWN]


def totals(report: Report) -> Iterator[Fact]:
    """Of the whole entry."""
    spent = report.spent
    yield Fact("parameters", f"{report.parameters:,}")
    sizes = {**report.weights.dtypes, **report.weights.schemes}
    yield Fact("weights", ", ".join(f"{byte_text(size)} in {name}" for name, size in sizes.items()))
    for name, what, number in (
        ("FLOPs, forward", spent.flops, rounded),
        ("FLOPs, training step", spent.training, rounded),
        (f"kept for gradients, {report.dtype}", spent.saved, byte_text),
        (f"read and written, {report.dtype}", spent.moved, byte_text),
    ):
        value = report.number(what)
        yield Fact(name, "" if value is None else number(value), formula(what))
    peak = report.largest(spent.peak)
    if peak is not None:
        yield Fact(f"alive at most in inference, {report.dtype}", byte_text(peak))
    intensity = report.intensity(spent)
    if intensity is not None:
        yield Fact("FLOPs for each byte moved", f"{intensity:,.1f}")
    cache = report.cache
    if cache is not None and cache.token is not None and str(cache.token) != "0":
        yield Fact(f"cache for each position, {report.dtype}", "", f"{formula(cache.token)} bytes")
    for left, right in report.ties:
        yield Fact("tied", f"{left} = {right}")


def hypers(model: Model) -> list[Fact]:
    """Hyper-parameters with their values."""
    return [Fact(h.name, str(written(h.value))) for h in model.module.hypers if not h.is_let]


def inputs(report: Report) -> list[Fact]:
    return [Fact(name, str(type_)) for name, type_ in report.inputs]

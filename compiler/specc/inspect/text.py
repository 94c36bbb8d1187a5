"""A report as a table for people. Formulas are exact; numbers in units (MB, GFLOPs) are rounded to four digits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from specc.dims import Dim
from specc.dims.monomials import Factor, Monomial
from specc.inspect.tree import Block, Flops
from specc.types import DType, TensorType, show_axes

if TYPE_CHECKING:
    from specc.inspect.reports import Report

UNITS = (("P", 10**15), ("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3))
MIN_FORMULA = 24  # columns below which a formula is not folded further


def table(report: Report, width: int | None = None) -> str:
    """The tree, one line a block. `width`: columns of the screen; formulas fold to fit, None folds nothing."""
    rows = [_HEAD if report.at is None else _HEAD_AT]
    rows += _rows(report, report.root, 0)
    if report.unused:
        rows += [_Row("not in this entry:"), *(row for b in report.unused for row in _rows(report, b, 1))]
    lines = [_title(report), "", *_aligned(rows, width), "", *_totals(report)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


@dataclass(frozen=True)
class _Row:
    block: str
    result: str = ""
    parameters: str = ""
    number: str = ""
    formula: str = ""


_HEAD = _Row("block", "result", "parameters", "", "FLOPs")
_HEAD_AT = _Row("block", "result", "parameters", "FLOPs", "formula")


def _rows(report: Report, block: Block, depth: int) -> Iterator[_Row]:
    times = f"{block.count} x " if block.count > 1 else ""
    name = block.name if block.method in ("forward", "") else f"{block.name}.{block.method}"
    path = f"{block.path}  " if block.path else ""
    at = report.number(block.flops)
    yield _Row(
        "  " * depth + path + times + (name or f"loop of {len(block.children)}"),
        ", ".join(_type(report, name, type_, len(block.results)) for name, type_ in block.results),
        _parameters(block),
        times + rounded(at) if at is not None else "",
        times + formula(block.flops) if block.use != "unused" else "",
    )
    for child in block.children:
        yield from _rows(report, child, depth + 1)


def _parameters(block: Block) -> str:
    if block.use == "again":
        return "(again)"
    if block.use == "inside":
        return "(part)"
    mark = " (tied)" if block.tied else ""
    if not block.parameters:
        return mark.strip() or "0"
    times = f"{block.parts} x " if block.parts > 1 else ""
    return f"{times}{block.parameters:,}{mark}"


def _type(report: Report, name: str | None, type_: TensorType, results: int) -> str:
    dtype = "" if type_.dtype is DType.COMPUTE else type_.dtype.spec_name
    sizes = f"{dtype}[{', '.join(show_axes(type_.shape))}]"
    if report.at is not None and any(size.value is None for size in type_.shape):
        sizes += f" = [{', '.join(str(report.number(size)) for size in type_.shape)}]"
    return f"{name}: {sizes}" if name and results > 1 else sizes


def _title(report: Report) -> str:
    preset = f' preset "{report.preset}"' if report.preset else ""
    inputs = ", ".join(f"{name}: {type_}" for name, type_ in report.inputs)
    facts = f"   {', '.join(report.facts)}" if report.facts else ""
    return f"{report.model}{preset}  {report.entry}({inputs}){facts}"


def _totals(report: Report) -> Iterator[str]:
    yield f"parameters  {report.parameters:,}"
    yield f"weights     {_bytes(report.weight_bytes)} in f32"
    yield f"FLOPs       {formula(report.root.flops)}"
    number = report.number(report.root.flops)
    if report.at is not None and number is not None:
        sizes = ", ".join(f"{name} = {value}" for name, value in report.at.items())
        yield f"            {number:,}" + (f" at {sizes}" if sizes else "")
    ties = [f"{left} = {right}" for left, right in report.ties]
    for i, tie in enumerate(ties[:MAX_TIES]):
        more = f"   and {len(ties) - MAX_TIES} more" if i == MAX_TIES - 1 and len(ties) > MAX_TIES else ""
        yield f"{'tied' if i == 0 else '':<11} {tie}{more}"


MAX_TIES = 6


def _aligned(rows: Sequence[_Row], width: int | None) -> Iterator[str]:
    """Columns as wide as their widest cell, numbers to the right; the last one folds at its plus signs."""
    cells = [(row.block, row.result, row.parameters, row.number, row.formula) for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(4)]
    aligned = []
    for block, result, parameters, number, formula in cells:
        line = f"{block:<{widths[0]}}  {result:<{widths[1]}}  {parameters:>{widths[2]}}  "
        aligned.append((line + (f"{number:>{widths[3]}}  " if widths[3] else ""), formula))
    indent = len(aligned[0][0])
    room = None if width is None else max(MIN_FORMULA, width - indent)
    for line, text in aligned:
        first, *rest = _folded(text, room)
        yield line + first
        yield from (" " * indent + part for part in rest)


def _folded(text: str, room: int | None) -> list[str]:
    if room is None or len(text) <= room:
        return [text]
    lines = [""]
    for part in re.split(r"(?= [+-] )", text):
        if lines[-1] and len(lines[-1]) + len(part) > room:
            lines.append("  " + part.strip())
        else:
            lines[-1] += part
    return lines


def formula(flops: Flops) -> str:
    """The polynomial with what all its terms share in front: `B*T*(3,132*T + 14,172,672)`."""
    if flops is None:
        return "(too long to write)"
    terms = flops.terms()
    if len(terms) < 2:
        return grouped(str(flops))
    shared = dict(terms[0][0])
    for monomial, _ in terms[1:]:
        powers = dict(monomial)
        shared = {factor: min(power, powers[factor]) for factor, power in shared.items() if factor in powers}
    if not shared:
        return grouped(str(flops))
    front = Dim.build([(tuple((f, shared[f]) for f, _ in terms[0][0] if f in shared), 1)])
    rest = Dim.build((_without(monomial, shared), coefficient) for monomial, coefficient in terms)
    return grouped(f"{front}*({rest})")


def _without(monomial: Monomial, shared: Mapping[Factor, int]) -> Monomial:
    left = ((factor, power - shared.get(factor, 0)) for factor, power in monomial)
    return tuple((factor, power) for factor, power in left if power)


def grouped(text: str) -> str:
    """Long numbers of a formula with commas."""
    return re.sub(r"(?<!\w)\d{4,}", lambda m: f"{int(m.group()):,}", text)


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count:,} bytes"


def rounded(number: int) -> str:
    """Four digits and a unit: 291.6 G."""
    for unit, scale in UNITS:
        if abs(number) >= scale:
            return f"{number / scale:,.4g} {unit}" if number < 10_000 * scale else f"{number // scale:,} {unit}"
    return str(number)

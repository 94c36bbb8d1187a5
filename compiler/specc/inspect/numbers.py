"""Numbers and formulas as people read them, and columns of text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from specc.dims import Dim
from specc.dims.monomials import Factor, Monomial
from specc.inspect.formulas import Formula

UNITS = (("P", 10**15), ("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3))
MIN_FORMULA = 24  # columns below which a formula is not folded further


def aligned(rows: Sequence[Sequence[str]], left: Sequence[bool], width: int | None = None) -> Iterator[str]:
    """Columns as wide as their widest cell, numbers to the right; the last one folds at its plus signs if it is to the
    left and wider than the screen has room.
    """
    last = len(left) - 1
    widths = [max(len(row[i]) for row in rows) for i in range(last + 1)]
    room = None
    if left[last]:
        before = sum(widths[:last]) + 2 * last
        room = None if width is None else max(MIN_FORMULA, width - before)
        widths[last] = 0
    for row in rows:
        cells = [f"{c:<{w}}" if to_left else f"{c:>{w}}" for c, w, to_left in zip(row, widths, left, strict=True)]
        indent = "  ".join(cells[:last])
        first, *rest = folded(cells[last], room)
        yield f"{indent}  {first}"
        yield from (" " * (len(indent) + 2) + part for part in rest)


def folded(text: str, room: int | None) -> list[str]:
    if room is None or len(text) <= room:
        return [text]
    lines = [""]
    for part in re.split(r"(?= [+-] )", text):
        if lines[-1] and len(lines[-1]) + len(part) > room:
            lines.append("  " + part.strip())
        else:
            lines[-1] += part
    return lines


def formula(flops: Formula) -> str:
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


def byte_text(count: int) -> str:
    """In powers of ten, as datasheets have them."""
    for unit, scale in (("TB", 10**12), ("GB", 10**9)):
        if count >= scale:
            return f"{count / scale:,.4g} {unit}" if count < 10_000 * scale else f"{count // scale:,} {unit}"
    if count >= 1_000_000:
        return f"{count / 1e6:,.1f} MB"
    return f"{count / 1e3:,.1f} kB" if count >= 100_000 else f"{count:,} bytes"


def rounded(number: int) -> str:
    """Four digits and a unit: 291.6 G."""
    for unit, scale in UNITS:
        if abs(number) >= scale:
            return f"{number / scale:,.4g} {unit}" if number < 10_000 * scale else f"{number // scale:,} {unit}"
    return str(number)

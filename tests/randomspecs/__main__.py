"""`python -m tests.randomspecs --count 10000 --seed N`: the generated models at length."""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
import warnings

import torch

from specc.op import operators
from specc.source import Source
from specc.syntax.format import format_text

from .recipes import RECIPES
from .running import FOUND, Totals, run

CHUNK = 125
"""Specs per run of hypothesis: it keeps what it has drawn, and draws slower the longer it runs."""


def main() -> int:
    """Exit status 1 if a spec failed; it is then in `found/`, shrunk."""
    parser = argparse.ArgumentParser(prog="python -m tests.randomspecs", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="specs to draw (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="other seeds draw other specs (default 0)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    totals, start = Totals(), time.monotonic()
    for number in range(-(-options.count // CHUNK)):
        wanted = min(CHUNK, options.count - number * CHUNK)
        try:
            run(wanted, options.seed * 1_000_003 + number, totals)
        except Exception as error:
            return failed(totals.text, error)
        show(totals, start)
    report(totals)
    return 0


def show(totals: Totals, start: float) -> None:
    seconds = time.monotonic() - start
    rate = (
        f"{totals.count} specs, {sum(totals.ops.values())} operators, {totals.count / max(seconds, 1e-9):.1f} specs/s"
    )
    print(rate, flush=True)


def failed(text: str, error: Exception) -> int:
    """Keep the shrunk spec with what it showed."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    path = FOUND / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.spec"
    path.write_text(format_text(Source(path.name, f"# {reason[:100]}\n{text}")), encoding="utf-8")
    print(f"{type(error).__name__}: {error}\n\n{text}\nwritten to {path}", file=sys.stderr)
    return 1


def report(totals: Totals) -> None:
    print(f"largest difference: {totals.worst:.3g} of the tolerance; {totals.excused} excused by float64")
    for name in sorted(operators(), key=lambda n: (-totals.ops[n], n)):
        print(f"  {totals.ops[name]:7d}  {name}{'' if name in RECIPES else '  (no recipe)'}")


if __name__ == "__main__":
    sys.exit(main())

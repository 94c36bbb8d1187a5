"""docs/BENCHMARKS.md from what `make bench` wrote: REPORT.json NOTES.md OUT.md.

The figures, their goals, whether they are met, the machine and the date all come from the run; NOTES.md says why, where
a goal is missed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.measuring import Cell, tables

_HEAD = """# Benchmarks

Written by `make report` from a run of `make bench{arguments}` on {date}; not edited by hand.

{machine}

Medians of rounds taken in turns, all on the CPU and in one process, with the same weights. What counts are the ratios:
seconds are those of this machine on that day. `specc concat` is `--cache concat`, `specc static` is `--cache static=N
--opset 24`, both with logits of the last position; `specc forward` is the graph without a cache, with all logits.
Peers are installed by `sh benchmarks/peers/setup.sh`; where one is missing or fails, its cell says so.
"""


def report(run: dict[str, Any], notes: str) -> str:
    """The text of the report."""
    info = [benchmark["extra_info"] for benchmark in run["benchmarks"]]
    cells = [Cell(*cell) for extra in info for cell in extra.get("cells", [])]
    goals = [goal for extra in info for goal in extra.get("goals", [])]
    machine = run["machine_info"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    facts = (
        f"{machine['processor']}, {machine['cores']} cores ({', '.join(machine['flags']) or 'no vector flags known'}), "
        f"{machine['memory_gib']} GiB; {machine['system']}, Python {machine['python']}, {packages}."
    )
    head = _HEAD.format(arguments=machine.get("arguments", ""), date=run["datetime"][:10], machine=facts)
    parts = [head]
    parts += [f"## {title}\n\n{text}\n" for title, text in tables(cells).items()]
    if goals:
        parts.append("## Goals\n\n" + _goals(goals) + "\n")
    return "\n".join(parts) + "\n" + notes


def _goals(goals: list[list[Any]]) -> str:
    lines = ["| figure | result | goal | |", "| --- | ---: | ---: | --- |"]
    for what, result, goal, met, unit in goals:
        mark = "" if not goal else "met" if met else "MISSED"
        lines.append(f"| {what.strip()} | {result:.3g} {unit} | {goal} | {mark} |")
    return "\n".join(lines)


if __name__ == "__main__":
    source, notes, out = map(Path, sys.argv[1:])
    out.write_text(report(json.loads(source.read_text()), notes.read_text() if notes.exists() else ""))
    print(f"{out}: {len(out.read_text().splitlines())} lines")

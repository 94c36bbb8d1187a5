"""Timing, and what a benchmark reports."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
ZOO = ROOT / "specs"
GPT2 = ZOO / "gpt2.spec"
SPECC = str(Path(sys.executable).with_name("specc"))

Record = Callable[..., None]


@dataclass(frozen=True)
class Row:
    """A line of the table: a figure, its goal if it has one."""

    what: str
    result: float
    goal: str
    met: bool
    unit: str


@dataclass(frozen=True)
class Cell:
    """A figure in a table, or why there is none."""

    table: str
    row: str
    column: str
    figure: float | str


def tables(cells: Sequence[Cell]) -> dict[str, str]:
    """Each table's text by its title: rows and columns in the order in which they came, `-` where nothing did."""
    found = {}
    for title in dict.fromkeys(cell.table for cell in cells):
        mine = [cell for cell in cells if cell.table == title]
        columns = [*dict.fromkeys(cell.column for cell in mine)]
        figures = {(cell.row, cell.column): shown(cell.figure) for cell in mine}
        lines = [["", *columns]]
        for row in dict.fromkeys(cell.row for cell in mine):
            lines.append([row, *(figures.get((row, column), "-") for column in columns)])
        lines = [[word.replace("|", "/") for word in line] for line in lines]
        widths = [max(len(line[i]) for line in lines) for i in range(len(columns) + 1)]
        lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
        found[title] = "\n".join(
            "| " + " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |"
            for line in lines
        )
    return found


def shown(figure: float | str) -> str:
    if isinstance(figure, str):
        return figure
    return f"{figure:.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


@dataclass(frozen=True)
class Exported:
    """What `torch.onnx.export` made of the same module, in a process of its own, imports included."""

    file: Path
    seconds: float


def run(line: Sequence[object]) -> None:
    """A whole process; its output is of no interest unless it fails."""
    done = subprocess.run([str(word) for word in line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(rounds: int, *works: Callable[[], object]) -> list[float]:
    """The median of each, taken in turns, so that what else the machine does hits all alike; each round begins with
    another one, so that none always follows the same."""
    taken: list[list[float]] = [[] for _ in works]
    for start in range(rounds):
        for i in range(len(works)):
            place = (start + i) % len(works)
            taken[place].append(seconds(works[place]))
    return [median(times) for times in taken]

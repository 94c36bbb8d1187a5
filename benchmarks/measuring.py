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
    """The median of each, taken in turns, so that what else the machine does hits all alike."""
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for times, work in zip(taken, works, strict=True):
            times.append(seconds(work))
    return [median(times) for times in taken]

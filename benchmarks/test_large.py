"""Checkpoints of a gigabyte: a build against `cp` of the same bytes, and the structure of the largest presets."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from benchmarks.measuring import SPECC, ZOO, Record, run, seconds
from synthetic import Llama

GIGABYTE = Llama(dim=1280, layers=10, hidden=3584, shards=2)
LLAMA = ZOO / "llama.spec"


@pytest.mark.parametrize(("dtype", "goal"), [("F32", 1.5), ("BF16", None)], ids=["unchanged", "from bf16"])
def test_build_against_cp(benchmark: Any, record: Record, dtype: str, goal: float | None, tmp_path: Path) -> None:
    """Whole processes, in turns; both are synced. From bf16 as many bytes are written, and half as many read.

    The goal is about bytes, so a build without weights is taken off: starting up and the graph take as long for a
    model of any size, and at a gigabyte longer than the copy.
    """
    checkpoint = replace(GIGABYTE, dtype=dtype).write(tmp_path / "hf")
    same = GIGABYTE.write(tmp_path / "f32") if dtype != "F32" else checkpoint
    floor: list[float] = []
    structure: list[float] = []
    out, copy = tmp_path / "out", tmp_path / "copy"

    def clear() -> None:
        shutil.rmtree(out, ignore_errors=True)
        again = ["sh", "-c", 'cp -r "$1" "$2" && sync -f "$2"', "sh", same, copy]
        floor.append(seconds(lambda: run(again)))
        shutil.rmtree(copy)
        structure.append(seconds(lambda: run([*line, "--no-weights"])))
        shutil.rmtree(out)

    line = [SPECC, "build", LLAMA, "--no-verify", "--no-render", "-o", out, "--weights", checkpoint]
    benchmark.pedantic(lambda: run(line), setup=clear, rounds=5, warmup_rounds=1)
    taken, copied = benchmark.stats.stats.median, median(floor)
    record(f"build of a {GIGABYTE.nbytes() / 1e9:.1f} GB model from {dtype.lower()}", taken, unit="s")
    record("  copy and sync of its bytes", copied, unit="s")
    record("  build without weights", median(structure), unit="s")
    record("  what the weights add / copy", (taken - median(structure)) / copied, unit="x", at_most=goal)


def test_rebuild(benchmark: Any, record: Record, tmp_path: Path) -> None:
    """Over a build of the same size: nobody waits until the old one is deleted."""
    checkpoint = GIGABYTE.write(tmp_path / "hf")
    line = [SPECC, "build", LLAMA, "--weights", checkpoint, "--no-verify", "--no-render", "-o", tmp_path / "out"]

    def settle() -> None:
        run(["sh", "-c", 'while ls -d "$1"/.out.* > /dev/null 2>&1; do sleep 0.1; done', "sh", tmp_path])

    first = seconds(lambda: run(line))
    benchmark.pedantic(lambda: run(line), setup=settle, rounds=3)
    settle()
    record("build over one of the same size", benchmark.stats.stats.median, unit="s")
    record("  / the first", benchmark.stats.stats.median / first, unit="x")


@pytest.mark.parametrize("preset", ["llama-3-70b", "llama-3.1-405b"])
def test_structure(benchmark: Any, record: Record, preset: str, tmp_path: Path) -> None:
    options = ["--preset", preset, "--no-weights", "--no-render", "-o", tmp_path / "out"]
    benchmark.pedantic(lambda: run([SPECC, "build", LLAMA, *options]), rounds=3, warmup_rounds=1)
    record(f"structure of {preset}", benchmark.stats.stats.median, unit="s", at_most=5.0)

"""The 124M GPT-2 against `torch.onnx.export(dynamo=True)` of the same live module: compile, run, load."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from benchmarks.measuring import GPT2, SPECC, Exported, Record, interleaved, run, seconds


def test_compile_a_checkpoint(
    benchmark: Any, record: Record, checkpoint: Path, exported: Exported, tmp_path: Path
) -> None:
    """Whole processes. Before each round the same bytes are copied and synced, which is the floor."""
    floor: list[float] = []
    source = checkpoint / "model.safetensors"
    out, copy = tmp_path / "out", tmp_path / "copy"

    def clear() -> None:
        shutil.rmtree(out, ignore_errors=True)
        copy.unlink(missing_ok=True)
        floor.append(seconds(lambda: run(["sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", source, copy])))
        copy.unlink()

    options = ["--emit", "onnx", "--no-verify", "--no-render", "-o", out]
    line = [SPECC, "build", GPT2, "--weights", checkpoint, *options]
    benchmark.pedantic(lambda: run(line), setup=clear, rounds=3, warmup_rounds=1)
    taken = benchmark.stats.stats.median
    record("compile GPT-2 124M with its checkpoint", taken, unit="s")
    record("  copy and sync of the same bytes", median(floor), unit="s")
    record("  above the copy", taken - median(floor), unit="s", at_most=1.0)
    record("  torch.onnx.export", exported.seconds, unit="s")
    record("  torch.onnx.export / specc", exported.seconds / taken, unit="x", at_least=10.0)


def opened(file: Path) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    # Two sessions live in this process: threads that spin for the next call would slow the other one down.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def logits(session: Any, ids: np.ndarray[Any, Any]) -> Any:
    return session.run(None, {"input_ids": ids})[0]


@pytest.mark.parametrize(("batch", "rounds"), [(1, 15), (8, 5)], ids=["1x128", "8x128"])
def test_latency(benchmark: Any, record: Record, ours: Path, exported: Exported, batch: int, rounds: int) -> None:
    sessions = [opened(ours / "model.onnx"), opened(exported.file)]
    ids = np.random.default_rng(0).integers(0, 50_257, (batch, 128))
    mine, theirs = (partial(logits, session, ids) for session in sessions)
    np.testing.assert_allclose(mine(), theirs(), rtol=0, atol=1e-4)  # the same model, and both are warm
    medians = interleaved(rounds, mine, theirs)
    benchmark.pedantic(mine, rounds=3)
    record(f"onnxruntime latency at {batch}x128", medians[0], unit="s")
    record("  specc / torch.onnx.export", medians[0] / medians[1], unit="x", at_most=1.0)


def test_session_load(benchmark: Any, record: Record, ours: Path, exported: Exported) -> None:
    mine, theirs = (partial(opened, file) for file in (ours / "model.onnx", exported.file))
    interleaved(1, mine, theirs)  # the files are in memory now
    medians = interleaved(5, mine, theirs)
    benchmark.pedantic(mine, rounds=3)
    record("onnxruntime session load", medians[0], unit="s")
    record("  specc / torch.onnx.export", medians[0] / medians[1], unit="x", at_most=1.0)

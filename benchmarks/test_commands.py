"""Start-up: whole processes, from the shell's point of view."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.measuring import GPT2, SPECC, ZOO, Record, run

LLAMA_405B = [str(ZOO / "llama.spec"), "--preset", "llama-3.1-405b"]


@pytest.mark.parametrize(
    ("line", "goal"),
    [
        (["--help"], 0.1),
        (["check", str(GPT2)], 0.3),
        (["check", "--all-presets", str(GPT2)], None),
        (["check", "--all-presets", str(ZOO)], 5.0),
        (["check", *LLAMA_405B], 1.0),
        (["inspect", *LLAMA_405B], 1.0),
    ],
    ids=["help", "check", "check-all-presets", "check-zoo", "check-405b", "inspect-405b"],
)
def test_command(benchmark: Any, record: Record, line: list[str], goal: float | None) -> None:
    benchmark.pedantic(lambda: run([SPECC, *line]), rounds=7, warmup_rounds=1)
    name = " ".join(word.rpartition("/")[2] for word in line)
    record(f"specc {name}", benchmark.stats.stats.median, unit="s", at_most=goal)


def test_graph_of_gpt2(benchmark: Any, record: Record) -> None:
    """From the checked model to the bytes of the graph."""
    import specc

    model = specc.load(GPT2, preset="gpt2")
    benchmark.pedantic(lambda: model.onnx().SerializeToString(deterministic=True), rounds=5, warmup_rounds=1)
    record("graph of GPT-2 124M, in process", benchmark.stats.stats.median, unit="s", at_most=0.3)


def test_source_of_gpt2(benchmark: Any, record: Record) -> None:
    """From the checked model to the text of the torch source."""
    import specc

    model = specc.load(GPT2, preset="gpt2")
    benchmark.pedantic(model.torch_source, rounds=5, warmup_rounds=1)
    record("torch source of GPT-2 124M, in process", benchmark.stats.stats.median, unit="s")

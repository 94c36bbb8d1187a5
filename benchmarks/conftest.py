"""What the benchmarks share: a GPT-2 checkpoint of full size, what is made of it, and the table at the end.

Goals are printed beside results and never fail a run: speed is a matter of the machine. What counts are the ratios
to a peer in the same run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from measuring import GPT2, SPECC, Exported, Record, Row, run, seconds

ROWS = pytest.StashKey[list[Row]]()


@pytest.fixture
def record(benchmark: Any, request: pytest.FixtureRequest) -> Record:
    """Keep a figure with its goal, for the table at the end and in `benchmark.extra_info`.

    `at_most` or `at_least` is the goal; `unit` is s or x.
    """
    rows = request.config.stash.setdefault(ROWS, [])

    def keep(
        what: str, result: float, *, unit: str, at_most: float | None = None, at_least: float | None = None
    ) -> None:
        if at_most is not None:
            goal, met = f"<= {at_most:g} {unit}", result <= at_most
        elif at_least is not None:
            goal, met = f">= {at_least:g} {unit}", result >= at_least
        else:
            goal, met = "", True
        rows.append(Row(what, result, goal, met, unit))
        benchmark.extra_info[what] = {"result": result, "unit": unit, "goal": goal, "met": met}

    return keep


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    terminalreporter.section("goals (medians; s: seconds, x: ratio to the peer in this run)")
    width = max(len(row.what) for row in rows)
    for row in rows:
        mark = "" if not row.goal else "met" if row.met else "MISSED"
        terminalreporter.write_line(
            f"{row.what:<{width}}  {row.result:8.3f} {row.unit}  {row.goal:>10}  {mark}".rstrip()
        )


# ---- GPT-2 of full size ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as Hugging Face writes it: 124M random weights, 475 MB."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("checkpoint") / "gpt2"
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def ours(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our build of the checkpoint without a mask input; it holds the live module that the peer exports, too."""
    folder = tmp_path_factory.mktemp("ours") / "gpt2"
    run(
        [
            SPECC,
            "build",
            GPT2,
            "--weights",
            checkpoint,
            "--without",
            "attention_mask",
            "--no-verify",
            "--no-render",
            "-o",
            folder,
        ]
    )
    return folder


EXPORT = """
import sys
import torch
from specc_runtime import open_build

module = open_build(sys.argv[1]).module()
batch, length = torch.export.Dim("B"), torch.export.Dim("T", max=1024)
ids = torch.zeros(2, 16, dtype=torch.int64)
torch.onnx.export(
    module,
    (ids,),
    sys.argv[2],
    dynamo=True,
    input_names=["input_ids"],
    output_names=["logits"],
    dynamic_shapes=({0: batch, 1: length},),
    opset_version=23,
)
"""


@pytest.fixture(scope="session")
def exported(ours: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    file = tmp_path_factory.mktemp("exported") / "model.onnx"
    return Exported(file, seconds(lambda: run([sys.executable, "-c", EXPORT, ours, file])))

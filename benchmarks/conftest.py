"""What the benchmarks share: a GPT-2 checkpoint of full size, what is made of it, and the table at the end.

Goals are printed beside results and never fail a run: speed is a matter of the machine. What counts are the ratios
to a peer in the same run.
"""

from __future__ import annotations

import compileall
import os
import platform
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.measuring import GPT2, ROOT, SPECC, Cell, Exported, Record, Row, run, seconds, tables

ROWS = pytest.StashKey[list[Row]]()
CELLS = pytest.StashKey[list[Cell]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("specc benchmarks")
    group.addoption("--quick", action="store_true", help="few rounds, and torch.compile of one size only")
    group.addoption("--tiny", action="store_true", help="models of two layers: to try the benchmarks themselves")
    group.addoption("--keep", type=Path, default=None, help="a folder for what peers export, used again")


def pytest_sessionstart(session: pytest.Session) -> None:
    """What a wheel and its installation bring: bytecode and parse tables. The peers are installed; a checkout is not,
    and may be told to keep no bytecode."""
    from specc.syntax import tables

    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for folder in ("compiler", "runtime"):
        compileall.compile_dir(ROOT / folder, quiet=1)
    tables.load()


@pytest.fixture(scope="session")
def quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--quick") or request.config.getoption("--tiny"))


@pytest.fixture
def cell(benchmark: Any, request: pytest.FixtureRequest) -> Any:
    """Put a figure, or why there is none, into a table: `cell(table, row, column, figure)`."""
    cells = request.config.stash.setdefault(CELLS, [])

    def put(table: str, row: str, column: str, figure: float | str) -> None:
        found = Cell(table, row, column, figure)
        cells.append(found)
        benchmark.extra_info.setdefault("cells", []).append([table, row, column, figure])

    return put


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """What a reader of the figures must know, and nothing that names the machine."""
    from importlib.metadata import version

    cpu = machine_info.get("cpu", {})
    machine_info.clear()
    flags = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if flag in cpu.get("flags", [])]
    machine_info |= {
        "processor": cpu.get("brand_raw", platform.machine()),
        "cores": os.cpu_count(),
        "flags": flags,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("torch", "onnxruntime", "onnx", "transformers")},
    }


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
        benchmark.extra_info.setdefault("goals", []).append([what, result, goal, met, unit])

    return keep


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    cells = config.stash.get(CELLS, [])
    for title, text in tables(cells).items():
        terminalreporter.section(title)
        terminalreporter.write_line(text)
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

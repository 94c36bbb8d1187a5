"""The golden matrix: specs x {ir.txt, model.py, onnx.txt}. `make golden` writes it again; read the diff."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import specc

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"

# folder -> spec, preset. Small enough to be read whole; mlp's two show a block with and without dropout.
MATRIX = {
    "linear": ("linear", None),
    "mlp-mnist": ("mlp", "mnist"),
    "mlp-small": ("mlp", "small"),
    "gpt-tiny": ("gpt", "tiny"),
    "gpt2-tiny": ("gpt2", "gpt2-tiny"),
    "mamba-tiny": ("mamba", "mamba-tiny"),
    "transformer-tiny": ("transformer", "tiny"),
}


def model_of(name: str) -> specc.Model:
    spec, preset = MATRIX[name]
    return specc.load(ROOT / "specs" / f"{spec}.spec", preset=preset)


@pytest.mark.parametrize("name", MATRIX)
def test_golden_ir(name: str, golden: Callable[[Path, str], None]) -> None:
    golden(GOLDEN / name / "ir.txt", model_of(name).ir())


@pytest.mark.parametrize("name", MATRIX)
def test_golden_torch(name: str, golden: Callable[[Path, str], None]) -> None:
    golden(GOLDEN / name / "model.py", model_of(name).torch_source())


@pytest.mark.parametrize("name", MATRIX)
def test_golden_onnx(name: str, golden: Callable[[Path, str], None]) -> None:
    from onnx_text import onnx_text

    golden(GOLDEN / name / "onnx.txt", onnx_text(model_of(name).onnx()))


def test_golden_has_nothing_else() -> None:
    """Other folders belong to other tests."""
    assert {path.parent.name for path in GOLDEN.glob("*/ir.txt")} == MATRIX.keys()


def test_sources_are_tidy() -> None:
    """What ruff says about the emitted files, with rules beyond its defaults, at the width they are written for."""
    ruff = [sys.executable, "-m", "ruff"]
    plain = ["--isolated", "--line-length", "100", "--no-cache"]
    files = [str(GOLDEN / name / "model.py") for name in sorted(MATRIX)]
    for command in (["check", "--select", "E,F,W,I,UP,B,C4,PIE,RUF"], ["format", "--check", "--diff"]):
        done = subprocess.run([*ruff, *command, *plain, *files], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", MATRIX)
def test_sources_import_torch_alone(name: str) -> None:
    tree = ast.parse((GOLDEN / name / "model.py").read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add((node.module or "").partition(".")[0])
    assert "torch" in imported
    # The standard library costs no dependency; a source that needs more than torch does not run where it is copied to.
    assert imported <= {"torch", "math", "__future__", "collections"}

"""Operators are counted without flattening a hundred layers: the numbers are those of the graph that is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from specc import driver
from specc.backends.onnx.counting import count_operators
from specc.backends.onnx.export import build
from specc.elaborate.models import Options
from specc.ir.graph import Model
from specc_runtime.foreign.graph import operators

ROOT = Path(__file__).resolve().parents[1]


def checked(file: Path | str, preset: str | None = None) -> Model:
    return driver.open_project(str(file)).check(Options(preset=preset)).model


@pytest.mark.parametrize(
    ("spec", "preset"),
    [
        ("bart", "bart-base"),
        ("gemma2", "gemma-2-2b"),  # every other layer differs
        ("gpt2", "gpt2"),
        ("llama", "llama-3-8b"),
        ("mamba", "mamba-130m"),
        ("mixtral", "mixtral-8x7b"),
        ("swin", "swin-tiny-patch4-window7-224"),
        ("t5", "t5-small"),
        ("unet", "cifar"),
        ("whisper", "whisper-small"),
    ],
)
def test_the_zoo(spec: str, preset: str) -> None:
    model = checked(ROOT / "specs" / f"{spec}.spec", preset)
    for entry in model.entries:
        assert count_operators(model, entry) == operators(build(model, entry=entry).graph), entry


def test_a_loop_in_a_loop_and_values_that_are_read_behind_it(tmp_path: Path) -> None:
    spec = tmp_path / "nested.spec"
    spec.write_text(
        """from std.nn import Linear
dim B, T

block Stage(dim: int, depth: int) {
  layers: [Linear(dim, dim) for i in range(depth)]
  forward(x: Tensor[B, T, dim], s: Tensor[B, T, dim]) -> Tensor[B, T, dim] {
    y = x
    for layer in layers { y = y + relu(layer(y)) * s }
    return softmax(y, -1) + x
  }
}

model Nested(dim: int = 8, stages: int = 7, depth: int = 6) {
  stages: [Stage(dim, depth) for i in range(stages)]
  head: Linear(dim, dim)
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] {
    s = sigmoid(x)
    for stage in stages { x = stage(x, s) }
    return head(x + s)
  }
}
""",
        encoding="utf-8",
    )
    model = checked(spec)
    counts = count_operators(model)
    assert counts == operators(build(model).graph)
    assert counts["Relu"] == 42 and counts["Softmax"] == 7


def test_steps_of_a_scan_count_once(tmp_path: Path) -> None:
    spec = tmp_path / "steps.spec"
    spec.write_text(
        """from std.nn import Linear
dim B, T

model Steps(dim: int = 4, layers: int = 6) {
  cells: [Linear(dim, dim) for i in range(layers)]
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] {
    for cell in cells {
      x, h = scan a in x along T with h = zeros([B, dim]) {
        h = tanh(cell(h) + a)
        emit h
      }
    }
    return x
  }
}
""",
        encoding="utf-8",
    )
    model = checked(spec)
    assert count_operators(model) == operators(build(model).graph)

"""Blocks that are built in several ways have names that say how they differ, in Python as in the picture."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from specc.backends.onnx.functions import view
from specc.backends.torch.export import emit
from specc.driver import load
from specc.ir.graph import Model

SPECS = Path(__file__).resolve().parents[1] / "specs"


def classes(model: Model) -> list[str]:
    return re.findall(r"^class (\w+)\(nn", emit(model), re.MULTILINE)


def spec(tmp_path: Path, text: str) -> Model:
    path = tmp_path / "case.spec"
    path.write_text(text)
    return load(path).model


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bart", {"SelfAttention", "CausalSelfAttention", "BartLayer", "CausalBartLayer", "BartStack"}),
        ("gemma2", {"LlamaAttention", "WindowLlamaAttention", "Gemma2Layer", "WindowGemma2Layer"}),
        ("efficientnet", {"MBConv", "SkipMBConv"}),
        ("resnet", {"Bottleneck", "SameBottleneck"}),
        (
            "t5",
            {
                "T5Attention",
                "HasBiasT5Attention",
                "CausalT5Attention",
                "CausalHasBiasT5Attention",
                "CausalHasBiasT5Block",
            },
        ),
        ("unet", {"ResBlock", "SkipResBlock"}),
    ],
)
def test_names(name: str, expected: set[str]) -> None:
    model = load(SPECS / f"{name}.spec").model
    found = classes(model)
    assert expected <= set(found)
    assert not [c for c in found if c[-1].isdigit() and c[:-1] in found]
    _, blocks = view(model)
    drawn = {key.split(".")[0] for key in blocks}
    assert expected <= drawn


def test_what_tells_variants_apart(tmp_path: Path) -> None:
    """Flags, then parts, then optional arguments, then numbers; a part's variant names what contains it."""
    text = """
from std.nn import Linear
dim B
block Inner(dim: int, bias: bool) {
  fc: Linear(dim, dim, bias)
  forward(x: Tensor[B, dim]) -> Tensor[B, dim] = fc(x)
}
block Outer(dim: int, bias: bool) {
  inner: Inner(dim, bias)
  forward(x: Tensor[B, dim]) -> Tensor[B, dim] = inner(x)
}
block Part(dim: int, times: int) {
  extra: Linear(dim, dim) if times == 2
  forward(x: Tensor[B, dim]) -> Tensor[B, dim] = x if extra == none else extra(x)
}
block Given(dim: int, slope: float) {
  forward(x: Tensor[B, dim], shift: Tensor[B, dim]? = none) -> Tensor[B, dim] {
    if shift != none { x += shift }
    return leaky_relu(x, slope)
  }
}
block Steps(dim: int, steps: int) {
  forward(x: Tensor[B, dim]) -> Tensor[B, dim] {
    for i in range(steps) { x = tanh(x) * (i + 1) }
    return x
  }
}
model M(dim: int = 4) {
  outers: [Outer(dim, bias = b) for b in [true, false]]
  parts: [Part(dim, times = n) for n in [2, 3]]
  givens: [Given(dim, slope = s) for s in [0.25, 0.5]]
  steps: [Steps(dim, steps = n) for n in [2, 3]]
  forward(x: Tensor[B, dim]) -> Tensor[B, dim] {
    x = givens[1](givens[0](parts(outers(x))), x)
    return steps(x)
  }
}
"""
    found = classes(spec(tmp_path, text))
    pairs = {("Inner", "BiasInner"), ("Outer", "BiasOuter"), ("Part", "ExtraPart"), ("Given", "ShiftGiven")}
    assert set(found) == {name for pair in pairs for name in pair} | {"Steps", "Steps3Steps", "M"}

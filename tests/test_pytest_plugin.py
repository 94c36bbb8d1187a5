"""The pytest plugin: sections of specs as tests, and `assert_equivalent` against programs that specc did not make."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from specc_runtime import assert_equivalent
from specc_runtime.foreign_program import Different, built

pytest_plugins = ["pytester"]

SPEC = """\
from std.nn import Linear
dim B, T

block Layer(dim: int, hidden: int) {
  up: Linear(dim, hidden)
  down: Linear(hidden, dim)
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] = x + down(gelu(up(x)))
}

model Net(dim: int = 8, hidden: int = 12, layers: int = 3) {
  h: [Layer(dim, hidden) for i in range(layers)]
  head: Linear(dim, 5)
  forward(x: Tensor[B, T, dim]) -> y: Tensor[B, T, 5] {
    for layer in h { x = layer(x) }
    return head(x)
  }
}

preset "small" = Net(layers = 1)
"""
TESTS = """
test Net "shapes" with B = 2, T = 3 {
  expect shape(y) == [B, T, 5]
  expect count_params() < 1k
}
test Net "wrong" with B = 2, T = 3 {
  expect onnx ~= torch
  expect shape(y) == [B, T, 6]
}
test Net "elsewhere" {
  expect hf("nowhere/nothing") ~= torch
}
"""


class Layer(nn.Module):
    def __init__(self, dim: int = 8, hidden: int = 12, scale: float = 1.0) -> None:
        super().__init__()
        self.up, self.down, self.scale = nn.Linear(dim, hidden), nn.Linear(hidden, dim), scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = x + self.scale * self.down(nn.functional.gelu(self.up(x)))
        return found


class Net(nn.Module):
    """The same by hand; `wrong` scales the second layer's change."""

    def __init__(self, wrong: float = 1.0) -> None:
        super().__init__()
        self.h = nn.ModuleList([Layer(), Layer(scale=wrong), Layer()])
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.h:
            x = layer(x)
        found: torch.Tensor = self.head(x)
        return found


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.spec"
    path.write_text(SPEC, "utf-8")
    return path


# ---- collecting ------------------------------------------------------------------------------------------------------


def test_sections_are_tests(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("net.spec").write_text(SPEC + TESTS, "utf-8")
    pytester.path.joinpath("app.spec").write_text("a = Analysis(['app.py'])  # PyInstaller's\n", "utf-8")
    result = pytester.runpytest_subprocess("-v")
    result.assert_outcomes(passed=1, failed=1, skipped=1)
    text = result.stdout.str()
    assert "net.spec::Net[shapes] PASSED" in text
    assert "  ok       onnx ~= torch" in text and "  FAILED   shape(y) == [B, T, 6]" in text
    assert "error[T520]: `shape(y) == [B, T, 6]` does not hold" in text and "net.spec:27:3" in text
    assert "= left: [2, 3, 5]" in text and "Traceback" not in text


def test_contracts_tell_the_sizes_that_they_are_about(pytester: pytest.Pytester) -> None:
    broken = """
test Net "contracts" with B = 2, T = 3 {
  expect flops(B = 1, T = 1024) < 3
  expect nodes(onnx) <= 1
  expect nodes(torch) <= 1
}
"""
    pytester.path.joinpath("net.spec").write_text(SPEC + broken, "utf-8")
    text = pytester.runpytest_subprocess().stdout.str()
    flops, nodes, other = (part.partition("error[")[0] for part in text.split("error[")[1:4])
    assert "= B = 1\n" in flops and "= T = 1024\n" in flops and "B = 2" not in flops
    assert "= B" not in nodes and "= right: 1" in nodes
    assert "nodes takes `onnx`" in other


def test_a_file_that_is_named_is_read(pytester: pytest.Pytester) -> None:
    """Without a section that looks like one there is nothing to collect, unless it was meant."""
    pytester.path.joinpath("odd.spec").write_bytes(b"caf\xe9")
    pytester.path.joinpath("test_own.py").write_text("def test_a(): pass\n", "utf-8")
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
    result = pytester.runpytest_subprocess("odd.spec")
    result.assert_outcomes(errors=1)
    assert "is not UTF-8 text" in result.stdout.str()


def test_selection(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("net.spec").write_text(SPEC + TESTS, "utf-8")
    pytester.path.joinpath("test_own.py").write_text("def test_shapes(): pass\n", "utf-8")
    pytester.runpytest_subprocess("--collect-only", "-k", "shapes").assert_outcomes(deselected=2)
    pytester.runpytest_subprocess("-m", "specc", "-k", "Net and shapes").assert_outcomes(passed=1, deselected=3)
    pytester.runpytest_subprocess("-m", "not specc").assert_outcomes(passed=1, deselected=3)


def test_a_spec_that_is_wrong(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("net.spec").write_text(SPEC.replace("gelu(", "gleu(") + TESTS, "utf-8")
    result = pytester.runpytest_subprocess("-k", "shapes")
    result.assert_outcomes(failed=1, deselected=2)
    assert "did you mean `gelu`?" in result.stdout.str()
    pytester.path.joinpath("net.spec").write_text(SPEC + TESTS + "}", "utf-8")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    assert "error[P0" in result.stdout.str() and "Traceback" not in result.stdout.str()


def test_the_plugin_costs_nothing_without_specs(tmp_path: Path) -> None:
    program = (
        "import sys, pytest; pytest.main(['-q', '.']);"
        "print(sorted(m for m in ('specc', 'torch', 'onnx', 'numpy', 'lark', 'click') if m in sys.modules))"
    )
    tmp_path.joinpath("test_a.py").write_text("def test_a(): pass\n", "utf-8")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert "1 passed" in done.stdout and done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_fixtures(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("net.spec").write_text(SPEC, "utf-8")
    pytester.makepyfile(
        """
        import torch

        def test_build(spec_model, assert_equivalent):
            build = spec_model("net.spec", preset="small")
            assert spec_model("net.spec", preset="small") is build
            assert build.module()(torch.zeros(1, 2, 8)).shape == (1, 2, 5)
            assert_equivalent(build, spec_model("net.spec", sets={"layers": "1"}))

        def test_wrong(spec_model):
            spec_model("net.spec", preset="large")
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    assert 'no preset "large"' in result.stdout.str()


# ---- equivalence -----------------------------------------------------------------------------------------------------


def test_a_module(net: Path) -> None:
    module = Net().train()
    assert_equivalent(net, module)
    assert module.training
    assert_equivalent(net, module, at={"B": 3, "T": 2}, within=1e-6)
    x = torch.randn(2, 4, 8).numpy()
    assert_equivalent(built(str(net), net.parent / "b"), module, inputs={"x": x})


def test_names_of_another_module(net: Path) -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = Net().h
            self.out = nn.Linear(8, 5)

        def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
            for layer in self.layers:
                inputs = layer(inputs)
            return {"y": self.out(inputs), "other": inputs}

    with pytest.raises(Different, match=r"has no weight `h\.0\.up\.weight` and 13 more"):
        assert_equivalent(net, Other())
    assert_equivalent(net, Other(), rename=lambda name: name.replace("layers.", "h.").replace("out.", "head."))
    with pytest.raises(Different, match="differ: y"):
        assert_equivalent(net, Other(), share_weights=False)


def test_the_first_part_that_differs_is_named(net: Path) -> None:
    with pytest.raises(Different) as caught:
        assert_equivalent(net, Net(wrong=1.01), at={"B": 2, "T": 3})
    notes = dict(caught.value.diagnostics[0].notes)
    assert notes["equal through"] == "`h.1.down`"
    assert notes["first difference"].startswith("`h.1`, which both have: off by ")
    assert "  = B = 2\n" in str(caught.value) and caught.value.diagnostics[0].message.startswith(
        "the spec and Net differ"
    )


@pytest.mark.parametrize("wrong", [1.0, 1.01])
def test_an_onnx_file_of_another_exporter(net: Path, tmp_path: Path, wrong: float) -> None:
    """torch's exporter turns weights of products over and gives values names of its own."""
    torch.manual_seed(0)
    module, path = Net(wrong).eval(), tmp_path / "net.onnx"
    dynamic = {"x": {0: torch.export.Dim("B"), 1: torch.export.Dim("T")}}
    torch.onnx.export(module, (torch.zeros(2, 3, 8),), path, dynamo=True, dynamic_shapes=dynamic, verbose=False)
    made = built(str(net), tmp_path / "build")
    save_file(module.state_dict(), made.folder / "model.safetensors")
    if wrong == 1.0:
        assert_equivalent(made, path, share_weights=False)
        return
    with pytest.raises(Different) as caught:
        assert_equivalent(made, path, share_weights=False, at={"B": 2, "T": 3})
    notes = dict(caught.value.diagnostics[0].notes)
    assert notes["equal through"].startswith("`h.1.down` (theirs: `")
    assert notes["first difference"] == "`h.1`: no value of theirs is equal to its result"


def test_a_transformers_model() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model: Any = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2))
    assert_equivalent("gpt2", model, at={"B": 2, "T": 5})
    model.transformer.h[1].mlp.act = nn.ReLU()
    with pytest.raises(Different) as caught:
        assert_equivalent("gpt2", model, at={"B": 2, "T": 5})
    notes = dict(caught.value.diagnostics[0].notes)
    assert "h.1.mlp.c_fc" in notes["equal through"] and "h.1.mlp" in notes["first difference"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"at": {"B": 2}}, "sizes are given for B"),
        ({"inputs": {}}, "`inputs` has no `x`"),
        ({"sets": {"dim": "4"}}, "the weight `h.0.up.weight` has another shape"),
        ({"preset": "none"}, 'no preset "none"'),
    ],
)
def test_mistakes(net: Path, given: dict[str, object], message: str) -> None:
    with pytest.raises(Different, match=message):
        assert_equivalent(net, Net(), **given)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not with int"):
        assert_equivalent(net, 3)
    with pytest.raises(TypeError, match="the spec comes first"):
        assert_equivalent(Net(), net)  # type: ignore[arg-type]


def test_a_prefix_of_all_names_is_told(net: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Net()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.inner(x)
            return y

    with pytest.raises(Different) as caught:
        assert_equivalent(net, Wrapped())
    assert 'rename=lambda name: name.removeprefix("inner.")' in str(caught.value)
    assert_equivalent(net, Wrapped(), rename=lambda name: name.removeprefix("inner."))


def test_a_section_that_names_no_model_is_told_and_not_left_out(pytester: pytest.Pytester) -> None:
    pytester.makefile(".spec", net='model Net() { forward(x: Tensor[2]) -> Tensor[2] = x }\ntest "small" {\n}\n')
    result = pytester.runpytest("-p", "no:xdist")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*a test section names its model*"])

"""`assert_equivalent` against modules and graphs of every kind: what they take and return, where and in which type."""

from __future__ import annotations

import re
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from specc_runtime import assert_equivalent
from specc_runtime.foreign_program import Different, built

NET = """\
from std.nn import Linear
dim B
model Net(d: int = 4) {
  up: Linear(d, d)
  forward(x: Tensor[B, d]) -> y: Tensor[B, d] = relu(up(x))
}
"""
OPTIONAL = """\
from std.nn import Linear
dim B
model Net(d: int = 4) {
  up: Linear(d, d)
  forward(x: Tensor[B, d], scale: Tensor[B, d]? = none) -> y: Tensor[B, d] {
    h = relu(up(x))
    if scale != none { h = h * scale }
    return h
  }
}
"""
TIED = """\
from std.nn import Linear, Embedding
dim B, T
model Net() {
  wte: Embedding(9, 4)
  head: Linear(4, 9, bias = false)
  tie head.weight = wte.weight
  forward(ids: Int[B, T]) -> logits: Tensor[B, T, 9] = head(wte(ids))
}
"""
NORM = """\
from std.nn import Linear, BatchNorm1d
dim B, T
model Net() {
  norm: BatchNorm1d(4)
  forward(x: Tensor[B, 4, T]) -> y: Tensor[B, 4, T] = norm(x)
}
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return written(tmp_path, NET)


def written(folder: Path, text: str) -> Path:
    path = folder / "net.spec"
    path.write_text(text, "utf-8")
    return path


class Up(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 4)

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.up(x))


class Plain(Up):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.compute(x)


class KeywordsOfAnyName(Up):
    def forward(self, **given: torch.Tensor) -> torch.Tensor:
        return self.compute(given["x"])


class KeywordOfAnotherName(Up):
    def forward(self, *, hidden: torch.Tensor) -> torch.Tensor:
        return self.compute(hidden)


class Positions(Up):
    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        return self.compute(given[0])


@dataclass
class Output:
    other: torch.Tensor
    y: torch.Tensor
    kept: None = None


class Dataclass(Up):
    def forward(self, x: torch.Tensor) -> Output:
        return Output(x, self.compute(x))


Named = namedtuple("Named", ["other", "y"])


class NamedTuple(Up):
    def forward(self, x: torch.Tensor) -> Any:
        return Named(x, self.compute(x))


class Nested(Up):
    def forward(self, x: torch.Tensor) -> Any:
        return [[self.compute(x)], None]


class OtherNames(Up):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"hidden": self.compute(x)}


@pytest.mark.parametrize(
    "kind",
    [Plain, KeywordsOfAnyName, KeywordOfAnotherName, Positions, Dataclass, NamedTuple, Nested, OtherNames],
)
def test_what_modules_take_and_return(net: Path, kind: type[Up]) -> None:
    module = kind()
    assert_equivalent(net, module, at={"B": 3})
    with torch.no_grad():
        module.up.bias.add_(1)
    with pytest.raises(Different, match="differ: y"):
        made = built(str(net), net.parent / "made")
        assert_equivalent(made, module, at={"B": 3}, share_weights=False)


def test_modules_in_other_types(net: Path) -> None:
    assert_equivalent(net, Plain().double(), at={"B": 3})
    assert_equivalent(net, Plain().half(), at={"B": 3}, within=0.01)
    torch.manual_seed(0)
    with pytest.raises(Different, match="computed in: f32 by the spec, bfloat16 by Plain"):
        assert_equivalent(net, Plain().bfloat16(), at={"B": 30})
    with pytest.raises(Different, match="on the meta device"):
        assert_equivalent(net, Plain().to("meta"))


def test_statistics_and_modes(tmp_path: Path) -> None:
    """Running statistics are weights, too; a module is left as it was, part by part."""
    module = nn.Sequential(OrderedDict(norm=nn.BatchNorm1d(4), rest=nn.Dropout(0.5))).train()
    norm = module.norm
    assert isinstance(norm, nn.BatchNorm1d) and norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    norm.eval()  # frozen, as when fine-tuning
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert_equivalent(written(tmp_path, NORM), module)
    assert [part.training for part in module.modules()] == [True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


class Head(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.wte, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        if tied:
            self.head.weight = self.wte.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.wte(ids))
        return found


def test_tied_weights(tmp_path: Path) -> None:
    path = written(tmp_path, TIED)
    assert_equivalent(path, Head(tied=True))
    with pytest.raises(
        Different, match=re.escape("the spec ties `head.weight` to `wte.weight`, which have other values")
    ):
        assert_equivalent(path, Head(tied=False))


@pytest.mark.parametrize("name", ["wte.weight", "head.weight"])
def test_a_graph_that_takes_short_integers(tmp_path: Path, name: str) -> None:
    """A tied weight has one name in a graph, which need not be the spec's first; its bytes may lie beside the file."""
    table = numpy_helper.from_array(np.random.default_rng(0).standard_normal((9, 4)).astype("float32"), name)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", [name, "tokens"], ["x"]),
            helper.make_node("Transpose", [name], ["w"], perm=[1, 0]),
            helper.make_node("MatMul", ["x", "w"], ["out"]),
        ],
        "g",
        [helper.make_tensor_value_info("tokens", TensorProto.INT32, ["B", "T"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["B", "T", 9])],
        [table],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = tmp_path / "g.onnx"
    onnx.save(model, path, save_as_external_data=True, location="g.data", size_threshold=0)
    assert_equivalent(written(tmp_path, TIED), path)


def test_optional_inputs(tmp_path: Path) -> None:
    path = written(tmp_path, OPTIONAL)
    with pytest.raises(Different, match=re.escape("its forward takes x, that of the spec x, scale; without=[..]")):
        assert_equivalent(path, Plain())
    assert_equivalent(path, Plain(), without=["scale"])


def test_given_inputs(net: Path) -> None:
    module = Plain()
    for x in (
        np.random.default_rng(0).standard_normal((3, 4)),
        torch.randn(3, 4),
        [[1.0, 2.0, 3.0, 4.0]],
        [[1, 2, 3, 4]],
    ):
        assert_equivalent(net, module, inputs={"x": x})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inputs": {"x": np.zeros((3, 5))}}, "the input `x` has another shape"),
        ({"inputs": {"x": np.zeros(4)}}, "the input `x` has 1 axes"),
        ({"inputs": {"x": [["a"]]}}, "the input `x` takes float32, not <U1"),
        ({"inputs": {"x": np.zeros((3, 4)), "z": 1}}, "the spec has no input `z`"),
        ({"at": []}, "there are no sizes to compare at"),
        ({"entry": "encode"}, "no entry `encode`"),
    ],
)
def test_mistakes(net: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(Different, match=re.escape(message)):
        assert_equivalent(net, Plain(), **given)


def test_files_that_are_no_graphs(net: Path, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"\x08\x07\xff\xff\xff")
    for name, message in (("a.onnx", "is no ONNX graph"), ("b.onnx", "cannot read")):
        with pytest.raises(Different, match=message):
            assert_equivalent(net, tmp_path / name)


def test_builds_of_other_options(net: Path) -> None:
    """What a command takes as text may be text in Python, too."""
    made = built(str(net), net.parent / "made", sets={"d": 8}, dtype="bf16", quant=None)
    assert (made.manifest["hyperparameters"], made.manifest["dtype"]) == ({"d": 8}, "bf16")

"""`specc diff`: what changed between two models, and what that makes of a checkpoint of the first."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result

from specc.quantisation import Scheme
from specc.types import DType
from specc_runtime.build import Request, build
from specc_runtime.cli import cli
from specc_runtime.diff.changes import Change, folded

SPEC = """\
from std.nn import Linear, LayerNorm
dim B

block Layer(dim: int, hidden: int) {
  norm: LayerNorm(dim)
  up: Linear(dim, hidden)
  down: Linear(hidden, dim)
  forward(x: Tensor[B, dim]) -> Tensor[B, dim] = x + down(relu(up(norm(x))))
}

model Net(dim: int = 8, hidden: int = 16, layers: int = 3) {
  h: [Layer(dim, hidden) for i in range(layers)]
  forward(x: Tensor[B, dim]) -> y: Tensor[B, dim] {
    for layer in h { x = layer(x) }
    return x
  }
}

preset "wide" = Net(hidden = 32)
preset "deep" = Net(layers = 5)
"""
RENAMED = SPEC.replace("  up: Linear", '  moved "up" -> "gate"\n  gate: Linear').replace("up(norm", "gate(norm")


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.spec"
    path.write_text(SPEC, "utf-8")
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["diff", *arguments])


def data(*arguments: str, code: int = 1) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.exit_code == code, done.output
    found: dict[str, Any] = json.loads(done.output)
    return found


def changes(found: dict[str, Any], title: str) -> dict[str, tuple[str, str, str]]:
    section = next(s for s in found["sections"] if s["title"] == title)
    return {c["name"]: (c["action"], c["before"], c["after"]) for c in section["changes"]}


def test_equal_models(net: Path) -> None:
    done = run("net.spec", "net.spec")
    assert done.exit_code == 0
    assert done.output == (
        "net.spec -> net.spec\n\na checkpoint of net.spec in net.spec: loads as it is\n\nno differences\n"
    )


def test_a_wider_preset(net: Path) -> None:
    found = data("net.spec", "net.spec:wide", "--at", "B=10")
    assert changes(found, "hyper-parameters") == {"hidden": ("change", "16", "32")}
    structure = changes(found, "structure")
    assert structure["h.{0..2}"] == ("change", "Layer(hidden = 16)", "Layer(hidden = 32)")
    assert structure["h.{0..2}.up"] == ("change", "Linear(out_features = 16)", "Linear(out_features = 32)")
    assert changes(found, "tensors")["h.{0..2}.up.weight"] == ("change", "[16, 8]", "[32, 8]")
    cost = changes(found, "cost")
    one, other = (3 * (2 * 8 + 2 * 8 * hidden + hidden + 8) for hidden in (16, 32))
    assert cost["parameters"] == ("change", str(one), str(other))
    assert cost["FLOPs at B=10"][1].isdigit()
    told = f"parameters     {one:,} -> {other:,}  ({(other - one) / one:+.1%})"
    assert told in run("net.spec", "net.spec:wide", "--at", "B=10").output
    assert changes(found, "ONNX operators") == {}
    fate = found["checkpoint"]
    assert (fate["fits"], fate["loads"]) == (False, 3 * 3)  # the norms, and the biases of `down`
    assert {c["name"]: c["count"] for c in fate["changes"]} == {
        "h.{0..2}.up.weight": 3, "h.{0..2}.up.bias": 3, "h.{0..2}.down.weight": 3
    }  # fmt: skip


def test_more_layers(net: Path) -> None:
    found = data("net.spec", "net.spec:deep")
    assert changes(found, "structure") == {"h.{3..4}": ("add", "", "Layer(dim = 8, hidden = 16)")}
    assert {action for action, _, _ in changes(found, "tensors").values()} == {"add"}
    assert changes(found, "ONNX operators")["Gemm"] == ("change", "6", "10")
    assert found["checkpoint"]["loads"] == 18 and not found["checkpoint"]["fits"]
    back = data("net.spec:deep", "net.spec")
    assert {action for action, _, _ in changes(back, "structure").values()} == {"remove"}
    assert back["checkpoint"]["loads"] == 18 and not back["checkpoint"]["fits"]


def test_a_rename_without_its_moved_line_is_told(net: Path) -> None:
    Path("new.spec").write_text(RENAMED.replace('  moved "up" -> "gate"\n', ""), "utf-8")
    assert data("net.spec", "new.spec")["checkpoint"]["renames"] == [
        {"block": "Layer", "line": 'moved "up" -> "gate"', "tensors": 6}
    ]
    told = 'renamed? with  moved "up" -> "gate"  in Layer, 6 tensors more would load'
    assert told in run("net.spec", "new.spec").output


def test_mixtures_are_compared_by_what_a_token_passes_through() -> None:
    specs = Path(__file__).resolve().parents[1] / "specs"
    found = data(f"{specs / 'llama.spec'}:mistral-7b", f"{specs / 'mixtral.spec'}:mixtral-8x7b")
    assert changes(found, "cost")["active parameters"] == ("change", "7241732096", "12879925248")


def test_renamed_parts_load_by_their_moved_lines(net: Path) -> None:
    Path("new.spec").write_text(RENAMED, "utf-8")
    found = data("net.spec", "new.spec")
    assert changes(found, "structure").keys() == {"h.{0..2}.up", "h.{0..2}.gate"}
    assert changes(found, "tensors") == {}
    fate = found["checkpoint"]
    assert fate["fits"] and fate["loads"] == 18
    assert {(c["name"], c["after"], c["count"]) for c in fate["changes"]} == {
        ("h.{0..2}.up.weight", "moved to h.{0..2}.gate.weight", 3),
        ("h.{0..2}.up.bias", "moved to h.{0..2}.gate.bias", 3),
    }
    text = run("net.spec", "new.spec").output
    assert "a checkpoint of net.spec in new.spec: loads\n  18 tensors load (6 by `moved` lines)" in text
    lost = data("new.spec", "net.spec")
    assert not lost["checkpoint"]["fits"]
    assert {c["action"] for c in lost["checkpoint"]["changes"]} == {"add", "remove"}


def test_revisions_of_git(net: Path) -> None:
    def git(*arguments: str) -> None:
        own = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *own, *arguments], check=True, capture_output=True)

    Path("parts").mkdir()
    Path("parts/layer.spec").write_text(SPEC.partition("model Net")[0], "utf-8")
    main = 'from "parts/layer.spec" import Layer\ndim B\n\nmodel Net' + SPEC.partition("model Net")[2]
    net.write_text(main, "utf-8")
    git("init")
    git("add", "-A")
    git("commit", "-m", "one")
    layer = Path("parts/layer.spec")
    layer.write_text(layer.read_text().replace("relu", "tanh"), "utf-8")
    found = data("net.spec@HEAD", "net.spec")
    assert changes(found, "ONNX operators") == {"Relu": ("remove", "3", ""), "Tanh": ("add", "", "3")}
    assert found["checkpoint"]["fits"] and found["before"] == "net.spec@HEAD"
    assert data("net.spec@HEAD:wide", "net.spec", "--preset", "wide")["checkpoint"]["fits"]
    assert data("net.spec:wide@HEAD", "net.spec:wide")["checkpoint"]["fits"]
    for text, message in (
        ("net.spec@HEAD~7", "git has no revision `HEAD~7`"),
        ("other.spec@HEAD", "`other.spec` is not in revision `HEAD`"),
    ):
        done = run(text, "net.spec")
        assert done.exit_code == 2 and message in done.output, done.output


def test_a_revision_holds_files_that_are_no_text(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("lib").mkdir()
    Path("lib/latin.spec").write_bytes(b"# caf\xe9\n" + SPEC.encode())
    Path("lib/old.py").write_bytes(b'x = "\xe9"\n')
    Path("lib/net.spec").write_text(SPEC, "utf-8")
    Path("lib/wrong.spec").write_text(SPEC.replace("relu", "rleu"), "utf-8")
    own = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    for arguments in (("init",), ("add", "-A"), ("commit", "-m", "one")):
        subprocess.run(["git", *own, *arguments], check=True, capture_output=True)
    monkeypatch.setenv("GIT_DIR", ".git")  # as hooks have it
    assert run("lib/net.spec@HEAD", "net.spec").exit_code == 0
    done = run("lib/latin.spec@HEAD", "net.spec")
    assert done.exit_code == 2 and "error[E006]: `lib/latin.spec` is not UTF-8 text" in done.output, done.output
    done = run("lib/wrong.spec@HEAD", "net.spec")
    assert done.exit_code == 2 and "--> lib/wrong.spec:" in done.output and "= in revision: HEAD" in done.output


def test_no_repository(net: Path) -> None:
    done = run("net.spec@HEAD", "net.spec")
    assert done.exit_code == 2 and "is in no git repository" in done.output


def test_builds_and_graphs(net: Path) -> None:
    build(Request("net.spec", verify=False, render=False, out=Path("one")))
    build(Request("net.spec", preset="wide", verify=False, render=False, out=Path("two")))
    assert data("one", "net.spec", code=0)["equal"]
    assert changes(data("one", "two"), "hyper-parameters") == {"hidden": ("change", "16", "32")}
    net.write_text(SPEC.replace("relu", "tanh"), "utf-8")  # the builds' spec is gone
    found = data("one", "two")
    assert changes(found, "hyper-parameters") == {"hidden": ("change", "16", "32")}
    assert changes(found, "tensors")["h.{0..2}.up.weight"] == ("change", "[16, 8]", "[32, 8]")
    assert next(s for s in found["sections"] if s["title"] == "structure")["unknown"]
    assert not changes(data("one", "net.spec"), "inputs") and not changes(data("one", "net.spec"), "outputs")
    graph = data("one/model.onnx", "net.spec")
    assert changes(graph, "ONNX operators").keys() == {"Relu", "Tanh"} and not changes(graph, "tensors")
    assert "not compared: hyper-parameters, structure" in run("one/model.onnx", "net.spec").output
    wider = data("one/model.onnx", "net.spec", "--preset", "wide", "--at", "B=2")
    products = {width: 3 * 2 * 2 * 2 * 8 * width for width in (16, 32)}  # two products in each of three layers
    assert changes(wider, "cost")["FLOPs of products at B=2"] == ("change", str(products[16]), str(products[32]))


def test_builds_that_were_made_otherwise(net: Path) -> None:
    plain = Request("net.spec", verify=False, render=False, out=Path("plain"))
    build(plain)
    build(replace(plain, out=Path("half"), dtype=DType.BF16))
    build(replace(plain, out=Path("few"), quant=Scheme(8)))
    build(replace(plain, out=Path("bare"), no_weights=True))
    found = data("plain", "half")
    assert changes(found, "build") == {"dtype": ("change", "f32", "bf16")} and found["checkpoint"]["fits"]
    assert changes(found, "inputs") == {"x": ("change", "Tensor[B, 8]", "bf16[B, 8]")}
    assert changes(data("plain", "few"), "build") == {"quantisation": ("change", "none", "int8")}
    graph = changes(data("plain", "few/model.int8.onnx"), "ONNX operators")
    assert graph["MatMulInteger"][0] == "add"
    assert not changes(data("plain", "bare"), "tensors")
    assert data("half", "half/model.onnx", code=0)["equal"]
    net.unlink()
    assert not changes(data("plain", "bare"), "tensors")  # the graph has their shapes
    assert changes(data("plain", "half"), "build") == {"dtype": ("change", "f32", "bf16")}
    done = run("plain", "half", "--entry", "step")
    assert done.exit_code == 2 and "has no entry `step`" in done.output


def test_what_decoding_keeps() -> None:
    found = data("gpt2", "gpt2", "--set", "layers=1", code=0)
    assert found["equal"]
    cost = changes(data("gpt2:gpt2-tiny", "gpt2", "--at", "B=2,T=8"), "cost")
    assert cost["cache bytes per token"] == ("change", f"{2 * 2 * 64 * 4}*B", f"{2 * 12 * 768 * 4}*B")
    assert cost["cache bytes at B=2, T=8"][2] == str(2 * 8 * 2 * 12 * 768 * 4)
    growing = changes(data("gpt2:gpt2-tiny", "lstm"), "cost")
    assert growing["cache bytes per token"][0] == "remove"
    assert "(+185.1%)" in run("gpt2", "gpt2:gpt2-medium").output


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("B=1,Q=3", "neither model has a dim `Q`"),
        ("B=1", "no size is given for `T`"),
        ("B=1,T=1025", "B=1, T=1025: gpt2 needs T <= 1024"),
    ],
)
def test_sizes_that_no_side_takes(at: str, message: str) -> None:
    done = run("gpt2", "gpt2:gpt2-tiny", "--at", at)
    assert done.exit_code == 2 and message in done.output, done.output


def test_two_tensors_become_one(net: Path) -> None:
    """A checkpoint with two tables isn't simply one of a model that ties them: their values may differ (W312)."""
    Path("tied.spec").write_text(
        "from std.nn import Embedding, Linear\ndim B, T\n\n"
        "model Net(tied: bool = false) {\n"
        "  wte: Embedding(9, 4)\n  head: Linear(4, 9, bias = false)\n  tie head.weight = wte.weight if tied\n"
        "  forward(ids: Int[B, T]) -> y: Tensor[B, T, 9] = head(wte(ids))\n}\n\n"
        'preset "tied" = Net(tied = true)\n',
        "utf-8",
    )
    found = data("tied.spec", "tied.spec:tied")
    assert changes(found, "ties") == {"head.weight": ("add", "", "wte.weight")}
    fate = found["checkpoint"]
    assert (fate["loads"], fate["fits"]) == (1, False)
    assert [(c["action"], c["name"], c["after"]) for c in fate["changes"]] == [
        ("remove", "head.weight", "is wte.weight")
    ]
    assert data("tied.spec:tied", "tied.spec")["checkpoint"]["changes"][0]["action"] == "add"


def test_presets_of_which_one_ties_its_head() -> None:
    """Of another shape besides: each tensor is told once."""
    fate = data("llama:llama-2-7b", "llama:smollm2-135m")["checkpoint"]
    names = [change["name"] for change in fate["changes"]]
    assert len(names) == len(set(names)) and not fate["fits"]


def test_a_graph_of_another_exporter(net: Path) -> None:
    """Shapes and axes that a graph stores are no weights; sizes that it declares may be formulas."""
    tensor, value = onnx.TensorProto.FLOAT, onnx.helper.make_tensor_value_info
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["h"]),
        onnx.helper.make_node("Reshape", ["h", "shape"], ["y"]),
    ]
    stored = [
        onnx.helper.make_tensor("w", tensor, [8, 2], [0.0] * 16),
        onnx.helper.make_tensor("shape", onnx.TensorProto.INT64, [2], [-1, 2]),
    ]
    for name, rows in (("one", "B"), ("two", "B + past")):
        graph = onnx.helper.make_graph(nodes, "g", [value("x", tensor, [rows, 8])], [value("y", tensor, None)], stored)
        onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)]), f"{name}.onnx")
    found = data("one.onnx", "two.onnx", "--at", "B=3,past=1")
    assert changes(found, "cost")["FLOPs of products at B=3, past=1"] == ("change", "96", "128")
    assert changes(found, "inputs") == {"x": ("change", "Tensor[B, 8]", "Tensor[B + past, 8]")}
    assert [c["name"] for c in data("one.onnx", "net.spec")["checkpoint"]["changes"] if c["action"] == "remove"] == [
        "w"
    ]


def test_functions_of_python_files_are_not_run(net: Path) -> None:
    Path("own.py").write_text("raise SystemExit('run')\n", "utf-8")
    spec = (
        'dim B\nextern fn own(x: Tensor[...]) -> Tensor[...] from "own.py"\n'
        "model Net(dim: int = 4) {\n  forward(x: Tensor[B, dim]) -> y: Tensor[B, dim] = own(x)\n}\n"
        'preset "wide" = Net(dim = 8)\n'
    )
    Path("extern.spec").write_text(spec, "utf-8")
    found = data("extern.spec", "extern.spec:wide")
    assert changes(found, "inputs") == {"x": ("change", "Tensor[B, 4]", "Tensor[B, 8]")}
    (operators,) = (s for s in found["sections"] if s["title"] == "ONNX operators")
    assert not operators["changes"] and "own.py is Python code and was not loaded" in operators["unknown"]
    assert "not compared: ONNX operators (own.py" in run("extern.spec", "net.spec").output


def test_builds_without_a_graph(net: Path) -> None:
    build(Request("net.spec", verify=False, render=False, out=Path("source"), emit=frozenset({"torch"})))
    assert data("source", "net.spec", code=0)["equal"]
    net.write_text(SPEC.replace("relu", "tanh"), "utf-8")
    found = data("source", "net.spec", code=0)
    assert next(s for s in found["sections"] if s["title"] == "ONNX operators")["unknown"] == "`source` has no graph"


def test_files_that_are_no_models(net: Path) -> None:
    Path("a.onnx").write_bytes(b"\x08\x07\xff\xff\xff")
    Path("nothing.onnx").touch()
    empty = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [], [])
    onnx.save(onnx.helper.make_model(empty, opset_imports=[onnx.helper.make_opsetid("", 99)]), "new.onnx")
    for text, message in (
        ("a.onnx", "is no ONNX graph, or only a part of one (5 bytes)"),
        ("nothing.onnx", "is no ONNX graph"),
        ("new.onnx", "is of opset 99"),
        ("b.onnx", "cannot read b.onnx"),
        ("b.spec", "b.spec"),
        ("net.spec:none", 'no preset "none"'),
    ):
        done = run(text, "net.spec")
        assert done.exit_code == 2 and message in done.output, done.output


def test_folding() -> None:
    def of(*names: str) -> list[tuple[str, int]]:
        return [(c.name, c.count) for c in folded(Change("+", name, "", "x") for name in names)]

    assert of("a.0.w", "a.1.w", "a.2.w", "b") == [("a.{0..2}.w", 3), ("b", 1)]
    assert of("a.0", "a.2", "a.3", "a.7") == [("a.{0, 2..3, 7}", 4)]
    assert of("conv1.w", "conv2.w") == [("conv1.w", 1), ("conv2.w", 1)]
    assert of("a.0.b.0", "a.0.b.1", "a.1.b.0", "a.1.b.1") == [("a.{0..1}.b.{0..1}", 4)]
    assert of("a.0.b.0", "a.1.b.0", "a.1.b.1") == [("a.0.b.0", 1), ("a.1.b.{0..1}", 2)]
    assert of("a.0.b.0", "a.1.b.1") == [("a.0.b.0", 1), ("a.1.b.1", 1)]

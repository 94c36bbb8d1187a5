"""Parts of drawings by path and name, figures of their nodes, and what `specc view` writes of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import ModelProto, TensorProto, helper

from specc.diagnostics import Rejected
from specc.inspect import report
from specc_runtime import browser
from specc_runtime.bench.profile import NodeTime
from specc_runtime.build import Request, build
from specc_runtime.cli import cli
from specc_runtime.drawn.costs import attach, known, own_methods
from specc_runtime.drawn.parts import find
from specc_runtime.drawn.places import name_nodes, parse, scopes, shared, text, within
from specc_runtime.drawn.subject import Chosen

SPEC = """\
from std.nn import Linear, LayerNorm
dim B, T

block Mlp(dim: int) {
  up: Linear(dim, 2*dim)
  down: Linear(2*dim, dim)
  forward(x: Tensor[..., dim]) -> Tensor[..., dim] = x |> up |> relu |> down
}

block Layer(dim: int) {
  ln: LayerNorm(dim)
  mlp: Mlp(dim)
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] = x + mlp(ln(x))
}

model Net(dim: int = 8, layers: int = 3) {
  h: [Layer(dim) for i in range(layers)]
  pre: [LayerNorm(dim) for i in range(layers)]
  post: [Mlp(dim) for i in range(layers)]
  head: Linear(dim, 5, bias = false)
  fn body(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] {
    for norm, mlp in zip(pre, post) { x = x + mlp(norm(x)) }
    return x
  }
  forward(x: Tensor[B, T, dim]) -> y: Tensor[B, T, 5] = x |> h |> body |> head
}
"""
AT = {"B": 2, "T": 3}
RENDERS = [
    pytest.mark.render,
    pytest.mark.skipif(browser.find_browser() is None, reason=browser.no_browser()),
]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drawn") / "net.spec"
    path.write_text(SPEC, "utf-8")
    return path


@pytest.fixture(scope="module")
def made(spec: Path) -> Path:
    """A build of the spec."""
    return build(Request(str(spec), verify=False, render=False, out=spec.parent / "net")).folder


@pytest.fixture
def chosen(spec: Path) -> Chosen:
    return Chosen(str(spec))


def view(*words: object, cwd: Path | None = None) -> Result:
    return CliRunner().invoke(cli, ["view", *map(str, words)])


# ---- paths -----------------------------------------------------------------------------------------------------------


def test_paths() -> None:
    assert parse("h.0..11.attn") == parse("h.{0..11}.attn") == ("h", (0, 11), "attn")
    assert parse("h.3") == ("h", (3, 3))
    assert [text(parse(path)) for path in ("h.0..11.attn", "h.3", "")] == ["h.0..11.attn", "h.3", ""]
    assert within(parse("h.3.attn.q"), parse("h.0..11.attn"))
    assert not within(parse("h.12.attn"), parse("h.0..11.attn"))
    assert shared(parse("h.0..11.attn"), parse("h.3..5.attn")) == Fraction(1, 4)
    assert shared(parse("h.3.attn"), parse("h.0..11.attn")) == 1
    assert shared(parse("h.3.attn"), parse("h.3")) == shared(parse("h.3"), parse("h.4..5")) == 0
    assert not within(parse("h"), parse("h.0..11"))


@pytest.mark.parametrize(
    ("wanted", "name", "operators"),
    [
        ("h", "Layer", {"LayerNormalization", "Mlp", "Add"}),
        ("h.1", "Layer", {"LayerNormalization", "Mlp", "Add"}),
        ("h.{0..2}.mlp", "Mlp", {"Linear", "Relu"}),
        ("h.2.mlp.up", "Linear", {"Transpose", "MatMul", "Add"}),
        ("h.0.ln", "h.0.ln", {"LayerNormalization"}),
        ("post.1", "Mlp", {"Linear", "Relu"}),
        ("post.1.down", "Linear", {"Transpose", "MatMul", "Add"}),
        ("Layer", "Layer", {"LayerNormalization", "Mlp", "Add"}),
        ("Net.body", "Net.body", {"3 x norm_mlp"}),
        ("head", "Linear", {"Transpose", "MatMul"}),
    ],
)
def test_parts(chosen: Chosen, wanted: str, name: str, operators: set[str]) -> None:
    whole, blocks = chosen.drawing
    part = find(whole, wanted).drawn(whole, blocks)
    assert part.graph.name == name
    assert {node.op_type for node in part.graph.node if node.op_type != "Constant"} == operators
    onnx.checker.check_model(part)


@pytest.mark.parametrize(
    ("wanted", "guess"),
    [("h.1.mpl", "h.1.mlp"), ("layer", "Layer"), ("hed", "head"), ("post.7", ""), ("", ""), ("..", ""), ("h.x", "")],
)
def test_a_part_that_there_is_not(chosen: Chosen, wanted: str, guess: str) -> None:
    with pytest.raises(Rejected) as raised:
        find(chosen.drawing[0], wanted)
    (found,) = raised.value.diagnostics
    assert found.code == "E103" and found.help == (f"did you mean `{guess}`?" if guess else "")
    assert "Layer" in found.notes[0][1] and "head" in found.notes[1][1]


def test_parts_of_a_foreign_file() -> None:
    """Names of nodes are paths, as exporters write them; a function has its own name."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="/layers.0/act/Relu"),
        helper.make_node("Neg", ["a"], ["b"], name="/layers.0/Neg"),
        helper.make_node("Add", ["b", "w"], ["c"], name="/layers.1/Add"),
        helper.make_node("Twice", ["c"], ["y"], name="t", domain="own"),
    ]
    double = helper.make_node("Add", ["v", "v"], ["r"])
    twice = helper.make_function("own", "Twice", ["v"], ["r"], [double], [opset(23)])
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 3]) for name in "xyabc"]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:2], [weight], value_info=infos[2:])
    model = helper.make_model(graph, functions=[twice], opset_imports=[opset(23), helper.make_opsetid("own", 1)])
    expected = {
        "layers.0": (["x"], ["b"], []),
        "layers.0.act": (["x"], ["a"], []),
        "layers.1": (["b"], ["c"], ["w"]),
        "Twice": (["v"], ["r"], []),
        "t": (["v"], ["r"], []),
    }
    for wanted, (inputs, outputs, weights) in expected.items():
        part = find(model, wanted).drawn(model, {})
        assert [i.name for i in part.graph.input] == inputs, wanted
        assert [o.name for o in part.graph.output] == outputs, wanted
        assert [t.name for t in part.graph.initializer] == weights, wanted


def opset(version: int) -> onnx.OperatorSetIdProto:
    return helper.make_opsetid("", version)


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_every_node_gets_a_name_of_its_own(chosen: Chosen) -> None:
    model = chosen.drawing[0]
    name_nodes(model)
    names = [node.name for nodes in (model.graph.node, *(f.node for f in model.functions)) for node in nodes]
    assert len(names) == len(set(names))
    assert {"h.0..2", "h.0..2.mlp", "h.0..2.ln/LayerNormalization", "h.0..2/Add", "head", "Net.body"} <= set(names)
    assert {"Mlp: up", "Mlp: Relu"} <= set(names), "a function of several places has its own name in front"


def test_loops_over_several_lists_know_their_places(chosen: Chosen) -> None:
    found = scopes(chosen.drawing[0])
    places = {key[1]: where for key, where in found.items() if key is not None}
    (loop,) = places["3 x norm_mlp"]
    assert text(loop.resolve("mlp.up")) == "post.0..2.up" and text(loop.resolve("norm")) == "pre.0..2"
    assert [text(where.base) for where in places["Mlp"]] == ["h.0..2.mlp", "post.0..2"]


def figures(model: ModelProto, by: Any, of: Any) -> tuple[dict[tuple[str, str], str], dict[str, Any]]:
    content = json.loads(attach(model, of, by))
    assert content["signature"] == "netron:attachment" and {m["kind"] for m in content["metrics"]} == {"node"}
    return {(m["target"], m["name"]): m["value"] for m in content["metrics"]}, content["specc"]


def test_figures_are_those_of_all_places_together(chosen: Chosen) -> None:
    model = chosen.checked.model
    counted = report(model, at=AT)
    methods = own_methods(counted, model, "forward", frozenset())
    shown, ours = figures(chosen.drawing[0], "flops", known(counted, methods))
    mlp = 2 * 3 * (2 * 2 * 8 * 16 + 16)  # two products and relu
    norm = counted.number(counted.root.children[0].children[0].flops)
    assert norm is not None
    total = counted.number(counted.root.flops)
    assert total is not None
    shares: Mapping[str, float] = ours["shares"]
    assert shares["h.0..2.mlp"] * total == pytest.approx(3 * mlp)
    assert shares["h.0..2.ln/LayerNormalization"] * total == pytest.approx(3 * norm)
    assert shares["h.0..2"] * total == pytest.approx(3 * (mlp + norm + 2 * 3 * 8))
    assert shares["Net.body"] == pytest.approx(shares["h.0..2"]), "the same work in a method of the model"
    assert shares["h.0..2"] + shares["Net.body"] + shares["head"] == pytest.approx(1)
    assert sum(shares[f"Mlp: {name}"] for name in ("up", "down")) * total == pytest.approx(6 * (mlp - 2 * 3 * 16))
    assert shown["h.0..2", "parameters"].startswith(f"{3 * (8 * 16 * 2 + 24 + 16)} ")
    assert ours["title"] == f"FLOPs at B = 2, T = 3: shares of {total / 1000:.4g} k"


def test_of_equal_rows_a_drawn_part_has_its_own(tmp_path: Path) -> None:
    """Blocks of two kinds in turn are drawn one by one, where the tree of costs has one row."""
    (tmp_path / "net.spec").write_text(
        SPEC.replace("h: [Layer(dim)", "h: [Layer(dim, i % 2 == 0)")
        .replace("block Layer(dim: int) {", "block Layer(dim: int, up: bool) {")
        .replace("= x + mlp(ln(x))", "= x + mlp(ln(x)) if up else mlp(ln(x)) + x")
    )
    chosen = Chosen(str(tmp_path / "net.spec"))
    counted = report(chosen.checked.model, at=AT)
    _, ours = figures(chosen.drawing[0], "flops", known(counted, {}))
    assert counted.root.children[0].path == "h.{0..2}"
    assert ours["shares"]["h.0"] == ours["shares"]["h.1"] == ours["shares"]["h.2"] > 0.1


def test_times_go_to_the_nodes_that_took_them(chosen: Chosen) -> None:
    times = [
        NodeTime("h.0.mlp.up/MatMul", "MatMul", "std/nn.spec:9", "h.0.mlp.up", 1e-3),
        NodeTime("h.2.mlp/Relu", "Relu", "net.spec:7", "h.2.mlp", 2e-3),
        NodeTime("post.1/Relu", "Relu", "net.spec:7", "post.1", 4e-3),
        NodeTime("h.1/Add", "Add", "net.spec:13", "h.1", 8e-3),
        NodeTime("h.1/Add", "Add", "net.spec:99", "h.1", 16e-3),
        NodeTime("", "Reorder", "", "", 32e-3),
    ]
    _, ours = figures(chosen.drawing[0], "time", known(None, {}, times))
    took = {name: round(share * 63) for name, share in ours["shares"].items() if share}
    assert took["h.0..2"] == 27 and took["h.0..2.mlp"] == 3 and took["Net.body"] == 4
    assert took["Mlp: up"] == 1 and took["Mlp: Relu"] == 6 and took["h.0..2/Add"] == 8
    assert ours["shares"]["head"] == 0


def test_the_time_of_a_fused_operator_is_the_product_s(chosen: Chosen) -> None:
    times = [
        NodeTime("h.0.mlp/Relu", "FusedGemm", "net.spec:7", "h.0.mlp", 3e-3),
        NodeTime("h.0.mlp.down/MatMul", "MatMul", "std/nn.spec:9", "h.0.mlp.down", 1e-3),
    ]
    _, ours = figures(chosen.drawing[0], "time", known(None, {}, times))
    assert ours["shares"]["Mlp: up"] == 0.75 and "Mlp: Relu" not in ours["shares"]
    assert ours["shares"]["h.0..2.mlp"] == 1.0


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--block", "h.9"], "no block or part `h.9`"),
        (["--metrics", "time"], "a build is measured"),
        (["--svg", "missing/x.svg"], "there is no folder"),
        (["--pdf", "."], "it is a folder"),
        (["--metrics", "flops", "--at", "X=1"], "forward has no dim `X`"),
    ],
)
def test_errors(spec: Path, words: list[str], message: str) -> None:
    done = view(spec, "--no-browser", *words)
    assert done.exit_code == 1 and message in done.output, done.output


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(spec: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    done = view(spec, "--svg", tmp_path / "x.svg")
    assert done.exit_code == 1 and "nothing can be written" in done.output


def test_figures_need_a_spec(made: Path) -> None:
    done = view(made / "model.onnx", "--metrics", "flops", "--no-browser")
    assert done.exit_code == 1 and "has no figures to colour it by" in done.output


def test_options_that_say_nothing(spec: Path) -> None:
    assert view(spec, "--at", "B=1").exit_code == 2
    assert view(spec, "--profile", "x", "--metrics", "flops").exit_code == 2


def test_a_damaged_file_and_one_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes(b"\x08\x0b\x12\xff\xff")
    done = view(tmp_path / "cut.onnx", "--block", "h")
    assert done.exit_code == 1 and "it is not an ONNX graph, or it is cut off" in done.output
    assert "does not exist" in view(tmp_path / "none.onnx", "--block", "h").output


@pytest.mark.usefixtures("made")
class TestPictures:
    pytestmark = RENDERS

    def test_all_formats_and_a_profile(self, made: Path, tmp_path: Path) -> None:
        svg, png, pdf, kept = (tmp_path / name for name in ("a.svg", "a.png", "a.pdf", "p.json"))
        svg.write_text("before")
        words = ["--metrics", "time", "--at", "B=1,T=4", "--attachment", kept]
        done = view(made, *words, "--svg", svg, "--png", png, "--pdf", pdf)
        assert done.exit_code == 0, done.output
        drawn = svg.read_text("utf-8")
        assert "time at B = 1, T = 4: shares of" in drawn and "specc-heat-4" in drawn and "rgb(189, 43, 43)" in drawn
        assert png.read_bytes().startswith(b"\x89PNG") and pdf.read_bytes().startswith(b"%PDF-")
        assert pdf.read_bytes().count(b"/Type /Page\n") == 1
        names = {node.name for node in onnx.load(tmp_path / "p.onnx", load_external_data=False).graph.node}
        assert {m["target"] for m in json.loads(kept.read_bytes())["metrics"]} >= names - {"Net.body"}

        done = view(made, "--profile", kept, "--block", "h.0", "--svg", svg)
        assert done.exit_code == 0, done.output
        block = svg.read_text("utf-8")
        assert "time at B = 1, T = 4: shares of" in block
        assert ">LayerNormalization<" in block and ">Linear<" not in block

    def test_a_picture_is_replaced_whole_or_not_at_all(self, tmp_path: Path) -> None:
        empty = tmp_path / "empty.onnx"
        empty.write_bytes(helper.make_model(helper.make_graph([], "g", [], [])).SerializeToString())
        (tmp_path / "a.svg").write_text("before")
        done = view(empty, "--svg", tmp_path / "a.svg", "--pdf", tmp_path / "a.pdf")
        assert done.exit_code == 1 and "nothing to draw" in done.output
        assert (tmp_path / "a.svg").read_text() == "before" and not (tmp_path / "a.pdf").exists()


def test_a_profile_of_another_build_is_refused(made: Path, tmp_path: Path) -> None:
    kept = tmp_path / "p.json"
    time = {"name": "a", "operator": "Add", "line": "", "scope": "", "seconds": 1.0}
    kept.write_text(json.dumps({"specc": {"graph": "0" * 64, "times": [time], "sizes": {"B": 1, "T": 1}}}))
    done = view(made, "--profile", kept, "--no-browser")
    assert done.exit_code == 1 and "is the profile of another build" in done.output
    for content in ("", "[]", '{"specc": 1}', '{"specc": {"graph": "0", "times": [1], "sizes": {}}}'):
        kept.write_text(content)
        done = view(made, "--profile", kept, "--no-browser")
        assert done.exit_code == 1 and "is no profile of specc" in done.output, content
    assert "cannot read" in view(made, "--profile", tmp_path / "none.json", "--no-browser").output

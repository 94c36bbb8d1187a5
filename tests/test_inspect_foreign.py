"""`specc inspect` of files that specc did not write: graphs of torch's exporter, of onnx's helpers, checkpoints."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from fresh import loaded
from onnx import TensorProto, helper, numpy_helper

from specc import driver
from specc.backends.onnx.export import build
from specc.backends.onnx.target import Target
from specc.diagnostics import Rejected
from specc.dims import Dim
from specc.inspect import report
from specc_runtime.cli import cli
from specc_runtime.foreign import is_foreign, summary

SPECS = Path(__file__).resolve().parents[1] / "specs"
TINY = {"dim": "32", "layers": "3", "heads": "4", "vocab": "61", "context": "16"}


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(cli, ["inspect", *map(str, arguments)])


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.zeros(shape, np.float32), name)


def graph(
    nodes: list[onnx.NodeProto], x: list[Any], weights: list[onnx.TensorProto], opset: int = 17
) -> onnx.ModelProto:
    """A graph of one input, its result `y`."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, x)
    found = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    made = helper.make_graph(nodes, "g", [given], [found], weights)
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", opset)], producer_name="somebody", ir_version=8
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of a language model with its weights' names."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    onnx.save(build(driver.load(SPECS / "gpt2.spec", sets=TINY).model, Target(opset=20)), path)
    return path


# ---- graphs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "resnet", "bert", "llama"])
def test_flops_of_a_graph_are_those_of_its_spec(name: str, tmp_path: Path) -> None:
    """specc's own count of products, of what `Attention` and `Conv` become in ONNX."""
    sets = {
        "gpt2": TINY,
        "llama": {"dim": "32", "layers": "2", "heads": "4", "kv_heads": "2", "hidden": "48", "vocab": "61"},
    }
    of = driver.load(SPECS / f"{name}.spec", sets=sets.get(name, {})).model
    onnx.save(build(of, Target(opset=23)), tmp_path / "m.onnx")
    found, said = summary(tmp_path / "m.onnx"), report(of)
    at = dict.fromkeys(said.dims, 64)
    assert found.root.flops is not None and said.spent.products is not None
    assert found.data["not_counted"] == 0
    assert found.root.flops.evaluate(at) == said.spent.products.evaluate(at)
    assert found.data["dims"] == sorted(said.dims)


def test_a_graph_is_a_tree_of_its_weights(tiny: Path) -> None:
    found = summary(tiny, at={"B": 1, "T": 8})
    layers = next(part for part in found.root.children if part.count == 3)
    assert layers.name == "h.{0..2}" and layers.flops is not None and layers.flops != 0
    assert layers.parameters == 12 * 32 * 32 + 13 * 32
    assert found.data["opset"] == {"ai.onnx": 20}
    assert found.data["operators"]["Gemm"] + found.data["operators"]["MatMul"] >= 13


@pytest.mark.slow
def test_a_graph_of_torch(tmp_path: Path) -> None:
    """Names of its exporter, sizes that vary."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    module = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
    program = torch.onnx.export(
        module, (torch.randn(4, 6),), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False
    )
    program.save(str(tmp_path / "seq.onnx"))
    found = summary(tmp_path / "seq.onnx")
    assert found.root.parameters == 6 * 8 + 8 + 8 * 3 + 3
    assert found.root.flops == Dim.symbol(found.data["dims"][0]) * 2 * (6 * 8 + 8 * 3)


@pytest.mark.parametrize(
    ("node", "x", "shape", "flops"),
    [
        (helper.make_node("MatMul", ["x", "w"], ["y"]), ["B", "T", 8], (8, 5), "80*B*T"),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transA=1), [8, "B"], (8, 5), "80*B"),
        (helper.make_node("Conv", ["x", "w"], ["y"]), ["B", 4, 9], (6, 2, 3), "504*B"),
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2]), ["B", 4, "T"], (4, 6, 2), "96*B*T"),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), ["past + T", 8], (8, 5), "80*T + 80*past"),
        (helper.make_node("Einsum", ["x", "w"], ["y"], equation="btd,de->bte"), ["B", "T", 8], (8, 5), "80*B*T"),
        (helper.make_node("LSTM", ["x", "w", "w"], ["y"], hidden_size=4), ["T", "B", 4], (1, 16, 4), "256*B*T"),
        (helper.make_node("GRU", ["x", "w", "w"], ["y"], hidden_size=4), ["T", "B", 4], (1, 12, 4), "192*B*T"),
        (helper.make_node("ConvInteger", ["x", "w"], ["y"]), ["B", 2, 9], (6, 2, 3), "504*B"),
        (helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft"), ["B", 8], (8, 5), "80*B"),
    ],
)
def test_formulas(node: onnx.NodeProto, x: list[Any], shape: tuple[int, ...], flops: str, tmp_path: Path) -> None:
    if node.op_type == "Conv":
        node.attribute.append(helper.make_attribute("group", 2))
    onnx.save(graph([node], x, [weight("w", *shape)]), tmp_path / "m.onnx")
    assert str(summary(tmp_path / "m.onnx").root.flops) == flops


def test_shapes_that_a_graph_computes_itself_are_followed(tmp_path: Path) -> None:
    """As in what torch's scripting exporter writes: every `Reshape` takes what it computes from `Shape`."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "first"], ["b"]),
        helper.make_node("Gather", ["s", "second"], ["t"]),
        helper.make_node("Mul", ["b", "t"], ["rows"]),
        helper.make_node("Concat", ["rows", "width"], ["flat"], axis=0),
        helper.make_node("Reshape", ["x", "flat"], ["m"]),
        helper.make_node("MatMul", ["m", "w"], ["y"], name="/net/proj/MatMul"),
    ]
    numbers = [("first", [0]), ("second", [1]), ("width", [8])]
    stored = [numpy_helper.from_array(np.array(n, np.int64), name) for name, n in numbers]
    onnx.save(
        graph(nodes, ["B", "T", 8], [weight("w", 8, 5), weight("net.norm.bias", 8), *stored]), tmp_path / "m.onnx"
    )
    found = summary(tmp_path / "m.onnx", at={"B": 2, "T": 3})
    assert str(found.root.flops) == "80*B*T" and found.data["not_counted"] == 0
    (net,) = found.root.children  # `norm` is all that has a weight below it; the product is beside it
    assert (net.name, str(net.flops), [part.name for part in net.children]) == ("net", "80*B*T", ["norm"])
    assert not list(tmp_path.glob("*temp*"))
    code = (
        f"from specc_runtime.foreign import shown; from pathlib import Path; shown(Path({str(tmp_path / 'm.onnx')!r}))"
    )
    assert loaded(code, "torch") == []


def test_parts_by_what_torch_notes_of_nodes(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "layers.0.proj.weight"], ["y"], name="node_matmul_3")
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'layers.0', 'layers.0.proj', 'matmul']")
    onnx.save(graph([node], ["B", 8], [weight("layers.0.proj.weight", 8, 5)]), tmp_path / "m.onnx")
    (part,) = summary(tmp_path / "m.onnx").root.children
    assert (part.name, str(part.flops)) == ("layers.0.proj", "80*B")


def test_weights_that_torch_numbered_belong_where_they_are_read(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["y"], name="/layers.0/proj/MatMul")
    onnx.save(graph([node], ["B", 8], [weight("onnx::MatMul_7", 8, 5)]), tmp_path / "m.onnx")
    (part,) = summary(tmp_path / "m.onnx").root.children
    assert (part.name, part.parameters, str(part.flops)) == ("layers.0.proj", 40, "80*B")


def test_products_of_branches_are_told_and_not_counted(tmp_path: Path) -> None:
    result = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["z"])], "b", [], [result])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
    ]
    onnx.save(graph(nodes, ["B", 8], [weight("w", 8, 5)]), tmp_path / "m.onnx")
    assert summary(tmp_path / "m.onnx").data["not_counted"] == 2
    assert "2 products in branches or loops" in run(tmp_path / "m.onnx").output


def test_an_element_type_that_nobody_knows(tmp_path: Path) -> None:
    made = graph([helper.make_node("MatMul", ["x", "w"], ["y"])], ["B", 8], [weight("w", 8, 5)])
    made.graph.initializer[0].data_type = 77
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    found = run(tmp_path / "m.onnx")
    assert found.exit_code == 1 and "element type 77" in found.stderr


def test_local_functions_are_gone_into(tmp_path: Path) -> None:
    body = [helper.make_node("MatMul", ["a", "b"], ["c"])]
    function = helper.make_function("own", "Product", ["a", "b"], ["c"], body, [helper.make_opsetid("", 17)])
    made = graph([helper.make_node("Product", ["x", "w"], ["y"], domain="own")], ["B", 8], [weight("w", 8, 5)])
    made.opset_import.append(helper.make_opsetid("own", 1))
    made.functions.append(function)
    onnx.save(made, tmp_path / "m.onnx")
    assert str(summary(tmp_path / "m.onnx").root.flops) == "80*B"


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Other", ["x"], ["h"], domain="somebody.else"),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    made = graph(nodes, ["B", 8], [weight("w", 8, 5)])
    made.opset_import.append(helper.make_opsetid("somebody.else", 1))
    onnx.save(made, tmp_path / "m.onnx")
    found = run(tmp_path / "m.onnx")
    assert found.exit_code == 0 and "not counted" in found.output and "somebody.else.Other" in found.output


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def saved(path: Path, layers: int = 3, dtype: type = np.float32) -> int:
    from safetensors.numpy import save_file

    tensors = {"model.embed.weight": np.zeros((10, 4), dtype), "steps": np.zeros((), np.int64)}
    tensors |= {f"model.layers.{i}.fc.weight": np.zeros((4, 4), dtype) for i in range(layers)}
    save_file(tensors, path)
    return 40 + layers * 16


def test_a_checkpoint_is_a_tree(tmp_path: Path) -> None:
    elements = saved(tmp_path / "m.safetensors", dtype=np.float16)
    found = summary(tmp_path / "m.safetensors")
    assert found.root.parameters == elements and found.root.bytes == 2 * elements + 8
    assert [(p.name, p.count) for p in found.root.children[0].children] == [("embed", 1), ("layers.{0..2}.fc", 3)]
    text = run(tmp_path / "m.safetensors").output
    assert "3 x 16" in text and "F16[4, 4]" in text and "F16" in text


def test_a_layer_that_differs_is_a_row_of_its_own(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    shapes = [(4, 4), (4, 4), (4, 8), (4, 4)]
    save_file({f"h.{i}.w": np.zeros(s, np.float32) for i, s in enumerate(shapes)}, tmp_path / "m.safetensors")
    assert [p.name for p in summary(tmp_path / "m.safetensors").root.children[0].children] == ["{0..1}", "2", "3"]


def test_a_folder_of_shards(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=40, n_positions=8)
    with torch.no_grad():
        transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "hf", max_shard_size="10KB")
    found = run(tmp_path / "hf")
    assert found.exit_code == 0 and "2 x 3,280" in found.output and " files" in found.output
    assert "model_type gpt2" in found.output


# ---- formats, mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["tree", "json", "csv", "markdown", "mermaid"])
def test_formats(format: str, tiny: Path) -> None:
    found = run(tiny, "--format", format, "--at", "B=1,T=4", "--depth", "2", "--sort", "params")
    assert found.exit_code == 0
    if format == "json":
        assert json.loads(found.output)["tree"]["flops_at"] > 0
    elif format == "csv":
        assert all(row["flops"] != "" for row in csv.DictReader(io.StringIO(found.output)))
    else:
        assert "h." in found.output


def test_a_terminal_is_wide_enough(tiny: Path) -> None:
    assert max(map(len, run(tiny).output.splitlines())) <= 120


def broken(path: Path, tiny: Path, what: str) -> None:
    """A file that cannot be inspected."""
    if what == "cut":
        path.write_bytes(tiny.read_bytes()[:5_000])
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "other":
        path.write_bytes(b"\x89PNG\r\n\x1a\n" * 40)
    else:
        made = onnx.load(tiny, load_external_data=False)
        made.opset_import[0].version = 999
        path.write_bytes(made.SerializeToString())


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("cut", "or only a part of one"),
        ("empty", "no ONNX graph"),
        ("other", "no ONNX graph"),
        ("opset", "is of opset 999"),
    ],
)
def test_a_graph_that_cannot_be_read(what: str, said: str, tiny: Path, tmp_path: Path) -> None:
    broken(tmp_path / "bad.onnx", tiny, what)
    with pytest.raises(Rejected) as caught:
        summary(tmp_path / "bad.onnx")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E006" and said in diagnostic.message and diagnostic.help
    assert run(tmp_path / "bad.onnx").exit_code == 1


def test_a_checkpoint_that_is_cut(tmp_path: Path) -> None:
    saved(tmp_path / "m.safetensors")
    (tmp_path / "m.safetensors").write_bytes((tmp_path / "m.safetensors").read_bytes()[:-20])
    with pytest.raises(Rejected) as caught:
        summary(tmp_path / "m.safetensors")
    assert [d.code for d in caught.value.diagnostics] == ["W352"]


@pytest.mark.parametrize(
    ("at", "message"),
    [({"B": 1}, "no size is given for `T`"), ({"B": 1, "T": 1, "Z": 2}, "has no dim `Z`")],
)
def test_sizes_of_a_graph(at: dict[str, int], message: str, tiny: Path) -> None:
    with pytest.raises(Rejected) as caught:
        summary(tiny, at=at)
    assert [d.code for d in caught.value.diagnostics] == ["E009"] and message in caught.value.diagnostics[0].message


def test_a_checkpoint_has_no_sizes(tmp_path: Path) -> None:
    saved(tmp_path / "m.safetensors")
    assert run(tmp_path / "m.safetensors", "--at", "B=1").exit_code == 1


@pytest.mark.parametrize("options", [["--fit", "24GiB"], ["--explain", "h.0"], ["--device", "h100"]])
def test_what_a_graph_cannot_tell(options: list[str], tiny: Path) -> None:
    found = run(tiny, *options)
    assert found.exit_code == 1


def test_what_is_foreign(tiny: Path, tmp_path: Path) -> None:
    assert is_foreign(tiny) and is_foreign(Path("m.safetensors"))
    assert not is_foreign(tmp_path) and not is_foreign(SPECS / "gpt2.spec") and not is_foreign(Path("gpt2"))

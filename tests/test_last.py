"""Results of the last position only: where a graph is cut, and that nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from building import specc

from specc import driver
from specc.backends.onnx.cached import build_cached
from specc.backends.onnx.target import Target
from specc.ir.graph import Apply, Call, Graph
from specc.passes.incremental import Incremental, derive
from specc.passes.last import last_only
from specc.quantisation import Scheme
from specc_runtime import open_build
from specc_runtime.build import Request, build
from specc_runtime.cache import Request as Cache
from specc_runtime.steps import open_steps

SPEC = """from std.nn import Embedding, LayerNorm, Linear
dim B, T, S = past(T) + T
block Attention(dim: int, heads: int) {{
  qkv: Linear(dim, 3*dim)
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] {{
    q, k, v = qkv(x) |> rearrange([B, T, 3*heads*(dim//heads)] -> [3, B, heads, T, dim//heads])
    k, v = cached(k, v, along = T)
    return sdpa(q, k, v, causal = true) |> rearrange([B, heads, T, dim//heads] -> [B, T, heads*(dim//heads)])
  }}
}}
model M(dim: int = 8, heads: int = 2, vocab: int = 11) {{
  embed: Embedding(vocab, dim)
  attn:  Attention(*)
  norm:  LayerNorm(dim)
  out:   [LayerNorm(dim), gelu, Linear(dim, vocab)]
  head:  Linear(dim, vocab)
  forward(ids: Int[B, T]) -> {results} {{
    x = embed(ids)
    x += attn(x)
    {body}
  }}
}}
"""
LOGITS = "logits: Tensor[B, T, vocab]"
SUM = ["[]", "attn", "[]", "+"]
"""Both operands of the sum after attention are cut."""


def derived(tmp_path: Path, body: str, results: str = LOGITS) -> Incremental:
    path = tmp_path / "m.spec"
    path.write_text(SPEC.format(body=body, results=results))
    found = derive(driver.load(path).model, "forward")
    assert not isinstance(found, list), found
    return found


def after_the_cut(graph: Graph) -> list[str]:
    """What the entry itself does from its first cut on."""
    names = [
        node.op.name if isinstance(node, Apply) else str(node.path[0]) if isinstance(node, Call) else "loop"
        for node in graph.nodes
    ]
    return names[names.index("[]") :]


@pytest.mark.parametrize(
    ("body", "results", "expected", "last"),
    [
        pytest.param("return x |> norm |> head", LOGITS, [*SUM, "norm", "head"], ["logits"], id="a head"),
        pytest.param("return out(norm(x))", LOGITS, [*SUM, "norm", "loop"], ["logits"], id="a list of parts"),
        pytest.param("return head(2*x + tanh(x))", LOGITS, [*SUM, "*", "tanh", "+", "head"], ["logits"], id="a sum"),
        pytest.param(
            "y = norm(x)\n    return head(y), y",
            f"({LOGITS}, hidden: Tensor[B, T, dim])",
            [*SUM, "norm", "head"],
            ["logits", "hidden"],
            id="two results",
        ),
        pytest.param(
            "y = norm(x)\n    return head(y), y[:, -1]",
            f"({LOGITS}, end: Tensor[B, dim])",
            ["[]", "head", "[]"],
            ["logits"],
            id="the last one indexed by the spec",
        ),
        pytest.param(
            "y = rearrange(x, [B, T, heads*(dim//heads)] -> [B, heads, T, dim//heads])\n"
            "    return y |> rearrange([B, heads, T, dim//heads] -> [B, T, heads*(dim//heads)]) |> head",
            LOGITS,
            ["[]", "head"],
            ["logits"],
            id="no further than a pattern that names the positions",
        ),
    ],
)
def test_a_graph_is_cut_where_positions_are_mixed_last(
    body: str, results: str, expected: list[str], last: list[str], tmp_path: Path
) -> None:
    found = derived(tmp_path, body, results)
    cut = last_only(found)
    assert [*cut.last] == last
    first = after_the_cut(cut.graph)
    assert first == expected
    assert cut.whole is found.graph and cut.states == found.states


def test_an_entry_without_results_of_positions_stays_as_it_is(tmp_path: Path) -> None:
    found = derived(tmp_path, "return x[:, -1]", "end: Tensor[B, dim]")
    assert last_only(found) is found


def test_the_product_with_the_vocabulary_has_one_row(tmp_path: Path) -> None:
    found = last_only(derived(tmp_path, "return x |> norm |> head"))
    proto = build_cached(driver.load(tmp_path / "m.spec").model, found)
    (logits, *_) = proto.graph.output
    sizes = [dim.dim_param or dim.dim_value for dim in logits.type.tensor_type.shape.dim]
    assert sizes == ["B", 1, 11]
    assert "Slice" in {node.op_type for node in proto.graph.node}


def test_the_last_query_of_a_packed_projection_is_read_where_it_lies(tmp_path: Path) -> None:
    found = last_only(derived(tmp_path, "return x |> norm |> head"))
    nodes = build_cached(driver.load(tmp_path / "m.spec").model, found).graph.node
    (attention,) = [node for node in nodes if node.op_type == "Attention"]
    assert "q_num_heads" in {attribute.name for attribute in attention.attribute}
    assert not [node for node in nodes if node.op_type == "Transpose"]


def test_the_last_layer_has_one_row_but_for_keys_and_values() -> None:
    """In the graph blocks are no boundary: keys and values are of every position, all else of one."""
    sets = {"layers": "2", "dim": "16", "heads": "2", "kv_heads": "2", "hidden": "24", "vocab": "23", "context": "12"}
    model = driver.load("llama", sets=sets).model
    found = derive(model, "forward")
    assert not isinstance(found, list)
    proto = build_cached(model, last_only(found))
    rows = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in proto.graph.value_info
    }
    assert rows["model.layers.0.mlp.up_proj"] == ["B*T", 24] and rows["model.layers.1.self_attn.k_proj"] == ["B*T", 16]
    assert rows["model.layers.1.mlp.up_proj"] == ["B", 24] and rows["model.layers.1.post_attention_layernorm"] == [
        "B",
        16,
    ]
    assert rows["model.layers.1.self_attn.q_proj"] == ["B", 16]  # one query attends, in one row of the mask
    (mask,) = {node.input[3] for node in proto.graph.node if node.op_type == "Attention" and "layers.1" in node.name}
    assert rows[mask][-2] == 1


@pytest.mark.parametrize("scheme", [Scheme(8), Scheme(4)], ids=lambda scheme: scheme.kind)
def test_products_in_few_bits_have_one_row_too(scheme: Scheme) -> None:
    """The positions are cut before activations are rounded."""
    sets = {"layers": "2", "dim": "16", "heads": "2", "kv_heads": "2", "hidden": "32", "vocab": "23", "context": "12"}
    model = driver.load("llama", sets=sets).model
    found = derive(model, "forward")
    assert not isinstance(found, list)
    proto = build_cached(model, last_only(found), Target(quant=scheme))
    rows = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in proto.graph.value_info
    }
    assert rows["model.layers.0.mlp.down_proj"] == ["B", "T", 16]
    assert rows["model.layers.1.mlp.down_proj"] == rows["model.layers.1.self_attn.o_proj"] == ["B", 1, 16]
    cuts = [node.input[0] for node in proto.graph.node if node.op_type == "Slice" and "layers.1" in node.name]
    assert "model.layers.0.x_1" in cuts and "model.layers.1.self_attn.y" not in cuts


@pytest.mark.parametrize("logits", ["all", "last"])
def test_both_programs_give_the_positions_asked_for(logits: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--set", "layers=1", "--set", "dim=16", "--set", "heads=2", "--set", "vocab=23", "--set", "context=12"]
    words = ["--no-render", "--cache", "concat", "--logits", logits, "-o", out]
    made = specc("build", "gpt2", *options, *words, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    opened = open_build(out)
    assert opened.manifest["entries"]["forward_cached"]["cache"]["last"] == (["logits"] if logits == "last" else [])
    ids = np.array([[3, 1, 4, 1, 5]])
    with_all = opened.session().run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids, bool)})[0]
    for engine in ("onnxruntime", "torch"):
        found = open_steps(opened, engine).step({"input_ids": ids, "attention_mask": np.ones_like(ids, bool)})
        np.testing.assert_allclose(found["logits"], with_all[:, -1:] if logits == "last" else with_all, atol=1e-5)


def test_frames_are_answered_one_by_one(tmp_path: Path) -> None:
    """Without being asked: a stream of sounds wants an answer for each, tokens want the one that follows."""
    path = tmp_path / "m.spec"
    text = SPEC.format(body="return x |> norm |> head", results=LOGITS)
    path.write_text(text.replace("ids: Int[B, T]", "ids: Tensor[B, T, dim]").replace("embed(ids)", "ids"))
    made = build(Request(str(path), render=False, out=tmp_path / "out", cache=Cache()))
    assert made.manifest["entries"]["forward_cached"]["cache"]["last"] == []


def test_logits_without_a_cache_are_refused(tmp_path: Path) -> None:
    result = specc("build", "gpt2", "--logits", "last", cwd=tmp_path)
    assert result.returncode == 2 and "add --cache concat" in result.stderr

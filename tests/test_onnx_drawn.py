"""The debug graph and the drawn form of an ONNX graph, on IR written by hand."""

from __future__ import annotations

import numpy as np
import pytest
import small_ir as si
from onnx_graphs import check, embedded, run, weights

from specc.backends.onnx.export import build, build_debug
from specc.backends.onnx.functions import view
from specc.backends.onnx.target import Target
from specc.ir import graph as ir
from specc.ir.taps import walk


@pytest.fixture(scope="module")
def small() -> ir.Model:
    return si.model(si.stack(layers=3, dim=16, heads=2))


# ---- taps and the debug graph ----------------------------------------------------------------------------------------


def test_taps_have_the_same_keys_in_the_debug_graph_and_in_a_walk(small: ir.Model) -> None:
    model, taps = build_debug(small, Target(weights=embedded(weights(small))))
    walked = [tap.key for tap in walk(small.entries["forward"].full)]
    assert [tap.key for tap in taps] == walked
    assert len(set(walked)) == len(walked)
    assert "layers.1.attn/7:y" in walked
    outputs = {output.name for output in model.graph.output}
    assert {tap.output for tap in taps} <= outputs


def test_the_debug_graph_computes_the_same_and_shows_heads_before_they_merge(small: ir.Model) -> None:
    arrays = weights(small)
    x = np.random.default_rng(4).standard_normal((2, 5, 16)).astype(np.float32)
    mask = np.ones((2, 5), bool)
    model, taps = build_debug(small, Target(weights=embedded(arrays)))
    names = [output.name for output in model.graph.output]
    results = dict(zip(names, run(model, x=x, mask=mask), strict=True))
    assert np.array_equal(results["logits"], run(build(small, Target(weights=embedded(arrays))), x=x, mask=mask)[0])
    output = {tap.key: tap.output for tap in taps}
    y, merged = results[output["layers.0.attn/7:y"]], results[output["layers.0.attn/8"]]
    assert y.shape == (2, 2, 5, 8)
    assert np.array_equal(y.transpose(0, 2, 1, 3).reshape(2, 5, 16), merged)


# ---- the drawn form --------------------------------------------------------------------------------------------------


def test_a_repeated_block_is_drawn_once(small: ir.Model) -> None:
    picture, blocks = view(small)
    check(picture)
    assert [f.name for f in picture.functions] == ["3 x layer", "Linear", "Attention"] + 4 * ["Linear"]
    assert [n.op_type for n in picture.graph.node] == ["3 x layer", "Linear"]
    assert [n.op_type for n in picture.functions[0].node] == ["Attention", "Add"]
    node = picture.graph.node[0]
    assert node.name == "layers.0..2"
    assert {p.key: p.value for p in node.metadata_props} == {"repeat": "3", "loop": "layer"}
    assert "layers.0..2.attn.q_proj.weight" in node.input
    assert "layers.0.attn.q_proj.weight" in {i.name for i in picture.graph.initializer}, "the tie names a real tensor"
    assert list(blocks) == ["Attention"]
    for block in blocks.values():
        check(block)


def test_functions_state_their_shapes(small: ir.Model) -> None:
    picture, _ = view(small)
    attention = next(f for f in picture.functions if f.name == "Attention")
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in attention.value_info}
    assert shapes["x"] == ["B", "T", 16]
    assert shapes["q_proj.weight"] == [16, 16]
    assert shapes["q_proj"] == ["B", "T", 16]
    assert shapes["output"] == ["B", "T", 16]
    linear = next(f for f in picture.functions if f.name == "Linear")
    assert [n.op_type for n in linear.node] == ["Transpose", "MatMul", "Add"]
    assert len({(f.name, f.overload) for f in picture.functions}) == len(picture.functions)


def test_no_picture_holds_weights(small: ir.Model) -> None:
    picture, blocks = view(small)
    for model in (picture, *blocks.values()):
        assert model.ByteSize() < 20_000
        assert not any(i.raw_data for i in model.graph.initializer if i.name.startswith("layers"))

"""What the ONNX backend makes shorter computes the same: heads that merge, layers in a row, parts of a cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
import small_ir as si
from onnx_graphs import embedded, ops, run, weights

from specc.backends.onnx.attention import merge_heads
from specc.backends.onnx.emitter import GraphEmitter
from specc.backends.onnx.flatten import Flattener
from specc.backends.onnx.products import use_gemm
from specc.backends.onnx.proto import model_proto
from specc.backends.onnx.rows import add_in_products
from specc.backends.onnx.scaled import scale_queries
from specc.backends.onnx.valid import read_valid
from specc.dims import Dim
from specc.ir import graph as ir
from specc.ir import members
from specc.passes.plain import entry_sizes
from specc.types import DType

B, T = si.B, si.T


@pytest.fixture(scope="module")
def small() -> ir.Model:
    return si.model(si.stack(layers=3, dim=16, heads=2))


# ---- attention -------------------------------------------------------------------------------------------------------


def unmerged(model: ir.Model, arrays: Mapping[str, np.ndarray[Any, Any]], *, merge: bool) -> onnx.ModelProto:
    """The graph as the operators lower it, with or without the one pass that is tested here."""
    emit = GraphEmitter()
    graph = model.entries["forward"].full
    Flattener(emit, members.aliases(model.module)).entry(graph, entry_sizes(graph))
    if merge:
        merge_heads(emit)
    return model_proto(emit, "lowered", weights=embedded(arrays))


def test_merged_heads_compute_exactly_the_same(small: ir.Model) -> None:
    arrays = weights(small)
    rng = np.random.default_rng(2)
    x, mask = rng.standard_normal((2, 7, 16)).astype(np.float32), np.ones((2, 7), bool)
    mask[0, :3] = False
    four, three = unmerged(small, arrays, merge=False), unmerged(small, arrays, merge=True)
    assert ops(four)["Reshape"] == 12
    assert "Reshape" not in ops(three)
    assert np.array_equal(run(four, x=x, mask=mask)[0], run(three, x=x, mask=mask)[0])


@pytest.mark.parametrize("take", ["gather", "split"])
def test_a_packed_projection_becomes_a_split_of_the_last_axis(take: str) -> None:
    def graph(merge: bool) -> onnx.ModelProto:
        emit = GraphEmitter()
        x = emit.input("x", si.tensor(B, T, 3 * 4 * 2))
        split = emit.reshape(x, (B, T, *map(Dim.const, (3, 4, 2))))
        heads = emit.transpose(split, (2, 0, 3, 1, 4))
        part = si.tensor(B, 4, T, 2)
        if take == "gather":
            q, k, v = (emit("Gather", heads, emit.const(i, DType.I64), axis=0, type=part) for i in (1, 0, 2))
        else:
            whole = si.tensor(1, B, 4, T, 2)
            pieces = emit.many("Split", 3, heads, types=[whole] * 3, axis=0, num_outputs=3)
            q, k, v = (emit.squeeze(pieces[i], (0,)) for i in (1, 0, 2))
        y = emit("Attention", q, k, v, is_causal=1, type=part)
        emit.output("y", emit.reshape(emit.transpose(y, (0, 2, 1, 3)), (B, T, Dim.const(8))))
        if merge:
            merge_heads(emit)
        return model_proto(emit, "g")

    x = np.random.default_rng(3).standard_normal((2, 5, 24)).astype(np.float32)
    assert ops(graph(True)) == {"Split": 1, "Attention": 1}
    assert np.array_equal(run(graph(True), x=x)[0], run(graph(False), x=x)[0])


def test_heads_stay_apart_where_something_else_reads_the_result() -> None:
    emit = GraphEmitter()
    x = emit.input("x", si.tensor(B, T, 8))
    q = emit.transpose(emit.reshape(x, (B, T, Dim.const(4), Dim.const(2))), (0, 2, 1, 3))
    y = emit("Attention", q, q, q, type=si.tensor(B, 4, T, 2))
    emit.output("heads", y)
    emit.output("y", emit.reshape(emit.transpose(y, (0, 2, 1, 3)), (B, T, Dim.const(8))))
    merge_heads(emit)
    assert ops(model_proto(emit, "g"))["Transpose"] == 2


# ---- linear layers ---------------------------------------------------------------------------------------------------


def mlp(emit: GraphEmitter, activation: str, result: bool) -> None:
    """linear, activation, linear, and (not as the result itself) an addition."""
    x = emit.input("x", si.tensor(B, T, 8))
    for name, inside, outside in (("up", 8, 12), ("down", 12, 8)):
        weight = emit.parameter(f"{name}.weight", si.tensor(outside, inside))
        y = emit("MatMul", x, emit.transpose(weight, (1, 0)))
        y = emit("Add", y, emit.parameter(f"{name}.bias", si.tensor(outside)))
        x = emit(activation, y) if name == "up" else y
    emit.output("y", x if result else emit("Add", x, emit.inputs[0]))


@pytest.mark.parametrize(
    ("activation", "result", "expected"),
    [
        ("Relu", False, {"Reshape": 2, "Gemm": 2, "Relu": 1, "Add": 3, "Shape": 1, "Concat": 1}),
        ("Gelu", True, {"Reshape": 2, "Gemm": 2, "Gelu": 1, "Add": 2, "Shape": 1, "Concat": 1}),
    ],
)
def test_linear_layers_in_a_row_stay_matrices(activation: str, result: bool, expected: dict[str, int]) -> None:
    rng = np.random.default_rng(5)
    shapes = {"up.weight": (12, 8), "up.bias": (12,), "down.weight": (8, 12), "down.bias": (8,)}
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    models = []
    for rewrite in (False, True):
        emit = GraphEmitter()
        mlp(emit, activation, result)
        if rewrite:
            use_gemm(emit)
        models.append(model_proto(emit, "mlp", weights=embedded(arrays)))
    assert ops(models[1]) == expected
    for shape in ((1, 1, 8), (3, 5, 8)):
        x = rng.standard_normal(shape).astype(np.float32)
        np.testing.assert_allclose(run(models[1], x=x)[0], run(models[0], x=x)[0], atol=1e-5)


@pytest.mark.parametrize(("activation", "additions"), [("Relu", 1), ("Gelu", 2)])
def test_steps_add_in_products(activation: str, additions: int) -> None:
    """Biases; not one before `Gelu`, which onnxruntime adds there, and not the last sum, which is the result."""
    rng = np.random.default_rng(6)
    shapes = {"up.weight": (12, 8), "up.bias": (12,), "down.weight": (8, 12), "down.bias": (8,)}
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    models = []
    for rewrite in (False, True):
        emit = GraphEmitter()
        mlp(emit, activation, result=False)
        if rewrite:
            use_gemm(emit)
            add_in_products(emit)
        models.append(model_proto(emit, "mlp", weights=embedded(arrays)))
    assert ops(models[1])["Add"] == additions and ops(models[1])["Gemm"] == 2
    x = rng.standard_normal((3, 5, 8)).astype(np.float32)
    np.testing.assert_allclose(run(models[1], x=x)[0], run(models[0], x=x)[0], atol=1e-5)


def test_the_residual_stream_stays_a_matrix() -> None:
    emit = GraphEmitter()
    x = emit.input("x", si.tensor(B, T, 8))
    first = emit("Add", x, x)
    stream = first
    for i in range(2):
        scaled = emit("RMSNormalization", stream, emit.parameter(f"{i}.scale", si.tensor(8)), axis=-1)
        weight = emit.parameter(f"{i}.weight", si.tensor(8, 8))
        stream = emit("Add", stream, emit("MatMul", scaled, emit.transpose(weight, (1, 0))))
    emit.output("y", emit("Softmax", stream, axis=1))  # looks at positions
    use_gemm(emit)
    add_in_products(emit)
    proto = model_proto(emit, "stream")
    assert ops(proto) == {
        "Reshape": 2, "Add": 1, "RMSNormalization": 2, "Gemm": 2, "Softmax": 1, "Shape": 1, "Concat": 1
    }  # fmt: skip
    assert [node.op_type for node in proto.graph.node][-2:] == ["Reshape", "Softmax"]


def test_a_reshape_of_a_reshape_is_one() -> None:
    emit = GraphEmitter()
    x = emit.input("x", si.tensor(B, T, 8))
    y = emit("MatMul", x, emit.transpose(emit.parameter("weight", si.tensor(12, 8)), (1, 0)))
    heads = emit.reshape(y, (B, T, Dim.const(3), Dim.const(4)))  # of the Reshape that gives the product its axes back
    emit.output("y", emit.transpose(heads, (0, 2, 1, 3)))
    use_gemm(emit)
    proto = model_proto(emit, "heads", weights=embedded({"weight": np.eye(12, 8, dtype=np.float32)}))
    assert ops(proto) == {"Reshape": 2, "Gemm": 1, "Transpose": 1, "Shape": 1, "Concat": 1}
    given = np.random.default_rng(5).standard_normal((2, 5, 8)).astype(np.float32)
    expected = (given @ np.eye(12, 8, dtype=np.float32).T).reshape(2, 5, 3, 4).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(run(proto, x=given)[0], expected, atol=1e-6)


@pytest.mark.parametrize(("length", "expected"), [(1, ["Reshape", "Gemm", "Reshape"]), (2, ["Transpose", "MatMul"])])
def test_a_result_of_one_position_needs_no_transposed_weight(length: int, expected: list[str]) -> None:
    """Logits for generation: turning a head of 150 MB would be half the time in which a session loads."""
    models = []
    for rewrite in (False, True):
        emit = GraphEmitter()
        x = emit.input("x", si.tensor(B, length, 8))
        emit.output("y", emit("MatMul", x, emit.transpose(emit.parameter("head.weight", si.tensor(12, 8)), (1, 0))))
        if rewrite:
            use_gemm(emit)
        models.append(model_proto(emit, "head", weights=embedded({"head.weight": np.eye(12, 8, dtype=np.float32)})))
    assert [node.op_type for node in models[1].graph.node if node.op_type in expected] == expected
    x_ = np.random.default_rng(5).standard_normal((3, length, 8)).astype(np.float32)
    np.testing.assert_allclose(run(models[1], x=x_)[0], run(models[0], x=x_)[0], atol=1e-6)


def test_what_others_read_keeps_its_axes() -> None:
    emit = GraphEmitter()
    mlp(emit, "Relu", result=True)
    relu = next(record.outputs[0] for record in emit.records if record.op_type == "Relu")
    emit.output("hidden", relu)
    use_gemm(emit)
    shapes = {o.name: len(o.type.tensor_type.shape.dim) for o in model_proto(emit, "mlp").graph.output}
    assert shapes == {"y": 3, "hidden": 3}


@pytest.mark.parametrize("rotated", [True, False])
def test_queries_come_scaled(rotated: bool) -> None:
    """Tables take a factor once for all layers that have it, elsewhere each query does; a factor of 1 is left alone."""
    models = []
    for rewrite in (False, True):
        emit = GraphEmitter()
        tables = [emit.input(name, si.tensor(B, T, 4)) for name in ("cos", "sin") if rotated]
        query = emit.input("q", si.tensor(B, 2, T, 8))
        x = query
        for scale in (None, None, 0.3, 1.0):
            turned = emit("RotaryEmbedding", x, *tables, type=x.type) if rotated else x
            x = emit("Attention", turned, query, query, type=x.type, is_causal=1, scale=scale)
        emit.output("y", x)
        if rewrite:
            scale_queries(emit)
        models.append(model_proto(emit, "scores"))
    assert ops(models[1])["Mul"] == (4 if rotated else 3)
    rng = np.random.default_rng(7)
    feeds = {name: rng.standard_normal((2, 5, 4)).astype(np.float32) for name in ("cos", "sin") if rotated}
    feeds["q"] = rng.standard_normal((2, 2, 5, 8)).astype(np.float32)
    np.testing.assert_allclose(run(models[1], **feeds)[0], run(models[0], **feeds)[0], atol=1e-6)


# ---- static caches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [2, 4], ids=["a mask for all", "a mask of each text"])
def test_a_static_cache_is_read_as_far_as_it_is_filled(axes: int) -> None:
    """The same numbers as with all rows, masked."""
    length, room, width = Dim.symbol("T"), 9, 4
    models = []
    for shorten in (False, True):
        emit = GraphEmitter(24)
        start = emit.input("start", si.tensor(1).with_dtype(DType.I64))
        q = emit.input("q", si.tensor(B, 2, length, width))
        kept = []
        for name in ("k", "v"):
            before = emit.input(f"past_{name}", si.tensor(B, 2, room, width))
            new = emit.input(name, si.tensor(B, 2, length, width))
            places = emit("Expand", start, emit.dim(B), type=si.tensor(B).with_dtype(DType.I64))
            kept.append(emit("TensorScatter", before, new, places, type=before.type, axis=2))
        shape = (length, room) if axes == 2 else (B, 1, length, room)
        mask = emit.input("mask", si.tensor(*shape).with_dtype(DType.BOOL))
        emit.output("y", emit("Attention", q, *kept, mask, type=q.type))
        if shorten:
            read_valid(emit, start, length, Dim.symbol("filled"))
        models.append(model_proto(emit, "step"))
    assert ops(models[1])["Slice"] == 3
    rng = np.random.default_rng(6)
    past = {f"past_{name}": rng.standard_normal((3, 2, room, width)).astype(np.float32) for name in "kv"}
    fed = {name: rng.standard_normal((3, 2, 2, width)).astype(np.float32) for name in "qkv"}
    for start_ in (0, 4, 7):
        mask_ = np.broadcast_to(np.arange(room) <= start_ + np.arange(2)[:, None], (*(3, 1)[: axes - 2], 2, room))
        fed_ = {**fed, **past, "start": np.array([start_]), "mask": mask_.copy()}
        np.testing.assert_allclose(run(models[1], **fed_)[0], run(models[0], **fed_)[0], atol=1e-6)

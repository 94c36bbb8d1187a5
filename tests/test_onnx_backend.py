"""The ONNX backend on IR written by hand: what a graph contains, its names, and that it computes the right thing."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import small_ir as si
import torch
from onnx_graphs import NO_MASK, embedded, ops, run, stack_reference, weights

from specc.backends.onnx.emitter import GraphEmitter
from specc.backends.onnx.export import build, build_debug
from specc.backends.onnx.proto import External, Slot, model_proto
from specc.backends.onnx.target import Target
from specc.diagnostics import Rejected
from specc.dims import Dim, Facts
from specc.ir import graph as ir
from specc.types import DType, Scalar

B, T = si.B, si.T


# ---- the emitter -----------------------------------------------------------------------------------------------------


def test_nothing_is_written_that_changes_nothing() -> None:
    emit = GraphEmitter()
    x = emit.input("x", si.tensor(B, T, 8))
    assert emit.reshape(x, (B, T, Dim.const(8))) is x
    assert emit.transpose(x, (0, 1, 2)) is x
    assert emit.cast(x, DType.F32) is x
    assert emit.squeeze(x, ()) is x
    assert emit.unsqueeze(x, ()) is x
    assert not emit.records


def test_equal_constants_and_equal_nodes_exist_once() -> None:
    emit = GraphEmitter()
    x = emit.input("x", si.tensor(B, 8))
    assert emit.scalar(0.5, x) is emit.scalar(0.5, x)
    assert emit("Mul", x, emit.scalar(0.5, x)) is emit("Mul", x, emit.scalar(0.5, x))
    assert emit("Softmax", x, axis=1) is not emit("Softmax", x, axis=0)
    assert emit.const(1, DType.I64) is not emit.const(1, DType.I32)
    assert emit.const(True, DType.BOOL) is not emit.const(1, DType.I8)


def test_a_node_is_not_taken_for_one_that_was_replaced() -> None:
    """Nodes are found again by the identities of what they read: none of those becomes that of something new."""
    emit = GraphEmitter()
    x = emit.input("x", si.tensor(B))
    node = emit("Exp", emit("Relu", x)).node
    assert node is not None and node.inputs[0] is not None and node.inputs[0].node is not None
    before = id(node.inputs[0])
    emit.forget(node.inputs[0].node)
    emit.records = []
    node.inputs = [x]
    assert before not in {id(ref) for ref in [dataclasses.replace(x) for _ in range(1000)]}


def test_unused_nodes_and_constants_are_dropped() -> None:
    emit = GraphEmitter()
    x = emit.input("x", si.tensor(B, 8))
    emit("Mul", x, emit.scalar(2.0, x))
    emit.parameter("unused", si.tensor(8))
    emit.output("y", emit("Relu", x))
    model = model_proto(emit, "g")
    assert [node.op_type for node in model.graph.node] == ["Relu"]
    assert not model.graph.initializer


@pytest.mark.parametrize(
    "dims",
    [
        (B, T * 8),
        (B * T, Dim.const(8)),
        (T, B, Dim.const(8)),
        (B, T, Dim.const(2), Dim.const(4)),
        (B * 2, T * 4),
        (T * 2, B, Dim.const(2), Dim.const(2)),
        (B * T * 8,),
        (Dim.const(8), T, B),
    ],
    ids=str,
)
def test_reshape_to_any_sizes(dims: tuple[Dim, ...]) -> None:
    emit = GraphEmitter()
    x = emit.input("x", si.tensor(B, T, 8))
    emit.output("y", emit.reshape(x, dims))
    for batch, length in ((1, 1), (2, 3), (5, 1)):
        value = np.arange(batch * length * 8, dtype=np.float32).reshape(batch, length, 8)
        shape = [dim.evaluate({"B": batch, "T": length}) for dim in dims]
        assert np.array_equal(run(model_proto(emit, "g"), x=value)[0], value.reshape(shape))


def test_reshape_of_sizes_that_may_be_zero() -> None:
    emit = GraphEmitter()
    x = emit.input("x", si.tensor(B, T, 6))
    one = emit.const([1], DType.I64)
    shorter = emit("Slice", x, one, emit.dim(T), one, type=si.tensor(B, T - 1, 6))
    emit.output("y", emit.reshape(shorter, (B * (T - 1), Dim.const(2), Dim.const(3))))
    emit.output("z", emit.reshape(shorter, (T - 1, B, Dim.const(6))))
    for length in (1, 2, 4):
        y, z = run(model_proto(emit, "g"), x=np.zeros((2, length, 6), np.float32))
        assert y.shape == (2 * (length - 1), 2, 3)
        assert z.shape == (length - 1, 2, 6)


@pytest.mark.parametrize(
    "size",
    [
        T - 1,
        (T - 1) // 2,
        (T - 5) // 2,
        T // 3 + 1,
        B * T - 1,
        (B + T) // (T + 1),
        7 - T,
        T**3,
        -((1 - T) // 4),
        2 * T + 3 * B,
    ],
    ids=str,
)
def test_sizes_are_python_arithmetic(size: Dim) -> None:
    """In particular quotients round towards minus infinity."""
    emit = GraphEmitter()
    emit.input("x", si.tensor(B, T))
    emit.output("size", emit.dim(size))
    model = model_proto(emit, "g")
    for batch, length in ((1, 1), (2, 3), (3, 8)):
        value = run(model, x=np.zeros((batch, length), np.float32))[0]
        assert value.tolist() == [size.evaluate({"B": batch, "T": length})]


def test_a_size_that_no_axis_shows_alone_is_solved_for() -> None:
    emit = GraphEmitter()
    emit.input("x", si.tensor(T * 2 + 3))
    emit.output("size", emit.dim(T))
    assert run(model_proto(emit, "g"), x=np.zeros(11, np.float32))[0].tolist() == [4]


def test_a_dim_used_as_a_number() -> None:
    emit = GraphEmitter()
    x = emit.input("x", si.tensor(B, T))
    emit.output("y", emit("Div", x, emit.scalar(Scalar(T), x)))
    assert run(model_proto(emit, "g"), x=np.full((1, 4), 2, np.float32))[0].tolist() == [[0.5] * 4]


def test_bfloat16_constants_round_to_nearest_even() -> None:
    emit = GraphEmitter(compute=DType.BF16)
    values = [1.0, 1.00390625, 1.01171875, -3.1415927, 1e-40, float("inf"), float("nan")]
    ref = emit.const(values, DType.COMPUTE)
    assert ref.array is not None
    expected = torch.tensor(values).to(torch.bfloat16).view(torch.int16).numpy().astype(np.uint16)
    assert np.array_equal(ref.array[:-1], expected[:-1])
    assert np.isnan(torch.from_numpy(ref.array.astype(np.int16)).view(torch.bfloat16)[-1].item())


@pytest.mark.parametrize("opset", range(17, 27))
def test_every_opset_gets_an_ir_version_that_onnxruntime_reads(opset: int) -> None:
    emit = GraphEmitter(opset)
    x = emit.input("x", si.tensor(B, 8))
    emit.output("y", emit("Relu", x))
    assert run(model_proto(emit, "g"), x=-np.ones((1, 8), np.float32))[0].max() == 0


def test_outputs_that_are_inputs_or_equal_get_a_node_of_their_own() -> None:
    emit = GraphEmitter()
    x = emit.input("x", si.tensor(B))
    y = emit("Neg", x)
    for name, ref in (("same", x), ("y", y), ("y2", y), ("number", emit.const(3.0, DType.F32))):
        emit.output(name, ref)
    model = model_proto(emit, "g")
    assert ops(model) == {"Neg": 1, "Identity": 3}
    assert [r.tolist() for r in run(model, x=np.ones(1, np.float32))] == [[1.0], [-1.0], [-1.0], 3.0]


# ---- the flat graph --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> ir.Model:
    return si.model(si.stack(layers=3, dim=16, heads=2))


def test_the_flat_graph_computes_what_torch_does(small: ir.Model) -> None:
    arrays = weights(small)
    rng = np.random.default_rng(1)
    for batch, length in ((1, 1), (2, 5), (3, 1)):
        x = rng.standard_normal((batch, length, 16)).astype(np.float32)
        mask = rng.random((batch, length)) < 0.7
        mask[:, 0] = True
        masked = run(build(small, Target(weights=embedded(arrays))), x=x, mask=mask)[0]
        plain = run(build(small, Target(weights=embedded(arrays)), without=NO_MASK), x=x)[0]
        np.testing.assert_allclose(masked, stack_reference(arrays, x, mask, 2), atol=2e-6)
        np.testing.assert_allclose(plain, stack_reference(arrays, x, None, 2), atol=2e-6)


@pytest.mark.parametrize("opset", [17, 18, 20, 22, 23, 24, 26])
def test_every_opset_computes_the_same(small: ir.Model, opset: int) -> None:
    arrays = weights(small)
    x = np.random.default_rng(1).standard_normal((2, 4, 16)).astype(np.float32)
    found = run(build(small, Target(opset=opset, weights=embedded(arrays)), without=NO_MASK), x=x)[0]
    np.testing.assert_allclose(found, stack_reference(arrays, x, None, 2), atol=2e-6)


def test_names_follow_the_spec(small: ir.Model) -> None:
    graph = build(small).graph
    assert [i.name for i in graph.input] == ["x", "mask"]
    assert [o.name for o in graph.output] == ["logits"]
    assert "layers.1.attn/Attention" in {n.name for n in graph.node}
    assert "layers.2.attn.q_proj/Gemm" in {n.name for n in graph.node}
    values = {output for n in graph.node for output in n.output}
    assert {"layers.0.attn.y", "layers.0.attn.q_proj", "layers.2.attn.out_proj"} <= values
    assert all(node.doc_string.startswith("small.spec:") for node in graph.node if not node.name.startswith("sizes/"))


def test_dims_are_named_and_past_is_nothing(small: ir.Model) -> None:
    graph = build(small).graph
    shapes = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*graph.input, *graph.output)
    }
    assert shapes == {"x": ["B", "T", 16], "mask": ["B", "T"], "logits": ["B", "T", 16]}
    assert graph.input[1].type.tensor_type.elem_type == onnx.TensorProto.BOOL
    assert "past" not in str(build(small))


def test_metadata_states_the_promises_about_the_dims_of_this_entry() -> None:
    made = si.stack(layers=1)
    promised = Facts.EMPTY.bound(si.S, hi=64).bound(Dim.symbol("N"), hi=9)
    model = dataclasses.replace(si.model(made), facts=promised)
    props = {prop.key: prop.value for prop in build(model).metadata_props}
    assert props["specc.dims"] == "T <= 64"


def test_a_tie_is_one_initializer(small: ir.Model) -> None:
    names = [i.name for i in build(small).graph.initializer]
    assert "head.weight" not in names
    assert "layers.0.attn.q_proj.weight" in names
    assert len(names) == len(set(names))


def test_no_node_is_noise(small: ir.Model) -> None:
    found = ops(build(small, without=NO_MASK))
    # Per layer q, k and v get their three axes and what attention gives loses them; x and logits are at the ends.
    assert found == {"Gemm": 13, "Reshape": 14, "Add": 16, "Attention": 3, "Shape": 1, "Concat": 1}
    assert ops(build(small))["Expand"] == 1, "the mask is prepared once for all layers"


def test_weights_are_references_into_a_file(small: ir.Model, tmp_path: Any) -> None:
    arrays = weights(small)
    blob, slots = b"header!", {}
    for name, array in arrays.items():
        slots[name] = Slot(len(blob), array.nbytes)
        blob += array.tobytes()
    (tmp_path / "model.safetensors").write_bytes(blob)
    model = build(small, Target(weights=External("model.safetensors", slots)), without=NO_MASK)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((2, 4, 16)).astype(np.float32)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], stack_reference(arrays, x, None, 2), atol=2e-6)


def test_same_input_same_bytes(small: ir.Model) -> None:
    again = si.model(si.stack(layers=3, dim=16, heads=2))
    assert build(small).SerializeToString(deterministic=True) == build(again).SerializeToString(deterministic=True)


def test_declared_shapes_are_the_real_ones(small: ir.Model) -> None:
    model, taps = build_debug(small, Target(weights=embedded(weights(small))))
    x = np.zeros((2, 3, 16), np.float32)
    results = run(model, x=x, mask=np.ones((2, 3), bool))
    declared = {o.name: [d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim] for o in model.graph.output}
    sizes = {"B": 2, "T": 3}
    for output, result in zip(model.graph.output, results, strict=True):
        assert list(result.shape) == [sizes.get(d, d) for d in declared[output.name]]
    assert taps


def test_an_opset_out_of_range_is_refused(small: ir.Model) -> None:
    with pytest.raises(Rejected) as caught:
        build(small, Target(opset=27))
    assert [(d.code, d.message) for d in caught.value.diagnostics] == [("B601", "opset 27 is not one of 17 to 26")]


def test_an_operator_that_the_target_lacks_is_named_with_its_place() -> None:
    body = si.Body()
    x = body.input("x", si.tensor(B, 8))
    made = si.module("Noise", {})
    body.graph(made, (None, body.apply("randn_like", x)), dims=("B",))
    with pytest.raises(Rejected) as caught:
        build(si.model(made))
    (found,) = caught.value.diagnostics
    assert found.code == "B601" and "randn_like" in found.message and found.span is not None

"""The ONNX backend on IR written by hand: what a graph contains, its names, and that it computes the right thing."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import small_ir as si
import torch
import torch.nn.functional as F

from specc.backends.onnx.attention import merge_heads
from specc.backends.onnx.emitter import GraphEmitter
from specc.backends.onnx.export import build, build_debug
from specc.backends.onnx.flatten import Flattener
from specc.backends.onnx.functions import view
from specc.backends.onnx.products import use_gemm
from specc.backends.onnx.proto import Embedded, External, Slot, model_proto
from specc.backends.onnx.rows import add_in_products
from specc.backends.onnx.scaled import scale_queries
from specc.backends.onnx.target import Target
from specc.backends.onnx.valid import read_valid
from specc.diagnostics import Rejected
from specc.dims import Dim, Facts
from specc.ir import graph as ir
from specc.ir import members
from specc.ir.taps import walk
from specc.passes.plain import entry_sizes
from specc.types import DType, Scalar

B, T = si.B, si.T
NO_MASK = frozenset({"mask"})


def check(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def weights(model: ir.Model) -> dict[str, np.ndarray[Any, Any]]:
    """The state_dict of random numbers, tied names left out."""
    rng = np.random.default_rng(0)
    tied = members.aliases(model.module)
    shapes = {name: p.type.shape for name, p in members.parameters(model.module).items() if name not in tied}
    return {n: rng.standard_normal([d.evaluate({}) for d in s]).astype(np.float32) / 4 for n, s in shapes.items()}


def embedded(arrays: Mapping[str, np.ndarray[Any, Any]]) -> Embedded:
    return Embedded({name: array.tobytes() for name, array in arrays.items()})


def run(model: onnx.ModelProto, **inputs: Any) -> list[np.ndarray[Any, Any]]:
    check(model)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def ops(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def stack_reference(
    arrays: Mapping[str, np.ndarray[Any, Any]], x: np.ndarray[Any, Any], mask: np.ndarray[Any, Any] | None, heads: int
) -> np.ndarray[Any, Any]:
    """`small_ir.stack` in plain torch."""
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    h = torch.from_numpy(x)
    batch, length, dim = h.shape
    visible = torch.ones(length, length).tril().bool()
    if mask is not None:
        visible = visible & torch.from_numpy(mask)[:, None, None, :]

    def project(path: str, value: torch.Tensor) -> torch.Tensor:
        return F.linear(value, state[f"{path}.weight"], state[f"{path}.bias"])

    layer = 0
    while f"layers.{layer}.attn.q_proj.weight" in state:
        attn = f"layers.{layer}.attn"
        q, k, v = (
            project(f"{attn}.{n}_proj", h).view(batch, length, heads, dim // heads).transpose(1, 2) for n in "qkv"
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        h = h + project(f"{attn}.out_proj", y.transpose(1, 2).reshape(batch, length, dim))
        layer += 1
    return F.linear(h, state["layers.0.attn.q_proj.weight"], state["head.bias"]).numpy()


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

"""What operators compute, against definitions written down again here: numpy in f64, Python's ints, torch.nn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from specc.backends.onnx.emitter import GraphEmitter
from specc.backends.onnx.proto import model_proto
from specc.dims import Dim, Facts
from specc.lowering import Emitter
from specc.op import Op, Pattern, operators
from specc.ops.index import Index
from specc.ops.rearrange import Rearrange
from specc.types import DType, Scalar, TensorType

DTYPES = {"float32": DType.COMPUTE, "int64": DType.I64, "bool": DType.BOOL}


class Text:
    """`TorchText` where every attribute is a literal."""

    def __init__(self, op: Op, operands: Sequence[Any], results: Sequence[TensorType]) -> None:
        self.op, self.operands, self.results = op, operands, results
        self.scope: dict[str, Any] = {"torch": torch, "F": F, "nn": nn, "self": nn.Module().eval()}

    def attr(self, name: str) -> str:
        value = getattr(self.op, name)
        if isinstance(value, tuple) and len(value) == 1:
            value = value[0]
        return repr(value)

    def dim(self, dim: Dim) -> str:
        return str(dim)

    def dims(self, dims: Sequence[Dim]) -> str:
        return ", ".join(map(str, dims))

    def dtype(self, dtype: DType) -> str:
        return "torch.float32"

    def device(self) -> str:
        return "None"

    def bind(self, hint: str, expression: str) -> str:
        self.scope[hint] = eval(expression, self.scope)
        return hint

    def helper(self, name: str, source: str) -> str:
        exec(source, self.scope)
        return name

    def extern(self, file: str) -> str:
        raise AssertionError(f"no operator here is a function of {file}")


def type_of(value: Any) -> Any:
    if value is None or not isinstance(value, np.ndarray):
        return None if value is None else Scalar(value)
    return TensorType(DTYPES[value.dtype.name], tuple(Dim.const(n) for n in value.shape))


def by_torch(op: Op, *operands: Any, training: bool = False) -> list[np.ndarray]:
    types = [type_of(o) for o in operands]
    inferred = op.infer(Facts.EMPTY, *types)
    results = inferred if isinstance(inferred, tuple) else (inferred,)
    text = Text(op, types, results)
    text.scope["self"].train(training)
    names: list[str | None] = []
    for i, operand in enumerate(operands):
        tensor = isinstance(operand, np.ndarray)
        names.append(f"a{i}" if tensor else None if operand is None else repr(operand))
        text.scope[f"a{i}"] = torch.from_numpy(np.array(operand)) if tensor else None
    found = eval(op.torch(text, *names), text.scope)
    found = found if isinstance(found, tuple) else (found,)
    for result, type_ in zip(found, results, strict=True):
        assert tuple(result.shape) == tuple(d.value for d in type_.shape)
    return [r.numpy() for r in found]


def by_onnx(op: Op, *operands: Any, opset: int = 23) -> list[np.ndarray]:
    emit = GraphEmitter(opset=opset)
    inferred = op.infer(Facts.EMPTY, *[type_of(o) for o in operands])
    values = [
        emit.input(f"a{i}", type_of(o)) if isinstance(o, np.ndarray) else None if o is None else Scalar(o)
        for i, o in enumerate(operands)
    ]
    made = op.onnx(cast("Emitter", emit), *values)
    for i, (ref, type_) in enumerate(
        zip(
            made if isinstance(made, tuple) else (made,),
            inferred if isinstance(inferred, tuple) else (inferred,),
            strict=True,
        )
    ):
        emit.output(f"r{i}", ref, type_)  # type: ignore[arg-type]
    model = model_proto(emit, "one")
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {f"a{i}": o for i, o in enumerate(operands) if isinstance(o, np.ndarray)}
    return [np.asarray(r) for r in session.run(None, feed)]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ---- attention -------------------------------------------------------------------------------------------------------


def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None, bias: np.ndarray | None, op: Any
) -> np.ndarray:
    """The definition, one query at a time, in f64."""
    (batch, heads, queries, width), (groups, keys) = q.shape, k.shape[1:3]
    result = np.zeros((batch, heads, queries, v.shape[3]))
    for b, h, i in itertools.product(range(batch), range(heads), range(queries)):
        group = h // (heads // groups)
        scores = k[b, group].astype(np.float64) @ q[b, h, i] * (op.scale if op.scale is not None else width**-0.5)
        if op.softcap is not None:
            scores = op.softcap * np.tanh(scores / op.softcap)
        if bias is not None:
            scores = scores + (bias[h, i] if bias.ndim == 3 else bias[min(b, bias.shape[0] - 1), h, i])
        position = i + keys - queries
        seen = [
            (not op.causal or j <= position)
            and (op.window is None or j > position - op.window)
            and (op.window is None or j < position + op.window)
            and (mask is None or bool(mask[b, j] if mask.ndim == 2 else mask[b, i, j]))
            for j in range(keys)
        ]
        weights = np.where(seen, np.exp(scores - scores.max()), 0.0)
        result[b, h, i] = weights @ v[b, group] / weights.sum()
    return result


SETTINGS: list[dict[str, Any]] = [
    {},
    {"causal": True},
    {"causal": True, "window": 3},
    {"window": 2},
    {"scale": 0.3, "softcap": 1.5},
    {"causal": True, "softcap": 1.5, "window": 4},
]


@pytest.mark.parametrize("given_settings", SETTINGS, ids=str)
@pytest.mark.parametrize("masked", ["", "keys", "pairs"])
@pytest.mark.parametrize("biased", ["", "heads", "batch"])
@pytest.mark.parametrize(("groups", "keys"), [(4, 5), (2, 5), (2, 8), (1, 8)])
def test_attention(given_settings: dict[str, Any], masked: str, biased: str, groups: int, keys: int) -> None:
    op = operators()["sdpa"](**given_settings)
    q, k, v = normal(2, 4, 5, 8), normal(2, groups, keys, 8, seed=1), normal(2, groups, keys, 6, seed=2)
    rng = np.random.default_rng(3)
    shape = {"keys": (2, keys), "pairs": (2, 5, keys)}.get(masked)
    mask = None if shape is None else rng.random(shape) > 0.3
    if mask is not None:  # every query sees a key: those of its window, or itself
        if mask.ndim == 2:
            mask[:, [*range(0, keys, 2), keys - 5]] = True
        else:
            mask[:, range(5), range(keys - 5, keys)] = True
    bias = {"heads": normal(4, 5, keys, seed=4), "batch": normal(2, 4, 5, keys, seed=4)}.get(biased)
    expected = attention(q, k, v, mask, bias, op)
    found = [by_torch(op, q, k, v, mask, bias), *(by_onnx(op, q, k, v, mask, bias, opset=o) for o in (17, 23, 24))]
    for result in found:
        np.testing.assert_allclose(result[0], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("biased", [False, True])
def test_a_query_that_sees_nothing_stays_finite(softcap: float | None, biased: bool) -> None:
    op = operators()["sdpa"](softcap=softcap)
    q, mask = normal(1, 2, 3, 4), np.zeros((1, 3), bool)
    bias = normal(2, 3, 3) if biased else None
    for result in (by_torch(op, q, q, q, mask, bias), *(by_onnx(op, q, q, q, mask, bias, opset=o) for o in (17, 23))):
        assert np.isfinite(result[0]).all()


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symbol", ["//", "%"])
def test_int_division_is_python_s(symbol: str) -> None:
    tops = np.arange(-9, 10, dtype=np.int64)[:, None] + np.zeros((1, 4), np.int64)
    bottoms = np.array([-4, -1, 1, 3], dtype=np.int64)
    expected = np.array(
        [[(a // b if symbol == "//" else a % b) for b in bottoms.tolist()] for a in range(-9, 10)], dtype=np.int64
    )
    op = operators()[symbol]()
    for found in (by_torch(op, tops, bottoms), by_onnx(op, tops, bottoms), by_onnx(op, tops, bottoms, opset=17)):
        np.testing.assert_array_equal(found[0], expected)


@pytest.mark.parametrize("symbol", ["//", "%"])
def test_float_division_rounds_down(symbol: str) -> None:
    tops = np.array([1.0, -1.0, 0.3, -0.3, 7.5, -7.5, 0.0, 6.0, np.inf, np.nan], dtype=np.float32)[:, None]
    bottoms = np.array([0.1, -0.1, 0.5, -2.5, 3.0, 0.0], dtype=np.float32)
    tops = tops + np.zeros_like(bottoms)
    op = operators()[symbol]()
    expected = by_torch(op, tops, bottoms)[0]
    np.testing.assert_allclose(by_onnx(op, tops, bottoms)[0], expected, rtol=1e-6, atol=1e-6)


POINTWISE = [
    n
    for n, op in operators().items()
    if not op.syntax and not op.for_training and [p.kind for p in op.params] in (["operand"], ["operand", "float"])
    if n not in ("dropout", "drop_path", "cached", "softcap")
]


@pytest.mark.parametrize("name", POINTWISE)
def test_extreme_numbers(name: str) -> None:
    """Where torch has a NaN or an infinity the graph has one too; small and large numbers keep their precision."""
    op = operators()[name]()
    x = np.array([0.0, 1e-12, -1e-8, 1e-4, -1e-4, 0.5, -0.5, 3.0, -3.0, 21.0, -21.0, 88.0, -88.0], dtype=np.float32)
    if name not in ("gelu", "gelu_tanh", "quick_gelu", "silu", "mish", "hardswish", "softsign"):  # there inf*0 appears
        x = np.concatenate([x, np.array([np.inf, -np.inf], dtype=np.float32)])
    expected = by_torch(op, x)[0]
    for opset in (17, 23):
        found = by_onnx(op, x, opset=opset)[0]
        small = 1e-6 if name == "gelu" else 1e-7  # 1 + erf(x) cancels for negative x
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=small, err_msg=f"opset {opset}")


def test_log1p_is_accurate_near_zero() -> None:
    x = np.geomspace(1e-30, 0.5, 200, dtype=np.float32)
    x = np.concatenate([-x, x])
    expected = np.log1p(x.astype(np.float64))
    np.testing.assert_allclose(by_onnx(operators()["log1p"](), x)[0], expected, rtol=5e-7, atol=1e-37)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_of_equal_elements_the_first_is_taken(name: str) -> None:
    x = np.array([[1, 3, 3, 1], [2, 2, 2, 2]], dtype=np.int64)
    op = operators()[name](axis=-1)
    expected = np.argmax(x, -1) if name == "argmax" else np.argmin(x, -1)
    np.testing.assert_array_equal(by_torch(op, x)[0], expected)
    np.testing.assert_array_equal(by_onnx(op, x)[0], expected)


@pytest.mark.parametrize(("layout", "shift"), [("interleaved", 0), ("sin_cos", 1), ("cos_sin", 0)])
def test_sinusoidal(layout: str, shift: int) -> None:
    op = operators()["sinusoidal"](dim=16, layout=layout, shift=shift)
    pos = np.array([0, 1, 7, 511, 8191], dtype=np.int64)
    angles = pos[:, None] * 10_000.0 ** (-np.arange(8) / (8 - shift))
    sin, cos = np.sin(angles), np.cos(angles)
    expected = {
        "interleaved": np.stack([sin, cos], -1).reshape(5, 16),
        "sin_cos": np.concatenate([sin, cos], -1),
        "cos_sin": np.concatenate([cos, sin], -1),
    }[layout]
    torch_table, onnx_table = by_torch(op, pos)[0], by_onnx(op, pos)[0]
    np.testing.assert_allclose(onnx_table, torch_table, rtol=0, atol=1e-6)
    np.testing.assert_allclose(torch_table, expected, rtol=0, atol=8191 * 2.0**-24)  # an f32 angle is this coarse


# ---- torch.nn --------------------------------------------------------------------------------------------------------


MODULES = [
    name
    for name, op in operators().items()
    if name != "interpolate"  # has no module without a scale or a size
    and op.module is not Op.module
    and all(p.kind == "float" for p in op.params if p.required and not p.is_operand)
]


@pytest.mark.parametrize("name", MODULES)
def test_module_is_the_function(name: str) -> None:
    op_class = operators()[name]
    op = op_class(**{p.name: 0.25 for p in op_class.params if not p.is_operand and p.required})
    text = op.module(Text(op, [], []))
    if text is None:
        assert name == "quick_gelu"  # torch has no module of it
        return
    module = eval(text, {"nn": nn}).eval()
    x = normal(3, 4, 8)
    np.testing.assert_array_equal(module(torch.from_numpy(x)).numpy(), by_torch(op, x)[0])


def test_norms_are_those_of_torch_nn() -> None:
    x, w, b = normal(2, 6, 5), normal(6, seed=1), normal(6, seed=2)
    t = {n: torch.from_numpy(v) for n, v in (("x", x), ("w", w), ("b", b))}
    norm = nn.LayerNorm(6, eps=1e-3)
    norm.load_state_dict({"weight": t["w"], "bias": t["b"]})
    expected = norm(t["x"].transpose(1, 2)).transpose(1, 2)
    cases: list[tuple[str, dict[str, Any], torch.Tensor]] = [("layer_norm", {"eps": 1e-3, "axis": 1}, expected)]
    group = nn.GroupNorm(3, 6)
    group.load_state_dict({"weight": t["w"], "bias": t["b"]})
    cases.append(("group_norm", {"groups": 3}, group(t["x"])))
    instance = nn.InstanceNorm1d(6, affine=True)
    instance.load_state_dict({"weight": t["w"], "bias": t["b"]})
    cases.append(("instance_norm", {}, instance(t["x"])))
    for name, attributes, want in cases:
        op = operators()[name](**attributes)
        for found in (by_torch(op, x, w, b), by_onnx(op, x, w, b)):
            np.testing.assert_allclose(found[0], want.detach().numpy(), rtol=0, atol=2e-6, err_msg=name)


def test_batch_norm_in_training_is_torch_nn_s() -> None:
    x = normal(4, 6, 5)
    norm = nn.BatchNorm1d(6).train()
    state = [np.array(v.numpy()) for v in norm.state_dict().values()]
    op = operators()["batch_norm"]()
    operands = [x, *state]
    text = Text(op, [type_of(o) for o in operands], [type_of(x)])
    text.scope["self"].train(True)
    tensors = {f"a{i}": torch.from_numpy(np.array(o)) for i, o in enumerate(operands)}
    text.scope |= tensors
    for _ in range(2):
        found = eval(op.torch(text, *tensors), text.scope)
        expected = norm(torch.from_numpy(x))
    torch.testing.assert_close(found, expected.detach())
    for tensor, want in zip(list(tensors.values())[1:], norm.state_dict().values(), strict=True):
        torch.testing.assert_close(tensor, want)


@pytest.mark.parametrize("name", ["dropout", "drop_path"])
def test_noise_keeps_the_mean_in_training(name: str) -> None:
    torch.manual_seed(0)
    x = np.ones((4_000, 5), dtype=np.float32)
    op = operators()[name](p=0.25)
    np.testing.assert_array_equal(by_torch(op, x)[0], x)
    noisy = by_torch(op, x, training=True)[0]
    np.testing.assert_allclose(np.unique(noisy), [0.0, 1 / 0.75], rtol=1e-6)
    assert math.isclose(float(noisy.mean()), 1.0, abs_tol=0.05)
    if name == "drop_path":
        assert (noisy == noisy[:, :1]).all()


# ---- shapes ----------------------------------------------------------------------------------------------------------


@st.composite
def patterns(draw: st.DrawFn) -> tuple[Pattern, tuple[int, ...]]:
    """A pattern of up to five factors, grouped into axes at random on both sides, with literal ones in between."""
    sizes = draw(st.lists(st.integers(2, 4), min_size=1, max_size=5))
    factors = [Dim.const(n).with_label(f"f{i}") for i, n in enumerate(sizes)]

    def side(order: Sequence[Dim]) -> tuple[tuple[Dim, ...], ...]:
        axes: list[list[Dim]] = []
        for factor in order:
            if draw(st.booleans()) and draw(st.booleans()):
                axes.append([Dim.UNIT])
            if axes and axes[-1] != [Dim.UNIT] and draw(st.booleans()):
                axes[-1].append(factor)
            else:
                axes.append([factor])
        return tuple(map(tuple, axes))

    left, right = side(factors), side(draw(st.permutations(factors)))
    shape = tuple(math.prod(d.value or 0 for d in axis) for axis in left)
    return Pattern(left, right), shape


@given(patterns())
@settings(max_examples=200, deadline=None)
def test_rearrange(drawn: tuple[Pattern, tuple[int, ...]]) -> None:
    pattern, shape = drawn
    x = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    left = [d for axis in pattern.left for d in axis if not d.unit]
    right = [d for axis in pattern.right for d in axis if not d.unit]
    order = [[d.label for d in left].index(d.label) for d in right]
    expected = x.reshape([d.value or 0 for d in left]).transpose(order)
    expected = expected.reshape([math.prod(d.value or 0 for d in axis) for axis in pattern.right])
    op = Rearrange(pattern=pattern)
    np.testing.assert_array_equal(by_torch(op, x)[0], expected)
    steps, emit = op.steps(), GraphEmitter()
    op.onnx(cast("Emitter", emit), emit.input("x", type_of(x)))
    wanted = sum(step is not None for step in (steps.split, steps.perm, steps.merged))
    assert len(emit.records) == wanted  # no step that changes nothing


@given(patterns())
@settings(max_examples=30, deadline=None)
def test_rearrange_in_onnxruntime(drawn: tuple[Pattern, tuple[int, ...]]) -> None:
    pattern, shape = drawn
    x = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    op = Rearrange(pattern=pattern)
    np.testing.assert_array_equal(by_onnx(op, x)[0], by_torch(op, x)[0])


@st.composite
def indices(draw: st.DrawFn) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[int, ...]]:
    """Items as `Index` has them, as numpy has them, and a shape that they fit."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    ours: list[Any] = []
    theirs: list[Any] = []
    for size in shape[: draw(st.integers(0, len(shape)))]:
        kind = draw(st.sampled_from(["at", "slice", "all", "new"]))
        if kind == "new":
            ours.append(None)
            theirs.append(None)
        if kind == "at":
            at = draw(st.integers(-size, size - 1))
            ours.append(Dim.const(at))
            theirs.append(at)
            continue
        start = draw(st.integers(0, size)) if kind == "slice" else None
        stop = draw(st.integers(start or 0, size)) if kind == "slice" else None
        step = draw(st.integers(1, 3)) if kind == "slice" else 1
        if start is not None and start < size and draw(st.booleans()):
            start -= size
        ours.append((start if start is None else Dim.const(start), stop if stop is None else Dim.const(stop), step))
        theirs.append(slice(start, stop, step))
    return tuple(ours), tuple(theirs), shape


@given(indices())
@settings(max_examples=150, deadline=None)
def test_index(drawn: tuple[tuple[Any, ...], tuple[Any, ...], tuple[int, ...]]) -> None:
    ours, theirs, shape = drawn
    if not ours:
        return
    x = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    op = Index(items=ours)
    expected = x[theirs]
    np.testing.assert_array_equal(by_torch(op, x)[0], expected)
    np.testing.assert_array_equal(by_onnx(op, x)[0], expected)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("n", [-7, -1, 0, 1, 3, 12])
def test_roll_by_more_than_the_axis(n: int, size: int) -> None:
    x = np.arange(2 * size, dtype=np.int64).reshape(2, size)
    op = operators()["roll"](axis=1)
    for by in (n, np.asarray(n)):  # a number and a tensor
        np.testing.assert_array_equal(by_onnx(op, x, by)[0], np.roll(x, n, 1))
        np.testing.assert_array_equal(by_torch(op, x, by)[0], np.roll(x, n, 1))

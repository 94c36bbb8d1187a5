"""The ONNX backend on the models of `specs/`: every entry, with and without its optional inputs, at every opset."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx_text import onnx_text

from specc.backends.onnx.export import build, build_debug
from specc.backends.onnx.functions import view
from specc.backends.onnx.proto import Embedded
from specc.backends.onnx.target import Target
from specc.diagnostics import Rejected
from specc.driver import load, open_project
from specc.ir import graph as ir
from specc.ir import members
from specc.ir.taps import walk
from specc.syntax import ast

SPECS = Path(__file__).parent.parent / "specs"
SMALL = {
    "linear": (None, {}),
    "mlp": ("small", {}),
    "gpt": ("tiny", {}),
    "gpt2": ("gpt2-tiny", {"vocab": "96", "context": "16"}),
    "transformer": ("base", {"vocab": "64", "dim": "16", "layers": "2", "heads": "2", "hidden": "24"}),
}
CASES = [
    pytest.param(name, entry, without, id=f"{name}-{entry}{'-without' if without else ''}")
    for name, entries in {
        "linear": {"forward": ""},
        "mlp": {"forward": ""},
        "gpt": {"forward": "", "forward ": "attention_mask"},
        "gpt2": {"forward": "", "forward ": "attention_mask"},
        "transformer": {"forward": "", "encode": "", "decode": ""},
    }.items()
    for entry, without in entries.items()
]
SIZES = ({"B": 1, "T": 1, "N": 1}, {"B": 2, "T": 5, "N": 3})


def small(name: str) -> ir.Model:
    preset, sets = SMALL[name]
    return load(SPECS / f"{name}.spec", preset=preset, sets=sets).model


def embedded(model: ir.Model) -> Embedded:
    """Random weights: floats of the size of a trained model's."""
    rng = np.random.default_rng(0)
    tensors = {}
    for key, parameter in members.parameters(model.module).items():
        shape = [size.evaluate({}) for size in parameter.type.shape]
        array = rng.standard_normal(shape) / 8 if parameter.type.dtype.is_float else np.zeros(shape)
        tensors[key] = array.astype(np.float32 if parameter.type.dtype.is_float else np.int64).tobytes()
    return Embedded(tensors)


def feeds(model: onnx.ModelProto, sizes: dict[str, int]) -> dict[str, Any]:
    """Inputs of these sizes; of masks, everything but some of the later positions."""
    rng = np.random.default_rng(1)
    made: dict[str, Any] = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = [sizes[dim.dim_param] if dim.dim_param else dim.dim_value for dim in tensor.shape.dim]
        if tensor.elem_type == onnx.TensorProto.BOOL:
            made[value.name] = rng.random(shape) < 0.8
            made[value.name][..., 0] = True
        elif tensor.elem_type == onnx.TensorProto.INT64:
            made[value.name] = rng.integers(0, 32, shape)
        else:
            made[value.name] = rng.standard_normal(shape).astype(np.float32)
    return made


def check(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def run(model: onnx.ModelProto, inputs: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


@pytest.mark.parametrize(("name", "entry", "without"), CASES)
def test_every_opset_checks_and_computes_the_same(name: str, entry: str, without: str) -> None:
    model = small(name)
    weights, left_out = embedded(model), frozenset(without.split())
    reference: dict[int, list[np.ndarray[Any, Any]]] = {}
    for opset in (23, 17, 18, 20, 22, 24, 26):
        built = build(model, Target(opset=opset, weights=weights), entry=entry.strip(), without=left_out)
        check(built)
        for i, sizes in enumerate(SIZES):
            found = run(built, feeds(built, sizes))
            for a, b in zip(found, reference.setdefault(i, found), strict=True):
                np.testing.assert_allclose(a, b, atol=1e-5, err_msg=f"opset {opset}, {sizes}")


@pytest.mark.parametrize(("name", "entry", "without"), CASES)
def test_the_debug_graph_is_the_same_program(name: str, entry: str, without: str) -> None:
    model = small(name)
    target, left_out = Target(weights=embedded(model)), frozenset(without.split())
    debug, taps = build_debug(model, target, entry=entry.strip(), without=left_out)
    check(debug)
    graph = model.entries[entry.strip()].full if not left_out else model.entries[entry.strip()].graphs[frozenset()]
    assert [tap.key for tap in taps] == [tap.key for tap in walk(graph)]
    inputs = feeds(debug, SIZES[1])
    plain = build(model, target, entry=entry.strip(), without=left_out)
    found, expected = run(debug, inputs), run(plain, inputs)
    for a, b in zip(found, expected, strict=False):
        np.testing.assert_allclose(a, b, atol=1e-5)
    for output, value in zip(debug.graph.output, found, strict=True):
        dims = [SIZES[1].get(d.dim_param, d.dim_value) for d in output.type.tensor_type.shape.dim]
        assert list(value.shape) == dims, output.name


@pytest.mark.parametrize(("name", "entry", "without"), CASES)
def test_pictures_pass_the_checker(name: str, entry: str, without: str) -> None:
    picture, blocks = view(small(name), entry.strip(), without=frozenset(without.split()))
    for model in (picture, *blocks.values()):
        check(model)
        assert onnx_text(model)


def test_a_deep_model_is_drawn_as_small_as_a_shallow_one() -> None:
    shallow, _ = view(load(SPECS / "gpt2.spec", preset="gpt2").model)
    deep, blocks = view(load(SPECS / "gpt2.spec", preset="gpt2-xl").model)
    assert [node.op_type for node in deep.graph.node if " x " in node.op_type] == ["48 x GPT2Block"]
    assert len(deep.graph.node) == len(shallow.graph.node)
    assert list(blocks) == ["GPT2Attention", "GPT2MLP", "GPT2Block"]


def test_gpt2_has_few_nodes_a_layer() -> None:
    found = build(load(SPECS / "gpt2.spec", preset="gpt2").model, without=frozenset({"attention_mask"}))
    layer = [node.op_type for node in found.graph.node if node.name.startswith("h.5")]
    assert len(layer) <= 21, layer
    assert "wte.weight" in {initializer.name for initializer in found.graph.initializer}
    assert "lm_head.weight" not in {initializer.name for initializer in found.graph.initializer}


_DIGEST = """
import hashlib, sys
from specc.backends.onnx.export import build
from specc.backends.onnx.functions import view
from specc.driver import load
model = load(sys.argv[1], preset="gpt2-tiny").model
picture, blocks = view(model)
for proto in (build(model), picture, *blocks.values()):
    print(hashlib.sha256(proto.SerializeToString()).hexdigest())
"""


def test_same_bytes_in_every_process() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST, str(SPECS / "gpt2.spec")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(found) == 1


@pytest.mark.parametrize("spec", sorted(SPECS.glob("*.spec")), ids=lambda path: path.stem)
def test_every_model_of_the_zoo_is_drawn(spec: Path) -> None:
    """At its full size: nothing of its weights is needed."""
    try:
        model = load(spec).model
    except Rejected:  # several models: a preset says which
        preset = next(item.name.value for item in open_project(spec).file.tree.items if isinstance(item, ast.Preset))
        model = load(spec, preset=preset).model
    for name in model.entries:
        check(view(model, name)[0])

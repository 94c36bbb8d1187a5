"""Builds in f16 and bf16: what is stored, what both programs compute, what the certificate says of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from building import specc
from onnx import checker, helper, shape_inference
from zoo import CASES

from specc import driver
from specc.backends.onnx.export import build as build_graph
from specc.backends.onnx.target import Target
from specc.diagnostics import Rejected
from specc.types import DType
from specc_runtime import half_proof, open_build
from specc_runtime.build import Request, Result, build
from specc_runtime.cache import Request as Cache
from specc_runtime.half_proof import repeat_half
from specc_runtime.quantised import parse
from specc_runtime.steps import open_steps

torch = pytest.importorskip("torch")

HALF = (DType.F16, DType.BF16)
TORCH = {DType.F16: torch.float16, DType.BF16: torch.bfloat16}
LLAMA = {"layers": "2", "dim": "32", "heads": "4", "kv_heads": "2", "hidden": "48", "vocab": "61", "context": "12"}


def made(out: Path, dtype: DType = DType.F32, **more: Any) -> Result:
    request = Request("llama", sets=LLAMA, render=False, out=out, dtype=dtype, cache=Cache(), **more)
    return build(request)


@pytest.fixture(scope="module", params=HALF, ids=lambda d: d.value)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[DType, Path]:
    out = tmp_path_factory.mktemp("half") / "out"
    made(out, request.param)
    return request.param, out


def test_the_proof_is_of_the_fp32_form_and_says_so(built: tuple[DType, Path]) -> None:
    """A CPU runs the f16 graphs, which are then held to their roundings; it has no kernels for bf16."""
    dtype, out = built
    record = open_build(out).manifest
    half = record["certificate"]["half"]
    assert record["dtype"] == dtype.value and half["proved_through"] == "f32"
    assert {*half["direct"]} == {"model.onnx", "model.forward_cached.onnx"}
    for direct in half["direct"].values():
        assert direct["runs"] == (dtype is DType.F16)
        if direct["runs"]:
            assert direct["figures"]["logits"]["max_abs"] <= direct["figures"]["logits"]["limit"] < 0.03
        else:
            assert "NOT_IMPLEMENTED" in direct["why"]
    hashes = {name: record["files"][name]["sha256"] for name in record["certificate"]["files"]}
    assert record["certificate"]["files"] == hashes  # of the files that are stored
    assert not [*out.glob(".fp32*")]


def test_the_proof_can_be_repeated(built: tuple[DType, Path]) -> None:
    certificate = repeat_half(built[1])
    assert certificate.half is not None and certificate.half.dtype == built[0].value


def test_weights_and_values_are_stored_narrow(built: tuple[DType, Path]) -> None:
    dtype, out = built
    header = (out / "model.safetensors").read_bytes()
    tensors = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
    assert {t["dtype"] for name, t in tensors.items() if name != "__metadata__"} == {dtype.value.upper()}
    of = open_build(out).interface("forward_cached")
    kept = [i for i in of.inputs if i.name.startswith("past_key_values")]
    assert kept and {i.dtype for i in kept} | {o.dtype for o in of.outputs} == {dtype.value}
    proto = onnx.load(out / "model.forward_cached.onnx")
    checker.check_model(proto)
    (attention, *_) = [node for node in proto.graph.node if node.op_type == "Attention"]
    precision = {a.name: a.i for a in attention.attribute}["softmax_precision"]
    assert precision == onnx.TensorProto.FLOAT


def test_the_module_has_the_dtype_and_keeps_rotary_tables_wide(built: tuple[DType, Path], tmp_path: Path) -> None:
    dtype, out = built
    module = open_build(out).module()
    assert {p.dtype for p in module.parameters()} == {TORCH[dtype]}
    assert {b.dtype for name, b in module.named_buffers() if "freqs" in name} == {torch.float32}
    made(tmp_path / "wide", verify=False)
    ids = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        found, expected = module(ids), open_build(tmp_path / "wide").module()(ids)
    assert found.dtype == TORCH[dtype]
    limit = 16 * torch.finfo(TORCH[dtype]).eps * max(1.0, float(expected.abs().max()))
    assert float((found.float() - expected).abs().max()) <= limit  # weights are rounded too
    steps = open_steps(open_build(out), "torch")
    assert steps.step({"input_ids": ids.numpy(), "attention_mask": np.ones((2, 6), bool)})["logits"].shape == (2, 1, 61)


@pytest.mark.parametrize("dtype", HALF, ids=lambda d: d.value)
def test_a_checkpoint_of_the_same_dtype_is_copied_bit_by_bit(dtype: DType, tmp_path: Path) -> None:
    made(tmp_path / "first", dtype, verify=False)
    weights = tmp_path / "first" / "model.safetensors"
    made(tmp_path / "again", dtype, verify=False, weights=str(weights))
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == weights.read_bytes()


@pytest.mark.parametrize("opset", [17, 23])
@pytest.mark.parametrize("dtype", HALF, ids=lambda d: d.value)
@pytest.mark.parametrize("spec", ["gpt2", "llama", "resnet", "mamba", "lstm"])
def test_graphs_are_well_typed(spec: str, dtype: DType, opset: int) -> None:
    """Every node has operands of types that its operator takes at that opset: the checker and type inference say so."""
    project = driver.open_project(spec)
    try:
        model = driver.load(spec).model
    except Rejected:
        model = driver.load(spec, preset=next(iter(project.presets))).model
    proto = build_graph(model, Target(opset=opset, compute=dtype))
    for tensor in [t for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        proto.graph.initializer.remove(tensor)
    checker.check_model(proto)
    shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)


@pytest.mark.parametrize("name", ["mamba", "mixtral", "t5", "resnet", "lstm", "clip"])
def test_every_kind_of_model_runs_in_f16(name: str, tmp_path: Path) -> None:
    """Its graph as it is stored, on the CPU: scans, routes, convolutions, recurrent layers among them."""
    case = CASES[name]
    torch.manual_seed(0)
    case.save(case.reference().eval(), tmp_path)
    made = build(replace(case.request(tmp_path), verify=True, dtype=DType.F16))
    half = made.manifest["certificate"]["half"]["direct"]["model.onnx"]
    assert half["runs"], half


def test_a_graph_that_loses_more_than_its_dtype_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_proof, "ROUNDINGS", 1e-6)
    with pytest.raises(Rejected) as refused:
        made(tmp_path / "out", DType.F16)
    (found,) = refused.value.diagnostics
    assert found.code == "B630" and "f16" in found.message and not (tmp_path / "out").exists()


def test_what_has_no_narrow_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Rejected) as refused:
        made(tmp_path / "out", DType.BF16, quant=parse("int8"))
    assert [d.code for d in refused.value.diagnostics] == ["B650"]


def test_the_command_line_builds_and_verifies(tmp_path: Path) -> None:
    built = specc("build", "linear", "--dtype", "f16", "--no-render", "-o", "out", cwd=tmp_path)
    assert built.returncode == 0 and "model.onnx in f16 is within its roundings of it" in built.stdout, built.stderr
    verified = specc("verify", "out", cwd=tmp_path)
    assert verified.returncode == 0 and "fp32 form" in verified.stdout, verified.stderr

"""Weights in few bits: packing, the graphs that read them, and the proof that tells when one is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from specc.diagnostics import Rejected
from specc.quantisation import BLOCKS, Scheme, part
from specc_runtime import packing, quant_proof
from specc_runtime.build import Request, build
from specc_runtime.cache import Request as CacheRequest
from specc_runtime.certificate import Certificate
from specc_runtime.inputs import Interface
from specc_runtime.module import open_build
from specc_runtime.quantised import PackedFile, parse
from specc_runtime.verify import repeat

DECODER = """\
from std.nn import Embedding, LayerNorm, Linear
dim B, T
model Small(vocab: int = 40, dim: int = 32) {
  wte: Embedding(vocab, dim)
  ln:  LayerNorm(dim)
  up:  Linear(dim, 80, bias = false)
  side: Linear(dim, 80)
  down: Linear(80, dim)
  head: Linear(dim, vocab, bias = false)
  tie head.weight = wte.weight
  forward(input_ids: Int[B, T]) -> logits: Tensor[B, T, vocab] {
    x = ln(wte(input_ids))
    q = x |> rearrange([B, T, dim] -> [B, 1, T, dim])
    k, v = cached(q, 2*q, along = T)
    y = sdpa(q, k, v, causal = true) |> rearrange([B, 1, T, dim] -> [B, T, dim])
    return head(x + down(gelu(up(y)) * side(y)))
  }
}
"""

SCHEMES = ["int8", "int8:embed", "int8:head", "int8:embed,head", "int4", "int4:block=16,asym", "int4:asym,embed,head"]


def made(folder: Path, quant: str, **asked: Any) -> tuple[Path, dict[str, Any]]:
    spec = folder / "small.spec"
    spec.write_text(DECODER, encoding="utf-8")
    out = folder / quant.replace(":", "_")
    result = build(Request(str(spec), render=False, out=out, quant=parse(quant), **asked))
    return out, result.manifest


# ---- packing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 15, 32, 48, 100])
@pytest.mark.parametrize(
    "scheme", [Scheme(), *(Scheme(4, block, symmetric) for block in (16, 32) for symmetric in (True, False))], ids=repr
)
def test_packing(scheme: Scheme, width: int) -> None:
    rows = np.random.default_rng(width).standard_normal((9, width)).astype(np.float32)
    rows[3] = 0
    rows[4] = abs(rows[4])
    packed = packing.pack(rows, scheme)
    found = packing.unpack(packed, width)
    assert not found[3].any()
    steps = packing.steps_off(rows, packed)
    # Of a symmetric block the side that lies opposite its furthest element ends at 7 steps of 8.
    assert steps <= (1.001 if scheme.bits == 4 else 0.501)
    assert packed.data.nbytes == (9 * width if scheme.bits == 8 else 9 * scheme.blocks(width) * scheme.block // 2)


def test_rows_that_fit_are_kept() -> None:
    rows = np.arange(-8, 8, dtype=np.float32)[None]
    for symmetric in (True, False):
        packed = packing.pack(rows, Scheme(4, 16, symmetric))
        np.testing.assert_array_equal(packing.unpack(packed, 16), rows)
    assert packing.pack(rows, Scheme(4, 16)).data[0, 0].tolist() == [0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]
    rows = np.array([[-127.0, 64.0, 1.0]], np.float32)
    assert packing.pack(rows, Scheme()).data.tolist() == [[-127, 64, 1]]


@pytest.mark.parametrize("text", [*SCHEMES, *(f"int4:block={b}" for b in BLOCKS if b != 32)])
def test_a_scheme_reads_back(text: str) -> None:
    assert parse(text).text == text


# ---- builds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quant", SCHEMES)
def test_a_quantised_build(quant: str, tmp_path: Path) -> None:
    out, manifest = made(tmp_path, quant, cache=CacheRequest())
    scheme = parse(quant)
    entries = manifest["entries"]
    assert entries["forward"]["quantised"] == f"model.{scheme.kind}.onnx"
    packed = {"up.weight", "side.weight", "down.weight"} | ({"wte.weight"} if scheme.embed or scheme.head else set())
    assert set(manifest["quantisation"]["packed"]) == packed
    losses = manifest["certificate"]["quantised"]
    assert set(losses) == {entry["quantised"] for entry in entries.values()} and len(losses) == 2
    for loss in losses.values():
        logits = loss["outputs"]["logits"]
        assert 0 < logits["rms"] < (0.05 if scheme.bits == 8 else 0.3) and logits["kl"] < 0.05
        assert loss["exact"]["logits"]["max_abs"] <= loss["exact"]["logits"]["limit"]
    assert repeat(out).quantised.keys() == losses.keys()
    nodes = [n.op_type for n in onnx.load(out / f"model.{scheme.kind}.onnx", load_external_data=False).graph.node]
    products = "MatMulInteger" if scheme.bits == 8 else "MatMulNBits"
    assert nodes.count(products) == 3 + scheme.head
    if scheme.bits == 8:  # `up` and `side` read the same rounded activations
        assert nodes.count("DynamicQuantizeLinear") == 2 + scheme.head
    else:
        assert nodes.count("GatherBlockQuantized") == scheme.embed


@pytest.mark.parametrize("opset", [17, 21, 26])
@pytest.mark.parametrize("quant", ["int8:embed,head", "int4:embed,head"])
def test_other_opsets(opset: int, quant: str, tmp_path: Path) -> None:
    _, manifest = made(tmp_path, quant, opset=opset)
    assert manifest["certificate"]["quantised"]


def test_the_file_says_what_was_packed(tmp_path: Path) -> None:
    out, manifest = made(tmp_path, "int4:block=64", verify=False)
    module = open_build(out).module()
    with PackedFile(out / manifest["quantisation"]["weights"]) as file:
        assert file.names() == ["down.weight", "side.weight", "up.weight"]
        for name in file.names():
            weight = module.get_parameter(name).detach().numpy()
            scheme = Scheme(4, 64)
            expected = packing.unpack(packing.pack(weight, scheme), weight.shape[1])
            np.testing.assert_array_equal(file.unpacked(name, weight.shape[1]), expected)


# ---- what the proof finds --------------------------------------------------------------------------------------------


def _certify(out: Path, manifest: dict[str, Any]) -> Certificate:
    of = Interface.from_json(manifest["entries"]["forward"]["interface"])
    scheme = parse(manifest["quantisation"]["scheme"])
    empty = Certificate(0, {}, {}, {})
    return quant_proof.certified(empty, out, [("model.onnx", of)], scheme)


@pytest.mark.parametrize("quant", ["int8", "int4", "int4:asym"])
def test_a_fault_cannot_hide(quant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Halves of bytes swapped, or rows of one layer's scales: less than the loss of precision, more than rounding."""
    out, manifest = made(tmp_path, quant, verify=False)
    assert _certify(out, manifest).quantised
    graph = out / manifest["entries"]["forward"]["quantised"]
    proto = onnx.load(graph, load_external_data=False)
    scales = {t.name: t for t in proto.graph.initializer if t.name.endswith(":scale")}
    place = next(e for e in scales[part("up.weight", "scale")].external_data if e.key == "offset")
    other = next(e for e in scales[part("side.weight", "scale")].external_data if e.key == "offset")
    place.value = other.value
    graph.write_bytes(proto.SerializeToString())
    with pytest.raises(Rejected, match="packed weights") as caught:
        _certify(out, manifest)
    assert caught.value.diagnostics[0].code == "B630"


def test_the_certificate_is_in_the_manifest(tmp_path: Path) -> None:
    out, manifest = made(tmp_path, "int8")
    stored = json.loads((out / "manifest.json").read_text("utf-8"))["certificate"]
    assert stored["quantised"] == manifest["certificate"]["quantised"]
    assert {"model.int8.onnx", "model.int8.safetensors"} <= stored["files"].keys()

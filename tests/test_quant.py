"""Weights in few bits: packing, the graphs that read them, and the proof that tells when one is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from specc.diagnostics import Rejected
from specc.quantisation import BLOCKS, Scheme, part
from specc_runtime import packing, quant_kernels, quant_proof
from specc_runtime.build import Request, build
from specc_runtime.cache import Request as CacheRequest
from specc_runtime.certificate import Certificate
from specc_runtime.inputs import Interface
from specc_runtime.module import open_build
from specc_runtime.programs import run_session
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
  init { Embedding.weight = normal(0.1) }
  forward(input_ids: Int[B, T]) -> logits: Tensor[B, T, vocab] {
    x = ln(wte(input_ids))
    q = x |> rearrange([B, T, dim] -> [B, 1, T, dim])
    k, v = cached(q, 2*q, along = T)
    y = sdpa(q, k, v, causal = true) |> rearrange([B, 1, T, dim] -> [B, T, dim])
    return head(x + down(gelu(up(y)) * side(y)))
  }
}
"""

TABLES = """\
from std.nn import Embedding, Linear
dim B
model Tables(dim: int = 64) {
  wide:   Embedding(7, dim)
  narrow: Embedding(7, 8)
  up: Linear(8, dim)
  forward(ids: Int[B]) -> y: Tensor[B, dim] = wide(ids) * up(narrow(ids))
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
    stored = manifest["quantisation"]
    assert {*stored["products"], *stored["tables"]} == packed
    assert ("wte.weight" in stored["products"]) == scheme.head and ("wte.weight" in stored["tables"]) == scheme.embed
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


@pytest.mark.parametrize("quant", ["int8:head", "int4:embed"])
def test_self_contained(quant: str, tmp_path: Path) -> None:
    """The fp32 graph has its weights inside; the quantised one reads its file."""
    out, manifest = made(tmp_path, quant, self_contained=True)
    assert manifest["certificate"]["quantised"] and (out / manifest["quantisation"]["weights"]).is_file()


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
    return quant_proof.certified(empty, out, [quant_proof.Plain("model.onnx", of)], scheme)


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


def test_kernels_only_round() -> None:
    for scheme in (Scheme(), Scheme(4), Scheme(4, 16, symmetric=False)):
        quant_kernels.check(scheme, [1, 20, 64, 700], "model")


def test_a_kernel_that_does_more_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums in pairs that end at 16 bits, as CPUs without VNNI have them."""
    honest = run_session

    def saturating(*given: Any) -> dict[str, Any]:
        return {name: np.clip(value, -200, 200) for name, value in honest(*given).items()}

    monkeypatch.setattr(quant_kernels, "run_session", saturating)
    with pytest.raises(Rejected, match="off by"):
        quant_kernels.check(Scheme(), [700], "model")


# ---- a text's perplexity ---------------------------------------------------------------------------------------------


def test_perplexity(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    letters = {letter: index for index, letter in enumerate("abcdefghijklmnopqrstuvwxyz .")}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(letters, []))
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 30, encoding="utf-8")
    out, _ = made(tmp_path, "int4", verify=False)
    with pytest.raises(Rejected, match="needs a tokenizer"):
        repeat(out, text=text)
    tokenizer.save(str(out / "tokenizer.json"))
    found = repeat(out, text=text).quantised["model.int4.onnx"].perplexity
    assert found is not None and found.tokens == 45 * 30 - 3
    assert found.before == pytest.approx(60, rel=0.2) and found.after == pytest.approx(found.before, rel=0.1)
    of = open_build(out).interface()
    module = open_build(out).module()
    lost = []
    ids = tokenizer.encode(text.read_text("utf-8")).ids
    for first in range(0, len(ids), 512):
        window = torch.tensor(ids[first : first + 512])
        logits = module(input_ids=window[None])[0]
        lost.append(torch.nn.functional.cross_entropy(logits[:-1], window[1:], reduction="sum").item())
    assert of.method == "forward" and found.before == pytest.approx(np.exp(sum(lost) / found.tokens), rel=1e-5)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(Rejected, match="not text"):
        repeat(out, text=tmp_path / "bytes")


# ---- torch -----------------------------------------------------------------------------------------------------------


def test_sessions_and_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = made(tmp_path, "int8:head", verify=False)
    opened = open_build(out)
    ids = np.arange(12).reshape(2, 6)
    plain, packed = (opened.session(quantized=q).run(["logits"], {"input_ids": ids})[0] for q in (False, True))
    assert 0 < np.abs(plain - packed).max() < 0.1 * np.abs(plain).max()
    module = opened.module()
    assert type(module.get_parameter("up.weight")) is torch.nn.Parameter
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(Rejected, match="torchao cannot be imported"):
        opened.module(quantized=True)


@pytest.mark.parametrize("quant", ["int8", "int8:embed,head", "int4:block=16,asym,embed,head"])
def test_torchao(quant: str, tmp_path: Path) -> None:
    pytest.importorskip("torchao", reason="torchao is not installed")
    out, _ = made(tmp_path, quant, verify=False)
    scheme, opened = parse(quant), open_build(out)
    ids = torch.arange(12).reshape(2, 6)
    packed = opened.module(quantized=True)
    with torch.inference_mode():
        reference, found = opened.module()(input_ids=ids), packed(input_ids=ids)
    assert 0 < (reference - found).abs().max() < (0.05 if scheme.bits == 8 else 0.3) * reference.abs().max()
    parts = {name: packed.get_submodule(name) for name in ("wte", "up", "side", "down", "head")}
    changed = {name for name, p in parts.items() if type(p.weight) is not torch.nn.Parameter}
    assert changed == {"up", "side", "down", *(["head"] if scheme.head else []), *(["wte"] if scheme.embed else [])}


def test_blocks_that_torchao_does_not_have(tmp_path: Path) -> None:
    pytest.importorskip("torchao", reason="torchao is not installed")
    out, _ = made(tmp_path, "int4:block=64", verify=False)
    with pytest.raises(Rejected, match="do not divide"):
        open_build(out).module(quantized=True)


def test_only_quantised_builds(tmp_path: Path) -> None:
    (tmp_path / "small.spec").write_text(DECODER, encoding="utf-8")
    result = build(Request(str(tmp_path / "small.spec"), render=False, verify=False, out=tmp_path / "plain"))
    assert "quantisation" not in result.manifest
    for wrong in (open_build(result.folder).module, open_build(result.folder).session):
        with pytest.raises(Rejected, match="no weights in few bits"):
            wrong(quantized=True)


def test_a_table_narrower_than_a_block_is_kept(tmp_path: Path) -> None:
    spec = tmp_path / "tables.spec"
    spec.write_text(TABLES, encoding="utf-8")
    result = build(Request(str(spec), render=False, out=tmp_path / "out", quant=parse("int4:embed")))
    assert result.manifest["quantisation"]["tables"] == ["wide.weight"]
    assert result.manifest["quantisation"]["products"] == []

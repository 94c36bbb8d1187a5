"""Linear layers in few bits that read the same rows: one product, the same numbers, weights under their own names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from specc.backends.onnx import packed
from specc.quantisation import joined, members, part
from specc_runtime import packing
from specc_runtime.build import Request, build
from specc_runtime.cache import Request as Cache
from specc_runtime.module import open_build
from specc_runtime.quantised import PackedFile, one_below_the_other, parse
from specc_runtime.steps import open_steps

GATED = """\
from std.nn import Embedding, Linear
dim B, T
block Attention(dim: int) {
  q: Linear(dim, dim)
  o: Linear(dim, dim, bias = false)
  k: Linear(dim, dim//2, bias = false)
  v: Linear(dim, dim//2)
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] {
    heads = q(x) |> rearrange([B, T, 2*(dim//2)] -> [B, 2, T, dim//2])
    k, v = cached(k(x), v(x), along = T)
    y = sdpa(heads, stack(k, k, axis = 1), stack(v, v, axis = 1), causal = true)
    return o(y |> rearrange([B, 2, T, dim//2] -> [B, T, 2*(dim//2)]))
  }
}
model Gated(dim: int = 32, vocab: int = 23) {
  embed: Embedding(vocab, dim)
  attn: Attention(dim)
  gate: Linear(dim, 3*dim, bias = false)
  up: Linear(dim, 3*dim, bias = false)
  down: Linear(3*dim, dim)
  head: Linear(dim, vocab)
  worth: Linear(dim, 1)
  forward(ids: Int[B, T]) -> (logits: Tensor[B, T, vocab], value: Tensor[B, T, 1]) {
    x = embed(ids)
    x += attn(x)
    x += down(silu(gate(x)) * up(x) + gate(x))
    return head(x), worth(x)
  }
}
"""

SHARED = """\
from std.nn import Linear
dim B, T
block Both(dim: int) {
  a: Linear(dim, dim)
  b: Linear(dim, dim)
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] = a(x) * tanh(b(x))
}
model Shared(dim: int = 32) {
  first: Both(dim)
  second: Both(dim)
  out: Linear(dim, dim)
  param w: Tensor[dim, dim] = normal(0.2)
  tie second.a.weight = first.a.weight
  forward(x: Tensor[B, T, dim]) -> y: Tensor[B, T, dim] {
    x += second(first(x))
    x = linear(x, w) + linear(x, w, mean(w, axis = 0)) * relu(linear(x, first.b.weight))
    q = x |> rearrange([B, T, dim] -> [B, 1, T, dim])
    k, v = cached(q, 2*q, along = T)
    return out(sdpa(q, k, v, causal = true) |> rearrange([B, 1, T, dim] -> [B, T, dim]))
  }
}
"""

GROUPS = {"attn.{q,k,v}.weight": 3, "{gate,up}.weight": 2}


def made(folder: Path, text: str, quant: str, **asked: Any) -> tuple[Path, dict[str, Any]]:
    spec = folder / "m.spec"
    spec.write_text(text, encoding="utf-8")
    out = folder / "out"
    result = build(Request(str(spec), render=False, out=out, quant=parse(quant), **asked))
    return out, result.manifest


def graph(out: Path, name: str) -> onnx.GraphProto:
    return onnx.load(out / name, load_external_data=False).graph


@pytest.mark.parametrize(
    ("names", "name"),
    [
        (["h.0.q.weight", "h.0.k.weight", "h.0.v.weight"], "h.0.{q,k,v}.weight"),
        (["q.weight", "k.weight"], "{q,k}.weight"),
        (["w.0", "w.1"], "w.{0,1}"),
        (["a", "b"], "{a,b}"),
        (["x.q.weight", "x.w"], "x.{q.weight,w}"),
        (["a.a.weight", "a.weight"], "a.{a.weight,weight}"),
        (["alone.weight"], "alone.weight"),
    ],
)
def test_a_name_tells_the_members(names: list[str], name: str) -> None:
    assert joined(names) == name and members(name) == tuple(names)


@pytest.mark.parametrize(
    ("groups", "order", "apart"),
    [
        ([("o",), ("q", "k", "v")], "qkvo", []),
        ([("k", "v"), ("q",), ("q", "k", "v")], "qkv", []),  # of another graph, within
        ([("a", "b"), ("b", "c")], "abc", ["{b,c}"]),
        ([("a", "b"), ("b", "a")], "ab", ["{b,a}"]),
        ([("a", "b"), ("c", "a")], "abc", ["{c,a}"]),
    ],
)
def test_members_lie_one_below_the_other(groups: Sequence[tuple[str, ...]], order: str, apart: list[str]) -> None:
    found = one_below_the_other(groups)
    assert "".join(found[0]) == order and sorted(found[1]) == apart


@pytest.mark.parametrize("quant", ["int8:head", "int4:block=16,asym,head"])
def test_one_product_for_what_reads_the_same_rows(quant: str, tmp_path: Path) -> None:
    out, manifest = made(tmp_path, GATED, quant, cache=Cache())
    scheme = parse(quant)
    whole = graph(out, f"model.{scheme.kind}.onnx")
    assert not any("{" in t.name for t in whole.initializer)  # prompts feel the copies that pieces are
    cached = graph(out, f"model.forward_cached.{scheme.kind}.onnx")
    names = {t.name.partition(":")[0]: t for t in cached.initializer if t.name.endswith(f":{scheme.kind}")}
    assert {name: len(members(name)) for name in names if len(members(name)) > 1} == GROUPS
    assert names.keys() - GROUPS.keys() == {"attn.o.weight", "down.weight", "head.weight", "worth.weight"}
    found = Counter(node.op_type for node in cached.node)
    assert found["MatMulInteger" if scheme.bits == 8 else "MatMulNBits"] == len(names)
    split = next(node for node in cached.node if node.op_type == "Split" and node.name.startswith("attn"))
    assert list(split.output) == ["attn.q", "attn.k", "attn.v"] and split.doc_string == "m.spec:9"
    stored = manifest["quantisation"]
    assert stored["products"] == sorted(one for name in names for one in members(name))
    module = open_build(out).module()
    with PackedFile(out / stored["weights"]) as file:
        assert file.names() == stored["products"]
        for name in file.names():
            weight = module.get_parameter(name).detach().numpy()
            expected = packing.unpack(packing.pack(weight, scheme), weight.shape[1])
            np.testing.assert_array_equal(file.unpacked(name, weight.shape[1]), expected)
        size = sum(file.entries[part(name, scheme.kind)].nbytes for name in file.names())
    assert size == sum(int(np.prod(t.dims)) for t in names.values())  # nothing is stored twice


@pytest.mark.parametrize("quant", ["int8", "int4:block=16"])
def test_joining_changes_no_number(quant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for folder in (tmp_path / "joined", tmp_path / "alone"):
        folder.mkdir()
        out, _ = made(folder, GATED, quant, verify=False, cache=Cache())
        steps = open_steps(open_build(out), "onnxruntime", quantized=True)
        found.append([steps.step({"ids": ids}) for ids in (np.array([[3, 1, 4], [1, 5, 9]]), np.array([[2], [6]]))])
        monkeypatch.setattr(packed, "_side_by_side", lambda sites: {})
    for one, other in zip(*found, strict=True):
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name])


@pytest.mark.parametrize("quant", ["int8", "int4:asym"])
def test_a_matrix_has_two_neighbours_at_most(quant: str, tmp_path: Path) -> None:
    """One that is tied, or read by itself too, is in two groups: the second is joined when a session is loaded. A layer
    that adds something computed stays alone: it may be computed from another one's product."""
    out, manifest = made(tmp_path, SHARED, quant, cache=Cache())
    assert manifest["certificate"]["quantised"]
    kind = parse(quant).kind
    cached = graph(out, f"model.forward_cached.{kind}.onnx")
    joins = {
        node.output[0].partition(":")[0] for node in cached.node if node.op_type == "Concat" and ":" in node.output[0]
    }
    assert joins == {"{first.a,second.b}.weight", "{w,first.b.weight}"}
    assert part("first.{a,b}.weight", kind) in {t.name for t in cached.initializer}
    assert manifest["quantisation"]["products"] == ["first.a.weight", "first.b.weight", "second.b.weight", "w"]
    with PackedFile(out / manifest["quantisation"]["weights"]) as file:
        assert file.names() == manifest["quantisation"]["products"]

"""Decoders of forms that the zoo does not have: steps give what the whole text gives, and batches what rows give
alone."""

from __future__ import annotations

import inspect
from pathlib import Path

import jsonschema
import pytest

from specc.diagnostics import Rejected
from specc.dims import Dim
from specc.op import OpError, Step
from specc.ops.index import ALL, Index, Item
from specc.ops.state import past
from specc.types import DType, TensorType
from specc_runtime import Generator, open_build
from specc_runtime.build import Request, build
from specc_runtime.cache import Request as Cache
from specc_runtime.certificate import schema
from specc_runtime.companions import SpecialTokens

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("one_thread")

LATENT = """
from std.nn import Linear, Embedding, RMSNorm
dim B, T, S = past(T) + T

## Multi-head latent attention (DeepSeek-V2): a latent [B, T, rank] is kept, and one rotary key [B, 1, T, rope].
block LatentAttention(dim: int, heads: int, rank: int, nope: int, rope: int) {
  q:    Linear(dim, heads*(nope + rope), bias = false)
  down: Linear(dim, rank + rope, bias = false)
  norm: RMSNorm(rank)
  up:   Linear(rank, 2*heads*nope, bias = false)
  o:    Linear(heads*nope, dim, bias = false)
  forward(x: Tensor[B, T, dim], pos: Int[B, T], mask: Bool[B, S]) -> Tensor[B, T, dim] {
    freqs = rope_freqs(rope, 10_000.0)
    q = q(x) |> rearrange([B, T, heads*(nope + rope)] -> [B, heads, T, (nope + rope)])
    qn, qr = split(q, [nope, rope], axis = -1)
    c, kr = split(down(x), [rank, rope], axis = -1)
    c, kr = cached(norm(c), rotary(kr[:, none], pos, freqs, style = "half"), along = T)
    kn, v = up(c) |> rearrange([B, S, 2*heads*nope] -> [2, B, heads, S, nope])
    k = concat([kn, expand(kr, [B, heads, S, rope])], axis = -1)
    y = sdpa(concat([qn, rotary(qr, pos, freqs, style = "half")], axis = -1), k, v, mask = mask, causal = true)
    return y |> rearrange([B, heads, T, nope] -> [B, T, heads*nope]) |> o
  }
}

model LM(vocab: int = 50, dim: int = 16) {
  embed: Embedding(vocab, dim)
  attn:  LatentAttention(dim, heads = 2, rank = 6, nope = 4, rope = 2)
  forward(input_ids: Int[B, T], attention_mask: Bool[B, S]) -> logits: Tensor[B, T, vocab] {
    x = embed(input_ids)
    x += attn(x, positions(T, mask = attention_mask), attention_mask)
    return x @ transpose(embed.weight, 0, 1)
  }
}
"""

HYBRID = """
from std.nn import Linear, Embedding, CausalConv1d
dim B, T, S = past(T) + T

## A linear recurrence behind a short convolution, then attention. Padding is no part of what the first two keep.
model LM(vocab: int = 50, dim: int = 16) {
  embed: Embedding(vocab, dim)
  conv:  CausalConv1d(dim, dim, 3, groups = dim, bias = false)
  gate:  Linear(dim, dim)
  qkv:   Linear(dim, 3*dim)
  forward(input_ids: Int[B, T], attention_mask: Bool[B, S]) -> logits: Tensor[B, T, vocab] {
    text = attention_mask[:, S - T:][..., none]
    x = where(text, embed(input_ids), 0.0)
    x += x |> transpose(1, 2) |> conv |> transpose(1, 2)
    ys, h = scan u, g in where(text, x, 0.0), sigmoid(gate(x)) along T with h = carried(zeros([B, dim])) {
      h = g*h + u
      emit h
    }
    q, k, v = qkv(ys) |> rearrange([B, T, 3*dim] -> [3, B, 1, T, dim])
    k, v = cached(k, v, along = T)
    y = sdpa(q, k, v, mask = attention_mask, causal = true) |> rearrange([B, 1, T, dim] -> [B, T, dim])
    return (x + y) @ transpose(embed.weight, 0, 1)
  }
}
"""

TWO_MASKS = HYBRID.replace("mask: Bool[B, S])", "mask: Bool[B, S], text: Bool[B, T])").replace(
    "text = attention_mask[:, S - T:][..., none]", "text = text[..., none]"
)

PROMPTS = [[5, 9, 2, 33, 41, 17, 8], [3, 11, 46], [7]]


def by_hand(folder: Path, prompt: list[int], count: int) -> tuple[int, ...]:
    """The likeliest token each time, of the whole text anew."""
    module, text = open_build(folder).module(), list(prompt)
    for _ in range(count):
        masks = [torch.ones(1, len(text), dtype=torch.bool)] * (len(inspect.signature(module.forward).parameters) - 1)
        with torch.inference_mode():
            logits = module(torch.tensor([text]), *masks)
        text.append(int(logits[0, -1].argmax()))
    return tuple(text[len(prompt) :])


@pytest.mark.parametrize(
    ("spec", "cache", "opset"),
    [
        pytest.param(LATENT, Cache(), 23, id="latent"),
        pytest.param(HYBRID, Cache(), 17, id="hybrid"),
        pytest.param(HYBRID, Cache(40), 24, id="hybrid-static"),
        pytest.param(TWO_MASKS, Cache(), 23, id="hybrid-two-masks"),
    ],
)
def test_steps_and_batches_give_what_the_whole_text_gives(spec: str, cache: Cache, opset: int, tmp_path: Path) -> None:
    (tmp_path / "lm.spec").write_text(spec)
    request = Request(str(tmp_path / "lm.spec"), render=False, out=tmp_path / "out", cache=cache, opset=opset)
    runs = build(request).manifest["certificate"]["entries"]["forward_cached"]["runs"]
    certificate = open_build(tmp_path / "out").manifest["certificate"]
    [padded] = certificate["entries"]["forward_cached"]["padded"].values()
    assert padded["max_abs"] <= padded["limit"]
    assert len(runs) >= 8 and {run["masks"] for run in runs} == {"all true", "padded"}
    expected = [by_hand(tmp_path / "out", prompt, 12) for prompt in PROMPTS]
    for backend in ("onnxruntime", "torch"):
        generator = Generator(tmp_path / "out", backend)
        generator.special = SpecialTokens()
        assert [row.tokens for row in generator.generate(PROMPTS, 12).rows] == expected, backend


def test_a_model_that_reads_padding_gets_none(tmp_path: Path) -> None:
    """Its steps are what its whole text gives, padding and all; but a padded row is not what it is alone."""
    (tmp_path / "lm.spec").write_text(HYBRID.replace("where(text, embed(input_ids), 0.0)", "embed(input_ids)"))
    made = build(Request(str(tmp_path / "lm.spec"), render=False, out=tmp_path / "out", cache=Cache()))
    assert "agree" in made.proof and "forward_cached: `logits` of a padded row is off by" in made.proof
    jsonschema.validate(made.manifest["certificate"], schema())
    generator = Generator(tmp_path / "out")
    assert len(generator.generate([[1, 2], [3, 4]], 3).rows) == 2
    with pytest.raises(Rejected) as refused:
        generator.generate(PROMPTS, 3)
    [found] = refused.value.diagnostics
    assert found.code == "G704" and "padding changes what the model gives" in found.message


T, P = Dim.symbol("T"), past(Dim.symbol("T"))


@pytest.mark.parametrize(
    "item",
    [(Dim.const(1), None, 1), (None, T, 1), (T, P + T, 1), (P, P + T - 1, 1), (P - 1, None, 1), (P, None, 2), P],
    ids=str,
)
def test_the_last_t_of_all_positions_are_the_new_ones_and_no_other_slice_is(item: Item) -> None:
    whole, step = TensorType(DType.BOOL, (Dim.symbol("B"), P + T)), Step(T, P)
    for good in ((P, None, 1), (P, P + T, 1)):
        Index(items=(ALL, good)).stepwise(step, whole)
    with pytest.raises(OpError) as refused:
        Index(items=(ALL, item)).stepwise(step, whole)
    assert refused.value.code == "D402"

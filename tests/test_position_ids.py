"""`--position-ids`: positions as an input give what the model computes without them, whole, in steps, generating."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from building import make, specc

from specc_runtime import Generator, open_build
from specc_runtime.build import Request, build
from specc_runtime.cache import Request as Cache
from specc_runtime.inputs import draw, positions_of
from specc_runtime.steps import in_parts, open_steps
from specc_runtime.verify import repeat

PROMPTS = [[5, 9, 2, 33], [3, 11], [7]]

UNMASKED = """\
from std.nn import Embedding, Linear
dim B, T, N, S = past(T) + T
model LM(vocab: int = 40, dim: int = 8, context: int = 16) {
  dim S <= context
  wte: Embedding(vocab, dim)
  wpe: Embedding(context, dim)
  head: Linear(dim, vocab)
  fn encode(sound: Tensor[B, N, dim]) -> memory: Tensor[B, N, dim] = sound + sinusoidal(positions(N), dim)
  fn decode(input_ids: Int[B, T], memory: Tensor[B, N, dim], scale: Tensor[dim]? = none)
      -> logits: Tensor[B, T, vocab] {
    x = (wte(input_ids) + wpe(positions(T)))[:, none]
    k = cached(x, along = T)
    y = sdpa(x, k, k, causal = true) + mean(memory, axis = 1)[:, none, none]
    if scale != none { y = y * scale }
    return head(y[:, 0])
  }
  forward(sound: Tensor[B, N, dim], input_ids: Int[B, T], scale: Tensor[dim]? = none) -> logits: Tensor[B, T, vocab] {
    return decode(input_ids, encode(sound), scale)
  }
}
"""


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_generation_feeds_the_positions_that_the_model_would_compute(backend: str, tmp_path: Path) -> None:
    """Of prompts of unequal length, whose padding counts for nothing."""
    make("gpt2", tmp_path / "own", cache=Cache())
    make("gpt2", tmp_path / "given", cache=Cache(), position_ids=True)
    asked = {"prompt": PROMPTS, "max_new_tokens": 6}
    expected = Generator(tmp_path / "own").generate(**asked)  # type: ignore[arg-type]
    found = Generator(tmp_path / "given", backend).generate(**asked)  # type: ignore[arg-type]
    assert [row.tokens for row in found.rows] == [row.tokens for row in expected.rows]


@pytest.mark.parametrize("cache", [Cache(), Cache(12)], ids=["concat", "static"])
def test_a_build_is_proved_and_named_as_exports_of_hugging_face_are(cache: Cache, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = make("gpt2", out, verify=True, cache=cache, position_ids=True)
    entries = made.manifest["certificate"]["entries"]
    assert len(entries["forward_cached"]["runs"]) >= 8
    for file in ("model.onnx", "model.forward_cached.onnx"):
        graph = onnx.load(out / file, load_external_data=False).graph
        given = {i.name: [d.dim_param for d in i.type.tensor_type.shape.dim] for i in graph.input}
        assert given["position_ids"] == ["B", "T"]
        assert not any(node.op_type in ("CumSum", "Range") and "position" in node.output[0] for node in graph.node)
    repeat(out)


def test_positions_are_those_that_are_given(tmp_path: Path) -> None:
    """The plain build at positions that are moved and gapped is not what it was; steps give what the whole gives."""
    make("gpt2", tmp_path, cache=Cache(logits="all"), position_ids=True)
    made = open_build(tmp_path)
    ids, mask = np.array([[4, 8, 15, 16]]), np.ones((1, 4), bool)
    module = made.module()
    import torch

    def whole(places: list[list[int]]) -> np.ndarray:
        tensors = {"input_ids": ids, "attention_mask": mask, "position_ids": np.array(places)}
        with torch.no_grad():
            logits: torch.Tensor = module(**{name: torch.from_numpy(v) for name, v in tensors.items()})
        return logits.numpy()

    assert np.abs(whole([[0, 1, 2, 3]]) - whole([[2, 3, 5, 7]])).max() > 1e-3
    feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": np.array([[2, 3, 5, 7]])}
    for engine in ("torch", "onnxruntime"):
        found = in_parts(open_steps(made, engine), made.interface(), feeds, (2, 1, 1))
        np.testing.assert_allclose(found["logits"], whole([[2, 3, 5, 7]]), atol=1e-5)


def test_only_the_texts_positions_and_calls_between_methods(tmp_path: Path) -> None:
    """An encoder keeps its own; `forward` hands the input on to `decode`, whose positions had no batch before."""
    spec = tmp_path / "lm.spec"
    spec.write_text(UNMASKED)
    request = Request(str(spec), render=False, entries=None, cache=Cache(), position_ids=True, out=tmp_path / "out")
    manifest = build(request).manifest
    inputs = {
        name: [(i["name"], len(i["shape"])) for i in entry["interface"]["inputs"]]
        for name, entry in manifest["entries"].items()
    }
    assert ("position_ids", 2) in inputs["forward"] and ("position_ids", 2) in inputs["decode_cached"]
    assert [name for name, _ in inputs["encode"]] == ["sound"]
    assert manifest["spec"]["position_ids"] is True


def test_positions_are_drawn_from_all_there_are_and_in_order_up_to_the_last(tmp_path: Path) -> None:
    make("gpt2", tmp_path, position_ids=True)
    of = open_build(tmp_path).interface()
    whole = draw(of, {"B": 2, "T": 12}, masks="all true")["position_ids"]
    assert (whole == np.arange(12)).all() and whole.shape == (2, 12)
    assert set(draw(of, {"B": 9, "T": 9})["position_ids"].ravel()) == set(range(12))


def test_positions_of_a_mask() -> None:
    mask = np.array([[False, False, True, True], [True, True, True, True], [False, True, True, True]])
    assert positions_of(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3], [0, 0, 1, 2]]


def test_what_takes_positions_without_a_batch_is_refused_where_it_is(tmp_path: Path) -> None:
    found = specc("build", "t5", "--preset", "t5-small", "--no-weights", "--position-ids", cwd=tmp_path)
    assert found.returncode == 1 and "position_bias takes `query` with 1 axes" in found.stderr
    assert "--position-ids" in found.stderr


def test_onnxruntime_genai_feeds_no_positions(tmp_path: Path) -> None:
    words = ("--preset", "gpt2-tiny", "--no-weights", "--no-render", "--target", "genai", "--position-ids")
    found = specc("build", "gpt2", *words, cwd=tmp_path)
    assert found.returncode == 1 and "B621" in found.stderr and "`position_ids`" in found.stderr

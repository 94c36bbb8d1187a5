"""States that begin with computed values: steps begin where the whole begins, in torch and in onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
import torch

from specc.diagnostics import Rejected
from specc_runtime import Generator, open_build
from specc_runtime.build import Request, build
from specc_runtime.cache import Request as Cache
from specc_runtime.verify import repeat

pytestmark = pytest.mark.usefixtures("one_thread")

LEARNED = """\
from std.nn import Embedding, Linear
dim B, T
model Learned(vocab: int = 20, dim: int = 8) {
  embed: Embedding(vocab, dim)
  head: Linear(dim, vocab)
  param first: Tensor[dim] = normal(1.0)
  forward(input_ids: Int[B, T]) -> logits: Tensor[B, T, vocab] {
    x = embed(input_ids)
    h0 = expand(tanh(first), [B, dim])
    ys, h, c = scan u in x along T with h = carried(h0), c = carried(zeros([B, dim])) {
      c = 0.5*c + u
      h = tanh(0.5*h + c)
      emit h
    }
    return head(ys)
  }
}
"""

ENCODED = """\
from std.nn import Embedding, Linear
dim B, T, N
block Layer(dim: int) {
  param w_ih: Tensor[4*dim, dim] = normal(0.3)
  param w_hh: Tensor[4*dim, dim] = normal(0.3)
  param k: Tensor[dim, 1, 3] = normal(0.3)
  to_h: Linear(dim, dim)
  forward(x: Tensor[B, T, dim], memory: Tensor[B, N, dim]) -> Tensor[B, T, dim] {
    x = causal_conv1d(transpose(x, 1, 2), k, groups = dim) |> transpose(1, 2)
    h = carried(tanh(to_h(mean(memory, axis = 1))))
    c = carried(zeros([B, dim]))
    ys, h, c = lstm(x, h, c, w_ih, w_hh, along = T)
    return ys + x
  }
}
model Encoded(vocab: int = 20, dim: int = 8) {
  embed: Embedding(vocab, dim)
  layers: [Layer(dim) for i in range(2)]
  head: Linear(dim, vocab)
  fn encode(source: Tensor[B, N, dim]) -> memory: Tensor[B, N, dim] = tanh(source)
  fn decode(input_ids: Int[B, T], memory: Tensor[B, N, dim]) -> logits: Tensor[B, T, vocab] {
    return embed(input_ids) |> layers(memory) |> head
  }
  forward(input_ids: Int[B, T], source: Tensor[B, N, dim]) -> logits: Tensor[B, T, vocab] {
    return decode(input_ids, encode(source))
  }
}
"""

ORDER = """\
from std.nn import Embedding, Linear
dim B, T
model Order(vocab: int = 20, dim: int = 8) {
  embed: Embedding(vocab, dim)
  head: Linear(dim, vocab)
  param first: Tensor[dim] = normal(1.0)
  param k: Tensor[dim, 1, 3] = normal(0.3)
  forward(input_ids: Int[B, T]) -> logits: Tensor[B, T, vocab] {
    a = carried(expand(first, [B, dim]))
    b = carried(zeros([B, dim]))
    x = causal_conv1d(transpose(embed(input_ids), 1, 2), k, groups = dim) |> transpose(1, 2)
    m = cached(x, along = T)[:, none]
    x = x + sdpa(x[:, none], m, m, causal = true)[:, 0]
    xs, g = scan u in x along T with g = b { g = tanh(0.5*g + u); emit g }
    ys, h = scan u in xs along T with h = a { h = tanh(0.3*h + u); emit h }
    return head(ys)
  }
}
"""


def made(tmp_path: Path, text: str, **more: object) -> Path:
    spec = tmp_path / "case.spec"
    spec.write_text(text)
    request = Request(str(spec), render=False, out=tmp_path / "out", **{"cache": Cache(), **more})  # type: ignore[arg-type]
    return build(request).folder


def names(folder: Path, file: str) -> tuple[list[str], list[str]]:
    graph = onnx.load(folder / file, load_external_data=False).graph
    return [i.name for i in graph.input], [o.name for o in graph.output]


def test_a_learned_state_comes_from_the_graph_that_runs_once(tmp_path: Path) -> None:
    """It is as large as the batch, which the tokens tell; a state that begins at 0 is not in it."""
    folder = made(tmp_path, LEARNED)
    assert names(folder, "model.forward_once.onnx") == (["input_ids"], ["present_states.0.h"])
    inputs, _ = names(folder, "model.forward_cached.onnx")
    assert inputs == ["input_ids", "past_states.0.h", "past_states.0.c"]
    repeat(folder)


def test_a_state_of_an_encoder_is_read_before_the_first_step_alone(tmp_path: Path) -> None:
    folder = made(tmp_path, ENCODED, entries=("encode", "decode"))
    starts = [f"present_states.{i}.h" for i in (1, 3)]
    assert names(folder, "model.decode_once.onnx") == (["memory"], starts)
    assert "memory" not in names(folder, "model.decode_cached.onnx")[0]
    source = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)
    whole: Any = open_build(folder).module()
    ids = torch.tensor([[3, 4], [9, 1]])
    with torch.no_grad():
        memory = whole.encode(torch.from_numpy(source))
        for _ in range(6):
            ids = torch.cat((ids, whole.decode(ids, memory)[:, -1].argmax(-1, keepdim=True)), 1)
    backends: tuple[Literal["onnxruntime", "torch"], ...] = ("onnxruntime", "torch")
    for backend in backends:
        generator = Generator(folder, backend)
        found = generator.generate([[3, 4], [9, 1]], 6, inputs={"source": source})
        assert [list(row.tokens) for row in found.rows] == ids[:, 2:].tolist()


def test_states_named_at_the_beginning_of_a_body_stand_beside_their_loops(tmp_path: Path) -> None:
    """Whatever is kept in between, and in whichever order they are read: the proof of the build holds."""
    folder = made(tmp_path, ORDER)
    assert names(folder, "model.forward_once.onnx")[1] == ["present_states.2.h"]
    assert names(folder, "model.forward_cached.onnx")[1] == [
        "logits", "present.0.0", "present_states.0.conv", "present_states.1.g", "present_states.2.h",
    ]  # fmt: skip


def test_positions_where_nothing_is_cached_have_to_be_an_input(tmp_path: Path) -> None:
    placed = LEARNED.replace("embed(input_ids)", "embed(input_ids) + sinusoidal(positions(T), dim)")
    with pytest.raises(Rejected) as refused:
        made(tmp_path, placed, verify=False)
    assert refused.value.diagnostics[0].code == "B650"
    folder = made(tmp_path, placed, position_ids=True)
    plain = open_build(folder).module()
    ids = torch.tensor([[3, 4, 7]])
    with torch.no_grad():
        for _ in range(5):
            logits = plain(ids, torch.arange(ids.shape[1])[None])
            ids = torch.cat((ids, logits[:, -1].argmax(-1, keepdim=True)), 1)
    found = Generator(folder).generate([3, 4, 7], 5)
    assert list(found.rows[0].tokens) == ids[0, 3:].tolist()


def test_what_cannot_be_told_apart_or_appended_is_refused(tmp_path: Path) -> None:
    """A state that a caller hands on past something else that is kept; values of an encoder that begin a state."""
    handed = ENCODED.replace(
        "memory: Tensor[B, N, dim]) -> Tensor[B, T, dim]", "h: Tensor[B, dim]) -> Tensor[B, T, dim]"
    )
    handed = handed.replace("carried(tanh(to_h(mean(memory, axis = 1))))", "h")
    handed = handed.replace("layers(memory)", "layers(carried(mean(memory, axis = 1)))")
    with pytest.raises(Rejected) as refused:
        made(tmp_path, handed, entries=("decode",), verify=False)
    assert refused.value.diagnostics[0].code == "B650"
    with pytest.raises(Rejected) as refused:
        made(tmp_path, ENCODED, entries=("decode",), verify=False, cache=Cache(fuse_once="encode"))
    assert refused.value.diagnostics[0].code == "B623"

"""Emitted torch source in the corners of the language: it computes what the IR says, and reads well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from emitted import assert_faithful, assert_formatted, inputs_of, live, spec

from specc.backends.torch.export import emit
from specc.backends.torch.merge import by_ranks
from specc.backends.torch.statements import Block, Line
from specc.ir.graph import Submodule
from specc.ir.members import element_count, parameter_count, parameters

CORNERS = """
from std.nn import Linear, LayerNorm, RMSNorm, CausalConv1d
dim B, T, F
fn scaled(x: Tensor[...], factor: float) -> Tensor[...] = x * factor

## Says "noise" \\ in training.
block Gate(dim: int, noise: float = 0.1) {
  param scale: Tensor[dim] = ones()
  buffer count: Int[] = zeros()
  forward(x: Tensor[..., dim], shift: Tensor[dim]? = none) -> Tensor[..., dim] {
    y = x * scale
    when train {
      y += noise*randn_like(y)
      aux energy = mean(y*y)
    }
    if shift != none { y += shift }
    return y
  }
}

block Pair(dim: int) {
  a: Linear(dim, dim)
  forward(x: Tensor[B, T, dim]) -> (first: Tensor[B, T, dim], second: Tensor[B, T]) {
    y = a(x)
    return y, mean(y, axis = -1)
  }
}

## Odd names.
model Odd(dim: int = 8, layers: int = 3, eps: float = 1e-5) {
  dim F % 2 == 0, 2 <= F <= 64
  self: Linear(dim, dim)
  groups: { w: { inner: Linear(dim, 2*dim, bias = false) }; param bias: Tensor[2*dim] = zeros() }
  stages: [{ ln: LayerNorm(dim, eps); param g: Tensor[dim] = constant(0.5) } for i in range(layers)]
  mixed: [{ ln: LayerNorm(dim, eps); fc: Linear(dim, dim) } for i in range(layers)]
  gates: [Gate(dim, noise = 0.1*i) for i in range(layers)]
  chain: [Linear(dim, dim), relu, leaky_relu(slope = 0.2), [Linear(dim, dim), dropout(p = 0.25)]]
  norm: RMSNorm(dim, offset = 1.0)
  conv: CausalConv1d(dim, dim, 3, groups = dim)
  pair: Pair(dim)
  init {
    Linear.weight = normal(0.02 / sqrt(2*layers))
    "mixed.{i}.fc.weight" = zeros()
    Gate.scale = constant(2.0)
  }
  forward(x: Tensor[B, F, dim], other: Tensor[B, F, dim]? = none, shift: Tensor[dim]? = none, mask: Bool[B, F]? = none)
      -> (out: Tensor[B, F, dim], second: Tensor[B, F], total: Tensor[]) {
    self = self(x)
    y = groups.w.inner(self) + groups.bias
    a, b = split(y, 2, axis = -1)
    x = a * b
    if other != none { x += other }
    for stage in stages { x = stage.ln(x) * stage.g }
    skips = []
    for i, m in enumerate(mixed) {
      x += m.fc(m.ln(x)) * (i + 1)
      skips += [x]
    }
    for s in skips { x += s }
    for g, m in zip(gates, mixed) { x = g(m.ln(x), shift) }
    x = x + chain(x)
    x = norm(x)
    x += gates(x)
    table = sinusoidal(arange(4), dim)
    x += sum(table, axis = 0)
    x += transpose(conv(transpose(x, 1, 2)), 1, 2)
    x = scaled(x, 0.5) |> scaled(0.25)
    if mask != none { x = where(mask[:, :, none], x, 0.0) }
    x = tril(ones([F, F])) @ x / F
    first, lang = pair(x)
    return first, lang, sum(first)
  }
}
"""


def test_corners(tmp_path: Path) -> None:
    model = spec(tmp_path, CORNERS)
    text = emit(model)
    assert_formatted(text, tmp_path)
    module = assert_faithful(model, {"B": 2, "F": 6})
    for line in (
        "self_ = self.self(x)",  # a local called self
        "F_ = x.shape[1]",  # a dim called F
        "for stage in self.stages:",
        "for g, m in zip(self.gates, self.mixed, strict=True):",
        "self.gates = nn.Sequential(*[Gate(dim, 0.1 * i) for i in range(layers)])",
        "nn.LeakyReLU(0.2),",
        "if self.training:",
        'self.aux["energy"] = (y * y).mean()',
    ):
        assert any(line == shown.strip() for shown in text.splitlines()), line
    assert "table" in dict(module.named_buffers()) and "table" not in module.state_dict()
    with pytest.raises(ValueError, match="must be a multiple of 2, found 5"):
        module(torch.zeros(1, 5, 8))


def test_training_only_scalars(tmp_path: Path) -> None:
    model = spec(tmp_path, CORNERS)
    module: Any = live(model)
    given = inputs_of(model.entries["forward"].full, {"B": 2, "F": 6})
    module(**given)
    assert not any(part.aux for part in module.gates)
    torch._dynamo.reset()
    whole: Any = torch.compile(module.train(), fullgraph=True, backend="eager")
    whole(**given)
    assert all(part.aux["energy"].shape == () for part in module.gates)


def test_carried_value_still_needed(tmp_path: Path) -> None:
    """A list's input that is used again after the list was called."""
    text = """
from std.nn import Linear
dim B, T
block Layer(dim: int) {
  fc: Linear(dim, dim)
  forward(x: Tensor[B, T, dim], y: Tensor[B, T, dim]) -> Tensor[B, T, dim] = fc(x) * y
}
model M(dim: int = 4, layers: int = 3) {
  layers: [Layer(dim) for i in range(layers)]
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] = x + layers(x, tanh(x)) + layers(x, x)
}
"""
    model = spec(tmp_path, text)
    assert_faithful(model, {"B": 2, "T": 3})
    assert_formatted(emit(model), tmp_path)


def test_optional_before_required(tmp_path: Path) -> None:
    """An optional argument that a call leaves out although a required one follows it."""
    text = """
from std.nn import Linear
dim B, T
block Layer(dim: int) {
  fc: Linear(dim, dim)
  forward(x: Tensor[B, T, dim], mask: Bool[B, T]? = none, y: Tensor[B, T, dim]) -> Tensor[B, T, dim] {
    if mask != none { x = where(mask[:, :, none], x, 0.0) }
    return fc(x) + y
  }
}
model M(dim: int = 4) {
  layer: Layer(dim)
  forward(x: Tensor[B, T, dim], mask: Bool[B, T]? = none) -> Tensor[B, T, dim] {
    return layer(layer(x, mask, y = x), y = tanh(x))
  }
}
"""
    model = spec(tmp_path, text)
    assert_faithful(model, {"B": 2, "T": 3})
    assert "mask: torch.Tensor | None, y: torch.Tensor" in emit(model)


def test_ellipsis_of_two_ranks(tmp_path: Path) -> None:
    text = """
from std.nn import Linear
dim B, T
block Scale(dim: int) {
  fc: Linear(dim, dim)
  forward(x: Tensor[..., dim]) -> Tensor[..., dim] = fc(x) + ones([dim])
}
model M(dim: int = 4) {
  scale: Scale(dim)
  forward(x: Tensor[B, T, dim]) -> Tensor[B, dim] = scale(scale(x)[:, 0])
}
"""
    model = spec(tmp_path, text)
    assert_faithful(model, {"B": 2, "T": 3})
    assert emit(model).count("def forward") == 2  # Scale's and M's
    scale = model.module.members["scale"]
    assert isinstance(scale, Submodule)
    three, two = scale.module.method("forward")
    body, other = (Line("return", (), "f(x)"),), (Line("return", (), "g(x)"),)
    assert by_ranks([(three, body), (two, body)]) == body
    assert by_ranks([(three, body), (two, other)]) == (Block("if x.ndim == 3", body, other),)


def test_functions_of_the_file_in_a_list(tmp_path: Path) -> None:
    """They hold their place in the list, so that the parts after them keep their names."""
    text = """
from std.nn import Linear
dim B
fn twice(x: Tensor[...]) -> Tensor[...] = x + x
model M(dim: int = 4) {
  net: [Linear(dim, dim), relu, twice, Linear(dim, dim)]
  forward(x: Tensor[B, dim]) -> Tensor[B, dim] = net(x)
}
"""
    model = spec(tmp_path, text)
    module = assert_faithful(model, {"B": 2})
    assert_formatted(emit(model), tmp_path)
    assert "net.3.weight" in module.state_dict()


def test_names_that_a_when_re_binds(tmp_path: Path) -> None:
    """A parameter, and a value that is read again after the region: neither may be overwritten."""
    text = """
dim B, T
model M(dim: int = 4) {
  param w: Tensor[dim] = ones()
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] {
    v = w
    keep = [x]
    when train { v = v * 2.0; x = x + randn_like(x) * v }
    when infer { x = x * v }
    return x + keep[0] * v
  }
}
"""
    model = spec(tmp_path, text)
    module: Any = assert_faithful(model, {"B": 2, "T": 3})
    assert_formatted(emit(model), tmp_path)
    x = torch.randn(2, 3, 4)
    before = module.w.clone()
    torch.manual_seed(3)
    result = module.train()(x)
    torch.manual_seed(3)
    v = before * 2
    torch.testing.assert_close(result, x + torch.randn_like(x) * v + x * v)
    assert torch.equal(module.w, before)


def test_sizes_behind_the_ellipsis(tmp_path: Path) -> None:
    text = """
dim B, T
block Spread(dim: int) {
  forward(x: Tensor[..., dim]) -> Tensor[..., dim] {
    x = x * 2.0
    return where(ones_like(x) > 0.5, x, 0.0) + ones([dim])
  }
}
fn sinusoidal_(sinusoidal: Tensor[...]) -> Tensor[...] = sinusoidal
model M(dim: int = 4) {
  spread: Spread(dim)
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] {
    sinusoidal = spread(x)
    return sinusoidal + sinusoidal(positions(T), dim) + spread(x[0, 0]) * T
  }
}
"""
    model = spec(tmp_path, text)
    assert_faithful(model, {"B": 2, "T": 3})
    assert_formatted(emit(model), tmp_path)


def test_long_lines_are_taken_apart(tmp_path: Path) -> None:
    text = """
from std.nn import Linear
dim B, T
model M(dim: int = 4) {
  a_rather_long_name: Linear(dim, dim)
  another_long_name: Linear(dim, dim)
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] {
    x = x + (x |> a_rather_long_name |> relu |> another_long_name |> tanh |> a_rather_long_name
               |> sigmoid |> another_long_name)
    return x |> a_rather_long_name |> gelu_tanh |> another_long_name |> softplus |> a_rather_long_name
             |> another_long_name
  }
}
"""
    model = spec(tmp_path, text)
    assert_formatted(emit(model), tmp_path)
    assert_faithful(model, {"B": 2, "T": 3})


def test_a_receiver_longer_than_a_line_is_named(tmp_path: Path) -> None:
    text = """
dim B, T
model M(dim: int = 8, heads: int = 2, dropout_of_attention_weights: float = 0.1) {
  let head_dim = dim / heads
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] {
    q = rearrange(x, [B, T, heads*head_dim] -> [B, heads, T, head_dim])
    return sdpa(q, q, q, dropout = dropout_of_attention_weights)
      |> rearrange([B, heads, T, head_dim] -> [B, T, heads*head_dim])
  }
}
"""
    model = spec(tmp_path, text)
    source = emit(model)
    assert max(map(len, source.splitlines())) <= 100
    assert_formatted(source, tmp_path)
    assert_faithful(model, {"B": 2, "T": 3})


def test_a_long_index_is_named_and_many_results_stand_on_lines_of_their_own(tmp_path: Path) -> None:
    text = """
dim B, T
model M(dim: int = 8, end_of_the_sequence: int = 3) {
  forward(input_ids: Int[B, T], hidden_states: Tensor[B, T, dim])
      -> (hidden_states_at_the_end: Tensor[B, dim], the_same_but_negated: Tensor[B, dim],
          and_the_sum_of_both: Tensor[B]) {
    x = gather(hidden_states, argmax(cast(input_ids == end_of_the_sequence, i64), axis = 1), axis = 1)
    return x, -x, sum(x, axis = 1)
  }
}
"""
    model = spec(tmp_path, text)
    source = emit(model)
    assert max(map(len, source.splitlines())) <= 100
    assert_formatted(source, tmp_path)
    assert_faithful(model, {"B": 2, "T": 3})


def test_recurrent_layers_keep_their_operands_apart(tmp_path: Path) -> None:
    text = """
from std.rnn import LSTM, GRU
dim B, T
model M(n: int = 4) {
  lstm: LSTM(n, 6)
  gru: GRU(6, 5)
  forward(x: Tensor[B, T, n]) -> Tensor[B, T, 5] = x |> lstm |> gru
}
"""
    model = spec(tmp_path, text)
    module: Any = assert_faithful(model, {"B": 2, "T": 3})
    assert_formatted(emit(model), tmp_path)
    assert sum(element_count(p.type) for p in parameters(model.module).values()) == parameter_count(model.module)
    theirs = torch.nn.LSTM(4, 6, batch_first=True)
    theirs.load_state_dict(module.lstm.state_dict())
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(module.lstm(x), theirs(x)[0])


def test_named_quotients_are_computed_once(tmp_path: Path) -> None:
    """A size that the spec has a name for; a table over lets that methods read too, its products in parentheses."""
    text = """
dim B, T
model M(width: int = 4) {
  let twice = 2*width; let rows = ceil_div(T, width)
  param near: Tensor[twice*width] = normal(1.0)
  forward(x: Tensor[B, T], keep: Bool[B, T]? = none) -> Tensor[B, T] {
    if keep != none { x = where(keep, x, 0.0) }
    y = pad(x, 1, 0, rows*width - T) |> rearrange([B, rows*width] -> [B, rows, width])
    places = arange(twice)*(width - 1) // width
    y += sum(take(near, places)) + twice
    return rearrange(y, [B, rows, width] -> [B, rows*width])[:, :T]
  }
}
"""
    model = spec(tmp_path, text)
    for length in (3, 8):
        assert_faithful(model, {"B": 2, "T": length})
    assert_formatted(emit(model), tmp_path)
    source = emit(model)
    assert source.count("rows = (T - 1) // 4 + 1") == 1 and source.count("//") == 2
    assert "F.pad(x, (0, 4 * rows - T))" in source
    assert "torch.arange(twice) * (width - 1) // width" in source


def test_an_operand_that_a_lowering_reads_twice_is_computed_once(tmp_path: Path) -> None:
    model = spec(
        tmp_path,
        """
dim B, T
model M(heads: int = 2) {
  forward(q: Tensor[B, heads, T, 4], turned: Tensor[B, heads, T, 4], mask: Bool[B, T]? = none)
      -> Tensor[B, heads, T, 8] {
    k = concat([turned, q], axis = -1)
    return sdpa(concat([q, turned], axis = -1), k, k, mask = mask, causal = true)
  }
}
""",
    )
    assert emit(model).count("torch.cat((q, turned), dim=-1)") == 2  # with a mask, and without


def test_initialisers_of_names_that_no_ending_picks(tmp_path: Path) -> None:
    text = """
from std.nn import Linear
dim B
model M(n: int = 4) {
  encoder_of_the_picture: { projection_to_the_width: Linear(n, n) }
  decoder_of_the_picture: { projection_to_the_width: Linear(n, n) }
  init { "encoder_of_the_picture.*" = constant(0.5); "*.projection_to_*.bias" = zeros(); "e*.projection_to_*" = ones() }
  forward(x: Tensor[B, n]) -> Tensor[B, n] {
    return x |> encoder_of_the_picture.projection_to_the_width |> decoder_of_the_picture.projection_to_the_width
  }
}
"""
    model = spec(tmp_path, text)
    assert_formatted(emit(model), tmp_path)

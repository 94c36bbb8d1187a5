"""From syntax to checked models: names, arguments, structure. Messages have golden files (`errors/`)."""

# ruff: noqa: E501, UP031 (specs in strings, which have braces of their own)
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from elaborating import IDENTITY, Load, codes, hypers, loading, names

from specc import driver
from specc.ir import graph as ir
from specc.ir import members
from specc.ir.initial import initializers


@pytest.fixture
def load(tmp_path: Path) -> Load:
    return loading(tmp_path)


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("7 // 2", 3), ("-7 // 2", -4), ("-7 % 3", 2), ("7 % -3", -2), ("6 / 3", 2), ("6.0 / 4", 1.5), ("2**10", 1024),
        ("2 ** -1", 0.5), ("-2**2", -4), ("1 < 2 < 3", True), ("3 in [1, 2, 3]", True), ("4 not in [1]", True),
        ("1 if 2 > 3 else 5", 5), ("[1, 2, 3][-1]", 3), ("[1, 2, 3, 4][1:3]", (2, 3)), ("len([1, 2])", 2),
        ("[i*j for i, j in zip([1, 2], [3, 4])]", (3, 8)), ("[i + k for i, k in enumerate([5, 6])]", (5, 7)),
        ("reversed(range(3))", (2, 1, 0)), ("range(2, 9, 3)", (2, 5, 8)), ("sum([1, 2, 3])", 6), ("prod([2, 3])", 6),
        ("ceil_div(7, 2)", 4), ("round(2.5)", 2), ("max(1, 2.5)", 2.5), ("min([4, 3])", 3), ("[1] + [2]", (1, 2)),
        ("not true or true", True), ("none", None), ("1 if false", None), ('startswith("gelu_new", "gelu")', True),
        ("[i*j for i in range(3) for j in range(i)]", (0, 0, 2)), ("[k for i in [[1], [2, 3]] for k in i]", (1, 2, 3)),
        ("ceil(2.1)", 3), ("floor(-0.5)", -1), ("3 |> float", 3.0), ("int(2.9)", 2), ("abs(-3)", 3), ("sqrt(16)", 4.0), ("true == 1", False),
    ],
)  # fmt: skip
def test_arithmetic(load: Load, expression: str, value: Any) -> None:
    found = hypers(load(f"model M {{ let v = {expression}\n {IDENTITY} }}"))["v"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("expression", "code"),
    [
        ("10 / 4", "E110"), ("1 // 0", "E110"), ("1 % 0", "E110"), ("2**64", "E191"), ("10**30", "E191"),
        ("0 ** -1", "E110"), ("1e308 * 10", "E191"), ("[1] * 3", "E101"), ("[1, 2][2]", "E105"), ("1 and true", "E106"),
        ("not 3", "E106"), ("1 if 1 else 2", "E106"), ('"a" + 1', "E125"), ("nothing", "E103"), ("range(10**9)", "E190"),
        ("zip([1], [1, 2])", "E125"), ("sqrt(-1)", "E191"), ("[i for i in 3]", "E125"), ("none + 1", "E125"),
        ("2**2**62", "E191"), ("T * 0.5", "E125"), ("len(3)", "E125"), ("range()", "E125"), ("1 < true", "E125"),
    ],
)  # fmt: skip
def test_refused_values(load: Load, expression: str, code: str) -> None:
    assert codes(load, f"model M {{ let v = {expression}\n {IDENTITY} }}") == [code]


def test_types_of_hyper_parameters(load: Load) -> None:
    text = (
        """model M(a: int = 1, b: float = 2, c: bool = true, d: str = "x", e: [int] = [1], f: [[float]] = [[1]], g: int? = none,
      h: fn = gelu, i: block = LayerNorm, j: dtype = bf16, k: "cls" | "mean" = "cls", l: float?) { %s }"""
        % IDENTITY
    )
    found = hypers(load(text))
    assert found["b"] == 2.0
    assert isinstance(found["b"], float)
    assert found["f"] == ((1.0,),)
    assert found["g"] is None
    assert found["l"] is None
    assert (found["h"], found["i"], found["j"].value) == ("gelu", "LayerNorm", "bf16")


@pytest.mark.parametrize(
    "default",
    [
        "int = 1.5",
        "int = true",
        "bool = 1",
        "str = none",
        '"a" | "b" = "c"',
        "fn = 3",
        "block = gelu",
        "[int] = 3",
        "dtype = 3",
    ],
)
def test_values_outside_their_type(load: Load, default: str) -> None:
    assert codes(load, f"model M(a: {default}) {{ {IDENTITY} }}") == ["E125"]


# ---- structure -------------------------------------------------------------------------------------------------------


def test_state_dict_names(load: Load) -> None:
    checked = load(
        """
block Layer(dim: int, gated: bool = false) {
  norm: RMSNorm(dim)
  gate: Linear(dim, dim, bias = false) if gated
  attention: { self: { query: Linear(dim, dim, bias = false) }; output: { dense: Linear(dim, dim, bias = false) } }
  ffn: [Linear(dim, 4*dim, bias = false), gelu, Linear(4*dim, dim, bias = false)]
  net: [[Linear(dim, dim, bias = false), relu] for i in range(2)]
  param scale: Tensor[dim] = ones() if gated
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] = x |> norm |> attention.self.query |> ffn |> net |> attention.output.dense
}
model M(dim: int = 4) {
  layers: [{ a: Layer(dim); b: Linear(dim, dim, bias = false) if i > 0 } for i in range(2)]
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] {
    for layer in layers { x = layer.a(x)
      if layer.b != none { x = layer.b(x) } }
    return x
  }
}"""
    )
    layer = [
        "norm.weight",
        "attention.self.query.weight",
        "attention.output.dense.weight",
        "ffn.0.weight",
        "ffn.2.weight",
    ]
    layer += ["net.0.0.weight", "net.1.0.weight"]
    expected = [f"layers.0.a.{n}" for n in layer] + [f"layers.1.a.{n}" for n in layer] + ["layers.1.b.weight"]
    assert sorted(names(checked)) == sorted(expected)


def test_a_list_of_parts_of_several_generators_is_one_list(load: Load) -> None:
    checked = load(
        """
model M(widths: [int] = [4, 6], repeats: [int] = [1, 2]) {
  layers: [Linear(w if j > 0 else widths[max(s - 1, 0)], w, bias = false)
           for s, w in enumerate(widths) for j in range(repeats[s])]
  heads:  [{ first: Linear(6, n) if n > 1 } for n in range(1, 3) for m in range(n)]
  forward(x: Tensor[B, T, 4]) -> Tensor[B, T, 6] = layers(x)
}"""
    )
    expected = [f"layers.{i}.weight" for i in range(3)] + [
        f"heads.{i}.first.{k}" for i in (1, 2) for k in ("weight", "bias")
    ]
    assert sorted(names(checked)) == sorted(expected)


def test_equal_parts_share_one_module(load: Load) -> None:
    checked = load(
        """model M(dim: int = 4) {
  layers: [Linear(dim, dim) for i in range(3)]
  forward(x: Tensor[B, dim]) -> Tensor[B, dim] = layers(x)
}"""
    )
    layers = checked.model.module.members["layers"]
    assert isinstance(layers, ir.PartList)
    assert len({id(item.module) for item in layers.items if isinstance(item, ir.Submodule)}) == 1
    assert members.parameter_count(checked.model.module) == 3 * 20


def test_star_passes_what_matches(load: Load) -> None:
    checked = load(
        """
block Inner(dim: int, i: int, half: int, rate: float = 0.5) { fc: Linear(dim, half); forward(x: Tensor[B, dim]) -> Tensor[B, half] = fc(x) }
model M(dim: int = 8, rate: float = 0.25) {
  let half = dim / 2
  parts: [Inner(*, half = dim) for i in range(2)]
  last: Inner(*, i = 9)
  forward(x: Tensor[B, dim]) -> Tensor[B, half] = x |> parts |> last
}"""
    )
    parts = checked.model.module.members["parts"]
    assert isinstance(parts, ir.PartList)
    values = [{name: value for name, value, _ in item.args} for item in parts.items if isinstance(item, ir.Submodule)]
    assert values == [{"dim": 8, "i": i, "half": 8, "rate": 0.25} for i in range(2)]


def test_partial_application(load: Load) -> None:
    checked = load(
        """
block Layer(dim: int, norm: block, act: fn) { ln: norm(dim); forward(x: Tensor[B, dim]) -> Tensor[B, dim] = x |> ln |> act }
model M(dim: int = 4, eps: float = 1e-3) {
  a: Layer(dim, norm = LayerNorm(eps = eps), act = leaky_relu(slope = 0.2))
  b: Layer(dim, norm = RMSNorm, act = double)
  forward(x: Tensor[B, dim]) -> Tensor[B, dim] = b(a(x))
}
fn double(x: Tensor[...]) -> Tensor[...] = 2*x
"""
    )
    part = checked.model.module.members["a"]
    assert isinstance(part, ir.Submodule)
    norm = part.module.members["ln"]
    assert isinstance(norm, ir.Submodule)
    assert {name: value for name, value, _ in norm.args}["eps"] == 1e-3


def test_ties_are_counted_once_and_initialisers_follow_precedence(load: Load) -> None:
    checked = load(
        """
block Tower(dim: int) {
  fc: Linear(dim, dim)
  init { Linear.weight = normal(0.5) }
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] = fc(x)
}
model M(vocab: int = 10, dim: int = 4, tied: bool = true) {
  wte: Embedding(vocab, dim)
  tower: Tower(dim)
  head: Linear(dim, vocab, bias = false)
  tie head.weight = wte.weight if tied
  init { Linear.weight = normal(0.02); "tower.*.bias" = ones(); Linear.weight = normal(0.03) }
  forward(ids: Int[B, T]) -> logits: Tensor[B, T, vocab] = ids |> wte |> tower |> head
}"""
    )
    assert members.parameter_count(checked.model.module) == 40 + 20
    assert members.aliases(checked.model.module) == {"head.weight": "wte.weight"}
    chosen = {name: str(init) for name, init in initializers(checked.model.module).items()}
    assert chosen["tower.fc.weight"].startswith("normal(std=0.03")
    assert chosen["tower.fc.bias"] == "ones()"


def test_parts_hide_hyper_parameters_in_bodies_only(load: Load) -> None:
    load(
        """model M(dim: int = 4, bias: bool = true, dropout: float = 0.1) {
  param bias: Tensor[dim] = zeros() if bias
  dropout: Linear(dim, dim)
  self: Linear(dim, dim)
  forward(x: Tensor[B, dim]) -> Tensor[B, dim] {
    if bias != none { x = x + bias }
    return x |> dropout |> self
  }
}"""
    )


def test_optional_inputs_give_a_graph_for_every_combination(load: Load) -> None:
    checked = load(
        """model M(dim: int = 4) {
  fc: Linear(dim, dim)
  forward(x: Tensor[B, T, dim], mask: Bool[B, T]? = none, bias: Tensor[dim]? = none) -> Tensor[B, T, dim] {
    if mask != none { x = where(mask[:, :, none], x, 0.0) }
    if bias != none and mask == none { x += bias } else { x = fc(x) }
    return x
  }
}"""
    )
    graphs = checked.model.entries["forward"].graphs
    assert set(graphs) == {frozenset(), frozenset({"mask"}), frozenset({"bias"}), frozenset({"mask", "bias"})}


def test_entries_are_forward_and_public_functions(load: Load) -> None:
    checked = load(
        """model M(dim: int = 4) {
  fc: Linear(dim, dim)
  fn encode(x: Tensor[B, dim]) -> Tensor[B, dim] = fc(x)
  fn _helper(x: Tensor[B, dim]) -> Tensor[B, dim] = 2*x
  forward(x: Tensor[B, dim]) -> (a: Tensor[B, dim], b: Tensor[B, dim]) { return encode(x), _helper(x) }
}"""
    )
    assert list(checked.model.entries) == ["encode", "forward"]
    assert [name for name, _ in checked.model.entries["forward"].full.results] == ["a", "b"]


def test_state_is_the_identity_in_forward(load: Load) -> None:
    checked = load(
        """model M(dim: int = 4) {
  forward(x: Tensor[B, T, dim], mask: Bool[B, S]? = none) -> Tensor[B, S, dim] {
    k, v = cached(x, x, along = T)
    p = positions(T, mask = mask)
    return k + v
  }
}"""
    )
    assert len(checked.model.entries) == 1


def test_file_functions_take_compile_time_arguments(load: Load) -> None:
    load(
        """fn scaled(x: Tensor[...], times: int, by: float = 0.5) -> Tensor[...] {
  for i in range(times) { x = by*x }
  return x
}
model M { forward(x: Tensor[B, T]) -> Tensor[B, T] = x |> scaled(3) |> scaled(times = 2, by = 0.1) }"""
    )


def test_sizes_over_dims(load: Load) -> None:
    load(
        """block Keys(dim: int, causal: bool) {
  let keys = S if causal else T
  forward(x: Tensor[B, T, dim], bias: Tensor[T, keys]) -> Tensor[T, keys] = bias
}
model M(dim: int = 4) {
  dim T <= 16, T % 2 == 0
  keys: Keys(dim, false)
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T // 2, 2, dim] = x |> rearrange([B, (T // 2)*2, dim] -> [B, T // 2, 2, dim])
}"""
    )


def test_ellipsis_is_what_other_arguments_say(load: Load) -> None:
    """Positions of shape [B, T] or [T] in one signature: `pos: Int[..., T]` beside `x: Tensor[B, T, dim]`."""
    load(
        """block Rotate(dim: int) {
  forward(x: Tensor[B, 2, T, dim], pos: Int[..., T]) -> Tensor[B, 2, T, dim] = rotary(x, pos, rope_freqs(dim, 1e4), style = "half")
}
model M(dim: int = 4) {
  rotate: Rotate(dim)
  forward(x: Tensor[B, 2, T, dim], mask: Bool[B, S]? = none) -> Tensor[B, 2, T, dim] = rotate(x, positions(T, mask = mask))
}"""
    )


def test_sizes_of_at_least_one_are_proved_by_the_model(load: Load) -> None:
    text = """block Inner(dim: int) { forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] = 2*x }
block Half(dim: int) {
  inner: Inner(dim)
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T // 2, dim] = inner(x[:, : T // 2])
}
model M(dim: int = 4) {
  %s
  cut: Half(dim)
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T // 2, dim] = cut(x)
}"""
    load(text % "dim T >= 2")
    assert codes(load, text % "let x = 1") == ["S223"]


@pytest.mark.parametrize("cell", ["GRU", "LSTM"])
def test_recurrent_layers_of_an_encoder_keep_no_state(cell: str, tmp_path: Path) -> None:
    """One that reads a text from its end has no incremental form; without a state that is carried none is asked for."""
    text = f"""
from std.rnn import {cell}
dim B, T
model M {{
  back: {cell}(3, 4, KEPT)
  forward(x: Tensor[B, T, 3]) -> Tensor[B, T, 4] = flip(back(flip(x, axis = 1)), axis = 1)
}}"""
    path = tmp_path / "encoder.spec"
    for kept, codes_found in (("cache = true", ["D402", "D402"]), ("cache = false", [])):
        path.write_text(text.replace("KEPT", kept))
        assert [d.code for d in driver.check(str(path), incremental=True)] == codes_found

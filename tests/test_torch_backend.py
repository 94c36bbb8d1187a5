"""Emitted torch source: equals the IR's own evaluation, keeps the spec's names, is formatted, compiles whole."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from specc.backends.torch.classes import docstring
from specc.backends.torch.export import emit
from specc.backends.torch.fit import fit
from specc.backends.torch.layout import WIDTH, lay_out
from specc.backends.torch.merge import by_ranks, merge
from specc.backends.torch.printer import tidy
from specc.backends.torch.statements import Block, Line, assign
from specc.driver import load
from specc.ir.graph import Graph, Model, Submodule
from specc.ir.members import element_count, parameter_count, parameters
from specc.ir.taps import walk
from specc_runtime.taps import run

SPECS = Path(__file__).parent.parent / "specs"
SMALL: dict[str, dict[str, Any]] = {
    "linear": {},
    "mlp": {"hidden": "[24, 16]"},
    "gpt": {"vocab": 61, "dim": 32, "heads": 4, "layers": 2, "hidden": 48},
    "gpt2": {"vocab": 61, "dim": 32, "heads": 4, "layers": 2},
    "transformer": {"vocab": 61, "dim": 32, "heads": 4, "layers": 2, "hidden": 48},
}


def small(name: str) -> Model:
    return load(SPECS / f"{name}.spec", sets={k: str(v) for k, v in SMALL[name].items()}).model


def spec(tmp_path: Path, text: str) -> Model:
    path = tmp_path / "case.spec"
    path.write_text(text)
    return load(path).model


def live(model: Model) -> torch.nn.Module:
    """The emitted module, every parameter drawn anew so that no zero or one hides a mistake."""
    namespace: dict[str, Any] = {}
    exec(compile(emit(model), f"{model.name}.py", "exec"), namespace)
    module: torch.nn.Module = namespace[model.module.name]()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
    return module.eval()


def inputs_of(graph: Graph, sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """Numbers for the inputs that a graph is for; masks hide something, but no row entirely."""
    torch.manual_seed(1)
    given: dict[str, torch.Tensor] = {}
    for argument in graph.inputs:
        if argument.value is None:
            continue
        env = {s: 0 if s.startswith("past(") else sizes.get(s, 3) for d in argument.type.shape for s in d.symbols}
        shape = [d.evaluate(env) for d in argument.type.shape]
        kind = argument.type.dtype.value
        if kind == "bool":
            given[argument.name] = torch.ones(shape, dtype=torch.bool)
            given[argument.name][0, : shape[1] // 2] = False
        else:
            given[argument.name] = torch.randint(0, 61, shape) if kind == "i64" else torch.randn(shape)
    return given


def entries(model: Model) -> Iterator[tuple[str, Graph]]:
    for entry in model.entries.values():
        for graph in entry.graphs.values():
            yield entry.name, graph


def as_tuple(result: Any) -> tuple[torch.Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def assert_faithful(model: Model, sizes: Mapping[str, int]) -> torch.nn.Module:
    """Every entry, for every set of given inputs, equals the IR evaluated operator by operator."""
    module = live(model)
    declared = parameters(model.module)
    state = module.state_dict()
    assert sorted(state) == sorted(declared)
    assert {n: tuple(t.shape) for n, t in state.items()} == {
        n: tuple(d.value for d in p.type.shape) for n, p in declared.items()
    }
    assert sum(p.numel() for p in module.parameters()) == parameter_count(model.module)
    for name, graph in entries(model):
        given = inputs_of(graph, sizes)
        expected, taps = run(graph, module, given)
        with torch.no_grad():
            results = as_tuple(getattr(module, name)(**given))
        for value, want in zip(results, expected.values(), strict=True):
            torch.testing.assert_close(value, want, rtol=1e-6, atol=1e-6)
        assert list(taps) == [tap.key for tap in walk(graph)]
    return module


def assert_formatted(text: str, tmp_path: Path) -> None:
    """What a person's linters say: nothing."""
    path = tmp_path / "emitted.py"
    path.write_text(text)
    ruff = [sys.executable, "-m", "ruff"]
    options = ["--isolated", "--no-cache", "--line-length", "100", "--target-version", "py311"]
    for command in (["check", "--select", "E4,E7,E9,F,I,UP,B"], ["format", "--diff"]):
        done = subprocess.run([*ruff, *command, *options, str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert max(map(len, text.splitlines())) <= WIDTH


# ---- the zoo ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_equals_the_ir(name: str) -> None:
    assert_faithful(small(name), {"B": 2, "T": 7, "N": 5})


@pytest.mark.parametrize("name", SMALL)
def test_sizes_of_one(name: str) -> None:
    model = small(name)
    module = live(model)
    for entry, graph in entries(model):
        given = {k: torch.ones_like(v) for k, v in inputs_of(graph, {"B": 1, "T": 1, "N": 1}).items()}
        expected, _ = run(graph, module, given)
        for value, want in zip(as_tuple(getattr(module, entry)(**given)), expected.values(), strict=True):
            torch.testing.assert_close(value, want)


@pytest.mark.parametrize("name", SMALL)
def test_formatted(name: str, tmp_path: Path) -> None:
    text = emit(small(name))
    assert_formatted(text, tmp_path)
    assert text == emit(small(name))


@pytest.mark.parametrize("name", ["gpt2", "transformer"])
def test_compiles_whole(name: str) -> None:
    model = small(name)
    module = live(model)
    for entry, graph in entries(model):
        torch._dynamo.reset()
        whole: Any = torch.compile(getattr(module, entry), fullgraph=True, backend="eager", dynamic=True)
        for size in (3, 6):
            given = inputs_of(graph, {"B": 2, "T": size, "N": size})
            for a, b in zip(as_tuple(whole(**given)), as_tuple(getattr(module, entry)(**given)), strict=True):
                torch.testing.assert_close(a, b)


def test_training_mode() -> None:
    """Dropout acts in training only, and gradients reach every parameter."""
    model = small("gpt2")
    module = live(model)
    given = inputs_of(model.entries["forward"].full, {"B": 2, "T": 7})
    quiet = module(**given)
    module.train()
    assert not torch.equal(module(**given), quiet)
    module(**given).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_gpt2_reads_like_nanogpt() -> None:
    """Four classes and no more lines than nanoGPT's model has for the same parts."""
    text = emit(load(SPECS / "gpt2.spec", preset="gpt2").model)
    assert [line.split("(")[0] for line in text.splitlines() if line.startswith("class ")] == [
        "class GPT2Attention",
        "class GPT2MLP",
        "class GPT2Block",
        "class GPT2",
    ]
    assert len(text.splitlines()) < 150
    for line in (
        "self.c_attn = nn.Linear(dim, 3 * dim)",
        "self.head_dim = dim // heads",
        "self.h = nn.ModuleList([GPT2Block(dim, heads, hidden, eps, dropout) for _ in range(layers)])",
        "self.lm_head.weight = self.wte.weight  # tied",
        "q, k, v, is_causal=True, dropout_p=self.dropout if self.training else 0.0",
        "x = x + self.attn(self.ln_1(x), mask)",
        'x = self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))',
        "y = y.transpose(1, 2).flatten(2)  # [B, T, heads*head_dim]",
        "for block in self.h:",
        "x = block(x, attention_mask)",
        "nn.init.normal_(parameter, std=0.02 / (2 * layers) ** 0.5)",
    ):
        assert any(line == shown.strip() for shown in text.splitlines()), line


def test_published_gpt2_equals_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=61)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    ours = live(small("gpt2"))
    source = theirs.state_dict()
    conv1d = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    names = {name: name if name.startswith("lm_head") else f"transformer.{name}" for name in ours.state_dict()}
    ours.load_state_dict({n: source[f].t() if n.endswith(conv1d) else source[f] for n, f in names.items()})
    ids = torch.randint(0, 61, (2, 16))
    mask = torch.ones(2, 16, dtype=torch.int64)
    mask[0, :5] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=0, atol=1e-5)
        masked = theirs(ids, attention_mask=mask, position_ids=positions).logits
        torch.testing.assert_close(ours(ids, mask.bool())[mask.bool()], masked[mask.bool()], rtol=0, atol=1e-5)


def test_facts_are_checked() -> None:
    module = live(small("gpt2"))
    with pytest.raises(ValueError, match="T must be at most 1024, found 1025"):
        module(torch.zeros(1, 1025, dtype=torch.int64))


def test_initial_values() -> None:
    """`init` sections: a block's rule, a pattern that overrides it, a tie that keeps its right side's values."""
    namespace: dict[str, Any] = {}
    model = load(SPECS / "gpt2.spec", sets={"dim": "256", "heads": "4", "layers": "2", "vocab": "4000"}).model
    exec(emit(model), namespace)
    torch.manual_seed(0)
    module = namespace["GPT2"]()
    assert module.lm_head.weight is module.wte.weight
    assert module.h[0].attn.c_attn.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert module.h[1].mlp.c_proj.weight.std().item() == pytest.approx(0.02 / 4**0.5, rel=0.05)
    assert module.h[0].attn.c_attn.bias.abs().max().item() == 0.0
    exec(emit(load(SPECS / "transformer.spec", sets={"layers": "1"}).model), namespace)
    module = namespace["Transformer"]()
    assert module.generator.weight is module.embed.weight
    assert module.embed.weight.std().item() == pytest.approx(512**-0.5, rel=0.05)


# ---- the language's corners ------------------------------------------------------------------------------------------

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


# ---- the pieces ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        ("((a + b)) * (c)", "(a + b) * c"),
        ("a - (b - c)", "a - (b - c)"),
        ("(a - b) - c", "a - b - c"),
        ("-(n**-0.5)", "-(n**-0.5)"),
        ("(2*n) ** 0.5", "(2 * n) ** 0.5"),
        ("self.dim ** 0.5", "self.dim**0.5"),
        ("x[:, self.a:, 1:-1, ::2]", "x[:, self.a :, 1:-1, ::2]"),
        ("x[(slice(1)), ..., None]", "x[slice(1), ..., None]"),
        ("f('a', b=(1,), *c)", 'f("a", *c, b=(1,))'),
        ("not (a and b) or c", "not (a and b) or c"),
        ("(a if b else c) + 1", "(a if b else c) + 1"),
        ("torch.zeros((()))", "torch.zeros(())"),
        ("1e-05 + 1e16", "1e-5 + 1e16"),
        ("~(a & b) | c", "~(a & b) | c"),
        ("[f(i) for i in (range(3))]", "[f(i) for i in range(3)]"),
    ],
)
def test_tidy(text: str, tidied: str) -> None:
    assert tidy(text) == tidied


def test_merge_tests_each_input_once() -> None:
    start, end = assign("x", "f(x)"), Line("return", (), "x")
    masked, added = assign("x", "x * mask"), assign("x", "x + bias")
    variants = {
        frozenset({"mask", "bias"}): (start, masked, added, end),
        frozenset({"mask"}): (start, masked, end),
        frozenset({"bias"}): (start, added, end),
        frozenset[str](): (start, end),
    }
    assert merge(variants, ["mask", "bias"]) == (
        start,
        Block("if mask is not None", (masked,)),
        Block("if bias is not None", (added,)),
        end,
    )


def test_fit_never_reuses_a_name_that_is_still_read() -> None:
    long = ", ".join(f"argument_number_{i}" for i in range(4))
    body = (
        assign("x", f"f(g(a, {long}), h(a, {long}), x)"),
        Line("return", (), "f(x, a)"),
    )
    fitted = fit(body, 8, taken=frozenset(), fixed=frozenset(), arguments=frozenset({"a", "x"}))
    lines = lay_out(fitted, 8)
    assert max(map(len, lines)) <= WIDTH
    bound = [s.targets[0] for s in fitted if isinstance(s, Line) and s.keyword == "="]
    assert "a" not in bound and bound[-1] == "x" and len(set(bound)) == len(bound)


def test_long_tuples_read_as_a_person_writes_them(tmp_path: Path) -> None:
    """A default that repeats is a product, else it has a line per element; no comment names a loop's variable."""
    spec = tmp_path / "lists.spec"
    sizes = ", ".join(map(str, [8, *range(9, 35), 8]))
    spec.write_text(
        f"from std.nn import Linear\ndim B\nmodel M(sizes: [int] = [{sizes}], same: [int] = [8, 8, 8, 8, 8, 8]) {{\n"
        "  net: [Linear(sizes[i], sizes[i + 1]) for i in range(len(sizes) - 1)]\n"
        "  more: [Linear(r, r) for r in same]\n"
        "  forward(x: Tensor[B, 8]) -> Tensor[B, 8] = x |> net |> more\n}\n"
    )
    source = emit(load(spec).model)
    assert "same: tuple[int, ...] = (8,) * 6,\n" in source
    assert "sizes: tuple[int, ...] = (\n            8,\n            9,\n" in source
    assert "# x [B, 8] -> [B, 8]\n" in source
    assert max(map(len, source.splitlines())) <= 100


@pytest.mark.parametrize("length", range(88, 98))
def test_documentation_of_any_length(length: int, tmp_path: Path) -> None:
    doc = "A sentence of words " * 4 + "x" * (length - 81) + "."
    source = emit(spec(tmp_path, f"dim B\n## {doc}\nmodel M {{ forward(x: Tensor[B]) -> Tensor[B] = -x }}\n"))
    assert " ".join(source.split()).count(doc) == 2  # of the file and of the class
    assert_formatted(source, tmp_path)


@pytest.mark.parametrize(
    "doc", ['says "yes"', 'a "quote" ' + "in a line that is too long for one " * 4 + '"end"', '"""', "a\\"]
)
def test_a_docstring_that_ends_with_a_quote(doc: str) -> None:
    lines = docstring(doc, 4)
    assert [line[4:].rstrip() for line in lines if line] == [line.strip() for line in lines if line]
    scope: dict[str, Any] = {}
    exec("\n".join(["class A:", *lines]), scope)
    assert " ".join(scope["A"].__doc__.split()) == " ".join(doc.split())

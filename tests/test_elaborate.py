"""From syntax to checked models: names, arguments, structure, limits. Messages have golden files (`errors/`)."""

# ruff: noqa: E501, UP031 (specs in strings, which have braces of their own)
from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from specc import driver, reading
from specc.diagnostics import Rejected
from specc.driver import Checked
from specc.elaborate.models import Options
from specc.ir import graph as ir
from specc.ir import members
from specc.ir.initial import initializers

HEAD = "from std.nn import Linear, LayerNorm, Embedding, RMSNorm\ndim B, T, S = past(T) + T\n"
IDENTITY = "forward(x: Tensor[B, T]) -> Tensor[B, T] = x"
Load = Callable[..., Checked]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Check a text as `main.spec`; `files` lie beside it."""

    def run(text: str, *, files: Mapping[str, str] | None = None, head: str = HEAD, **options: Any) -> Checked:
        for name, content in (files or {}).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content, encoding="utf-8")
        path = tmp_path / "main.spec"
        path.write_text(head + text, encoding="utf-8")
        return driver.load(path, **options)

    return run


def codes(load: Load, text: str, **options: Any) -> list[str]:
    with pytest.raises(Rejected) as caught:
        load(text, **options)
    return [d.code for d in caught.value.diagnostics]


def hypers(checked: Checked) -> dict[str, Any]:
    return {h.name: h.value for h in checked.model.module.hypers}


def names(checked: Checked) -> list[str]:
    return list(members.parameters(checked.model.module))


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
        ("3 |> float", 3.0), ("int(2.9)", 2), ("abs(-3)", 3), ("sqrt(16)", 4.0), ("true == 1", False),
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


# ---- presets, settings -----------------------------------------------------------------------------------------------

LATE = (
    """model M(dim: int = 8, heads: int = 2, kv: int = heads, hidden: int = 4*dim, pool: "cls" | "mean" = "cls", act: fn = gelu) { %s }
preset "base" = M(dim = 16)
preset "wide" = "base"(hidden = 3*dim, heads = 4)
"""
    % IDENTITY
)


def test_presets_are_bound_late(load: Load) -> None:
    found = hypers(load(LATE, preset="wide", sets={"dim": "32"}))
    assert (found["dim"], found["hidden"], found["kv"]) == (32, 96, 4)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [("pool", "mean", "mean"), ("pool", '"mean"', "mean"), ("hidden", "dim + 1", 9), ("act", "relu", "relu")],
)
def test_settings_of_the_command_line(load: Load, key: str, text: str, value: Any) -> None:
    assert hypers(load(LATE, sets={key: text}))[key] == value


@pytest.mark.parametrize(
    ("key", "text", "code"),
    [
        ("dmi", "1", "E009"),
        ("dim", "1.5", "E009"),
        ("pool", "max", "E009"),
        ("dim", "1 +", "E009"),
        ("heads", "", "E009"),
    ],
)
def test_wrong_settings_of_the_command_line(load: Load, key: str, text: str, code: str) -> None:
    assert codes(load, LATE, sets={key: text}) == [code]


def test_no_model_or_several(load: Load) -> None:
    two = f"model A {{ {IDENTITY} }}\nmodel C {{ {IDENTITY} }}"
    assert codes(load, "block A { }") == ["E007"]
    assert codes(load, two) == ["E007"]
    assert load(two, model="C").model.module.name == "C"
    assert codes(load, two, model="X") == ["E010"]
    assert codes(load, two, preset="X") == ["E008"]


# ---- imports ---------------------------------------------------------------------------------------------------------


def test_imports_bring_what_they_need(load: Load) -> None:
    parts = (
        HEAD
        + "let width = 6\nfn twice(x: Tensor[...]) -> Tensor[...] = 2*x\nblock Part(dim: int = width) { fc: Linear(dim, dim); forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] = x |> fc |> twice }"
    )
    text = 'from "./lib/parts.spec" import Part as P, width\nmodel M { p: P(); forward(x: Tensor[B, T, width]) -> Tensor[B, T, width] = p(x) }'
    assert members.parameter_count(load(text, files={"lib/parts.spec": parts}).model.module) == 42


def test_imports_stay_inside_the_project(load: Load, tmp_path: Path) -> None:
    outside = tmp_path.parent / "outside.spec"
    outside.write_text("let secret = 1", encoding="utf-8")
    (tmp_path / "link.spec").symlink_to(outside)
    (tmp_path / "folder.spec").mkdir()
    for path in (
        "../outside.spec",
        "./link.spec",
        "./a/../../outside.spec",
        "../../../../etc/passwd",
        "/etc/passwd.spec",
    ):
        assert codes(load, f'from "{path}" import secret\nmodel M {{ {IDENTITY} }}') == ["E003"], path
    for path in ("./folder.spec", "./missing.spec", f"./{'x' * 300}.spec"):
        assert codes(load, f'from "{path}" import secret\nmodel M {{ {IDENTITY} }}') == ["E006"], path
    outside.unlink()


def test_a_project_file_moves_the_root(load: Load, tmp_path: Path) -> None:
    (tmp_path / "specc.toml").write_text("language = 1")
    (tmp_path / "models").mkdir()
    (tmp_path / "shared.spec").write_text("let width = 4")
    path = tmp_path / "models" / "m.spec"
    path.write_text(HEAD + 'from "../shared.spec" import width\nmodel M(dim: int = width) { %s }' % IDENTITY)
    assert hypers(driver.load(path))["dim"] == 4


def test_too_many_files(load: Load) -> None:
    files = {f"f{i}.spec": "let a = 1" for i in range(70)}
    imports = "".join(f'from "./f{i}.spec" import a as a{i}\n' for i in range(70))
    assert set(codes(load, f"{imports}model M {{ {IDENTITY} }}", files=files)) == {"E002"}


# ---- limits ----------------------------------------------------------------------------------------------------------

DOUBLING = (
    "".join(f"block B{i} {{ a: B{i + 1}(); b: B{i + 1}() }}\n" for i in range(60))
    + "block B60 { param w: Tensor[4] = zeros() }\n"
)
BOMBS = {
    "doubling": (DOUBLING + "model M { p: B0()\n %s }", ["E193"]),
    "range": ("model M { p: [Linear(4, 4) for i in range(10**9)]\n %s }", ["E190"]),
    "nested lists": ("model M { p: [[[Linear(4, 4) for k in range(999)] for j in range(999)] for i in range(999)]\n %s }", ["E193"]),
    "huge int": ("model M(dim: int = 10**30) { %s }", ["E191"]),
    "huge literal": ("model M(dim: int = 1" + "0" * 500 + ") { %s }", ["E191"]),
    "power tower": ("model M(dim: int = 9**9**9**9) { %s }", ["E191"]),
    "huge layer": ("model M(dim: int = 2**31 - 1) { p: Linear(dim, dim)\n %s }", ["E194"]),
    "too large a size": ("model M(dim: int = 2**31) { p: Linear(dim, 1, bias = false)\n %s }", ["E112"]),
    "doubling lists": ("let a0 = [1, 2]\n" + "".join(f"let a{i + 1} = a{i} + a{i}\n" for i in range(60)) + "model M { let k = a60\n %s }", ["E190"]),
    "shared lists": ("let a = range(60000)\nlet b = [a for i in range(60000)]\nmodel M(q: [[int]] = b) { %s }", ["E190"]),
    "nested loops": ("model M { forward(x: Tensor[B, T]) -> Tensor[B, T] { for i in range(60000) { for j in range(60000) { x = x + 1 } }\n return x } }", ["E195"]),
    "deep blocks": ("".join(f"block B{i} {{ a: B{i + 1}() }}\n" for i in range(300)) + "block B300 { }\nmodel M { p: B0()\n %s }", ["E193"]),
    "recursive blocks": ("block A { c: C() }\nblock C { a: A() }\nmodel M { a: A()\n %s }", ["E150"]),
    "recursive functions": ("fn f(x: Tensor[B, T], n: int) -> Tensor[B, T] = f(x, n + 1)\nmodel M { forward(x: Tensor[B, T]) -> Tensor[B, T] = f(x, 0) }", ["E150"]),
    "recursive methods": ("model M { fn g(x: Tensor[B, T]) -> Tensor[B, T] = forward(x)\n forward(x: Tensor[B, T]) -> Tensor[B, T] = g(x) }", ["E150"]),
    "large polynomials": ("model M { forward(x: Tensor[B, T]) -> Tensor[(B + T + 1)**8 * (B + T + 2)**8 * (B + T + 3)**8 * (B*T + 1)**8] = x }", ["E191"]),
    "brackets": ("let a = " + "(" * 2000 + "4" + ")" * 2000 + "\nmodel M { %s }", ["P092"]),
    "a long line": ("let a = " + "(" * 10_000 + "4" + ")" * 10_000 + "\nmodel M { %s }", ["P091"]),
    "rank": ("model M { forward(x: Tensor[B" + ", T" * 20 + "]) -> Tensor[B] = x }", ["S204"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_quickly(load: Load, name: str) -> None:
    text, expected = BOMBS[name]
    started = time.perf_counter()
    found = codes(load, text.replace("%s", IDENTITY))
    assert found == expected
    assert time.perf_counter() - started < 30  # each takes milliseconds; unbounded work would take hours


def test_check_never_raises(tmp_path: Path) -> None:
    (tmp_path / "binary.spec").write_bytes(b"\xff\xfe\x00spec")
    (tmp_path / "empty.spec").write_bytes(b"")
    (tmp_path / "junk.spec").write_bytes(b"x" * 200_000)
    (tmp_path / "big.spec").write_bytes(b"# " + b"x" * (1 << 20))
    expected = {
        "binary.spec": ["E006"],
        "empty.spec": [],
        "junk.spec": ["P091"],
        "big.spec": ["P090"],
        "none.spec": ["E006"],
        ".": ["E006"],
    }
    for name, found in expected.items():
        assert [d.code for d in driver.check(tmp_path / name)] == found, name


def test_all_independent_errors_are_told_once(tmp_path: Path) -> None:
    path = tmp_path / "main.spec"
    path.write_text(
        HEAD
        + """model M(dim: int = nothing, heads: int = 2) {
  a: Linear(dim, dim)
  b: Linear(heads, headz)
  c: Missing(dim)
  forward(x: Tensor[B, heads]) -> Tensor[B, heads] {
    y = a(x)
    z = unknown(x)
    w = y + z
    return x[:, :, 0]
  }
}
preset "p" = M(hed = 3)
preset "q" = M(heads = 4)
test M "t" with Q = 1 { expect true }
"""
    )
    found = [(d.code, d.span.line if d.span else 0) for d in driver.check(path, all_presets=True)]
    assert found == [("E103", 3), ("E103", 5), ("E103", 6), ("E103", 9), ("S202", 11), ("E120", 14)]


def test_every_configuration_of_the_zoo() -> None:
    for name in reading.zoo():
        project = driver.open_project(name)
        for preset in [*project.presets] or [""]:
            project.check(Options(preset=preset or None))

"""Presets, settings, imports of other files, limits: what a spec is checked with."""

# ruff: noqa: E501, UP031 (specs in strings, which have braces of their own)
from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from elaborating import HEAD, IDENTITY, Load, codes, hypers, loading

from specc import driver, reading
from specc.elaborate.models import Options
from specc.ir import members


@pytest.fixture
def load(tmp_path: Path) -> Load:
    return loading(tmp_path)


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

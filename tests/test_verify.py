"""Inputs, sizes, the criterion, the certificate, and `specc verify` on a published build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

from specc import driver
from specc.diagnostics import Diagnostic, Rejected
from specc.ir.graph import Model
from specc_runtime import certificate, divergence, verify
from specc_runtime.build import Request, build
from specc_runtime.cli import cli
from specc_runtime.compare import DEEP_TOLERANCE, TOLERANCE, compare, tolerance
from specc_runtime.inputs import Interface, describe, draw, interface
from specc_runtime.sizes import admissible, plan

TINY = {"vocab": "16", "context": "12", "dim": "16", "layers": "2", "heads": "2"}


def checked(tmp_path: Path, text: str) -> Model:
    path = tmp_path / "model.spec"
    path.write_text(text, encoding="utf-8")
    return driver.load(path).model


# ---- inputs ----------------------------------------------------------------------------------------------------------


def test_indices_are_drawn_from_the_table_they_read() -> None:
    of = interface(driver.load("gpt2", sets=TINY).model)
    ids, mask = of.inputs
    assert (ids.name, ids.dtype) == ("input_ids", "i64")
    assert [str(d) for d in (*ids.low, *ids.high)] == ["0", "16"]
    feeds = draw(of, {"B": 40, "T": 12})
    assert set(np.unique(feeds["input_ids"])) == set(range(16))
    assert feeds["attention_mask"][:, 0].all()
    assert not feeds["attention_mask"].all()
    assert draw(of, {"B": 4, "T": 3}, masks="all true")["attention_mask"].all()
    assert mask.dtype == "bool"


def test_an_offset_before_the_table_moves_the_range(tmp_path: Path) -> None:
    model = checked(
        tmp_path,
        """
dim B, T
model M(n: int = 10) {
  param table: Tensor[n, 4] = normal(1.0)
  forward(a: Int[B, T], b: Int[B], x: Tensor[B, T, 4]) -> Tensor[B, T, 4] {
    rows = embedding(reshape(a, [B*T]) - 2, table) |> reshape([B, T, 4])
    return rows + x
  }
}
""",
    )
    of = interface(model)
    by_name = {i.name: i for i in of.inputs}
    assert [d.value for d in (*by_name["a"].low, *by_name["a"].high)] == [2, 12]
    assert set(np.unique(draw(of, {"B": 50, "T": 5})["a"])) == set(range(2, 12))
    assert by_name["b"].high == ()


def test_an_index_into_a_runtime_axis_has_a_symbolic_range(tmp_path: Path) -> None:
    model = checked(
        tmp_path,
        """
dim B, T
model M {
  param w: Tensor[4] = ones()
  forward(x: Tensor[B, T, 4], end: Int[B]) -> Tensor[B, 4] = gather(x * w, end, axis = 1)
}
""",
    )
    end = interface(model).inputs[1]
    assert [str(d) for d in end.high] == ["T"]


def test_the_same_seed_gives_the_same_inputs() -> None:
    of = interface(driver.load("gpt2", sets=TINY).model)
    a, b, c = (draw(of, {"B": 2, "T": 3}, seed=seed) for seed in (0, 0, 1))
    assert all((a[name] == b[name]).all() for name in a)
    assert any((a[name] != c[name]).any() for name in a)


@pytest.mark.parametrize(("spec", "entry"), [("gpt2", "forward"), ("transformer", "decode"), ("linear", "forward")])
def test_an_interface_survives_json(spec: str, entry: str) -> None:
    model = driver.load(spec).model
    described = json.loads(json.dumps(describe(model, entry)))
    assert Interface.from_json(described) == interface(model, entry)


def test_without_leaves_an_input_out() -> None:
    of = interface(driver.load("gpt2", sets=TINY).model, without=frozenset({"attention_mask"}))
    assert [i.name for i in of.inputs] == ["input_ids"]


def test_depth_counts_blocks() -> None:
    assert interface(driver.load("gpt2").model).depth == 12
    assert interface(driver.load("gpt2", preset="gpt2-xl").model).depth == 48
    assert interface(driver.load("mlp").model).depth == 0
    transformer = driver.load("transformer").model
    assert {name: interface(transformer, name).depth for name in transformer.entries} == {
        "encode": 6,
        "decode": 6,
        "forward": 12,
    }
    assert (tolerance(12), tolerance(13)) == (TOLERANCE, DEEP_TOLERANCE)


# ---- sizes -----------------------------------------------------------------------------------------------------------


def test_the_plan_has_ones_primes_and_bounds() -> None:
    cases = plan(interface(driver.load("gpt2", sets=TINY).model))
    sizes = [tuple(case.sizes.values()) for case in cases]
    assert sizes[0] == (1, 1)
    assert (1, 12) in sizes
    assert all(size <= 12 for _, size in sizes)
    assert any(1 not in s and s[0] != s[1] for s in sizes)
    assert {s[0] == 1 for s in sizes} == {s[1] == 1 for s in sizes} == {True, False}
    assert not any(case.skipped for case in cases)


def test_facts_are_respected(tmp_path: Path) -> None:
    model = checked(
        tmp_path,
        """
dim B, Y, X
model M {
  dim Y % 8 == 0, X >= 3, Y <= 64
  param w: Tensor[1] = ones()
  forward(x: Tensor[B, Y, X]) -> Tensor[B, Y, X] = x * w
}
""",
    )
    of = interface(model)
    for case in plan(of):
        assert of.facts.satisfied_by(case.sizes) is None
    assert {case.sizes["Y"] for case in plan(of)} >= {8, 64}
    assert admissible(of, {"B": 1, "Y": 30, "X": 1}) == {"B": 1, "Y": 32, "X": 3}


def test_sizes_beyond_the_budget_are_recorded() -> None:
    cases = plan(interface(driver.load("gpt2", sets=TINY).model), budget=10_000)
    skipped = [case for case in cases if case.skipped]
    assert skipped
    assert all("the budget is" in case.skipped for case in skipped)
    assert not cases[0].skipped


# ---- the criterion ---------------------------------------------------------------------------------------------------


def _f32(*values: float) -> Any:
    return np.array(values, dtype=np.float32)


def test_figures() -> None:
    found = compare(_f32(100, 1, 0, -2), _f32(100.0005, 1, 1e-7, -2), 1e-5)
    assert not found.problem
    assert found.limit == pytest.approx(1e-3)
    assert found.max_abs == pytest.approx(5e-4, rel=0.1)
    assert found.max_rel == pytest.approx(5e-6, rel=0.1)
    assert found.worst is not None
    assert found.worst[0] == (0,)


def test_ulps_count_representable_values() -> None:
    one = np.float32(1)
    above = np.nextafter(np.nextafter(one, np.float32(2), dtype=np.float32), np.float32(2), dtype=np.float32)
    assert compare(_f32(float(one)), _f32(float(above)), 1e-5).max_ulp == 2
    tiny = np.nextafter(np.float32(0), np.float32(1), dtype=np.float32)
    assert compare(_f32(float(-tiny)), _f32(float(tiny)), 1e-5).max_ulp == 2


@pytest.mark.parametrize(
    ("reference", "found", "problem"),
    [
        (_f32(1), _f32(1.001), "off by"),
        (_f32(1), _f32(np.nan), "1.0 in torch is nan"),
        (_f32(np.nan), _f32(1), "nan in torch is 1.0"),
        (_f32(np.inf), _f32(-np.inf), "inf in torch is -inf"),
        (_f32(1), np.ones(1), "its type is float64"),
        (_f32(1), _f32(1, 1), "its shape is [2]"),
        (np.array([1, 2]), np.array([1, 3]), "1 of 2 values differ"),
    ],
)
def test_what_counts_as_different(reference: Any, found: Any, problem: str) -> None:
    assert problem in compare(reference, found, 1e-5).problem


def test_nan_and_infinities_in_the_same_places_are_equal() -> None:
    a = _f32(np.nan, np.inf, -np.inf, 3)
    found = compare(a, a.copy(), 1e-5)
    assert not found.problem
    assert found.nan == 1
    assert found.largest == 3


def test_large_arrays_are_compared_in_pieces() -> None:
    a = np.zeros((3, 70_001), dtype=np.float32)
    b = a.copy()
    b[2, 69_999] = 0.5
    found = compare(a, b, 1e-5)
    assert found.worst == ((2, 69_999), 0.0, 0.5)


# ---- builds ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("verify") / "tiny"
    build(Request("gpt2", sets=TINY, render=False, out=out))
    return out


def _manifest(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return loaded


def test_a_view_of_a_parameter_is_a_result(tmp_path: Path) -> None:
    """torch gives it with the wish for gradients, which a build's parameters have."""
    spec = tmp_path / "m.spec"
    text = (
        "model M() {\n  param w: Tensor[4] = ones()\n  forward(x: Tensor[B, 4]) -> (y: Tensor[B, 4], z: Tensor[B, 4])"
    )
    spec.write_text(f"dim B\n{text} {{\n    return x + w, expand(w, sizes = [B, 4])\n  }}\n}}\n", "utf-8")
    build(Request(str(spec), render=False, out=tmp_path / "out"))
    assert _manifest(tmp_path / "out")["certificate"]["entries"]


def test_the_certificate_records_what_was_done(built: Path) -> None:
    record = _manifest(built)["certificate"]
    jsonschema.Draft202012Validator(certificate.schema()).validate(record)
    entry = record["entries"]["forward"]
    assert {(r["sizes"]["B"], r["sizes"]["T"]) for r in entry["runs"]} >= {(1, 1), (2, 3), (1, 12)}
    assert {r["weights"] for r in entry["runs"]} == {"build", "perturbed"}
    assert {r["masks"] for r in entry["runs"]} == {"random", "all true"}
    for run in entry["runs"]:
        assert set(run["figures"]) == {"onnxruntime", "onnxruntime, no optimisations"}
        for outputs in run["figures"].values():
            assert outputs["logits"]["max_abs"] <= outputs["logits"]["limit"]
    assert set(record["files"]) == {"gpt2.py", "model.safetensors", "model.onnx"}
    assert {"torch", "onnx", "onnxruntime", "numpy", "python"} <= set(record["versions"])


def test_verify_repeats_the_proof(built: Path) -> None:
    result = CliRunner().invoke(cli, ["verify", str(built)])
    assert result.exit_code == 0, result.output
    assert "agree in" in result.output
    again = verify.repeat(built)
    assert again.to_json() == _manifest(built)["certificate"]


@pytest.mark.parametrize("name", ["gpt2.py", "model.onnx", "model.safetensors"])
def test_a_changed_file_is_named(built: Path, name: str) -> None:
    content = (built / name).read_bytes()
    try:
        (built / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(Rejected) as caught:
            verify.repeat(built)
        assert [d.code for d in caught.value.diagnostics] == ["B660"] * len(caught.value.diagnostics)
        assert name in caught.value.diagnostics[0].message
        assert "changed" in caught.value.diagnostics[0].message
    finally:
        (built / name).write_bytes(content)


def test_a_missing_file_is_named(built: Path) -> None:
    (built / "model.onnx").rename(built / "aside")
    try:
        with pytest.raises(Rejected) as caught:
            verify.repeat(built)
        assert "model.onnx` is missing" in caught.value.diagnostics[0].message
    finally:
        (built / "aside").rename(built / "model.onnx")


def _tampered(folder: Path, patch: pytest.MonkeyPatch) -> Diagnostic:
    """What `verify` says of a source that computes another GELU, when the hashes do not give it away."""
    content = (folder / "gpt2.py").read_text()
    patch.setattr(divergence, "check_files", lambda *_: None)
    try:
        (folder / "gpt2.py").write_text(content.replace('approximate="tanh"', 'approximate="none"'))
        with pytest.raises(Rejected) as caught:
            verify.repeat(folder)
    finally:
        (folder / "gpt2.py").write_text(content)
    (found,) = caught.value.diagnostics
    assert found.code == "B630"
    return found


def test_programs_that_differ_are_placed_where_the_spec_is_at_hand(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _tampered(built, monkeypatch)
    assert found.span is not None
    assert "act |> c_proj" in found.span.source.line(found.span.line)
    assert found.path == "in GPT2 > h.0.mlp"


def test_without_the_spec_the_command_is_named(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "spec_at_hand", lambda _: None)
    found = _tampered(built, monkeypatch)
    assert found.span is None
    assert found.help.startswith("specc build ")
    assert "--set vocab=16" in found.help


def test_a_spec_that_was_changed_is_not_at_hand(built: Path) -> None:
    record = _manifest(built)
    assert verify.spec_at_hand(record) is not None
    record["spec"]["files"]["std/nn.spec"] = "0" * 64
    assert verify.spec_at_hand(record) is None


def test_a_folder_that_is_no_build(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["verify", str(tmp_path)])
    assert result.exit_code == 1


@pytest.mark.parametrize(
    "options", [{"self_contained": True}, {"opset": 17}, {"without": frozenset({"attention_mask"})}]
)
def test_variants_of_a_build_are_proved(tmp_path: Path, options: dict[str, Any]) -> None:
    out = tmp_path / "out"
    build(Request("gpt2", sets=TINY, render=False, out=out, **options))
    assert _manifest(out)["certificate"]["entries"]["forward"]["runs"]
    verify.repeat(out)


def test_every_entry_is_proved(tmp_path: Path) -> None:
    sets = {"vocab": "11", "dim": "16", "layers": "1", "heads": "2", "hidden": "24"}
    build(Request("transformer", sets=sets, render=False, out=tmp_path / "out", entries=None))
    entries = _manifest(tmp_path / "out")["certificate"]["entries"]
    assert set(entries) == {"forward", "encode", "decode"}
    assert all(entry["runs"] for entry in entries.values())

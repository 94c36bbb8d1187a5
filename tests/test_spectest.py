"""`specc test`: expectations that hold, that do not, and that cannot be run yet."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from specc.reading import locate
from specc_runtime.cli import cli
from specc_runtime.spectest import Report, run_tests

SPEC = """\
from std.nn import Linear
dim B, T, S = past(T) + T

model M(dim: int = 4, out: int = 3) {
  fc: Linear(dim, out)
  forward(x: Tensor[B, T, dim], keep: Bool[B, T]) -> (y: Tensor[B, T, out], n: Int[B, T]) {
    y = fc(x) * cast_like(keep, x)[:, :, none]
    n = argmax(y, axis = -1)
    return y, n
  }
}

preset "wide" = M(dim = 8)
"""


def run(tmp_path: Path, body: str, header: str = 'test M "it" with B = 2, T = 5') -> Report:
    path = tmp_path / "m.spec"
    path.write_text(f"{SPEC}\n{header} {{\n{body}\n}}\n", encoding="utf-8")
    (report,) = run_tests(str(path))
    return report


def statuses(report: Report) -> list[str]:
    assert not report.broken, report.broken
    return [outcome.status for outcome in report.outcomes]


def test_expectations_that_hold(tmp_path: Path) -> None:
    report = run(
        tmp_path,
        """
  seed = 3
  expect shape(y) == [B, T, out]
  expect shape(y) == [2, S, 3]
  expect count_params() == dim*out + out
  expect onnx ~= torch
  expect onnx ~= torch within (atol = 1e-6, rtol = 1e-5)
  expect max(abs(y)) < 100.0
  expect n >= 0
  expect y[0] - y[0] ~= 0
  expect B == 2 and T == 5
""",
    )
    assert statuses(report) == ["passed"] * 9
    assert float(report.outcomes[3].detail) < 1e-5


def test_expectations_that_do_not_hold_show_both_sides(tmp_path: Path) -> None:
    report = run(
        tmp_path,
        """
  expect shape(y) == [B, T]
  expect count_params() == 1
  expect y ~= 1000.0 within (atol = 1.0)
  expect min(y) > 1000.0
""",
    )
    assert statuses(report) == ["failed"] * 4
    assert {o.diagnostic.code for o in report.outcomes if o.diagnostic} == {"T520"}
    shape, count, close, _ = [dict(o.diagnostic.notes) for o in report.outcomes if o.diagnostic]
    assert shape == {"left": "[2, 5, 3]", "right": "[2, 5]"}
    assert count == {"left": "15", "right": "1"}
    assert close["right"] == "1000"
    diagnostic = report.outcomes[0].diagnostic
    assert diagnostic is not None
    assert [(s.name, s.value) for s in diagnostic.sizes] == [("B", "2"), ("T", "5")]


def test_what_cannot_run_is_skipped_by_name(tmp_path: Path) -> None:
    report = run(
        tmp_path,
        """
  expect incremental ~= forward within (atol = 1e-4)
  expect hf("nobody/nothing") ~= torch
  expect forward ~= torch
""",
    )
    assert statuses(report) == ["failed", "skipped", "passed"]
    assert report.outcomes[0].diagnostic is not None and report.outcomes[0].diagnostic.code == "B620"
    assert "nobody/nothing" in report.outcomes[1].detail


def test_presets_say_what_they_expect(tmp_path: Path) -> None:
    """`expect` behind a preset is a test of its name, of the model at the root."""
    path = tmp_path / "m.spec"
    path.write_text(
        "from std.nn import Linear\ndim B\n"
        "model M(n: int = 16) {\n  fc: Linear(n, 8)\n  forward(x: Tensor[B, n]) -> Tensor[B, 8] = fc(x)\n}\n"
        'preset "b" = "a"(n = 4) expect count_params() == 41\n'
        'preset "a" = M() expect count_params() == 136 and n == 16\n'
        'preset "c" = M(n = 3)\n'
    )
    done = CliRunner().invoke(cli, ["test", str(path)])
    assert done.exit_code == 1
    assert "1 passed, 1 failed" in done.output and "m.spec:7:32" in done.output, done.output
    path.write_text(path.read_text().replace("41", "4*8 + 8").replace("M(n = 3)", "M(n = 3) expect counts() == 3"))
    found = CliRunner().invoke(cli, ["check", str(path)]).output
    assert "error[E103]" in found and "counts" in found and "m.spec:9" in found


def test_configurations(tmp_path: Path) -> None:
    assert statuses(run(tmp_path, 'preset = "wide"\nexpect count_params() == 27')) == ["passed"]
    assert statuses(run(tmp_path, "model = M(out = 2, dim = 1)\nexpect count_params() == 4")) == ["passed"]
    assert statuses(run(tmp_path, "model = M(7)\nexpect dim == 7")) == ["passed"]


def test_free_dims_take_primes_not_used_elsewhere(tmp_path: Path) -> None:
    report = run(tmp_path, "expect shape(y) == [3, 2, out]\nexpect B == 3 and T == 2", 'test M "it" with B = 3')
    assert statuses(report) == ["passed", "passed"]


def test_free_dims_keep_what_the_model_promises(tmp_path: Path) -> None:
    """Of the sizes that the facts allow the nearest; a fixed dim stays."""
    head = "model M(dim: int = 4, out: int = 3) {"
    spec = SPEC.replace(head, f"{head}\n  dim T % 6 == 0, B >= 9")
    path = tmp_path / "m.spec"
    path.write_text(f'{spec}\ntest M "it" with T = 12 {{ expect shape(y) == [9, 12, out] }}\n', encoding="utf-8")
    (report,) = run_tests(str(path))
    assert statuses(report) == ["passed"]
    path.write_text(f'{spec}\ntest M "it" with T = 8 {{ expect T == 6 }}\n', encoding="utf-8")
    (report,) = run_tests(str(path))
    assert "S223" in {d.code for d in report.broken} | {o.diagnostic.code for o in report.outcomes if o.diagnostic}


def test_flops_are_a_contract(tmp_path: Path) -> None:
    """A row takes the product, a cast, `out` products with the mask and argmax's `out`."""
    report = run(
        tmp_path,
        """
  expect flops() == B*T*(2*dim*out + 1 + out + out)
  expect flops(B = 1, T = 1k) == 1000*(2*dim*out + 1 + out + out)
  expect flops(B = 1k, T = 1.5k) < 1M
""",
    )
    assert statuses(report) == ["passed", "passed", "failed"]
    diagnostic = report.outcomes[-1].diagnostic
    assert diagnostic is not None and dict(diagnostic.notes) == {"left": "46500000", "right": "1000000"}


def test_inputs_can_be_given(tmp_path: Path) -> None:
    body = """
  inputs = bind(keep = [[true, false]], x = [[[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]])
  expect y[0, 1] == 0.0
  expect onnx ~= torch
"""
    assert statuses(run(tmp_path, body, 'test M "it" with B = 1, T = 2')) == ["passed", "passed"]


@pytest.mark.parametrize(
    ("body", "header", "code"),
    [
        ("expect 1 == 1", 'test M "it" with Q = 2', "S103"),
        ("colour = 3\nexpect 1 == 1", 'test M "it"', "T501"),
        ('preset = "none"\nexpect 1 == 1', 'test M "it"', "E008"),
        ("inputs = bind(z = [1])\nexpect shape(y) == [2]", 'test M "it"', "T504"),
        ("expect shape(z) == [2]", 'test M "it"', "E103"),
        ("expect y ~= torch", 'test M "it"', "E125"),
        ("expect onnx ~= torch within (tol = 1.0)", 'test M "it"', "E120"),
        ("expect flops(Q = 2) < 1", 'test M "it"', "S103"),
        ("expect flops(B = 0) < 1", 'test M "it"', "E112"),
        ("expect flops(2) < 1", 'test M "it"', "E120"),
        ("expect onnx + 1 ~= torch", 'test M "it"', "E125"),
    ],
)
def test_mistakes_are_findings(tmp_path: Path, body: str, header: str, code: str) -> None:
    report = run(tmp_path, body, header)
    found = [*report.broken, *(o.diagnostic for o in report.outcomes if o.diagnostic)]
    assert [d.code for d in found] == [code]
    assert report.failed


def command(path: Path, *more: str) -> Result:
    return CliRunner().invoke(cli, ["test", str(path), *more])


def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "m.spec"
    good = 'test M "good" { expect count_params() == 15 }\n'
    bad = 'test M "bad" { expect count_params() == 16 }\n'
    path.write_text(SPEC + good + bad, encoding="utf-8")
    result = command(path)
    assert result.exit_code == 1
    assert "1 passed, 1 failed" in result.output
    assert "error[T520]" in result.output
    assert command(path, "--filter", "good").exit_code == 0
    assert "no tests" in command(path, "--filter", "zzz").output
    path.write_text("model {", encoding="utf-8")
    assert command(path).exit_code == 1


@pytest.mark.slow
def test_a_local_folder_stands_for_its_checkpoint(tmp_path: Path) -> None:
    import transformers

    config = transformers.GPT2Config(
        vocab_size=50, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    folder = tmp_path / "checkpoint"
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    gpt2 = locate("gpt2").read_text(encoding="utf-8").partition("test GPT2")[0]
    (tmp_path / "m.spec").write_text(
        f"""{gpt2}
test GPT2 "transformers" with B = 2, T = 7 {{
  expect hf("{folder}") ~= torch within (atol = 1e-5)
  expect hf("{folder}") ~= onnx within (atol = 1e-5)
  expect vocab == 50
}}
""",
        encoding="utf-8",
    )
    (report,) = run_tests(str(tmp_path / "m.spec"))
    assert statuses(report) == ["passed"] * 3


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_the_zoo_passes_its_own_tests(name: str) -> None:
    result = CliRunner().invoke(cli, ["test", name])
    assert result.exit_code == 0, result.output

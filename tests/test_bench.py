"""`specc bench`: what it measures, how results are kept and compared, which lines a profile names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from specc_runtime.bench import results
from specc_runtime.bench.profile import NodeTime, by_line, profile
from specc_runtime.bench.request import Case, Measured, cases, feeds, items, usual
from specc_runtime.build import Request, build
from specc_runtime.cache import Request as CacheRequest
from specc_runtime.cli import cli
from specc_runtime.module import Build, open_build

SPEC = """\
from std.nn import Embedding, Linear
dim B, T

block Mix(dim: int) {
  fc: Linear(dim, dim)
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] {
    y = fc(x)
    return relu(y)
  }
}

model Net(vocab: int = 50, dim: int = 512, layers: int = 2) {
  dim T <= 64
  wte: Embedding(vocab, dim)
  h: [Mix(dim) for i in range(layers)]
  forward(ids: Int[B, T]) -> y: Tensor[B, T, dim] {
    x = wte(ids)
    for mix in h { x = mix(x) }
    return x
  }
}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder = tmp_path_factory.mktemp("bench")
    (folder / "net.spec").write_text(SPEC, "utf-8")
    return open_build(build(Request(str(folder / "net.spec"), verify=False, render=False, out=folder / "net")).folder)


def run(made: Build, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["bench", str(made.folder), "--seconds", "0.05", *arguments])


def test_results(made: Build, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    done = run(made, "--at", "B=2,T=8", "--threads", "1", "--json", str(file), "--backend", "torch",
               "--backend", "onnxruntime", "--backend", "onnxruntime-cuda")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "forward B=2,T=8, 1 thread" in done.output
    assert "onnxruntime-cuda[B=2,T=8]-1: onnxruntime" in done.output and "has no CUDAExecutionProvider" in done.output
    found = json.loads(file.read_text())
    assert [b["name"] for b in found["benchmarks"]] == ["torch[B=2,T=8]-1", "onnxruntime[B=2,T=8]-1"]
    for one in found["benchmarks"]:
        stats, more = one["stats"], one["extra_info"]
        assert stats["rounds"] >= 5 and stats["min"] <= stats["q1"] <= stats["median"] <= stats["q3"] <= stats["max"]
        assert more["tokens_per_second"] == pytest.approx(16 / stats["median"])
        assert more["peak_bytes"] > 2 * 512 * 512 * 4 and more["loading"] > 0  # at least the weights
    compare = [str(Path(sys.executable).with_name("pytest-benchmark")), "compare", str(file)]
    shown = subprocess.run(compare, capture_output=True, text=True, check=False, timeout=60)
    assert shown.returncode == 0 and "onnxruntime[B=2,T=8]-1" in shown.stdout, shown.stdout + shown.stderr


def test_against_earlier_results(made: Build, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    once = ("--backend", "onnxruntime", "--at", "B=2,T=8", "--threads", "1")
    content = json.loads(run(made, *once, "--json", "-").stdout)
    content["benchmarks"][0]["stats"]["median"] = 1e-9
    file.write_text(json.dumps(content))
    slower = run(made, *once, "--against", str(file), "--fail-above", "1.5")
    assert slower.exit_code == 1 and "slower" in slower.output
    assert run(made, *once, "--against", str(file)).exit_code == 0
    content["benchmarks"][0]["stats"]["median"] = 1e9
    file.write_text(json.dumps(content))
    assert "faster" in run(made, *once, "--against", str(file), "--fail-above", "1.5").output
    other = run(made, *once[:2], "--at", "B=1,T=3", "--seconds", "0.05", "--against", str(file), "--fail-above", "1.5")
    assert other.exit_code == 1 and "has nothing to compare with" in other.output


def test_a_difference_within_the_quartiles_is_none(made: Build) -> None:
    case = Case("onnxruntime", "forward", {"B": 1, "T": 8}, 1)
    measured = Measured(case, times=[1.0, 2.0, 3.0, 4.0, 5.0])
    (row,) = results.rows(made, [measured], {case.name: 2.0})
    assert (row.median, row.unit, row.rate, row.ratio) == (3.0, "tokens", 8 / 3, 1.5)
    from specc_runtime.bench.text import _against

    assert _against(row) == "1.50 x  same"
    (other,) = results.rows(made, [measured], {case.name: 1.0})
    assert "slower" in _against(other)


def test_sizes(made: Build) -> None:
    of = made.interface()
    assert usual(of) == {"B": 1, "T": 64}  # as near to 128 as the model allows
    assert items(of, {"B": 2, "T": 8}) == (16, "tokens")
    found = cases(made, ["torch", "onnxruntime"], [{"T": 8}, {"B": 4}], [1, 2], "forward")
    assert [(c.backend, dict(c.sizes), c.threads) for c in found][:3] == [
        ("torch", {"B": 1, "T": 8}, 1), ("onnxruntime", {"B": 1, "T": 8}, 1), ("torch", {"B": 4, "T": 64}, 1),
    ]  # fmt: skip
    assert len(found) == 8


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--at", "Q=3"], 1, "forward has no dim `Q`"),
        (["--at", "T=65"], 1, "T <= 64"),
        (["--at", "T"], 2, "is not NAME=SIZE"),
        (["--entry", "backward"], 1, "has no entry `backward`"),
        (["--backend", "tensorflow"], 2, "is not one of"),
        (["--fail-above", "2"], 2, "--against FILE"),
        (["--against", "nothing.json"], 1, "cannot read nothing.json"),
        (["--against", __file__], 1, "holds no results of a benchmark"),
    ],
)
def test_mistakes(made: Build, arguments: list[str], code: int, message: str) -> None:
    done = run(made, *arguments)
    assert done.exit_code == code and message in done.output, done.output


def test_a_folder_that_is_no_build(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["bench", str(tmp_path)])
    assert done.exit_code == 1 and "error[B660]" in done.output


def test_the_profile_names_the_slow_line(made: Build) -> None:
    nodes = profile(made, Case("onnxruntime", "forward", {"B": 8, "T": 64}, 1), runs=5)
    assert all(node.seconds >= 0 for node in nodes) and {node.operator for node in nodes} & {"Gemm", "FusedGemm"}
    slowest = by_line(nodes)[0]
    assert slowest.line.startswith("net.spec:7") or slowest.line.startswith("net.spec:8"), slowest
    done = run(made, "--profile", "--at", "B=8,T=64")
    assert done.exit_code == 0 and "net.spec:7  y = fc(x)" in done.output, done.output


def test_lines_of_a_profile() -> None:
    nodes = [
        NodeTime("a", "Gemm", "m.spec:3", "h.0", 0.5),
        NodeTime("b", "Add", "m.spec:4", "h.0", 0.25),
        NodeTime("c", "Gemm", "m.spec:3", "h.1", 0.5),
        NodeTime("", "Transpose", "", "", 0.1),
    ]
    found: list[tuple[Any, ...]] = [(one.line, one.seconds, one.nodes, one.operators) for one in by_line(nodes)]
    assert found == [("m.spec:3", 1.0, 2, ("Gemm",)), ("m.spec:4", 0.25, 1, ("Add",)), ("", 0.1, 1, ("Transpose",))]


CACHED = """\
from std.nn import Embedding, Linear
dim B, T

block Attention(dim: int, heads: int) {
  let d = dim / heads
  qkv: Linear(dim, 3*dim)
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] {
    q, k, v = qkv(x) |> rearrange([B, T, 3*heads*d] -> [3, B, heads, T, d])
    k, v = cached(k, v, along = T)
    return sdpa(q, k, v, causal = true) |> rearrange([B, heads, T, d] -> [B, T, heads*d])
  }
}

model Net(vocab: int = 50, dim: int = 16) {
  dim T <= 64
  wte: Embedding(vocab, dim)
  attn: Attention(dim, 2)
  forward(ids: Int[B, T]) -> y: Tensor[B, T, dim] = attn(wte(ids))
}
"""
SCANNED = """\
dim B, T

model Net(dim: int = 8) {
  forward(x: Tensor[B, T, dim]) -> y: Tensor[B, T, dim] {
    ys, h = scan u in x along T with h = zeros([B, dim]) {
      h = tanh(h + u)
      emit h
    }
    return ys
  }
}
"""


def of_text(folder: Path, text: str, **request: Any) -> Build:
    path = folder / "net.spec"
    path.write_text(text, "utf-8")
    return open_build(build(Request(str(path), verify=False, render=False, out=folder / "net", **request)).folder)


@pytest.mark.parametrize("length", [None, 16])
def test_what_continues_a_call_is_measured_with_one_new_position(tmp_path: Path, length: int | None) -> None:
    made = of_text(tmp_path, CACHED, cache=CacheRequest(length))
    entry = "forward_cached"
    (case,) = cases(made, ["onnxruntime"], [], [1], entry)
    assert case.sizes["T"] == 1
    if length is None:
        assert case.sizes["past(T)"] == 63  # 128 at most, the model has 64 positions
    else:
        assert feeds(made, case)["past_length"] == length - 1
    assert profile(made, case, runs=3)
    done = run(made, "--entry", entry, "--threads", "1", "--json", str(tmp_path / "r.json"))
    assert done.exit_code == 0, done.output
    assert ("torch's cache grows" in done.output) == (length is not None)
    too_long = run(made, "--entry", entry, "--at", f"T={17 if length else 65}")
    assert too_long.exit_code == 1 and "error[E009]" in too_long.output, too_long.output


def test_the_time_of_a_loop_is_that_of_its_lines(tmp_path: Path) -> None:
    made = of_text(tmp_path, SCANNED)
    case = Case("onnxruntime", "forward", {"B": 2, "T": 64}, 1)
    nodes = profile(made, case, runs=5)
    lines = {one.line: one.seconds for one in by_line(nodes)}
    assert lines["net.spec:6"] > 0  # inside the loop
    whole = next(n for n in nodes if n.operator == "Scan")
    assert whole.line == "net.spec:5" and whole.seconds > 0
    done = run(made, "--profile", "--at", "B=2,T=64")
    assert "net.spec:6  h = tanh(h + u)" in done.output, done.output


def test_results_that_cannot_be_written(made: Build, tmp_path: Path) -> None:
    for place in (tmp_path / "none" / "r.json", tmp_path):
        done = run(made, "--json", str(place))
        assert done.exit_code == 1 and "cannot write" in done.output and "median" not in done.output


def test_builds_that_onnxruntime_cannot_run(tmp_path: Path) -> None:
    made = of_text(tmp_path, SPEC, emit=frozenset({"torch"}))
    done = run(made, "--profile")
    assert done.exit_code == 1 and "has no ONNX graph of `forward`" in done.output
    made = of_text(tmp_path, SPEC)
    (made.folder / "model.onnx").write_bytes(b"x")
    done = run(made, "--profile", "--at", "B=1,T=2", "--threads", "1")
    assert done.exit_code == 1 and "error[B660]: onnxruntime[B=1,T=2]-1 does not run" in done.output, done.output
    (tmp_path / "r.json").write_text('{"benchmarks": [{"name": "onnxruntime[B=1,T=2]-1", "stats": {"median": 1.0}}]}')
    options = ["--at", "B=1,T=2", "--threads", "1", "--seconds", "0.05"]
    assert run(made, *options).exit_code == 0
    assert run(made, *options, "--against", str(tmp_path / "r.json"), "--fail-above", "2").exit_code == 1

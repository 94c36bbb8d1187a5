"""What `specc check --opset` tells of operators, held against the graphs that are built."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
from building import specc
from test_ops import ACCEPTED, Example, _checked, folder, spec_of

from specc import driver
from specc.backends.onnx.cached import CachedFlattener
from specc.backends.onnx.emitter import GraphEmitter
from specc.backends.onnx.flatten import Flattener
from specc.inspect.lowering import Lowerings, lowerings, of_model
from specc.ir.graph import Model
from specc.ir.members import aliases
from specc.lowering import OPSETS
from specc.op import operators
from specc.passes.incremental import Incremental, derive
from specc.passes.plain import entry_sizes

__all__ = ["folder"]
FORMS = {"Cast", "Reshape", "Transpose", "Unsqueeze", "Squeeze"}
SIZES = {"Shape", "Gather", "Concat", "Add", "Mul", "Sub", "Div", "Mod", "Where", "Less", *FORMS}
"""What sizes are computed with."""
STATED = {name: op for name, op in operators().items() if op.in_onnx}


def nodes_of(model: Model, opset: int) -> dict[str, set[str]]:
    """The operators of the graph as the lowerings wrote it: those of sizes apart from the others."""
    emit = GraphEmitter(opset)
    graph = model.entries["forward"].full
    Flattener(emit, aliases(model.module)).entry(graph, entry_sizes(graph))
    made: dict[str, set[str]] = {"sizes": set(), "": set()}
    for record in emit.records:
        inside = record.body.records if record.body is not None else []
        for one in (record, *inside):
            made["sizes" if one.scope == "sizes" else ""].add(one.op_type)
    return made


@pytest.mark.parametrize("opset", [17, 20, 23, 25])
@pytest.mark.parametrize("example", [e for e in ACCEPTED if not operators()[e.op].for_training], ids=str)
def test_the_nodes_told_are_those_built(example: Example, opset: int, folder: str) -> None:
    model = _checked(spec_of(example), folder).model
    told, built = lowerings(model, opset=opset), nodes_of(model, opset)
    nodes = {node for one in told.operators for node in one.nodes}
    constant = {one.operator for one in told.operators if one.form == "constant"}
    assert not told.problems
    assert nodes <= built[""] | built["sizes"]
    if not constant:  # how a table is made is not told
        assert built[""] <= nodes | SIZES


@pytest.mark.parametrize("name", STATED)
def test_what_stands_for_the_whole_is_used_since_it_exists(name: str, folder: str) -> None:
    """`in_onnx` is true: from that operator set on the operator is there, before it is not."""
    models = [_checked(spec_of(e), folder).model for e in ACCEPTED if e.op == name]
    for onnx_name, since in STATED[name].in_onnx:
        if onnx_name == "Gemm":
            continue  # what `MatMul` becomes where it is a matrix, or behind a Reshape
        for opset in OPSETS:
            found = [node for m in models for one in lowerings(m, opset=opset).of(name) for node in one.nodes]
            assert (onnx_name in found) == (opset >= since), opset


def told(preset: str, opset: int) -> Lowerings:
    return lowerings(driver.load(preset).model, opset=opset)


def test_forms_and_counts() -> None:
    new, old = told("llama", 23), told("llama", 20)
    assert {one.form for one in new.of("sdpa")} == {"fused"} and {one.form for one in old.of("sdpa")} == {"decomposed"}
    assert sum(one.calls for one in old.of("sdpa")) == 32
    (norm,) = old.of("rms_norm")
    assert norm.since == {"RMSNormalization": 23} and norm.nodes[-1] == "Mul"
    assert "sdpa           32  decomposed" in str(old) and "Attention from opset 23" in str(old)


def calls_of(found: Lowerings, operator: str) -> int:
    return sum(one.calls for one in found.of(operator))


@pytest.mark.parametrize(("name", "entry"), [("gpt2", "forward"), ("t5", "decode"), ("mamba", "forward")])
def test_entries_that_go_on_are_told_too(name: str, entry: str) -> None:
    """What `once` computes is of another graph: the keys and values of 6 layers of T5 are not of a step's."""
    model = driver.load(name).model
    found = {one.entry: one for one in of_model(model, target="onnxruntime", opset=23)}
    assert [*found] == ["forward", f"{entry}_cached"]
    steps, plain = found[f"{entry}_cached"], lowerings(model, entry, opset=23)
    assert not steps.problems and {one.form for one in steps.of("sdpa")} <= {"fused"}
    assert calls_of(plain, "linear") - calls_of(steps, "linear") == (12 if name == "t5" else 0)
    assert calls_of(plain, "sdpa") == calls_of(steps, "sdpa")


def test_nodes_told_of_a_step_are_those_built() -> None:
    """But for what a cache itself takes, and for what later passes leave out of a graph."""
    model = driver.load("gpt2", preset="gpt2-tiny").model
    told = of_model(model, target="onnxruntime", opset=23)[1]
    emit = GraphEmitter(23)
    CachedFlattener(emit, model, cast("Incremental", derive(model, "forward"))).run_entry()
    built = {one.op_type for one in emit.records}
    assert {node for one in told.operators for node in one.nodes} <= built
    assert built <= {node for one in told.operators for node in one.nodes} | SIZES


def test_the_command(tmp_path: Path) -> None:
    shown = specc("check", "gpt2", "--opset", "20", cwd=tmp_path)
    assert shown.returncode == 0 and "sdpa" in shown.stdout and "fused       Gelu" in shown.stdout
    both = specc("check", "gpt2", "--target", "onnxruntime", "--format", "json", cwd=tmp_path)
    document = json.loads(both.stdout)
    assert document["diagnostics"] == [] and document["lowerings"][0]["opset"] == 23
    (tmp_path / "bad.spec").write_text("model M {\n")
    assert specc("check", "bad.spec", "--opset", "20", cwd=tmp_path).returncode == 1
    assert specc("check", "gpt2", "--opset", "9", cwd=tmp_path).returncode == 2
    refused = specc("check", "t5", "--target", "genai", cwd=tmp_path)
    assert refused.returncode == 1 and "B621" in refused.stderr + refused.stdout
    assert "in ONNX" not in refused.stdout, "a table of nothing"


def test_it_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from specc_runtime.cli import main; sys.argv = ['specc', 'check', 'llama', '--opset', '20']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'numpy') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "[]", run.stderr


EXPECTING = """from std.nn import Linear
dim B, T
model M(dim: int = 16, heads: int = 2) {{
  qkv: Linear(dim, 3*dim)
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] {{
    q, k, v = qkv(x) |> rearrange([B, T, 3*heads*(dim//heads)] -> [3, B, heads, T, dim//heads])
    return sdpa(q, k, v) |> rearrange([B, heads, T, dim//heads] -> [B, T, heads*(dim//heads)]) |> gelu
  }}
}}
test M "small" with B = 2, T = 3 {{
  expect {expect}
}}
"""


@pytest.mark.parametrize(
    ("expect", "holds"),
    [("fused(sdpa)", True), ("fused(gelu)", True), ("nodes(onnx) <= 12", True), ("nodes(onnx) <= 3", False)],
)
def test_expectations_about_graphs(expect: str, holds: bool, tmp_path: Path) -> None:
    (tmp_path / "m.spec").write_text(EXPECTING.format(expect=expect))
    assert specc("check", "m.spec", cwd=tmp_path).returncode == 0
    run = specc("test", "m.spec", cwd=tmp_path)
    assert (run.returncode == 0) == holds, run.stdout + run.stderr
    if not holds:
        assert f"`{expect}` does not hold" in run.stderr + run.stdout


@pytest.mark.parametrize(
    ("expect", "message"),
    [
        ("fused(softmax)", "M has no operator `softmax`"),
        ("fused(spda)", "did you mean `sdpa`?"),
        ("fused()", "fused takes the name of an operator"),
        ("count_params(x) > 1", "count_params takes no arguments"),
        ("nodes(onnx, opset = 17) < 9", "nodes takes `onnx`"),
    ],
)
def test_expectations_about_what_is_not_there(expect: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.spec").write_text(EXPECTING.format(expect=expect))
    run = specc("test", "m.spec", cwd=tmp_path)
    assert run.returncode == 1 and message in run.stderr + run.stdout, run.stdout + run.stderr

"""Extern functions (LANGUAGE 19): called in every way, built, held against their signatures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from building import specc
from extern_files import GOLDEN, SMALL, SUM, SWISH2, make, refused, small, write_project

from specc import driver
from specc.backends.onnx.export import build as build_onnx
from specc.backends.onnx.functions import view
from specc.backends.onnx.target import Target
from specc.diagnostics import Rejected
from specc_runtime.build import Request, build
from specc_runtime.externs import load_trusted
from specc_runtime.module import open_build
from specc_runtime.spectest import run_tests
from specc_runtime.verify import repeat


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path)


# ---- builds ----------------------------------------------------------------------------------------------------------


def test_build_and_verify(project: Path, golden: Callable[[Path, str], None]) -> None:
    made = make(project, trust=("ops/swish2.py",))
    assert "agree in" in made.proof
    golden(GOLDEN / "model.py", (made.folder / "m.py").read_text())
    assert (made.folder / "extern_swish2.py").read_text() == SWISH2
    assert made.manifest["externs"] == {"extern_swish2.py": "ops/swish2.py"}
    assert "extern_swish2.py" in made.manifest["certificate"]["files"]
    opened = open_build(made.folder)
    module, session = opened.module(), opened.session()
    for batch, length in ((1, 1), (3, 7)):
        x = torch.randn(batch, length, 8)
        (found,) = session.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(found, module(x).detach().numpy(), atol=1e-6)
    x = torch.randn(2, 3, 8, requires_grad=True)
    module(x).sum().backward()
    assert x.grad is not None and all(p.grad is not None and p.grad.any() for p in module.parameters())
    done = specc("verify", "out", cwd=project)
    assert done.returncode == 0 and "agree in" in done.stdout, done.stderr


def test_the_example_of_the_reference(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "LANGUAGE.md").read_text(encoding="utf-8")
    section = text.partition("## 19.")[2].partition("## 20.")[0]
    declared, code = (section.partition(f"```{kind}\n")[2].partition("```")[0] for kind in ("spec", "python"))
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops" / "swish2.py").write_text(code)
    (tmp_path / "m.spec").write_text(
        f"dim B\n{declared}model M() {{ forward(x: Tensor[B]) -> Tensor[B] = swish2(x) }}\n"
    )
    assert "agree in" in make(tmp_path, trust=("ops/swish2.py",)).proof


def test_compile_and_export(project: Path) -> None:
    module = open_build(make(project, trust=("ops/swish2.py",), verify=False).folder).module()
    x = torch.randn(2, 3, 8)
    program = torch.export.export(
        module, (x,), dynamic_shapes={"x": {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}}
    )
    y = torch.randn(4, 5, 8)
    torch.testing.assert_close(program.module()(y), module(y))
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(y), module(y))


def test_a_changed_copy_is_not_loaded(project: Path) -> None:
    made = make(project, trust=("ops/swish2.py",), verify=False)
    (made.folder / "extern_swish2.py").write_text('open("marker", "w").close()\n')
    with chdir(project), pytest.raises(Rejected) as caught:
        open_build(made.folder).module()
    assert caught.value.diagnostics[0].code == "B660" and not (project / "marker").exists()
    assert specc("verify", "out", cwd=project).returncode == 1
    assert not (project / "marker").exists()


def test_the_emitted_file_alone(project: Path) -> None:
    """The folder is a Python package for whoever puts it on the path; specc is not needed."""
    made = make(project, trust=("ops/swish2.py",), verify=False)
    code = (
        "import sys, torch; from m import Net; print(tuple(Net()(torch.randn(2, 3, 8)).shape), 'specc' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=made.folder, capture_output=True, text=True)
    assert done.stdout == "(2, 3, 8) False\n", done.stderr
    assert "extern_swish2" not in sys.modules


def test_two_builds_have_their_own_files(project: Path, tmp_path: Path) -> None:
    first = open_build(make(project, trust=("ops/swish2.py",), verify=False).folder).module()
    (project / "ops" / "swish2.py").write_text(SWISH2.replace("x * _torch.sigmoid(beta * x)", "0 * x"))
    with chdir(project):
        request = Request("m.spec", out=project / "two", render=False, verify=False, trust=("ops/swish2.py",))
        second = open_build(build(request).folder).module()
    x = torch.randn(1, 2, 8)
    assert first(x).any() and not second(x).any()


def test_in_tests(project: Path) -> None:
    with chdir(project):
        (untrusted,) = run_tests("m.spec")
        assert [d.code for d in untrusted.broken] == ["X901"]
        (trusted,) = run_tests("m.spec", trust=("ops/swish2.py",))
        assert not trusted.failed
    wrong = SWISH2.replace("return x.shape, x.dtype", "return x.shape[1:], x.dtype")
    (project / "ops" / "swish2.py").write_text(wrong)
    done = specc("test", "m.spec", "--trust", "ops/swish2.py", cwd=project)
    assert done.returncode == 1 and "error[X903]" in done.stderr + done.stdout


def test_the_graph_and_the_picture(project: Path) -> None:
    with chdir(project):
        checked = driver.load("m.spec")
        loaded = load_trusted(checked, project, ("ops/swish2.py",))
    flat = build_onnx(checked.model, Target(externs=loaded))
    assert [n.op_type for n in flat.graph.node].count("Sigmoid") == 5
    onnx.checker.check_model(view(checked.model, externs=loaded)[0])
    functions = {f.name: [n.op_type for n in f.node] for f in view(checked.model, externs=loaded)[0].functions}
    assert functions["swish2"] == ["Constant", "Mul", "Sigmoid", "Mul"]
    with pytest.raises(Rejected) as caught:
        build_onnx(checked.model)
    assert caught.value.diagnostics[0].code == "X901"
    closed = {f.name: [n.op_type for n in f.node] for f in view(checked.model)[0].functions}
    assert closed["swish2"] == ["swish2"]  # a node of its name where the file was not loaded


def test_in_scans_loops_and_training(tmp_path: Path) -> None:
    spec = """\
dim B, T
extern fn mix(d: int, x: Tensor[B, d], y: Tensor[B, d]) -> Tensor[B, d] from "f.py"
extern fn noise(x: Tensor[...]) -> Tensor[...] from "g.py"
block Twice() { forward(x: Tensor[...]) -> Tensor[...] = x + x }
model M(dim: int = 3) {
  parts: [Twice() for i in range(2)]
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] {
    when train { x = noise(x) }
    ys, last = scan u in x along T with h = carried(zeros([B, dim])) {
      h = mix(dim, h, u)
      emit h
    }
    for part in parts { ys = part(ys) }
    return ys + last[:, none]
  }
}
"""
    (tmp_path / "g.py").write_text("def torch(x):\n    return x * 3\n\n\ndef onnx(g, x):\n    return x\n")
    code = "def torch(x, y, d):\n    return 0.5 * x + y\n\n\n"
    code += 'def onnx(g, x, y, d):\n    return g.op("Add", g.op("Mul", x, 0.5), y)\n'
    (tmp_path / "m.spec").write_text(spec)
    (tmp_path / "f.py").write_text(code)
    made = make(tmp_path, trust=("f.py", "g.py"))
    assert "agree in" in made.proof and set(made.manifest["externs"].values()) == {"f.py", "g.py"}


def test_functions_named_like_the_file(tmp_path: Path) -> None:
    """`f` becomes `f` and `f2` in the emitted source, `extern_f` stays."""
    spec = SMALL.replace("extern fn f(", "extern fn total(").replace(
        "model M() { forward(x: Tensor[B, T]) -> y: Tensor[B] = f(x) }",
        "fn f(x: Tensor[B, T], n: int) -> Tensor[B] = total(n*x)\n"
        "model M() { forward(x: Tensor[B, T]) -> y: Tensor[B] = f(x, 2) + f(x, 3) }",
    )
    assert "agree in" in small(tmp_path, SUM, spec).proof


def test_several_results_options_and_defaults(tmp_path: Path) -> None:
    spec = """\
dim B, T
extern fn stats(x: Tensor[B, T], mode: "sum" | "mean", lambda: [int], bias: Tensor[T]? = none)
  -> (total: Tensor[B], half: Tensor[B, T*2], count: Int[B, 1]) from "f.py"
model M() {
  forward(x: Tensor[B, T], bias: Tensor[T]? = none) -> (a: Tensor[B], b: Tensor[B, 2*T], c: Int[B, 1]) {
    a, b, c = stats(x, "mean", [1, 2], bias = bias)
    return a, b, c
  }
}
"""
    code = """\
import torch as t

def torch(x, bias=None, mode="sum", lambda_=()):
    assert mode == "mean" and tuple(lambda_) == (1, 2)
    if bias is not None:
        x = x + bias
    return x.mean(-1), t.cat([x, x], -1), t.ones(len(x), 1, dtype=t.int64)

def onnx(g, x, bias=None, mode="sum", lambda_=()):
    assert mode == "mean" and tuple(lambda_) == (1, 2)
    if bias is not None:
        x = g.op("Add", x, bias)
    batch = g.op("Shape", x, start=0, end=1)
    ones = g.op("Expand", g.constant([[1]]), g.op("Concat", batch, g.constant([1]), axis=0))
    return g.op("ReduceMean", x, g.constant([-1]), keepdims=0), g.op("Concat", x, x, axis=-1), ones

def infer(x, bias=None, mode="sum", lambda_=()):
    b, t = x.shape
    return [((b,), "f32"), ((b, 2 * t), "f32"), ((b, 1), "i64")]
"""
    assert "agree in" in small(tmp_path, code, spec).proof
    assert "agree in" in small(tmp_path, code, spec, without=frozenset({"bias"})).proof
    module = open_build(tmp_path / "out").module()
    x, bias = torch.randn(2, 3), torch.randn(3)
    torch.testing.assert_close(module(x, bias)[0], (x + bias).mean(-1))
    torch.testing.assert_close(module(x)[0], x.mean(-1))


# ---- files that do not do what they should ---------------------------------------------------------------------------


def test_only_torch(tmp_path: Path, golden: Callable[[Path, str], None]) -> None:
    code = "def torch(x):\n    return x.sum(-1)\n"
    golden(GOLDEN / "B610.txt", refused(tmp_path, code))
    assert small(tmp_path, code, emit=frozenset({"torch"})).manifest["externs"]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("X903_shape", "x.sum(-1)", "x.sum(-1, keepdim=True)"),
        ("X903_dtype", "x.sum(-1)", "x.sum(-1).double()"),
        ("X903_nothing", "return x.sum(-1)", "x.sum(-1)"),
        ("X903_count", "x.sum(-1)", "x.sum(-1), x"),
        ("X903_onnx_nothing", "return g.op", "g.op"),
        ("X903_onnx_dtype", ', g.constant([-1]), keepdims=0)', ', g.constant([-1]), keepdims=0), x'),
        ("X904_raises", "return x.sum(-1)", 'raise KeyError("no such table")'),
        ("X904_leaves", "return x.sum(-1)", "raise SystemExit(0)"),
        ("X904_onnx_raises", 'g.op("ReduceSum"', 'g.op("ReduceSun"'),
        ("X904_onnx_attribute", "keepdims=0", "keepdim=0"),
        ("X904_onnx_type", "keepdims=0", 'keepdims="no"'),
        ("X904_onnx_number", "g.constant([-1])", "[-1]"),
        ("X904_onnx_domain", "keepdims=0", 'keepdims=0, domain="com.microsoft"'),
        ("X904_import", "def torch", "import no_such_package\n\n\ndef torch"),
        ("X904_syntax", "def torch(x):", "def torch(x)"),
        ("X904_missing", "def torch", "def tprch"),
    ],
)  # fmt: skip
def test_hostile_files(tmp_path: Path, golden: Callable[[Path, str], None], name: str, old: str, new: str) -> None:
    """Each gives a message with the user's own line, none a traceback."""
    assert old in SUM
    golden(GOLDEN / f"{name}.txt", refused(tmp_path, SUM.replace(old, new, 1)))


@pytest.mark.parametrize("error", ["KeyError(x.shape)", "RuntimeError('too long')", "SystemExit(0)", "AssertionError"])
def test_what_fails_at_some_sizes(tmp_path: Path, error: str) -> None:
    """Found wherever it happens in verification, told at the user's line."""
    code = SUM.replace("    return x.sum", f"    if x.shape[1] > 3:\n        raise {error}\n    return x.sum")
    found = refused(tmp_path, code)
    assert found.startswith("error[X904]: f.py fails in torch(..)") and "extern_f.py:3:9" in found
    test = 'test M "t" with T = 5 { expect onnx ~= torch }\n'
    (tmp_path / "m.spec").write_text(SMALL + test)
    with chdir(tmp_path):
        (report_,) = run_tests("m.spec", trust=("f.py",))
    assert [d.code for d in report_.broken] == ["X904"]


def test_wrong_numbers_are_found(tmp_path: Path) -> None:
    """The certificate covers an extern operation as any other."""
    found = refused(tmp_path, SUM.replace("ReduceSum", "ReduceMax"))
    assert "error[B630]" in found and "the result of `f` is the first value that differs" in found


def test_wrong_numbers_of_a_copy_are_found(project: Path) -> None:
    """Verifying a build compares what lies in it, and names the function where the spec is at hand."""
    made = make(project, trust=("ops/swish2.py",))
    other = SWISH2.replace("x * _torch", "2 * x * _torch")
    (made.folder / "extern_swish2.py").write_text(other)
    text = (made.folder / "manifest.json").read_text()
    digest = sha256(SWISH2.encode()).hexdigest()
    (made.folder / "manifest.json").write_text(text.replace(digest, sha256(other.encode()).hexdigest()))
    with chdir(project), pytest.raises(Rejected) as caught:
        repeat(made.folder)
    (found,) = caught.value.diagnostics
    assert found.code == "B630" and found.label.startswith("the result of `swish2` in mlp")


def test_another_domain(tmp_path: Path) -> None:
    code = SUM.replace(
        'return g.op("ReduceSum", x,',
        'g.domain("com.microsoft")\n    x = g.op("Gelu", x, domain="com.microsoft")\n    return g.op("ReduceSum", x,',
    )
    code = code.replace("x.sum(-1)", "nn.gelu(x).sum(-1)")
    assert "agree in" in small(tmp_path, "import torch.nn.functional as nn\n\n" + code).proof


def test_names_do_not_hide_packages(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(SUM)
    (tmp_path / "m.spec").write_text(SMALL.replace("f.py", "torch.py"))
    assert "agree in" in make(tmp_path, trust=("torch.py",)).proof
    assert (tmp_path / "out" / "extern_torch.py").is_file()

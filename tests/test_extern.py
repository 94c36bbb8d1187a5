"""Extern functions (LANGUAGE 19): never run by a check, by a build only if trusted, held against their signatures."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import chdir
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from building import command, specc

from specc import driver, report
from specc.backends.onnx.export import build as build_onnx
from specc.backends.onnx.functions import view
from specc.backends.onnx.target import Target
from specc.backends.torch.export import emit
from specc.diagnostics import Rejected
from specc_runtime.build import Request, Result, build
from specc_runtime.externs import load_trusted
from specc_runtime.lock import LOCK, changing, read_lock, write_lock
from specc_runtime.module import open_build
from specc_runtime.spectest import run_tests
from specc_runtime.verify import repeat

GOLDEN = Path(__file__).with_name("golden") / "extern"

SPEC = """\
from std.nn import Linear
dim B, T

extern fn swish2(x: Tensor[...], beta: float = 1.0) -> Tensor[...] from "ops/swish2.py"

block MLP(dim: int, act: fn = swish2) {
  up:   Linear(dim, 4*dim)
  down: Linear(4*dim, dim)
  forward(x: Tensor[..., dim]) -> Tensor[..., dim] = down(act(up(x)))
}

model Net(dim: int = 8) {
  mlp:  MLP(dim)
  gate: MLP(dim, act = swish2(beta = 0.5))
  tail: [Linear(dim, dim), swish2(beta = 2.0), Linear(dim, dim), swish2]
  forward(x: Tensor[B, T, dim]) -> y: Tensor[B, T, dim] {
    h = mlp(x) + gate(x)
    h = swish2(h, beta = 3)
    return tail(h)
  }
}

test Net "agrees" with B = 2 {
  expect onnx ~= torch within (atol = 1e-5)
}
"""

SWISH2 = '''\
"""x * sigmoid(beta x)."""

import torch as _torch


def torch(x, beta=1.0):
    return x * _torch.sigmoid(beta * x)


def onnx(g, x, beta=1.0):
    assert x.dtype == "f32" and x.rank == len(x.shape)
    return g.op("Mul", x, g.op("Sigmoid", g.op("Mul", x, g.constant(beta, like=x))))


def infer(x, beta=1.0):
    return x.shape, x.dtype
'''

SMALL = """\
dim B, T
extern fn f(x: Tensor[B, T]) -> y: Tensor[B] from "f.py"
model M() { forward(x: Tensor[B, T]) -> y: Tensor[B] = f(x) }
"""

SUM = """\
def torch(x):
    return x.sum(-1)


def onnx(g, x):
    return g.op("ReduceSum", x, g.constant([-1]), keepdims=0)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose model calls one extern function in every way, with nothing trusted."""
    (tmp_path / "ops").mkdir()
    (tmp_path / "m.spec").write_text(SPEC)
    (tmp_path / "ops" / "swish2.py").write_text(SWISH2)
    return tmp_path


def make(folder: Path, spec: str = "m.spec", **changes: Any) -> Result:
    with chdir(folder):
        return build(Request(spec, out=folder / "out", **{"render": False, **changes}))


def small(folder: Path, code: str, spec: str = SMALL, **changes: Any) -> Result:
    """Build `SMALL` with this text of f.py, trusted for this run."""
    (folder / "m.spec").write_text(spec)
    (folder / "f.py").write_text(code)
    return make(folder, trust=("f.py",), **changes)


def refused(folder: Path, code: str, spec: str = SMALL, **changes: Any) -> str:
    """What is said where that is refused; nothing is left then."""
    with pytest.raises(Rejected) as caught:
        small(folder, code, spec, **changes)
    assert not (folder / "out").exists()
    return report.full(caught.value.diagnostics).replace(str(folder), "PROJECT")


# ---- trust -----------------------------------------------------------------------------------------------------------


def test_a_check_never_runs_the_file(project: Path) -> None:
    (project / "ops" / "swish2.py").write_text('open("marker", "w").close()\nraise SystemExit(3)\n')
    for words in (["check", "m.spec"], ["inspect", "m.spec"], ["fmt", "--check", "m.spec"]):
        done = specc(*words, cwd=project)
        assert done.returncode == 0, done.stderr
    checked = driver.load(project / "m.spec")
    emit(checked.model)
    view(checked.model)
    assert not (project / "marker").exists()


def test_untrusted(project: Path, golden: Callable[[Path, str], None]) -> None:
    (project / "ops" / "swish2.py").write_text('open("marker", "w").close()\n')
    for words in (["build", "m.spec"], ["test", "m.spec"]):
        done = specc(*words, cwd=project)
        assert done.returncode == 1 and "X901" in done.stderr
        assert not (project / "marker").exists() and not (project / "build").exists()
    golden(GOLDEN / "X901.txt", specc("build", "m.spec", cwd=project).stderr)


def test_trust_change_remove(project: Path, golden: Callable[[Path, str], None]) -> None:
    done = specc("trust", "ops/swish2.py", cwd=project)
    assert done.returncode == 0 and (project / LOCK).is_file(), done.stderr
    golden(GOLDEN / "specc.lock", (project / LOCK).read_text())
    assert make(project).proof
    assert specc("trust", "--list", cwd=project).stdout.endswith("ops/swish2.py\n")
    (project / "ops" / "swish2.py").write_text(SWISH2 + "# changed\n")
    changed = specc("build", "m.spec", "-o", "other", cwd=project)
    assert changed.returncode == 1 and not (project / "other").exists()
    golden(GOLDEN / "X902.txt", changed.stderr)
    assert specc("trust", "--list", cwd=project).stdout.endswith("ops/swish2.py   changed since\n")
    assert make(project, trust=("ops/swish2.py",)).proof  # for one run; the lock still holds the old hash
    assert "X902" in specc("build", "m.spec", cwd=project).stderr
    assert specc("trust", "ops/swish2.py", cwd=project).returncode == 0
    assert make(project).proof
    assert specc("trust", "--remove", "ops/swish2.py", cwd=project).returncode == 0
    assert read_lock(project) == {}
    assert "X901" in specc("build", "m.spec", cwd=project).stderr


def test_trust_is_of_the_project_that_is_built(project: Path) -> None:
    """An imported spec brings no trust with it, and its own lock says nothing."""
    inner = project / "inner"
    inner.mkdir()
    (project / "ops").rename(inner / "ops")
    (project / "m.spec").rename(inner / "m.spec")
    write_lock(inner, {"ops/swish2.py": sha256(SWISH2.encode()).hexdigest()})
    model = "model M() { a: MLP(4); forward(x: Tensor[B, 4]) -> Tensor[B, 4] = a(x) }\n"
    (project / "outer.spec").write_text(f'from "./inner/m.spec" import MLP\ndim B\n{model}')
    with pytest.raises(Rejected) as caught:
        make(project, "outer.spec")
    (found,) = caught.value.diagnostics
    assert found.code == "X901" and found.message.startswith("inner/ops/swish2.py")
    with chdir(project):  # what the message says to run is enough
        words = found.help.partition("specc ")[2].partition("    ")[0].split()
    assert specc(*words, cwd=project).returncode == 0
    assert make(project, "outer.spec").proof


def test_trust_for_nothing(project: Path) -> None:
    with pytest.raises(Rejected) as caught:
        make(project, trust=("ops/swish3.py",))
    assert caught.value.diagnostics[0].code == "X901" and "no extern function" in str(caught.value)
    for words in (["trust"], ["trust", "--list", "x.py"]):
        assert specc(*words, cwd=project).returncode == 2
    for words in (
        ["trust", "nothing.py"],
        ["trust", "m.spec"],
        ["trust", "/etc/passwd"],
        ["trust", "--remove", "x.py"],
    ):
        done = specc(*words, cwd=project)
        assert done.returncode == 1 and "Traceback" not in done.stderr, words
    assert not (project / LOCK).exists()


@pytest.mark.parametrize(
    "text",
    ["version = 2\n", "<<<<<<< HEAD\nversion = 1\n", 'version = 1\n[[extern]]\npath = "a.py"\n', "version = 1\nx = 1\n",
     'version = 1\n[[extern]]\npath = "a.py"\nsha256 = "12"\n', "\udcff"],
)  # fmt: skip
def test_a_damaged_lock(project: Path, text: str) -> None:
    (project / LOCK).write_bytes(text.encode("utf-8", "surrogateescape"))
    for words in (["build", "m.spec"], ["trust", "ops/swish2.py"], ["trust", "--list"]):
        done = specc(*words, cwd=project)
        assert done.returncode == 1 and "error[X905]" in done.stderr, words
    assert (project / LOCK).read_bytes() == text.encode("utf-8", "surrogateescape")


def _write_for_ever(root: Path) -> None:
    for i in range(10_000_000):
        write_lock(root, {f"ops/{n}.py": f"{i:064x}" for n in range(50)})


def test_a_kill_leaves_a_whole_lock(tmp_path: Path) -> None:
    write_lock(tmp_path, {"ops/0.py": "0" * 64})
    for wait in (0.02, 0.05, 0.11):
        process = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(tmp_path,))
        process.start()
        time.sleep(wait)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert len(set(read_lock(tmp_path).values())) == 1  # all of one write
    with changing(tmp_path) as trusted:
        trusted.clear()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]  # what was killed left nothing
    names = {'odd "name" \\ \x7f é.py': "a" * 64}
    write_lock(tmp_path, names)
    assert read_lock(tmp_path) == names


def test_two_at_once(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.py").write_text(str(i))
    running = [subprocess.Popen(command("trust", f"{i}.py"), cwd=tmp_path) for i in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    assert list(read_lock(tmp_path)) == [f"{i}.py" for i in range(4)]


def test_where_nothing_can_be_written(project: Path) -> None:
    (project / LOCK).mkdir()
    for words in (["trust", "ops/swish2.py"], ["build", "m.spec"]):
        done = specc(*words, cwd=project)
        assert done.returncode == 1 and "error[X905]" in done.stderr


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

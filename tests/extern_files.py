"""A project with functions in Python files, and builds of it."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from specc import report
from specc.diagnostics import Rejected
from specc_runtime.build import Request, Result, build

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


def write_project(folder: Path) -> Path:
    """A project whose model calls one extern function in every way, with nothing trusted."""
    (folder / "ops").mkdir()
    (folder / "m.spec").write_text(SPEC)
    (folder / "ops" / "swish2.py").write_text(SWISH2)
    return folder


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

"""`scan`: what it computes, in torch, onnxruntime and onnx's reference, and what of it is seen."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops import op_scan
from onnx_text import onnx_text

from specc.backends.onnx.export import build, build_debug
from specc.backends.onnx.functions import view
from specc.backends.onnx.proto import Embedded
from specc.backends.onnx.target import Target
from specc.backends.torch.export import emit
from specc.driver import load
from specc.inspect import report
from specc.ir.graph import Model
from specc.ir.json import to_json
from specc.ir.text import model_text
from specc_runtime import taps

torch = pytest.importorskip("torch")
Tensors = Mapping[str, Any]


class AnyAxis(op_scan.Scan):
    """The reference's Scan, which takes axis 0 only, with axes moved there and back."""

    op_domain = ""

    def __init__(self, node: Any, params: Any) -> None:
        axes = {a.name: list(a.ints) for a in node.attribute if a.name.endswith("axes")}
        self.taken, self.given = axes["scan_input_axes"], axes.get("scan_output_axes", [])
        node = copy.deepcopy(node)
        kept = [a for a in node.attribute if a.name not in axes]
        del node.attribute[:]
        node.attribute.extend(kept)
        super().__init__(node, params)  # type: ignore[no-untyped-call]

    def _run(self, *args: Any, **options: Any) -> Any:
        states = len(args) - len(self.taken)
        moved = [np.moveaxis(a, axis, 0) for a, axis in zip(args[states:], self.taken, strict=True)]
        found = super()._run(*args[:states], *moved, **options)  # type: ignore[no-untyped-call]
        stacked = [np.moveaxis(a, 0, axis) for a, axis in zip(found[states:], self.given, strict=True)]
        return (*found[:states], *stacked)


AnyAxis.__name__ = "Scan"


# ---- specs and what they mean ----------------------------------------------------------------------------------------

SUM = """
dim B, T
model M(dim: int = 3) {
  forward(x: Tensor[B, T, dim]) -> (sums: Tensor[B, T, dim], last: Tensor[B, dim]) {
    sums, total = scan u in x along T with total = carried(zeros([B, dim])) {
      total += u
      emit total
    }
    return sums, total
  }
}
"""


def sums(m: Any, x: Any) -> Any:
    return x.cumsum(1), x.sum(1)


TWO = """
dim B, T, N
model M(dim: int = 3) {
  forward(x: Tensor[B, T, dim], y: Tensor[N, T], start: Tensor[B, dim]) -> (a: Tensor[B, T], b: Tensor[B, T, dim], h: Tensor[B, dim], g: Tensor[B, dim]) {
    a, b, h, g = scan u, v in x, y along T with h = start, g = start {
      before = h
      h = 0.5*g + u
      g = before - mean(v)
      emit sum(h, axis = -1), before
    }
    return a, b, h, g
  }
}
"""  # noqa: E501 - the signature of a spec


def two(m: Any, x: Any, y: Any, start: Any) -> Any:
    h = g = start
    a, b = [], []
    for t in range(x.shape[1]):
        before = h
        h, g = 0.5 * g + x[:, t], before - y[:, t].mean()
        a.append(h.sum(-1))
        b.append(before)
    return torch.stack(a, 1), torch.stack(b, 1), h, g


LAYERS = """
from std.nn import Linear, LayerNorm
dim B, T
block Cell(dim: int) {
  inner: Linear(dim, dim)
  forward(h: Tensor[B, dim], u: Tensor[B, dim]) -> Tensor[B, dim] = tanh(inner(h) + u)
}
block Recurrent(dim: int) {
  norm: LayerNorm(dim)
  cell: Cell(dim)
  param gain: Tensor[dim] = ones()
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] {
    scale = mean(x, over = T)
    ys, _ = scan u in norm(x) along T with h = carried(zeros([B, dim])) {
      h = cell(h, u*gain)
      for i in range(2) { h = h + 0.1*cell(h, scale) }
      emit h*exp(gain)
    }
    return x + ys
  }
}
model M(dim: int = 4, layers: int = 3) {
  layers: [Recurrent(dim) for i in range(layers)]
  last:   Recurrent(dim)
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] = x |> layers |> last |> last
}
"""


def layers(m: Any, x: Any) -> Any:
    def cell(c: Any, h: Any, u: Any) -> Any:
        return torch.tanh(c.inner(h) + u)

    for layer in (*m.layers, m.last, m.last):
        h, ys, normed = torch.zeros_like(x[:, 0]), [], layer.norm(x)
        for t in range(x.shape[1]):
            h = cell(layer.cell, h, normed[:, t] * layer.gain)
            for _ in range(2):
                h = h + 0.1 * cell(layer.cell, h, x.mean(1))
            ys.append(h * layer.gain.exp())
        x = x + torch.stack(ys, 1)
    return (x,)


NESTED = """
dim B, T, N
model M(dim: int = 3) {
  forward(x: Tensor[N, B, T, dim], keep: Bool[B, N]) -> (ys: Tensor[N, B, T], h: Tensor[B, dim]) {
    offset = 0.5
    ys, h = scan row, k in x, keep along N with h = carried(zeros([B, dim])) {
      inner, g = scan u in row along T with g = h {
        g = 0.9*g + u*row[:, 0]
        emit sum(g*h, axis = -1)
      }
      h = where(k[:, none], g, h + offset)
      emit inner
    }
    return ys, h
  }
}
"""


def nested(m: Any, x: Any, keep: Any) -> Any:
    h, rows = torch.zeros_like(x[0, :, 0]), []
    for n in range(x.shape[0]):
        g, inner = h, []
        for t in range(x.shape[2]):
            g = 0.9 * g + x[n, :, t] * x[n, :, 0]
            inner.append((g * h).sum(-1))
        h = torch.where(keep[:, n, None], g, h + 0.5)
        rows.append(torch.stack(inner, 1))
    return torch.stack(rows), h


ODD = """
dim B, T
model M(dim: int = 3) {
  param first: Tensor[dim] = ones()
  forward(x: Tensor[B, T, dim], bias: Tensor[dim]? = none) -> (a: Tensor[B, T, dim], b: Tensor[dim, T], c: Tensor[T], h: Tensor[dim], k: Tensor[dim]) {
    a, b, c, h, k = scan u in x along T with h = first, k = first {
      if bias != none { u = u + bias }
      when train { h = 2.0*h }
      k = h
      h = first
      emit u, bias if bias != none else first, sum(first)
    }
    return a, b, c, h, k
  }
}
"""  # noqa: E501 - the signature of a spec


def odd(m: Any, x: Any, bias: Any) -> Any:
    steps = x.shape[1]
    return x + bias, bias[:, None].expand(-1, steps), m.first.sum().expand(steps), m.first, m.first


LONG = """
dim B, T
model M(dim: int = 3) {
  param recurrent_weight: Tensor[dim] = ones()
  forward(x: Tensor[B, T, dim]) -> (ys: Tensor[B, T, dim], last: Tensor[B, dim]) {
    summary_of_all = mean(x, over = T)
    ys, memory = scan current_input in x along T with memory = carried(summary_of_all) {
      candidate = tanh(summary_of_all*recurrent_weight + current_input) * sigmoid(summary_of_all*current_input) + memory
      memory = summary_of_all*recurrent_weight*sigmoid(current_input*summary_of_all) + candidate*recurrent_weight*0.5*memory
      emit maximum(maximum(candidate*recurrent_weight, memory*recurrent_weight), tanh(summary_of_all*recurrent_weight))
    }
    return ys, memory
  }
}
"""  # noqa: E501 - a statement of a spec


def long(m: Any, x: Any) -> Any:
    w, s = m.recurrent_weight, x.mean(1)
    h, ys = s, []
    for u in x.unbind(1):
        c = torch.tanh(s * w + u) * torch.sigmoid(s * u) + h
        h = s * w * torch.sigmoid(u * s) + c * w * 0.5 * h
        ys.append(torch.maximum(torch.maximum(c * w, h * w), torch.tanh(s * w)))
    return torch.stack(ys, 1), h


def normal(*shape: int) -> Any:
    return torch.randn(shape)


def x_of(dim: int) -> Callable[[int], Tensors]:
    return lambda length: {"x": normal(2, length, dim)}


CASES: dict[str, tuple[str, Callable[..., Any], Callable[[int], Tensors]]] = {
    "sum": (SUM, sums, x_of(3)),
    "two": (TWO, two, lambda n: {"x": normal(2, n, 3), "y": normal(5, n), "start": normal(2, 3)}),
    "layers": (LAYERS, layers, x_of(4)),
    "nested": (NESTED, nested, lambda n: {"x": normal(n, 2, 4, 3), "keep": torch.rand(2, n) > 0.5}),
    "long": (LONG, long, x_of(3)),
    "odd": (ODD, odd, lambda n: {"x": normal(2, n, 3), "bias": normal(3)}),
}


def model_of(tmp_path: Path, text: str) -> Model:
    path = tmp_path / "case.spec"
    path.write_text(text)
    return load(path).model


def live(model: Model) -> Any:
    """The emitted module with numbers in every parameter."""
    namespace: dict[str, Any] = {}
    exec(compile(emit(model), "case.py", "exec"), namespace)
    module = namespace["M"]()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.4)
    return module.eval()


def tuples(found: Any) -> tuple[Any, ...]:
    return found if isinstance(found, tuple) else (found,)


def weights(module: Any) -> Embedded:
    return Embedded({name: value.detach().numpy().tobytes() for name, value in module.state_dict().items()})


def session(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def assert_same(found: Any, expected: Any) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(torch.as_tensor(one).detach(), other.detach(), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_torch(case: str, tmp_path: Path) -> None:
    """Values and gradients of a loop written by hand; one graph to torch.compile."""
    text, expected, given = CASES[case]
    module = live(model_of(tmp_path, text))
    for length in (1, 2, 7):
        inputs = given(length)
        floats = [v.requires_grad_() for v in inputs.values() if v.is_floating_point()]
        ours, theirs = tuples(module(**inputs)), expected(module, **inputs)
        assert_same([y.detach() for y in ours], theirs)
        leaves = [*floats, *module.parameters()]
        grads = [
            torch.autograd.grad(sum((y * (1 + y)).sum() for y in ys), leaves, allow_unused=True)
            for ys in (ours, theirs)
        ]
        for one, other in zip(*grads, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(tuples(compiled(**inputs)), ours, rtol=0, atol=0)


@pytest.mark.parametrize("case", CASES)
def test_exported(case: str, tmp_path: Path) -> None:
    """`torch.export` makes one program for sequences of any length."""
    text, _, given = CASES[case]
    module = live(model_of(tmp_path, text))
    sizes = {
        name: [a for a, (m, n) in enumerate(zip(one.shape, other.shape, strict=True)) if m != n]
        for (name, one), other in zip(given(4).items(), given(7).values(), strict=True)
    }
    shapes = {name: dict.fromkeys(axes, torch.export.Dim("length")) for name, axes in sizes.items()}
    program = torch.export.export(module, (), dict(given(5)), dynamic_shapes=shapes)
    for length in (1, 2, 8):
        inputs = given(length)
        torch.testing.assert_close(tuples(program.module()(**inputs)), tuples(module(**inputs)))


@pytest.mark.parametrize("opset", [17, 18, 21, 23, 26])
@pytest.mark.parametrize("case", CASES)
def test_onnx(case: str, opset: int, tmp_path: Path) -> None:
    text, expected, given = CASES[case]
    model = model_of(tmp_path, text)
    module = live(model)
    proto = build(model, Target(opset=opset, weights=weights(module)))
    onnx.checker.check_model(proto, full_check=True)
    assert {node.op_type for node in proto.graph.node} >= {"Scan"}
    runs = [session(proto).run]
    if opset <= 23:  # the reference has operators up to there
        runs.append(ReferenceEvaluator(proto, new_ops=[AnyAxis]).run)
    for length in (1, 2, 7):
        inputs = given(length)
        feeds = {name: value.numpy() for name, value in inputs.items()}
        for run in runs:
            assert_same(run(None, feeds), expected(module, **inputs))


@pytest.mark.parametrize("case", CASES)
def test_taps(case: str, tmp_path: Path) -> None:
    """The values of a debug graph and of the operators' torch text have the same keys; a scan's are what it gives."""
    text, _, given = CASES[case]
    model = model_of(tmp_path, text)
    module = live(model)
    proto, outputs = build_debug(model, Target(weights=weights(module)))
    inputs = given(3)
    opened = session(proto)
    given_out = opened.run(None, {name: value.numpy() for name, value in inputs.items()})
    found = dict(zip((o.name for o in opened.get_outputs()), given_out, strict=True))
    _, reference = taps.run(model.entries["forward"].full, module, inputs)
    assert {tap.key for tap in outputs} <= reference.keys() and outputs
    for tap in outputs:
        assert_same([found[tap.output]], [reference[tap.key]])


@pytest.mark.parametrize("case", CASES)
def test_representations(case: str, tmp_path: Path) -> None:
    model = model_of(tmp_path, CASES[case][0])
    schema = json.loads(files("specc").joinpath("schemas/ir.schema.json").read_text())
    jsonschema.validate(to_json(model), schema)
    picture, blocks = view(model)
    for proto in (picture, *blocks.values()):
        onnx.checker.check_model(proto)
    assert "scan along" in model_text(model)


def test_bodies_hold_what_changes(tmp_path: Path) -> None:
    """What does not depend on the step is computed once: the mean over time, exp(gain), weights."""
    proto = build(model_of(tmp_path, LAYERS))
    outside = [node.op_type for node in proto.graph.node]
    [scan, *_] = [node for node in proto.graph.node if node.op_type == "Scan"]
    [body] = [a.g for a in scan.attribute if a.name == "body"]
    inside = [node.op_type for node in body.node]
    assert not body.initializer and inside.count("Gemm") == 3 and inside.count("Tanh") == 3
    assert not {"Exp", "ReduceMean", "Transpose", "Constant", "Shape"} & set(inside)
    assert outside.count("ReduceMean") == 5 and outside.count("Exp") == 4  # `last` runs twice
    names = [name for node in (*proto.graph.node, *body.node) for name in node.output]
    assert len(names) == len(set(names))
    assert "Tanh(" in onnx_text(proto)


def test_inspect(tmp_path: Path) -> None:
    """A step's parts have rows, with the cost of all steps."""
    found = report(model_of(tmp_path, LAYERS))
    [layer, *_] = found.root.children
    norm, once, twice = layer.children
    shown = [(row.path, row.count, str(row.flops)) for row in (norm, once, *once.children, twice, *twice.children)]
    assert shown == [
        ("norm", 1, "32*B*T"),
        ("cell", 1, "40*B*T"),  # a matrix product, a bias, a sum, tanh
        ("inner", 1, "32*B*T"),
        ("cell", 2, "40*B*T"),
        ("inner", 1, "32*B*T"),
    ]
    assert [row.parameters for row in (once, twice)] == [20, 0]


ROUTED = """
from std.nn import Linear
dim B, T, N
block Expert(dim: int) {
  w: Linear(dim, dim)
  forward(x: Tensor[N, dim]) -> Tensor[N, dim] = tanh(w(x)) + ones([N, dim])
}
model M(dim: int = 4) {
  experts: [Expert(dim) for e in range(3)]
  forward(x: Tensor[B, T, dim], weights: Tensor[B, T, 2], idx: Int[B, T, 2]) -> Tensor[B, T, dim] {
    ys, _ = scan u, w, i in x, weights, idx along T with h = carried(zeros([B, dim])) {
      h = tanh(h + route(u, w, i, experts)) + route(x[:, 0], w, i, experts)
      emit h
    }
    return ys
  }
}
"""


def test_route_in_a_step(tmp_path: Path) -> None:
    """The number of an expert's rows is a size of the step alone."""
    model = model_of(tmp_path, ROUTED)
    module = live(model)
    x, w, idx = given = normal(3, 5, 4), torch.rand(3, 5, 2), torch.rand(3, 5, 3).argsort(-1)[..., :2]

    def routed(u: Any, t: int) -> Any:
        every = torch.stack([torch.tanh(expert.w(u)) + 1 for expert in module.experts], 1)
        chosen = every.gather(1, idx[:, t, :, None].expand(-1, -1, 4))
        return (chosen * w[:, t, :, None]).sum(1)

    h, ys = torch.zeros(3, 4), []
    for t in range(5):
        h = torch.tanh(h + routed(x[:, t], t)) + routed(x[:, 0], t)
        ys.append(h)
    expected = torch.stack(ys, 1)
    assert_same([module(*given).detach()], [expected])
    feeds = {name: value.numpy() for name, value in zip(("x", "weights", "idx"), given, strict=True)}
    for opset in (17, 23):
        assert_same(session(build(model, Target(opset=opset, weights=weights(module)))).run(None, feeds), [expected])


NAMES = """
dim B, T
model M(dim: int = 3) {
  forward(x: Tensor[B, T, dim], step: Tensor[B, dim], scan: Tensor[B, dim]) -> (a: Tensor[B, T, dim], b: Tensor[B, dim]) {
    a, h = scan u in x along T with h = step { h = h*scan + u; emit h }
    a, h = scan u in a along T with h = h { h = h*scan + u*step; emit h }
    return a, h
  }
}
"""  # noqa: E501 - the signature of a spec


def test_names_that_emitted_code_uses(tmp_path: Path) -> None:
    """Arguments called `scan` and `step`, and two steps in one method."""
    model = model_of(tmp_path, NAMES)
    x, step, scan = inputs = normal(2, 4, 3), normal(2, 3), normal(2, 3)
    h, a = step, []
    for u in x.unbind(1):
        h = h * scan + u
        a.append(h)
    for t, u in enumerate(a):
        h = h * scan + u * step
        a[t] = h
    found = live(model)(*inputs)
    assert_same(found, [torch.stack(a, 1), h])
    feeds = dict(zip(("x", "step", "scan"), (value.numpy() for value in inputs), strict=True))
    assert_same(session(build(model)).run(None, feeds), found)


def test_when_train_in_a_step(tmp_path: Path) -> None:
    module = live(model_of(tmp_path, ODD))
    inputs = CASES["odd"][2](3)
    *_, h, k = module.train()(**inputs)
    assert_same([h, k], [module.first, 2 * module.first])

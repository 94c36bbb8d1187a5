"""`route`: every expert gets the rows that chose it and nothing else, in torch as in ONNX."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from specc import driver
from specc.backends.onnx.export import build, build_debug
from specc.backends.onnx.functions import view
from specc.backends.onnx.proto import Embedded
from specc.backends.onnx.target import Target
from specc.backends.torch.export import emit
from specc.inspect import report
from specc.ir.graph import Model
from specc.ir.json import to_json
from specc.ir.route import Route
from specc.ir.text import model_text
from specc_runtime import taps

Arrays = Mapping[str, np.ndarray[Any, Any]]

EXPERTS = """
from std.nn import Linear
dim B, T, N
block Expert(dim: int, out: int) {
  w: Linear(dim, out)
  forward(x: Tensor[..., dim]) -> Tensor[..., out] = gelu(w(x))
}
## Asks for the number of its rows, which may be none.
block Sized(dim: int, out: int) {
  w: Linear(dim / 2, out)
  forward(x: Tensor[N, dim]) -> Tensor[N, out] {
    halves = concat([reshape(x, [N, 2, dim / 2]), ones([N, 1, dim / 2])], axis = 1)
    return sum(w(halves), axis = 1)
  }
}
"""
PLAIN = """
model M(dim: int = 8, out: int = 6, n: int = 4) {
  experts: [Expert(dim, out) for e in range(n)]
  forward(x: Tensor[B, T, dim], weights: Tensor[B, T, 2], idx: Int[B, T, 2]) -> Tensor[B, T, out] {
    return route(x, weights, idx, experts)
  }
}
"""
MIXED = """
model M(dim: int = 8, out: int = 6) {
  experts: [Sized(dim, out) if e < 2 else Expert(dim, out) for e in range(4)]
  forward(x: Tensor[B, T, dim], weights: Tensor[B, T, 2], idx: Int[B, T, 2]) -> Tensor[B, T, out] {
    y = route(x, weights, idx, experts)
    y += route(idx = idx, x = 2*x, weights = weights, experts = reversed(experts))
    return y + route(x[0, 0], weights[0, 0], minimum(idx[0, 0], 1), experts[1:3])
  }
}
"""
DENSE = {  # per element of idx, which expert of the list it means, and what the rows are scaled by
    "plain": lambda x, w, i, run: run(x, w, i, [0, 1, 2, 3]),
    "mixed": lambda x, w, i, run: (
        run(x, w, i, [0, 1, 2, 3])
        + run(2 * x, w, i, [3, 2, 1, 0])
        + run(x[0, 0], w[0, 0], i[0, 0].clamp(max=1), [1, 2])
    ),
}
TEXTS = {"plain": PLAIN, "mixed": MIXED}


def load(name: str, tmp_path: Path) -> Model:
    path = tmp_path / "m.spec"
    path.write_text(EXPERTS + TEXTS[name], encoding="utf-8")
    return driver.load(path).model


def module_of(model: Model) -> torch.nn.Module:
    namespace: dict[str, Any] = {}
    exec(compile(emit(model), "m.py", "exec"), namespace)
    torch.manual_seed(0)
    module = namespace["M"]().eval()
    assert isinstance(module, torch.nn.Module)
    return module


def weights_of(module: torch.nn.Module) -> Embedded:
    return Embedded({name: tensor.numpy().tobytes() for name, tensor in module.state_dict().items()})


def inputs(batch: int, length: int, experts: list[int]) -> dict[str, np.ndarray[Any, Any]]:
    """Choices among some of the experts; with a repetition, as nothing forbids one."""
    rng = np.random.default_rng(batch + length)
    idx = rng.choice(experts, (batch, length, 2))
    shape = (batch, length)
    return {
        "x": rng.standard_normal((*shape, 8)).astype(np.float32),
        "weights": rng.standard_normal((*shape, 2)).astype(np.float32),
        "idx": idx.astype(np.int64),
    }


FEEDS = [inputs(1, 1, [2]), inputs(2, 5, [0, 1, 2, 3]), inputs(3, 4, [1, 3])]


def tensors(feed: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in feed.items()}


def dense(module: Any, name: str, feed: Arrays) -> torch.Tensor:
    """The definition: every expert on every row, weighted by the sum of the weights of the choices that mean it."""

    def run(x: torch.Tensor, weights: torch.Tensor, idx: torch.Tensor, order: list[int]) -> torch.Tensor:
        total = torch.zeros(())
        for place, expert in enumerate(order):
            gate = (weights * (idx == place)).sum(-1, keepdim=True)
            rows = module.experts[expert](x.reshape(-1, 8)).reshape(*x.shape[:-1], -1)
            total = total + gate * rows
        return total

    given = tensors(feed)
    result = DENSE[name](given["x"], given["weights"], given["idx"], run)
    assert isinstance(result, torch.Tensor)
    return result


@pytest.mark.parametrize("name", TEXTS)
def test_torch_is_the_definition(name: str, tmp_path: Path) -> None:
    """Results and gradients, with experts that nothing chooses."""
    module = module_of(load(name, tmp_path))
    for feed in FEEDS:
        grads = []
        for result in (module(**tensors(feed)), dense(module, name, feed)):
            module.zero_grad()
            (result * torch.linspace(-1, 2, result.numel()).reshape(result.shape)).sum().backward()
            grads.append((result.detach(), *(p.grad for p in module.parameters())))
        for found, expected in zip(*grads, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opset", [17, 18, 23, 26])
@pytest.mark.parametrize("name", TEXTS)
def test_onnx_is_torch(name: str, opset: int, tmp_path: Path) -> None:
    """In onnxruntime and in ONNX's reference, with experts that get no row."""
    model = load(name, tmp_path)
    module = module_of(model)
    proto = build(model, Target(opset=opset, weights=weights_of(module)))
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    reference: Any = ReferenceEvaluator(proto)
    for feed in FEEDS:
        with torch.no_grad():
            expected = module(**tensors(feed)).numpy()
        for found in (session.run(None, dict(feed)), reference.run(None, dict(feed))):
            np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-5)


def test_experts_see_their_rows_only(tmp_path: Path) -> None:
    """The sizes of what the experts' matrices are multiplied with add up to the number of choices."""
    model = load("plain", tmp_path)
    proto, outputs = build_debug(model, Target(weights=weights_of(module_of(model))))
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    keys = {tap.output: tap.key for tap in outputs if "experts" in tap.key and ".w" in tap.key}
    for feed in FEEDS:
        values = session.run(list(keys), dict(feed))
        rows = {key: len(value) for key, value in zip(keys.values(), values, strict=True)}
        counts = [int((feed["idx"] == e).sum()) for e in range(4)]
        assert [rows[f"experts.{e}.w/2"] for e in range(4)] == counts
    named = {v.name: [d.dim_param for d in v.type.tensor_type.shape.dim] for v in build(model).graph.value_info}
    assert named["experts.3.w"][0] == "routed(experts.3)", "rows that depend on data have a size of their own"


@pytest.mark.parametrize("name", TEXTS)
def test_every_value_has_its_key(name: str, tmp_path: Path) -> None:
    """What locates the first difference of two programs finds none: all values of both runs are equal."""
    model = load(name, tmp_path)
    module = module_of(model)
    proto, outputs = build_debug(model, Target(weights=weights_of(module)))
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for feed in FEEDS:
        _, found = taps.run(model.entries["forward"].full, module, tensors(feed))
        names = [tap.output for tap in outputs]
        values = dict(zip(names, session.run(names, dict(feed)), strict=True))
        assert {tap.key for tap in outputs} == found.keys()
        for tap in outputs:
            np.testing.assert_allclose(values[tap.output], found[tap.key].detach().numpy(), rtol=0, atol=1e-5)


def test_torch_text(tmp_path: Path) -> None:
    text = emit(load("mixed", tmp_path))
    assert text.count("def route(") == 1 and "dispatch" not in text and "combine" not in text
    assert "route(x, weights, idx, self.experts)" in text and "self.experts[1:3]" in text
    assert "[self.experts[3], self.experts[2], self.experts[1], self.experts[0]]" in text


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_whole(backend: str, tmp_path: Path) -> None:
    """One graph without settings of the user's, in training too; other sizes of the choices need no new one."""
    module = module_of(load("plain", tmp_path))
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    for feed in FEEDS:
        result = compiled(**tensors(feed))
        torch.testing.assert_close(result, module(**tensors(feed)))
        result.sum().backward()


def test_exported(tmp_path: Path) -> None:
    module = module_of(load("plain", tmp_path))
    dims = {0: torch.export.Dim("B", min=1, max=64), 1: torch.export.Dim("T", min=1, max=64)}
    program = torch.export.export(
        module, (), kwargs=tensors(FEEDS[1]), dynamic_shapes={"x": dims, "weights": dims, "idx": dims}
    )
    for feed in FEEDS:
        torch.testing.assert_close(program.module()(**tensors(feed)), module(**tensors(feed)))


def test_half_precision(tmp_path: Path) -> None:
    module = module_of(load("plain", tmp_path)).to(torch.bfloat16)
    given = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in tensors(FEEDS[1]).items()}
    assert module(**given).dtype is torch.bfloat16


INSIDE = {
    "loop": """
model M(dim: int = 8) {
  layers: [{ gate: Linear(dim, 3); experts: [Expert(dim, dim) for e in range(3)] } for i in range(2)]
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] {
    for layer in layers {
      w, i = topk(softmax(layer.gate(x), axis = -1), 2)
      x += route(x, w, i, layer.experts)
      when train { x = x + 0.1*route(x, w, i, layer.experts) }
    }
    return x
  }
}
""",
    "scan": """
model M(dim: int = 8) {
  gate: Linear(dim, 3)
  experts: [Expert(dim, dim) for e in range(3)]
  forward(x: Tensor[B, T, dim]) -> Tensor[B, T, dim] {
    ys, h = scan u in x along T with h = zeros([B, dim]) {
      w, i = topk(softmax(gate(h + u), axis = -1), 2)
      h = route(h + u, w, i, experts)
      emit h
    }
    return ys
  }
}
""",
}


@pytest.mark.parametrize("place", INSIDE)
def test_inside(place: str, tmp_path: Path) -> None:
    """In a loop over lists of experts, in a region for training, in the step of a scan."""
    path = tmp_path / "m.spec"
    path.write_text(EXPERTS + INSIDE[place], encoding="utf-8")
    model = driver.load(path).model
    module = module_of(model)
    assert ("layer.experts" if place == "loop" else "self.experts") in emit(model)
    proto = build(model, Target(weights=weights_of(module)))
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for feed in FEEDS:
        x = feed["x"]
        with torch.no_grad():
            expected = module(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=0, atol=1e-5)
    module.train()(torch.from_numpy(x)).sum().backward()


# ---- the IR and those who read it ------------------------------------------------------------------------------------


def test_ir(tmp_path: Path) -> None:
    model = load("plain", tmp_path)
    graph = model.entries["forward"].full
    [route] = [node for node in graph.nodes if isinstance(node, Route)]
    assert route.paths == tuple(("experts", e) for e in range(4))
    assert len({call.graph for call in route.calls}) == 1, "equal experts share a graph"
    assert [operand.name for operand in route.operands if hasattr(operand, "name")] == ["x", "weights", "idx"]
    assert str(route.result.type) == "Tensor[B, T, out]"
    text = model_text(model)
    assert "for expert in experts" in text and "expert = experts.3" in text
    written = json.loads(json.dumps(to_json(model)))
    [module] = [module for module in written["modules"] if module["block"] == "M"]
    [loop] = [node for node in module["graphs"][0]["nodes"] if node["kind"] == "loop"]
    assert [node["kind"] for i in loop["iterations"] for node in i["nodes"]] == ["op", *["call"] * 4, "op"]


def test_cost_is_that_of_the_choices(tmp_path: Path) -> None:
    """However the choices fall, each is a row of one expert: a row of the table is an expert with its share of them."""
    found = report(load("plain", tmp_path)).root
    [expert] = found.children
    assert (expert.path, expert.name, expert.count) == ("experts.{0..3}", "Expert", 4)
    assert found.flops is not None and expert.flops is not None
    at = {"B": 2, "T": 4}  # 16 choices, 4 for each expert
    assert found.flops.evaluate(at) == 4 * expert.flops.evaluate(at) + 16 * 6 * 2
    assert expert.flops.evaluate(at) >= 4 * 2 * 8 * 6


def test_picture_shows_equal_experts_once(tmp_path: Path) -> None:
    whole, blocks = view(load("plain", tmp_path))
    assert [node.op_type for node in whole.graph.node].count("4 x Expert") == 1 and set(blocks) == {"Expert"}
    whole, blocks = view(load("mixed", tmp_path))
    assert [n.op_type for n in whole.graph.node].count("2 x Expert") == 2 and set(blocks) == {"Expert", "Sized"}


def test_one_class_for_experts_and_for_a_layer(tmp_path: Path) -> None:
    """A block that is called with [B, T, d] here and with [n, d] there is one class if its text is."""
    path = tmp_path / "m.spec"
    path.write_text(
        EXPERTS + "model M {\n  shared: Expert(8, 8)\n  experts: [Expert(8, 8) for e in range(2)]\n"
        "  forward(x: Tensor[B, T, 8], weights: Tensor[B, T, 1], idx: Int[B, T, 1]) -> Tensor[B, T, 8] {\n"
        "    return shared(x) + route(x, weights, idx, experts)\n  }\n}\n"
    )
    assert emit(driver.load(path).model).count("class Expert") == 1

"""The proof can fail: faults put into lowerings, the emitter and the weights are each caught and placed.

Every fault is injected into a real build, which must publish nothing and name the line where values first differ.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from specc.backends.onnx import proto
from specc.backends.onnx.emitter import GraphEmitter
from specc.diagnostics import Diagnostic, Rejected
from specc.op import operators
from specc_runtime.build import Request, build

Patch = Callable[[pytest.MonkeyPatch], None]
Lower = Callable[..., Any]

PARTS = """\
from std.nn import Linear, LayerNorm, BatchNorm2d
dim B, T, Y, X

## Attention by hand, and what the models of the zoo do not use.
model Parts(dim: int = 8) {
  q: Linear(dim, dim)
  k: Linear(dim, dim, bias = false)
  v: Linear(dim, dim, bias = false)
  bn: BatchNorm2d(3)
  param scale: Tensor[dim] = ones()
  forward(x: Tensor[B, T, dim], image: Tensor[B, 3, Y, X], keep: Bool[B, T])
      -> (y: Tensor[B, T, 3*dim], z: Tensor[B, 3]) {
    scores = q(x) @ transpose(k(x), -1, -2)
    scores = scores / sqrt(dim)
    visible = where(keep[:, none, :], scores, -1.0e9)
    weights = softmax(visible, axis = -1)
    h = weights @ v(x)
    a, b = split(h, 2, axis = -1)
    h = concat([b, a], axis = -1)
    h = h * cast_like(keep, h)[:, :, none]
    pairs = reshape(h, [B, T, 2, dim//2]) |> transpose(1, 2)
    turned = rotary(pairs, positions(T), rope_freqs(dim//2, 10_000.0), style = "half")
    h2 = transpose(turned, 1, 2) |> flatten(2)
    r = rms_norm(x, scale, eps = 1e-6)
    last = cumsum(x, axis = 1)
    y = concat([h2, r, last], axis = -1)
    z = mean(bn(image), axis = [2, 3])
    return y, z
  }
}
"""


@dataclass(frozen=True)
class Fault:
    """A fault and where it must be found: text of the line, and the path of the module."""

    name: str
    spec: str
    patch: Patch
    line: str
    path: str
    sets: Mapping[str, str] = field(default_factory=dict)
    opset: int = 23


# ---- ways to break a build -------------------------------------------------------------------------------------------


def node(op_type: str, change: Callable[[list[Any], dict[str, Any]], None]) -> Patch:
    """Change the inputs or attributes of every node of one type."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        original = GraphEmitter.many

        def many(self: GraphEmitter, kind: str, count: int, *inputs: Any, **given: Any) -> Any:
            changed = list(inputs)
            if kind == op_type:
                change(changed, given)
            return original(self, kind, count, *changed, **given)

        patch.setattr(GraphEmitter, "many", many)

    return apply


def attribute(op_type: str, **attributes: Any) -> Patch:
    return node(op_type, lambda _, given: given.update(attributes))


def lowering(op: str, make: Callable[[Lower], Lower], method: str = "onnx") -> Patch:
    """Replace an operator's lowering by one made from it."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        kind = operators()[op]
        patch.setattr(kind, method, make(getattr(kind, method)))

    return apply


def source(old: str, new: str) -> Patch:
    """Change the emitted Python text."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        module = importlib.import_module("specc.backends.torch.export")
        original = module.emit

        def emit(*args: Any, **kwargs: Any) -> str:
            text: str = original(*args, **kwargs)
            assert old in text, f"the emitted source has no {old!r}"
            return text.replace(old, new)

        patch.setattr(module, "emit", emit)

    return apply


def slot(name: str, other: str) -> Patch:
    """The graph reads one tensor where another lies."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        original = proto.parameter_proto

        def parameter(this: str, type_: Any, element: int, weights: Any) -> Any:
            made = original(this, type_, element, weights)
            if this == name and weights is not None:
                wrong = weights.slots[other]
                for entry in made.external_data:
                    if entry.key == "offset":
                        entry.value = str(wrong.offset)
            return made

        patch.setattr(proto, "parameter_proto", parameter)

    return apply


def _swap(inputs: list[Any], i: int, j: int) -> None:
    inputs[i], inputs[j] = inputs[j], inputs[i]


def _untransposed(original: Lower) -> Lower:
    """`linear` that forgets to transpose a square weight."""

    def onnx(self: Any, emit: Any, x: Any, w: Any, b: Any = None) -> Any:
        if w.type.shape[0] != w.type.shape[1]:
            return original(self, emit, x, w, b)
        product = emit("MatMul", x, w)
        return product if b is None else emit("Add", product, b)

    return onnx


def _heads_outermost(original: Lower) -> Lower:
    """`rearrange` that reads [heads, 3, d] where [3, heads, d] is meant."""

    def onnx(self: Any, emit: Any, x: Any) -> Any:
        steps = self.steps()
        if steps.split is None or len(steps.split) != 5:
            return original(self, emit, x)
        batch, length, three, heads, size = steps.split
        return emit.transpose(emit.reshape(x, (batch, length, heads, three, size)), (3, 0, 2, 1, 4))

    return onnx


def _rows_rotated(original: Lower) -> Lower:
    """`route` that sends every expert the rows of the one before."""

    def onnx(self: Any, emit: Any, x: Any, idx: Any) -> Any:
        order, *rows = original(self, emit, x, idx)
        return order, *rows[-1:], *rows[:-1]

    return onnx


def _only(index: int) -> Callable[[Lower], Lower]:
    """An operator that returns one of its operands."""
    return lambda original: lambda self, emit, *operands: operands[index]


def _product_only(original: Lower) -> Lower:
    """`x * number` that forgets the number."""

    def onnx(self: Any, emit: Any, x: Any, y: Any) -> Any:
        return x if not hasattr(y, "type") else original(self, emit, x, y)

    return onnx


def _with(**attributes: Any) -> Callable[[Lower], Lower]:
    """An operator lowered with other attributes."""
    return lambda original: lambda self, emit, *operands: original(self.replace(**attributes), emit, *operands)


def _shifted(original: Lower) -> Lower:
    from specc.types import DType

    return lambda self, emit, mask=None: emit("Add", original(self, emit, mask), emit.const(1, DType.I64))


def _mask_shifted(original: Lower) -> Lower:
    """The mask of `sdpa`, moved by one key."""
    from specc.types import DType

    def onnx(self: Any, emit: Any, q: Any, k: Any, v: Any, mask: Any = None, bias: Any = None) -> Any:
        if mask is not None:
            number = emit.cast(mask, DType.I64)
            first = emit("Slice", number, *(emit.const([n], DType.I64) for n in (0, 1, 1)))
            rest = emit("Slice", number, *(emit.const([n], DType.I64) for n in (0, -1, 1)))
            moved = emit("Concat", first, rest, axis=1, type=number.type)
            mask = emit.cast(moved, DType.BOOL)
        return original(self, emit, q, k, v, mask, bias)

    return onnx


# ---- the faults ------------------------------------------------------------------------------------------------------

GPT2 = {"vocab": "16", "context": "16", "dim": "16", "layers": "2", "heads": "2"}
GPT = {"vocab": "11", "context": "16", "dim": "16", "layers": "2", "heads": "2", "hidden": "24"}
TRANSFORMER = {"vocab": "11", "dim": "16", "layers": "1", "heads": "2", "hidden": "24"}
MIXTRAL = {
    "vocab": "11", "context": "16", "dim": "16", "layers": "2", "heads": "2", "kv_heads": "1", "hidden": "24",
    "num_experts": "4",
}  # fmt: skip
EXPERTS = "model.layers.0.block_sparse_moe.experts"
MLP = {"inputs": "12", "hidden": "[8, 8]", "classes": "3"}
SDPA = "y = sdpa(q, k, v, mask = mask, causal = true, dropout = dropout)"

FAULTS = [
    # the graph of GPT-2
    Fault("eps", "gpt2", attribute("LayerNormalization", epsilon=1e-6), "x += attn(ln_1(x), mask)", "h.0.ln_1", GPT2),
    Fault("norm axis", "gpt2", attribute("LayerNormalization", axis=-2), "x += attn(ln_1(x), mask)", "h.0.ln_1", GPT2),
    Fault("gelu kind", "gpt2", attribute("Gelu", approximate="none"), "|> act |>", "h.0.mlp", GPT2),
    Fault("causal dropped", "gpt2", attribute("Attention", is_causal=None), SDPA, "h.0.attn", GPT2),
    Fault("scale changed", "gpt2", attribute("Attention", scale=1.0), SDPA, "h.0.attn", GPT2),
    Fault("mask off by one", "gpt2", lowering("sdpa", _mask_shifted), SDPA, "h.0.attn", GPT2),
    Fault("causal off by one", "gpt2", lowering("sdpa", _with(causal=True, window=2)), SDPA, "h.0.attn", GPT2),
    Fault("positions off by one", "gpt2", lowering("positions", _shifted), "wpe(positions(T", "", GPT2),
    Fault(
        "head split order", "gpt2", lowering("rearrange", _heads_outermost), "c_attn(x) |> rearrange", "h.0.attn", GPT2
    ),
    Fault("q and k swapped", "gpt2", node("Attention", lambda i, _: _swap(i, 0, 1)), SDPA, "h.0.attn", GPT2),
    Fault("keys for values", "gpt2", node("Attention", lambda i, _: i.__setitem__(2, i[1])), SDPA, "h.0.attn", GPT2),
    Fault("residual dropped", "gpt2", lowering("+", _only(1)), "x = wte(input_ids) + wpe", "", GPT2),
    Fault(
        "missing bias",
        "gpt2",
        lowering("linear", lambda f: lambda self, emit, x, w, b=None: f(self, emit, x, w, None)),
        "c_attn(x) |> rearrange",
        "h.0.attn.c_attn",
        GPT2,
    ),
    Fault(
        "square weight not transposed",
        "gpt2",
        lowering("linear", _untransposed),
        "|> c_proj |>",
        "h.0.attn.c_proj",
        GPT2,
    ),
    Fault(
        "same-shape weights swapped",
        "gpt2",
        slot("h.0.attn.c_proj.weight", "h.1.attn.c_proj.weight"),
        "|> c_proj |>",
        "h.0.attn.c_proj",
        GPT2,
    ),
    Fault("tie broken", "gpt2", slot("wte.weight", "wpe.weight"), "wte(input_ids)", "wte", GPT2),
    # the graphs of the others
    Fault(
        "mask ignored",
        "gpt",
        node("Attention", lambda i, _: i.__setitem__(slice(3, None), [])),
        "self_attn(x, mask)",
        "transformer.layers.0.self_attn",
        GPT,
    ),
    Fault("sqrt(dim) missing", "gpt", lowering("*", _product_only), "embedding(input_ids) * sqrt(dim)", "", GPT),
    Fault(
        "sinusoidal layout", "gpt", lowering("sinusoidal", _with(layout="sin_cos")), "sinusoidal(positions(T", "", GPT
    ),
    Fault("sinusoidal base", "gpt", lowering("sinusoidal", _with(base=1000.0)), "sinusoidal(positions(T", "", GPT),
    Fault(
        "causal dropped in the decoder",
        "transformer",
        attribute("Attention", is_causal=None),
        "self_attn(y)",
        "decoder.layers.0.self_attn",
        TRANSFORMER,
    ),
    Fault(
        "mask kept from old opset",
        "gpt",
        attribute("Trilu", upper=1),
        "self_attn(x, mask)",
        "transformer.layers.0.self_attn",
        GPT,
        opset=22,
    ),
    Fault("relu dropped", "mlp", lowering("relu", _only(0)), "net: [[Linear", "", MLP),
    Fault("weight of another layer", "mlp", slot("net.1.0.bias", "net.0.0.bias"), "|> net |> head", "net.1.0", MLP),
    # operators by hand
    Fault("softmax axis", "parts", attribute("Softmax", axis=-2), "weights = softmax(visible", ""),
    Fault("missing scale", "parts", lowering("/", _only(0)), "scores = scores / sqrt(dim)", ""),
    Fault("mask inverted", "parts", node("Where", lambda i, _: _swap(i, 1, 2)), "visible = where(keep", ""),
    Fault(
        "concat order",
        "parts",
        lowering("concat", lambda f: lambda self, emit, *xs: f(self, emit, *xs[::-1])),
        "h = concat([b, a]",
        "",
    ),
    Fault(
        "split order",
        "parts",
        lowering("split", lambda f: lambda self, emit, x: f(self, emit, x)[::-1]),
        "a, b = split(h",
        "",
    ),
    Fault("cast missing", "parts", lowering("cast_like", _only(0)), "h = h * cast_like(keep", ""),
    Fault("rotary style", "parts", lowering("rotary", _with(style="interleaved")), "turned = rotary(", ""),
    Fault("rms eps", "parts", attribute("RMSNormalization", epsilon=1e-3), "r = rms_norm(x", ""),
    Fault("cumsum exclusive", "parts", attribute("CumSum", exclusive=1), "last = cumsum(x", ""),
    Fault(
        "statistics swapped", "parts", node("BatchNormalization", lambda i, _: _swap(i, 3, 4)), "mean(bn(image)", "bn"
    ),
    Fault(
        "sum for mean",
        "parts",
        lowering("mean", lambda _: lambda self, emit, x: operators()["sum"](**self.attributes).onnx(emit, x)),
        "z = mean(",
        "",
    ),
    # the emitted source
    Fault(
        "source: another norm",
        "gpt2",
        source("self.attn(self.ln_1(x)", "self.attn(self.ln_2(x)"),
        "x += attn(ln_1(x), mask)",
        "h.0",
        GPT2,
    ),
    Fault(
        "source: residual dropped",
        "gpt2",
        source("x = x + self.mlp(", "x = self.mlp("),
        "|> h(attention_mask) |>",
        "",
        GPT2,
    ),
    Fault(
        "route: rows of another order",
        "mixtral",
        lowering("= dispatch", _rows_rotated),
        "return route(x",
        "model.layers.0.block_sparse_moe",
        MIXTRAL,
    ),
    Fault(
        "route: results not put back",
        "mixtral",
        node("TopK", lambda _, given: given.update(largest=1)),
        "return route(x",
        "model.layers.0.block_sparse_moe",
        MIXTRAL,
    ),
    Fault(
        "weights: another expert's",
        "mixtral",
        slot(f"{EXPERTS}.0.w1.weight", f"{EXPERTS}.1.w1.weight"),
        "w2(act(w1(x)) * w3(x))",
        f"{EXPERTS}.0.w1",
        MIXTRAL,
    ),
    Fault(
        "source: dropout active",
        "gpt2",
        lowering("dropout", lambda _: lambda self, t, x: f"F.dropout({x}, 0.5, True)", "torch"),
        "x |> dropout(dropout) |> h",
        "",
        GPT2,
    ),
    Fault(
        "source: causal dropped",
        "transformer",
        source("is_causal=True", "is_causal=False"),
        "self_attn(y)",
        "decoder.layers.0.self_attn",
        TRANSFORMER,
    ),
    Fault(
        "source: wrong type",
        "mlp",
        source("self.head(self.net(image))", "self.head(self.net(image)).double()"),
        "forward(image",
        "",
        MLP,
    ),
]


def _rejected(fault: Fault, patch: pytest.MonkeyPatch, tmp_path: Path) -> Diagnostic:
    spec = fault.spec
    if spec == "parts":
        (tmp_path / "parts.spec").write_text(PARTS, encoding="utf-8")
        spec = str(tmp_path / "parts.spec")
    fault.patch(patch)
    out = tmp_path / "out"
    with pytest.raises(Rejected) as caught:
        build(Request(spec, sets=fault.sets, render=False, out=out, opset=fault.opset))
    assert not out.exists()
    (found,) = caught.value.diagnostics
    return found


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_fault_is_caught_and_placed(fault: Fault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = _rejected(fault, monkeypatch, tmp_path)
    assert found.code == "B630"
    assert found.span is not None
    line = found.span.source.line(found.span.line)
    shown = f"{found.message}\n{found.span.where}: {line}\n{found.path}\n{found.notes}"
    assert fault.line in line, shown
    assert found.path.partition(" > ")[2] == fault.path, shown


def test_there_are_enough_faults() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 20


def test_the_parts_are_right_without_a_fault(tmp_path: Path) -> None:
    (tmp_path / "parts.spec").write_text(PARTS, encoding="utf-8")
    result = build(Request(str(tmp_path / "parts.spec"), render=False, out=tmp_path / "out"))
    assert result.manifest["certificate"]["entries"]["forward"]["runs"]

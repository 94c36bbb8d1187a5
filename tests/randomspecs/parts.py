"""Structures that take parts from std: layers alone, in lists with functions, tied, and passed as parameters."""

from __future__ import annotations

from specc.dims import Dim
from specc.types import DType, TensorType

from .body import Body
from .bounds import ERROR, Bound, computed
from .layers import image, sequence, weighed
from .recipes import recipe
from .structure import Fill, structure
from .values import Unfit, Value


def features(body: Body) -> Value:
    """A tensor whose last axis is a number of features; a Linear that gives one feature does not make a unit axis."""
    return body.find(lambda v: v.dtype is DType.COMPUTE and v.type.rank >= 1 and (v.shape[-1].value or 0) > 1)


def result(body: Body, text: str, x: Value, shape: tuple[Dim, ...], bound: Bound) -> None:
    """Bind a call; it is scaled where its values may be large."""
    type_ = TensorType(x.dtype, shape)
    body.admissible(type_)
    if bound.mag > 8:
        text, bound = f"({text}) * 0.125", bound.scaled(0.125)
    if bound.err > ERROR or bound.mag > 32:
        raise Unfit
    name = body.file.name("v")
    body.lines.append(f"{name} = {text}")
    body.add(Value(name, type_, bound))


def dense(x: Bound, inputs: int) -> Bound:
    """The bound of a Linear layer."""
    edge = (3 / inputs) ** 0.5
    return weighed(x, Bound(-edge, edge, varied=True), inputs)


@structure
def layer_of_std(body: Body, fill: Fill) -> None:
    """One layer of std.nn, std.mlp, std.rnn or std.attn."""
    if body.kind == "fn":
        raise Unfit
    part = body.file.name("layer")
    kind = body.choose(
        "Linear", "LayerNorm", "MLP", "GatedMLP", "GRU", "LSTM", "SelfAttention", "Conv1d", "BatchNorm1d"
    )
    module = {"MLP": "mlp", "GatedMLP": "mlp", "GRU": "rnn", "LSTM": "rnn", "SelfAttention": "attn"}.get(kind, "nn")
    body.file.std(module, kind)
    out = body.choose(4, 3)
    if kind in ("Conv1d", "BatchNorm1d"):
        x = image(body, 1)
        n, shape = x.shape[1].value or 1, x.shape
        if kind == "Conv1d":
            body.members.append(f"{part}: Conv1d({n}, {out}, 3, padding = 1)")
            bound, shape = dense(x.bound, 3 * n), (shape[0], Dim.const(out), shape[2])
        else:
            body.members.append(f"{part}: BatchNorm1d({n})")
            edge = 3 * (x.bound.mag + 1)
            bound = computed(-edge, edge, 3 * x.bound.err)
        return result(body, f"{part}({x.text})", x, shape, bound)
    x = sequence(body) if module in ("rnn", "attn") else features(body)
    n = x.shape[-1].value or 1
    last = body.size(n)
    shape = x.shape
    if kind == "Linear":
        body.members.append(f"{part}: Linear({last}, {out}, bias = {body.choose('true', 'false')})")
        bound, shape = dense(x.bound, n), (*x.shape[:-1], Dim.const(out))
    elif kind == "LayerNorm":
        body.members.append(f"{part}: LayerNorm({last}, eps = 0.25)")
        bound = computed(-1.5 * n**0.5 - 0.5, 1.5 * n**0.5 + 0.5, 6 * x.bound.err)
    elif kind in ("MLP", "GatedMLP"):
        body.members.append(f"{part}: {kind}({last}, hidden = 5, act = {body.choose('gelu', 'silu', 'tanh')})")
        wide = dense(x.bound, n)
        product = Bound(-wide.mag * wide.mag, wide.mag * wide.mag, 2 * wide.mag * wide.err)
        bound = dense(product if kind == "GatedMLP" else wide, 5)
    elif kind in ("GRU", "LSTM"):
        body.members.append(f"{part}: {kind}({last}, {out})")
        bound, shape = computed(-1, 1, 6 * x.bound.err + 1e-6), (*x.shape[:-1], Dim.const(out))
    else:
        heads = body.choose(*[h for h in (1, 2) if n % h == 0])
        causal = body.choose("false", "true")
        body.members.append(f"{part}: SelfAttention({last}, {heads}, causal = {causal})")
        v = dense(x.bound, n)
        bound = dense(Bound(v.lo, v.hi, v.err * 8), n)
    result(body, f"{part}({x.text})", x, shape, bound)


@structure
def sequential(body: Body, fill: Fill) -> None:
    """Layers and functions in a list; the last layer's weight may be tied to an equal one."""
    if body.kind == "fn":
        raise Unfit
    x = features(body)
    n = x.shape[-1].value or 1
    body.file.std("nn", "Linear")
    part, act = body.file.name("seq"), body.choose("gelu", "relu", "leaky_relu(slope = 0.2)", "softcap(cap = 2.0)")
    body.members.append(f"{part}: [Linear({body.size(n)}, 4), {act}, Linear(4, 4), tanh, Linear(4, {body.size(n)})]")
    if n == 4:
        body.members.append(f"tie {part}.4.weight = {part}.0.weight")
    inner = dense(dense(x.bound, n), 4)
    bound = dense(computed(-1, 1, inner.err), 4)
    result(body, f"{part}({x.text})" if body.chance(2) else f"{x.atom} |> {part}", x, x.shape, bound)


@structure
def partial_application(body: Body, fill: Fill) -> None:
    """A block whose norm and activation are parameters, bound in part where it is used."""
    if body.kind == "fn":
        raise Unfit
    x = features(body)
    n = x.shape[-1].value or 1
    if n < 2:
        raise Unfit
    for name in ("Linear", "LayerNorm", "RMSNorm"):
        body.file.std("nn", name)
    block, part = body.file.name("Gated"), body.file.name("gated")
    text = f"""block {block}(n: int, act: fn = gelu, norm: block = LayerNorm(eps = 0.25)) {{
  let wide = 2*n
  norm: norm(n)
  up:   Linear(n, wide)
  down: Linear(wide, n, bias = false)
  forward(x: Tensor[..., n]) -> Tensor[..., n] = x |> norm |> up |> act |> down
}}"""
    body.file.declarations += [text, ""]
    act = body.choose("", ", act = silu", ", act = elu(alpha = 0.5)")
    norm = body.choose("", ", norm = RMSNorm(eps = 0.25)", ", norm = LayerNorm(bias = false, eps = 0.25)")
    body.members.append(f"{part}: {block}({body.size(n)}{act}{norm})")
    edge = 1.5 * n**0.5 + 0.5
    bound = dense(dense(computed(-edge, edge, 6 * x.bound.err), n), 2 * n)
    result(body, f"{part}({x.text})", x, x.shape, bound)


@recipe("= dispatch", "= combine")
def routed(body: Body, name: str) -> None:
    """A mixture of Linear experts; each row goes where an index says."""
    if body.kind != "model":
        raise Unfit
    x = body.keep(features(body))
    if x.type.rank < 2:
        raise Unfit
    n = x.shape[-1].value or 1
    body.file.std("nn", "Linear")
    weights = body.fit(body.need(DType.COMPUTE, *x.shape[:-1], 2, reuse=False), -2.0, 2.0)
    idx = body.index(Dim.const(3), *x.shape[:-1], 2)
    part, e = body.file.name("experts"), body.file.name("e")
    body.members.append(f"{part}: [Linear({body.size(n)}, {body.size(n)}) for {e} in range(3)]")
    one = dense(x.bound, n)
    bound = Bound(-4 * one.mag, 4 * one.mag, 4 * one.err)
    result(body, f"route({x.text}, {weights.text}, {idx.text}, {part})", x, x.shape, bound)

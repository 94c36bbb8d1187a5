"""Recipes of matrix products, convolutions, pooling, resizing, recurrent layers and attention."""

from __future__ import annotations

import math
from typing import Any

from specc.dims import Dim
from specc.op import Pattern
from specc.types import DType

from .body import Body
from .bounds import ROUND, Bound, computed
from .recipes import recipe
from .reducing import longest
from .values import Unfit, Value

TENSOR = DType.COMPUTE


def weighed(x: Bound, w: Bound, n: int, bias: float = 0.5) -> Bound:
    """A sum of n products, and a bias. Random terms of both signs: sqrt(n) of them at four deviations, n for errors."""
    edge = min(n * x.mag * w.mag, 4 * math.sqrt(n) * x.mag * w.mag) + bias
    return computed(-edge, edge, n * (x.err * w.mag + w.err * x.mag) / 2, varied=w.varied)


@recipe("@")
def matmul(body: Body, name: str) -> None:
    x = body.find(lambda v: v.dtype is TENSOR and v.type.rank >= 2)
    inner = x.shape[-1]
    out = Dim.const(body.choose(4, 3, 2))
    lead = x.shape[:-2] if body.chance(3) else ()
    y = body.need(TENSOR, *lead, inner, out)
    body.apply(name, x, y, bound=weighed(x.bound, y.bound, longest(inner), 0), form="{} @ {}")


def last_static(body: Body) -> Value:
    return body.find(lambda v: v.dtype is TENSOR and v.type.rank >= 1 and v.shape[-1].value is not None)


@recipe("linear")
def linear(body: Body, name: str) -> None:
    x = last_static(body)
    size, out = x.shape[-1], Dim.const(body.choose(4, 3, 6))
    w = body.parameter((out, size))
    b = body.parameter((out,)) if body.chance(2) else None
    body.apply(name, x, w, b, bound=weighed(x.bound, w.bound, size.value or 1))


@recipe("embedding")
def embedding(body: Body, name: str) -> None:
    n, d = body.choose(5, 7), body.choose(4, 6)
    w = body.parameter((Dim.const(n), Dim.const(d)))
    shape = body.find(lambda v: v.type.rank >= 1).shape[:2]
    body.apply(name, body.index(Dim.const(n), *shape), w, bound=w.bound.repeated())


# ---- convolution ------------------------------------------------------------------------------------------------


def image(body: Body, axes: int) -> Value:
    """A tensor [batch, static channels, axes..]: one in scope, or one with axes merged or added, or an argument."""
    found = [v for v in body.pool if v.dtype is TENSOR and v.type.rank == axes + 2 and (v.shape[1].value or 0) > 1]
    if found:
        return body.use(body.choose(*reversed(found)))
    near = [v for v in body.pool if v.dtype is TENSOR and 1 < v.type.rank < axes + 2 and (v.shape[-1].value or 0) > 1]
    if near and not body.chance(3):
        x = body.use(body.choose(*reversed(near)))
        x = body.use(body.apply("transpose", x, bound=x.bound, a=1, b=x.type.rank - 1, inline=True))
        while x.type.rank < axes + 2:
            x = body.use(body.apply("unsqueeze", x, bound=x.bound, axis=-1, inline=True))
        return x
    symbols = [Dim.symbol(s) for s in sorted(body.low)]
    if not symbols:
        raise Unfit
    spatial = [body.choose(*symbols, Dim.const(4)) for _ in range(axes)]
    return body.need(TENSOR, symbols[0], 4, *spatial)


def window(body: Body, x: Value, axes: int, *, dilated: bool = True) -> tuple[list[int], dict[str, Any]]:
    """Kernel sizes and options; padding keeps what may be a single element from vanishing."""
    kernel = [body.choose(1, 3, 2) for _ in range(axes)]
    dilation = body.choose(1, 1, 2) if dilated else 1
    padding = []
    for k, dim in zip(kernel, x.shape[2:], strict=True):
        reach = dilation * (k - 1) + 1
        lack = max(0, reach - body.least(dim))
        padding.append(max((lack + 1) // 2, body.choose(0, (k - 1) // 2)))
    options: dict[str, Any] = {}
    stride = body.choose(1, 2)
    if stride > 1:
        options["stride"] = (stride,)
    if any(padding):
        options["padding"] = tuple(padding) if len(set(padding)) > 1 else (padding[0],)
    if dilation > 1:
        options["dilation"] = (dilation,)
    return kernel, options


@recipe("conv1d", "conv2d", "conv3d")
def convolution(body: Body, name: str) -> None:
    axes = int(name[4])
    x = image(body, axes)
    channels = x.shape[1].value or 1
    kernel, options = window(body, x, axes)
    groups = body.choose(*[g for g in (1, 2, channels) if channels % g == 0])
    out = groups * body.choose(2, 1)
    w = body.parameter([Dim.const(n) for n in (out, channels // groups, *kernel)])
    b = body.parameter((Dim.const(out),)) if body.chance(2) else None
    if groups > 1:
        options["groups"] = groups
    terms = channels // groups * math.prod(kernel)
    body.apply(name, x, w, b, bound=weighed(x.bound, w.bound, terms), **options)


@recipe("conv_transpose1d", "conv_transpose2d")
def transposed_convolution(body: Body, name: str) -> None:
    axes = int(name[14])
    x = image(body, axes)
    channels = x.shape[1].value or 1
    kernel = body.choose(3, 2)
    options: dict[str, Any] = {}
    if body.chance(2):
        options["stride"] = (2,)
        if body.chance(2):
            options["output_padding"] = (1,)
    elif kernel == 3 and body.chance(2):
        options["padding"] = (1,)
    groups = 2 if channels % 2 == 0 and body.chance(3) else 1
    if groups > 1:
        options["groups"] = groups
    out = body.choose(3, 2)
    w = body.parameter([Dim.const(n) for n in (channels, out, *[kernel] * axes)])
    b = body.parameter((Dim.const(out * groups),)) if body.chance(2) else None
    body.apply(name, x, w, b, bound=weighed(x.bound, w.bound, channels // groups * kernel**axes), **options)


@recipe("causal_conv1d")
def causal_convolution(body: Body, name: str) -> None:
    x = image(body, 1)
    channels, kernel = x.shape[1].value or 1, body.choose(3, 2, 1)
    groups = body.choose(1, channels)
    out = groups * body.choose(1, 2)
    w = body.parameter([Dim.const(n) for n in (out, channels // groups, kernel)])
    options = {"dilation": 2} if body.chance(3) else {}
    if groups > 1:
        options["groups"] = groups
    body.apply(name, x, w, None, bound=weighed(x.bound, w.bound, channels // groups * kernel), **options)


@recipe("max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d")
def pooling(body: Body, name: str) -> None:
    axes = int(name[8])
    x = image(body, axes)
    kernel, options = window(body, x, axes, dilated=False)
    if any(2 * p > k for p, k in zip(_each(options.get("padding", (0,)), axes), kernel, strict=True)):
        raise Unfit
    options.setdefault("stride", (1,))
    bound = x.bound.repeated()
    if name.startswith("avg"):
        bound = computed(min(bound.lo, 0), max(bound.hi, 0), bound.err)
    body.apply(name, x, bound=bound, kernel_size=tuple(kernel), **options)


def _each(values: tuple[int, ...], count: int) -> tuple[int, ...]:
    return values if len(values) == count else values * count


@recipe("adaptive_avg_pool2d")
def adaptive_pooling(body: Body, name: str) -> None:
    x = image(body, 2)
    size = body.choose((1,), (2, 3))
    body.apply(name, x, bound=computed(x.bound.lo, x.bound.hi, x.bound.err), size=size)


@recipe("interpolate")
def interpolate(body: Body, name: str) -> None:
    x = image(body, 2)
    mode = body.choose("nearest", "bilinear", "bicubic")
    options: dict[str, Any] = {"mode": mode} if mode != "nearest" or body.chance(2) else {}
    if body.chance(2):
        options["size"] = (Dim.const(5), Dim.const(3))
    else:
        options["scale"] = 2
    if mode != "nearest" and body.chance(3):
        options["align_corners"] = True
    edge = 2 * x.bound.mag
    bound = x.bound.repeated() if mode == "nearest" else computed(-edge, edge, 2 * x.bound.err + edge * 4 * ROUND)
    body.apply(name, x, bound=bound, **options)


@recipe("pixel_shuffle", "pixel_unshuffle")
def pixels(body: Body, name: str) -> None:
    x = image(body, 2)
    if name == "pixel_shuffle" and (x.shape[1].value or 1) % 4:
        raise Unfit
    if name == "pixel_unshuffle":
        x = body.use(body.apply("repeat_interleave", x, bound=x.bound.repeated(), n=2, axis=2, inline=True))
        x = body.use(body.apply("repeat_interleave", x, bound=x.bound.repeated(), n=2, axis=3, inline=True))
    body.apply(name, x, bound=x.bound, r=2)


@recipe("glu")
def glu(body: Body, name: str) -> None:
    x = body.find(lambda v: v.is_float and any((d.value or 1) % 2 == 0 for d in v.shape))
    axis = body.choose(*[i for i, d in enumerate(x.shape) if (d.value or 1) % 2 == 0])
    err = x.bound.err * (1 + x.bound.mag / 4)
    body.apply(name, x, bound=computed(-x.bound.mag, x.bound.mag, err), axis=axis)


# ---- sequences --------------------------------------------------------------------------------------------------


def sequence(body: Body, ranks: tuple[int, ...] = (3,)) -> Value:
    """[batch, dim, channels] with a declared dim in the middle and static channels."""

    def fits(v: Value) -> bool:
        return v.dtype is TENSOR and v.type.rank in ranks and v.shape[1].is_symbol() and (v.shape[-1].value or 0) > 1

    found = [v for v in body.pool if fits(v)]
    if found and not body.chance(4):
        return body.use(body.choose(*reversed(found)))
    symbols = [Dim.symbol(s) for s in sorted(body.low)]
    if not symbols:
        raise Unfit
    return body.need(TENSOR, symbols[0] if len(symbols) > 1 else 2, symbols[-1], 4)


@recipe("lstm", "gru")
def recurrent(body: Body, name: str) -> None:
    x = sequence(body)
    if list(x.shape).count(x.shape[1]) > 1:
        raise Unfit
    inputs, hidden = x.shape[2], body.choose(3, 4)
    gates = Dim.const(hidden * (4 if name == "lstm" else 3))
    h = Dim.const(hidden)
    states = [body.need(TENSOR, x.shape[0], h, reuse=False) for _ in range(2 if name == "lstm" else 1)]
    ws = [body.parameter((gates, inputs)), body.parameter((gates, h))]
    bs = [body.parameter((gates,)), body.parameter((gates,))] if body.chance(2) else [None, None]
    err = 6 * x.bound.err + 1e-6
    bounds = [computed(-7, 7, err)] * (3 if name == "lstm" else 2)
    body.results(name, x, *states, *ws, *bs, bounds=bounds, along=x.shape[1])


@recipe("cached", "once", "carried")
def state(body: Body, name: str) -> None:
    """The identity in the plain entry. What is cached is longer than its dim, so it is reduced at once."""
    if name != "cached":
        x = body.find()
        body.apply(name, x, bound=x.bound)
        return
    x = sequence(body, (2, 3, 4))
    if list(x.shape).count(x.shape[1]) > 1:
        raise Unfit
    made = body.apply(name, x, bound=x.bound, along=x.shape[1], inline=True)
    body.apply("mean", body.use(made), bound=computed(x.bound.lo, x.bound.hi, x.bound.err), axis=(1,))


@recipe("rotary", "rope_freqs")
def rotary(body: Body, name: str) -> None:
    q = heads(body, 2, Dim.const(4))
    scaling: dict[str, Any] = body.choose({}, {"scaling": "linear", "factor": 2.0})
    freqs = body.use(body.apply("rope_freqs", bound=Bound(0, 1), head_dim=4, theta=100.0, **scaling))
    time = q.shape[2]
    if time.is_symbol() and str(time) in body.low:
        pos = body.use(body.apply("arange", bound=Bound(0, 11), D=time, inline=True))
    else:
        raise Unfit
    style = body.choose("half", "interleaved")
    err = 2 * q.bound.err + 12 * ROUND * q.bound.mag
    edge = 1.5 * q.bound.mag
    body.apply("rotary", q, pos, freqs, bound=computed(-edge, edge, err), style=style)


def heads(body: Body, count: int, width: Dim, like: Value | None = None) -> Value:
    """[batch, heads, time, width]: a projection of a sequence, split into heads."""
    x = like or sequence(body)
    w = body.parameter((Dim.const(count) * width, x.shape[2]))
    y = body.use(
        body.apply("linear", x, w, None, bound=weighed(x.bound, w.bound, x.shape[2].value or 1, 0), inline=True)
    )
    batch, time = x.shape[0], x.shape[1]
    split = Pattern(((batch,), (time,), (Dim.const(count), width)), ((batch,), (Dim.const(count),), (time,), (width,)))
    return body.use(body.apply("rearrange", y, bound=y.bound, pattern=split, inline=False))


@recipe("sdpa")
def attention(body: Body, name: str) -> None:
    x = body.keep(sequence(body))
    width = Dim.const(4)
    group = body.choose(2, 1)
    q, k, v = heads(body, 2, width, x), heads(body, group, width, x), heads(body, group, width, x)
    batch, time = x.shape[0], x.shape[1]
    options: dict[str, Any] = {}
    mask = bias = None
    if body.chance(2):
        options["causal"] = True
    if body.chance(6):
        options["window"] = 2
    if body.kind == "model" and "window" not in options and body.chance(2):
        mask = body.need(DType.BOOL, *body.choose((batch, time), (batch, time, time)), reuse=False)
    if body.chance(4):
        bias = body.need(TENSOR, 2, time, time, reuse=False)
    if body.chance(4):
        options["softcap"] = 2.0
    if body.chance(3):
        options["scale"] = 0.25
    if body.chance(4):
        options["dropout"] = 0.5
    err = v.bound.err + v.bound.mag * (q.bound.err * k.bound.mag + k.bound.err * q.bound.mag)
    body.apply(name, q, k, v, mask, bias, bound=computed(v.bound.lo, v.bound.hi, err + 4 * ROUND), **options)

"""Recipes of reductions, sorting, and what normalises along axes."""

from __future__ import annotations

import math
from typing import Any

from specc.dims import Dim
from specc.types import DType, TensorType

from .body import PRIMES, Body, Unfit, Value
from .bounds import ROUND, TRUTH, Bound, computed
from .recipes import recipe
from .shaping import axis_of

LONGEST = 11
"""The largest size of a dim at which the programs run."""


def longest(dim: Dim) -> int:
    """The size of an axis at the sizes that run."""
    return dim.evaluate({s: max(PRIMES.get(s, 3), LONGEST if s not in PRIMES else 7) for s in dim.symbols})


def axes_options(body: Body, x: Value, *, several: bool = True) -> tuple[dict[str, Any], list[int]]:
    """`axis` and `keepdim`, and the axes that they name."""
    options: dict[str, Any] = {"keepdim": True} if body.chance(3) else {}
    kind = body.choose("one", "several" if several else "one", "all") if x.type.rank else "all"
    if kind == "all":
        return options, list(range(x.type.rank))
    if kind == "several" and x.type.rank > 1:
        first = body.file.choose(x.type.rank - 1)
        axes = (first, x.type.rank - 1)
        return {"axis": axes, **options}, list(axes)
    axis = axis_of(body, x)
    return {"axis": (axis,), **options}, [axis % x.type.rank]


def extent(x: Value, axes: list[int]) -> tuple[int, int]:
    """The least and the largest number of elements that are reduced."""
    least = most = 1
    for axis in axes:
        dim = x.shape[axis]
        least *= dim.value or 1
        most *= longest(dim)
    return least, most


@recipe("sum", "mean", "max", "min", "norm", "logsumexp")
def reduction(body: Body, name: str) -> None:
    whole = name in ("sum", "max", "min")
    x = body.find(lambda v: v.is_float or (whole and v.dtype is DType.I64))
    options, axes = axes_options(body, x)
    _, n = extent(x, axes)
    b = x.bound
    if name == "sum":
        lo, hi = min(b.lo, b.lo * n), max(b.hi, b.hi * n)
        bound = computed(lo, hi, b.err * n) if x.is_float else Bound(lo, hi)
    elif name == "norm":
        bound = computed(0, b.mag * math.sqrt(n), b.err * math.sqrt(n))
    elif name == "logsumexp":
        bound = computed(b.lo, b.hi + math.log(n), b.err)
    elif name == "mean":
        bound = computed(b.lo, b.hi, b.err)
    else:
        bound = Bound(b.lo, b.hi, b.err)
    body.apply(name, x, bound=bound, **options)


@recipe("var", "std")
def spread(body: Body, name: str) -> None:
    """Over two elements at least where it divides by one less; a root is steep at 0, so it is kept from there."""
    x = body.floating(rank=1)
    options, axes = axes_options(body, x)
    least, _ = extent(x, axes)
    if least < 2 or body.chance(3):
        options["correction"] = 0
    if least < 2 and name == "std":
        raise Unfit
    mag = x.bound.mag
    if name == "std" and not x.bound.varied:
        raise Unfit
    top = mag * mag * 4
    bound = computed(0, top, 4 * mag * x.bound.err) if name == "var" else computed(0, 2 * mag, 8 * x.bound.err)
    body.apply(name, x, bound=bound, **options)


@recipe("prod")
def product(body: Body, name: str) -> None:
    x = body.floating(rank=1)
    axis = axis_of(body, x)
    _, n = extent(x, [axis % x.type.rank])
    if n > 8:
        raise Unfit
    x = body.fit(x, -1.25, 1.25)
    edge = max(1.0, x.bound.mag) ** n
    body.apply(name, x, bound=computed(-edge, edge, n * edge * x.bound.err), axis=(axis,))


@recipe("any", "all")
def truth(body: Body, name: str) -> None:
    x = body.find(lambda v: v.dtype is DType.BOOL)
    options, _ = axes_options(body, x)
    body.apply(name, x, bound=TRUTH, **options)


@recipe("argmax", "argmin")
def place(body: Body, name: str) -> None:
    x = body.find(lambda v: v.type.rank >= 1 and v.bound.exact and v.dtype is not DType.BOOL)
    axis = axis_of(body, x)
    options = {"keepdim": True} if body.chance(3) else {}
    body.apply(name, x, bound=Bound(0, max(longest(x.shape[axis]) - 1, 0)), axis=axis, **options)


@recipe("topk")
def topk(body: Body, name: str) -> None:
    """Of distinct values, which is the k-th is no matter of rounding or of ties."""
    x = body.find(lambda v: v.type.rank >= 1 and v.is_float and v.bound.exact and v.bound.distinct)
    axis = axis_of(body, x)
    k = body.choose(1, 2)
    if body.least(x.shape[axis]) < k:
        raise Unfit
    numbers = Bound(0, max(longest(x.shape[axis]) - 1, 0))
    body.results(name, x, bounds=[x.bound, numbers], k=Dim.const(k), axis=axis)


@recipe("sort")
def sort(body: Body, name: str) -> None:
    """The values move with their rounding; the places are compared where both programs hold the values bit by bit."""
    exact = not body.chance(2)
    x = body.find(lambda v: v.type.rank >= 1 and v.is_float and v.bound.exact is exact)
    axis = axis_of(body, x)
    options = {"descending": True} if body.chance(2) else {}
    if exact:
        numbers = Bound(0, max(longest(x.shape[axis]) - 1, 0))
        body.results(name, x, bounds=[x.bound, numbers], axis=axis, **options)
        return
    made, places = body.results(name, x, bounds=[x.bound, Bound(0, 0)], axis=axis, **options)
    body.pool.remove(places)
    body.lines[-1] = body.lines[-1].replace(f", {places.text} =", ", _ =", 1)
    assert made in body.pool


@recipe("softmax", "log_softmax")
def softmax(body: Body, name: str) -> None:
    x = body.floating(rank=1)
    axis = axis_of(body, x)
    if name == "softmax":
        bound = computed(0, 1, x.bound.err + ROUND)
    else:
        n = longest(x.shape[axis])
        bound = computed(x.bound.lo - x.bound.hi - math.log(n), 0, 2 * x.bound.err)
    body.apply(name, x, bound=bound, axis=axis)


@recipe("cumsum")
def cumsum(body: Body, name: str) -> None:
    x = body.find(lambda v: v.type.rank >= 1 and (v.is_float or v.dtype is DType.I64))
    axis = axis_of(body, x)
    n = longest(x.shape[axis])
    lo, hi = min(x.bound.lo, x.bound.lo * n), max(x.bound.hi, x.bound.hi * n)
    body.apply(name, x, bound=computed(lo, hi, n * x.bound.err) if x.is_float else Bound(lo, hi), axis=axis)


@recipe("l2_normalize")
def l2_normalize(body: Body, name: str) -> None:
    x = body.floating(rank=1)
    axis = axis_of(body, x)
    body.apply(name, x, bound=computed(-1, 1, 4 * x.bound.err), axis=axis, eps=0.5)


# ---- norms ------------------------------------------------------------------------------------------------------


def steepness(body: Body, x: Value, count: int) -> tuple[dict[str, float], float]:
    """eps, and by how much the norm may amplify an error: 1/sqrt(eps) where the elements could all be equal."""
    if x.bound.varied and count >= 4:
        return ({} if body.chance(2) else {"eps": 1e-5}), 8.0
    return {"eps": 0.25}, 2.0


def normed(x: Value, amplified: float, count: int) -> Bound:
    edge = 1.5 * math.sqrt(max(count, 2)) + 0.5
    return computed(-edge, edge, 3 * amplified * (x.bound.err + x.bound.mag * ROUND), varied=x.bound.varied)


@recipe("layer_norm", "rms_norm")
def norm_of_axis(body: Body, name: str) -> None:
    axis = 1 if name == "layer_norm" and body.chance(4) else -1
    x = body.find(lambda v: v.dtype is DType.COMPUTE and v.type.rank > max(axis, 0) and v.shape[axis].value is not None)
    size = x.shape[axis]
    eps, amplified = steepness(body, x, size.value or 1)
    bound = normed(x, amplified, size.value or 1)
    w = body.parameter((size,), positive=True)
    if name == "rms_norm":
        options = {"offset": 1.0} if body.chance(3) else {}
        body.apply(name, x, w, bound=bound.scaled(1 + len(options)), **eps, **options)
        return
    b = body.parameter((size,)) if body.chance(2) else None
    body.apply(name, x, w, b, bound=bound, **eps, **({"axis": 1} if axis == 1 else {}))


@recipe("group_norm", "instance_norm", "batch_norm")
def norm_of_channels(body: Body, name: str) -> None:
    least = 3 if name == "instance_norm" else 2
    x = body.find(lambda v: v.dtype is DType.COMPUTE and v.type.rank >= least and (v.shape[1].value or 0) > 1)
    channels = x.shape[1]
    w, b = body.parameter((channels,), positive=True), body.parameter((channels,))
    bound = normed(x, 2.0, 64)
    if name == "batch_norm":
        names = [body.file.name(s) for s in ("mean", "var", "count")]
        body.members.append(f"buffer {names[0]}: Tensor[{channels}] = zeros()")
        body.members.append(f"buffer {names[1]}: Tensor[{channels}] = ones()")
        body.members.append(f"buffer {names[2]}: Int[] = zeros()")
        running = [Value(names[0], w.type, Bound(-0.5, 0.5)), Value(names[1], w.type, Bound(0.5, 1.5))]
        seen = Value(names[2], TensorType(DType.I64, ()), Bound(0, 0))
        edge = 3 * (x.bound.mag + 1)
        body.apply(name, x, w, b, *running, seen, bound=computed(-edge, edge, 3 * x.bound.err))
    elif name == "group_norm":
        groups = body.choose(*[k for k in (1, 2, 3, 4) if (channels.value or 1) % k == 0])
        body.apply(name, x, w, b, bound=bound, groups=groups, eps=0.25)
    else:
        body.apply(name, x, w, b, bound=bound, eps=0.25)

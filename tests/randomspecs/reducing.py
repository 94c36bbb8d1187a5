"""Recipes of reductions, sorting, and what normalises along axes."""

from __future__ import annotations

import math
from typing import Any

from specc.dims import Dim
from specc.types import DType

from .body import Body
from .bounds import ROUND, TRUTH, Bound, computed
from .pointwise import condition
from .recipes import recipe
from .shaping import axis_of
from .values import PRIMES, Unfit, Value

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
    x = condition(body)
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
    options: dict[str, Any] = {"descending": True} if body.chance(2) else {}
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

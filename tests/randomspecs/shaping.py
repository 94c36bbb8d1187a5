"""Recipes of operators that move elements: axes, joining, indexing; and those that create tensors."""

from __future__ import annotations

from typing import Any

from specc.dims import Dim
from specc.op import Pattern
from specc.types import DType

from .body import Body
from .bounds import ROUND, Bound
from .recipes import recipe
from .values import Unfit, Value


def axis_of(body: Body, x: Value) -> int:
    """One of its axes, sometimes counted from the end."""
    if not x.type.rank:
        raise Unfit
    axis = body.file.choose(x.type.rank)
    return axis - x.type.rank if body.chance(2) else axis


def static_axis(body: Body, least: int = 2) -> tuple[Value, int, int]:
    """A value with an axis whose size is a number: (value, axis, size)."""
    x = body.find(lambda v: any(d.value is not None and d.value >= least for d in v.shape))
    axes = [i for i, d in enumerate(x.shape) if d.value is not None and d.value >= least]
    axis = body.choose(*axes)
    return x, axis, x.shape[axis].value or 1


# ---- axes -------------------------------------------------------------------------------------------------------


@recipe("rearrange")
def rearrange(body: Body, name: str) -> None:
    """Axes split into factors, permuted, and merged again."""
    x = body.find(lambda v: v.type.rank >= 2)
    left: list[tuple[Dim, ...]] = []
    for dim in x.shape:
        n = dim.value
        factors = [k for k in (2, 3, 4) if n is not None and n % k == 0 and n > k]
        if factors and not body.chance(2):
            k = body.choose(*factors)
            left.append((Dim.const(k), Dim.const(n // k)))
        else:
            left.append((Dim.UNIT,) if n == 1 else (dim,))
    units = [(f,) for axis in left for f in axis if f.value == 1]
    parts = [f for axis in left for f in axis if f.value != 1]
    order: list[Dim] = []
    while parts:
        order.append(parts.pop(body.file.choose(len(parts))))
    right: list[tuple[Dim, ...]] = [(f,) for f in order]
    if len(right) > 2 and body.chance(2):
        at = body.file.choose(len(right) - 1)
        right[at : at + 2] = [right[at] + right[at + 1]]
    if body.chance(4):
        right.insert(body.file.choose(len(right) + 1), (Dim.UNIT,))
    elif units and not body.chance(3):
        right.insert(0, (Dim.UNIT,))
    body.apply(name, x, bound=x.bound, pattern=Pattern(tuple(left), tuple(right)))


@recipe("reshape")
def reshape(body: Body, name: str) -> None:
    x = body.find(lambda v: v.type.rank >= 1)
    dims = list(x.shape)
    kind = body.choose("merge", "split")
    if kind == "merge" and len(dims) > 1:
        at = body.file.choose(len(dims) - 1)
        dims[at : at + 2] = [dims[at] * dims[at + 1]]
    else:
        at = body.file.choose(len(dims))
        n = dims[at].value
        factors = [k for k in (2, 3, 4) if n is not None and n % k == 0]
        if not factors or n is None:
            raise Unfit
        k = body.choose(*factors)
        dims[at : at + 1] = [Dim.const(k), Dim.const(n // k)]
    body.apply(name, x, bound=x.bound, sizes=tuple(d.plain() for d in dims))  # a 1 is no unit axis here


@recipe("flatten")
def flatten(body: Body, name: str) -> None:
    x = body.find(lambda v: v.type.rank >= 2)
    options = {} if body.chance(2) else {"start": body.file.choose(x.type.rank)}
    body.apply(name, x, bound=x.bound, **options)


@recipe("transpose")
def transpose(body: Body, name: str) -> None:
    x = body.find(lambda v: v.type.rank >= 2)
    body.apply(name, x, bound=x.bound, a=axis_of(body, x), b=axis_of(body, x))


@recipe("permute")
def permute(body: Body, name: str) -> None:
    x = body.find(lambda v: v.type.rank >= 2)
    left = list(range(x.type.rank))
    axes = [left.pop(body.file.choose(len(left))) for _ in range(x.type.rank)]
    body.apply(name, x, bound=x.bound, axes=tuple(axes))


@recipe("expand")
def expand(body: Body, name: str) -> None:
    x = body.find(lambda v: any(d.unit for d in v.shape)) if body.chance(2) else body.find()
    symbols = [Dim.symbol(s) for s in sorted(body.low)] or [Dim.const(2)]
    sizes = [body.choose(*symbols, Dim.const(3)) if d.unit else d for d in x.shape]
    if body.chance(2) or sizes == list(x.shape):
        sizes.insert(0, body.choose(Dim.const(2), *symbols))
    body.apply(name, x, bound=x.bound.repeated(), sizes=tuple(sizes))


@recipe("unsqueeze")
def unsqueeze(body: Body, name: str) -> None:
    x = body.find()
    axis = body.file.choose(x.type.rank + 1)
    body.apply(name, x, bound=x.bound, axis=axis - x.type.rank - 1 if body.chance(2) else axis)


@recipe("squeeze")
def squeeze(body: Body, name: str) -> None:
    x = body.find()
    units = [i for i, d in enumerate(x.shape) if d.unit]
    if not units:
        x = body.use(body.apply("unsqueeze", x, bound=x.bound, axis=0))
        units = [0]
    body.apply(name, x, bound=x.bound, axis=body.choose(*units))


@recipe("flip")
def flip(body: Body, name: str) -> None:
    x = body.find(lambda v: v.type.rank >= 1)
    body.apply(name, x, bound=x.bound, axis=axis_of(body, x))


@recipe("roll")
def roll(body: Body, name: str) -> None:
    x = body.find(lambda v: v.type.rank >= 1)
    by: Value | int = body.choose(1, -1, 5)
    if body.chance(4):
        by = body.find(lambda v: v.dtype is DType.I64 and not v.type.rank)
    body.apply(name, x, by, bound=x.bound, axis=axis_of(body, x))


@recipe("repeat_interleave")
def repeat_interleave(body: Body, name: str) -> None:
    x = body.find(lambda v: v.type.rank >= 1)
    body.apply(name, x, bound=x.bound.repeated(), n=body.choose(2, 3), axis=axis_of(body, x))


@recipe("tril", "triu")
def triangle(body: Body, name: str) -> None:
    x = body.find(lambda v: v.type.rank >= 2)
    options = {"k": body.choose(1, -1)} if body.chance(2) else {}
    body.apply(name, x, bound=x.bound.repeated().union(Bound(0, 0)), **options)


@recipe("pad")
def pad(body: Body, name: str) -> None:
    mode = body.choose("constant", "replicate", "reflect")
    if mode == "constant":
        x = body.find(lambda v: v.type.rank >= 1 and v.dtype is not DType.BOOL)
        value = body.choose(0.0, -1.0)
        options = {} if value == 0.0 else {"value": value}
        after = body.choose(1, 0)
        bound = x.bound.repeated().union(Bound(value, value))
        body.apply(name, x, bound=bound, axis=axis_of(body, x), before=body.choose(1, 0, 2), after=after, **options)
        return
    x = body.floating(rank=2)
    axis = axis_of(body, x)
    room = body.least(x.shape[axis]) - 1 if mode == "reflect" else 2
    if room < 1:
        raise Unfit
    before = body.choose(1, min(2, room))
    body.apply(name, x, bound=x.bound.repeated(), axis=axis, before=before, after=body.choose(0, 1), mode=mode)


# ---- joining and splitting --------------------------------------------------------------------------------------


@recipe("concat")
def concat(body: Body, name: str) -> None:
    x = body.find(lambda v: v.type.rank >= 1)
    axis = axis_of(body, x)
    at = axis % x.type.rank

    def joins(v: Value) -> bool:
        same = v.dtype is x.dtype and v.type.rank == x.type.rank
        return same and all(i == at or p == q for i, (p, q) in enumerate(zip(v.shape, x.shape, strict=True)))

    others = [body.use(y) for y in [v for v in body.pool if v is not x and joins(v)][:2]]
    if not others:
        body.keep(x)
        others = [x]
    bound = x.bound.repeated()
    for other in others:
        bound = bound.union(other.bound)
    body.apply(name, x, *others, bound=bound, axis=axis)


@recipe("stack")
def stack(body: Body, name: str) -> None:
    x = body.keep(body.find())
    others = [v for v in body.pool if v is not x and v.type == x.type]
    y = body.use(body.choose(*others)) if others else x
    axis = body.choose(0, -1, x.type.rank)
    options = {} if axis == 0 and body.chance(2) else {"axis": axis}
    body.apply(name, x, y, bound=x.bound.repeated().union(y.bound), **options)


@recipe("split")
def split(body: Body, name: str) -> None:
    x, axis, n = static_axis(body)
    divisors = [k for k in (2, 3, 4) if n % k == 0]
    sizes: tuple[int, ...] = (1, n - 1)
    count = 2
    if divisors and not body.chance(3):
        count = body.choose(*divisors)
        sizes = (count,)
    body.results(name, x, bounds=[x.bound] * count, sizes=sizes, axis=axis)


@recipe("= unpack")
def unpack(body: Body, name: str) -> None:
    if not any(v.shape and v.shape[0].value in (2, 3, 4) for v in body.pool):
        y = body.keep(body.find())
        body.apply("stack", y, y, bound=y.bound.repeated())
    x = body.find(lambda v: bool(v.shape) and v.shape[0].value in (2, 3, 4))
    assert x.shape[0].value is not None
    body.results(name, x, bounds=[x.bound] * x.shape[0].value, form="{}")


# ---- indexing ---------------------------------------------------------------------------------------------------


@recipe("[]")
def indexing(body: Body, name: str) -> None:
    """Positions, slices and new axes: written first, then read by the operator's own rule."""
    x = body.find(lambda v: v.type.rank >= 1)
    items: list[Any] = []
    texts: list[str] = []
    for dim in x.shape:
        if body.chance(6):
            items.append(None)
            texts.append("none")
        item, text = one_index(body, body.least(dim), dim)
        items.append(item)
        texts.append(text)
    if len(items) > 1 and items[0] == WHOLE and body.chance(2):
        items[0], texts[0] = "...", "..."
    while len(items) > 1 and items[-1] == WHOLE and not body.chance(3):
        items.pop()
        texts.pop()
    body.apply(name, x, bound=x.bound, form=f"{{}}[{', '.join(texts)}]", items=tuple(items))


WHOLE = (None, None, 1)


def one_index(body: Body, least: int, dim: Dim) -> tuple[Any, str]:
    """An index of an axis that has at least so many elements."""
    kind = body.choose("all", "all", "first", "last", "tail", "init", "step", "size")
    one = Dim.const(1)
    if kind == "first":
        return Dim.const(0), "0"
    if kind == "last":
        return Dim.const(-1), "-1"
    if kind == "tail" and least > 1:
        return (one, None, 1), "1:"
    if kind == "init" and least > 1:
        return (None, Dim.const(-1), 1), ":-1"
    if kind == "step" and least > 2 and dim.value is not None:
        return (None, None, 2), "::2"
    if kind == "size" and dim.is_symbol():
        return dim - 1, f"{dim} - 1"
    return WHOLE, ":"


@recipe("take")
def take(body: Body, name: str) -> None:
    x, axis, n = static_axis(body)
    lead = [Dim.symbol(s) for s in sorted(body.low)]
    idx = body.index(Dim.const(n), *([body.choose(*lead)] if lead and body.chance(2) else [Dim.const(3)]))
    options = {} if axis == 0 else {"axis": axis}
    body.apply(name, x, idx, bound=x.bound.repeated(), **options)


@recipe("gather")
def gather(body: Body, name: str) -> None:
    x = body.find(lambda v: v.type.rank >= 1)
    axis = axis_of(body, x) % x.type.rank
    extra = body.choose((), (Dim.const(2),))
    idx = body.index(x.shape[axis], *x.shape[:axis], *extra)
    body.apply(name, x, idx, bound=x.bound.repeated(), axis=axis)


@recipe("take_along")
def take_along(body: Body, name: str) -> None:
    x = body.find(lambda v: v.type.rank >= 1)
    axis = axis_of(body, x)
    at = axis % x.type.rank
    shape = [Dim.const(2) if i == at else d for i, d in enumerate(x.shape)]
    body.apply(name, x, body.index(x.shape[at], *shape), bound=x.bound.repeated(), axis=axis)


@recipe("scatter_add")
def scatter_add(body: Body, name: str) -> None:
    x = body.floating(rank=1, dtypes=(DType.COMPUTE,))
    axis = axis_of(body, x)
    at = axis % x.type.rank
    shape = [Dim.const(2) if i == at else d for i, d in enumerate(x.shape)]
    src = body.need(x.dtype, *shape)
    idx = body.index(x.shape[at], *shape)
    edge = x.bound.mag + 2 * src.bound.mag
    body.apply(name, x, idx, src, bound=Bound(-edge, edge, x.bound.err + 2 * src.bound.err + edge * ROUND), axis=axis)


@recipe("one_hot")
def one_hot(body: Body, name: str) -> None:
    n = body.choose(3, 5)
    shape = body.find().shape[:3]
    body.apply(name, body.index(Dim.const(n), *shape), bound=Bound(0, 1), n=Dim.const(n))


# ---- creating ---------------------------------------------------------------------------------------------------


def some_shape(body: Body) -> tuple[Dim, ...]:
    """A shape of the scope's dims and small numbers."""
    symbols = [Dim.symbol(s) for s in sorted(body.low)]
    return tuple(body.choose(*symbols, Dim.const(3), Dim.const(4)) for _ in range(body.choose(2, 1, 3)))


@recipe("zeros", "ones", "full")
def filled(body: Body, name: str) -> None:
    value = {"zeros": 0.0, "ones": 1.0}.get(name, body.choose(0.5, -2.0))
    options = {"v": value} if name == "full" else {}
    body.apply(name, bound=Bound(value, value), sizes=some_shape(body), **options)


@recipe("arange")
def arange(body: Body, name: str) -> None:
    symbols = [Dim.symbol(s) for s in sorted(body.low)]
    body.apply(name, bound=Bound(0, 11), D=body.choose(*symbols, Dim.const(4)))


@recipe("eye")
def eye(body: Body, name: str) -> None:
    symbols = [Dim.symbol(s) for s in sorted(body.low)]
    body.apply(name, bound=Bound(0, 1), n=body.choose(Dim.const(4), *symbols))


@recipe("positions")
def positions(body: Body, name: str) -> None:
    symbols = [Dim.symbol(s) for s in sorted(body.low)]
    if not symbols:
        raise Unfit
    dim = body.choose(*symbols)
    others = [s for s in symbols if s != dim]
    mask = body.need(DType.BOOL, body.choose(*others), dim) if others and body.chance(2) else None
    body.apply(name, mask, bound=Bound(0, 11), D=dim)


@recipe("sinusoidal")
def sinusoidal(body: Body, name: str) -> None:
    pos = body.find(lambda v: v.dtype in (DType.I64, DType.COMPUTE) and v.bound.mag <= 12 and v.type.rank > 0)
    layout = body.choose("interleaved", "sin_cos", "cos_sin")
    err = pos.bound.err + 12 * ROUND
    body.apply(name, pos, bound=Bound(-1, 1, err), dim=body.choose(4, 6), layout=layout, base=100.0)


@recipe("alibi_slopes")
def alibi_slopes(body: Body, name: str) -> None:
    body.apply(name, bound=Bound(0, 1, 4 * ROUND), heads=body.choose(2, 4, 3))


@recipe("tensor")
def numbers(body: Body, name: str) -> None:
    values = (0.5, -1.0, 2.0, 0.25)[: body.choose(3, 2, 4)]
    body.apply(name, bound=Bound(-1, 2), values=values)

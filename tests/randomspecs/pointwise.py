"""Recipes of operators that work element by element: activations, arithmetic with broadcasting, comparisons, dtypes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

from specc.dims import Dim
from specc.types import DType

from .body import Body
from .bounds import ERROR, TRUTH, Bound, computed
from .recipes import recipe
from .values import Unfit, Value


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@dataclass(frozen=True)
class Curve:
    """f, how steep it is at most where its operand may lie, and whether it rounds nothing."""

    f: Callable[[float], float]
    slope: float
    lo: float = -inf
    hi: float = inf
    exact: bool = False


CURVES = {
    "relu": Curve(lambda x: max(x, 0.0), 1, exact=True),
    "gelu": Curve(lambda x: x / 2 * (1 + math.erf(x / math.sqrt(2))), 1.13),
    "gelu_tanh": Curve(lambda x: x / 2 * (1 + math.tanh(0.7978845608 * (x + 0.044715 * x**3))), 1.13),
    "quick_gelu": Curve(lambda x: x * _sigmoid(1.702 * x), 1.1),
    "silu": Curve(lambda x: x * _sigmoid(x), 1.1),
    "sigmoid": Curve(_sigmoid, 0.25),
    "tanh": Curve(math.tanh, 1),
    "softplus": Curve(_softplus, 1),
    "mish": Curve(lambda x: x * math.tanh(_softplus(x)), 1.1),
    "hardswish": Curve(lambda x: x * min(max(x / 6 + 0.5, 0), 1), 1.5),
    "hardsigmoid": Curve(lambda x: min(max(x / 6 + 0.5, 0), 1), 1 / 6),
    "softsign": Curve(lambda x: x / (1 + abs(x)), 1),
    "identity": Curve(lambda x: x, 1, exact=True),
    "exp": Curve(math.exp, math.exp(2), hi=2),
    "log": Curve(math.log, 4, lo=0.25),
    "log1p": Curve(math.log1p, 4, lo=-0.75),
    "sqrt": Curve(math.sqrt, 1, lo=0.25),
    "rsqrt": Curve(lambda x: x**-0.5, 4, lo=0.25),
    "reciprocal": Curve(lambda x: 1 / x, 4, lo=0.5),
    "square": Curve(lambda x: x * x, 8, -4, 4),
    "sin": Curve(math.sin, 1),
    "cos": Curve(math.cos, 1),
    "erf": Curve(math.erf, 1.13),
    "abs": Curve(abs, 1, exact=True),
    "unary -": Curve(lambda x: -x, 1, exact=True),
    "detach": Curve(lambda x: x, 1, exact=True),
    "dropout": Curve(lambda x: x, 1, exact=True),
    "drop_path": Curve(lambda x: x, 1, exact=True),
}


@recipe(*CURVES)
def curve(body: Body, name: str) -> None:
    known = CURVES[name]
    x = body.floating(rank=1 if name == "drop_path" else 0)
    if known.lo > -inf or known.hi < inf:
        x = body.fit(x, known.lo, known.hi)
    bound = x.bound.through(known.f, known.slope, exact=known.exact)
    if name in ("identity", "unary -", "detach"):
        bound = replace(bound, distinct=x.bound.distinct, varied=x.bound.varied)
    options = {"p": body.choose(0.5, 0.1)} if name in ("dropout", "drop_path") else {}
    form = "-{}" if name == "unary -" else None
    body.apply(name, x, bound=bound, form=form, **options)


@recipe("leaky_relu", "elu", "softcap")
def curve_with_setting(body: Body, name: str) -> None:
    x = body.floating()
    setting = body.choose(0.5, 0.125, 2.0)
    curves: dict[str, tuple[str, Callable[[float], float]]] = {
        "leaky_relu": ("slope", lambda v: v if v > 0 else setting * v),
        "elu": ("alpha", lambda v: v if v > 0 else setting * math.expm1(v)),
        "softcap": ("cap", lambda v: setting * math.tanh(v / setting)),
    }
    attribute, f = curves[name]
    options = {} if name != "softcap" and body.chance(3) else {attribute: setting}
    if not options:
        setting = 0.01 if name == "leaky_relu" else 1.0
    body.apply(name, x, bound=x.bound.through(f, max(1.0, setting)), **options)


@recipe("prelu")
def prelu(body: Body, name: str) -> None:
    x = body.floating(rank=2, dtypes=(DType.COMPUTE,))
    channels = x.shape[1]
    count = channels if channels.value is not None and body.chance(2) else Dim.const(1)
    w = body.parameter((count,))
    body.apply(name, x, w, bound=x.bound.union(x.bound.scaled(0.5)).union(x.bound.scaled(-0.5)).through(lambda v: v, 1))


@recipe("clamp")
def clamp(body: Body, name: str) -> None:
    x = body.find(lambda v: v.dtype is not DType.BOOL)
    low, high = body.choose((-1, None), (None, 1), (-1, 2))
    number = float if x.is_float else int
    options = {k: number(v) for k, v in (("min", low), ("max", high)) if v is not None}
    bound = x.bound.clamped(-inf if low is None else low, inf if high is None else high)
    body.apply(name, x, bound=bound, **options)


@recipe("floor", "ceil", "sign")
def step(body: Body, name: str) -> None:
    """Of values that both programs hold bit by bit: a rounding error beside a jump would be a difference of 1."""
    x = body.find(lambda v: v.is_float and v.bound.exact)
    f = {"floor": math.floor, "ceil": math.ceil, "sign": lambda v: (v > 0) - (v < 0)}[name]
    body.apply(name, x, bound=Bound(f(x.bound.lo), f(x.bound.hi)))


# ---- two operands -----------------------------------------------------------------------------------------------


def meets(a: Value, b: Value) -> bool:
    """Whether two values broadcast by the rules of LANGUAGE 7."""
    pairs = zip(reversed(a.shape), reversed(b.shape), strict=False)
    return a.dtype is b.dtype and all(p == q or p.unit or q.unit for p, q in pairs)


def partner(body: Body, x: Value) -> Value:
    """Another value that broadcasts with `x`: one in scope, a row, a column, or a scalar."""
    kind = body.choose("scope", "row", "units")
    if kind == "row" and x.type.rank and x.dtype is DType.COMPUTE:
        return body.need(x.dtype, x.shape[-1])
    if kind == "units" and x.type.rank > 1 and x.dtype is DType.COMPUTE:
        axes = [d if body.chance(2) else Dim.UNIT for d in x.shape]
        return body.need(x.dtype, *axes)
    return body.find(lambda v: v is not x and meets(v, x))


def number_for(body: Body, x: Value) -> float | int | Dim:
    """A number that the tensor meets: whole for ints; a size; a power of two where nothing may be rounded."""
    sizes = [d for d in x.shape if d.is_symbol()]
    if sizes and not x.is_float and body.chance(4):
        return sizes[0]
    return float(body.choose(0.5, 2.0, -1.5)) if x.is_float else int(body.choose(2, 1, -3))


Operands = tuple[Value | float | int | Dim, Value | float | int | Dim]


def pair(body: Body, x: Value, *, swap: bool = True) -> Operands:
    """`x` and what it is combined with, in either order."""
    other = partner(body, x) if body.chance(2) else number_for(body, x)
    return (other, x) if swap and body.chance(3) else (x, other)


def bound_of(operand: Value | float | int | Dim) -> Bound:
    if isinstance(operand, Value):
        return operand.bound
    return Bound(1, 11) if isinstance(operand, Dim) else Bound(float(operand), float(operand))


def corners(a: Bound, b: Bound, f: Callable[[float, float], float]) -> tuple[float, float]:
    """The range of a function that is monotone in each operand."""
    ends = [f(x, y) for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
    return min(ends), max(ends)


def arithmetic_bound(name: str, x: Bound, y: Bound, *, whole: bool) -> Bound:
    f: dict[str, Callable[[float, float], float]] = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
    }
    lo, hi = corners(x, y, f[name])
    err = x.err * y.mag + y.err * x.mag if name == "*" else x.err + y.err
    return Bound(lo, hi) if whole else computed(lo, hi, err, varied=x.varied and name != "*")


@recipe("+", "-", "*")
def arithmetic(body: Body, name: str) -> None:
    x = body.find(lambda v: v.dtype is not DType.BOOL)
    a, b = pair(body, x)
    bound = arithmetic_bound(name, bound_of(a), bound_of(b), whole=not x.is_float)
    if x.named and isinstance(b, Value) and a is x and x in body.pool and x.shape == b.shape and body.chance(3):
        return rebind(body, name, x, b, bound)
    body.apply(name, a, b, bound=bound, form=f"{{}} {name} {{}}")


def rebind(body: Body, name: str, x: Value, y: Value, bound: Bound) -> None:
    """`x += y`: the name stands for the new value from here on."""
    body.admissible(x.type)
    if (x.is_float and bound.mag > 8) or bound.err > ERROR or bound.mag > 1e6 or x.type != y.type:
        raise Unfit
    body.lines.append(f"{x.text} {name}= {y.text}")
    body.pool.remove(x)
    body.add(Value(x.text, x.type, bound))


@recipe("/")
def divide(body: Body, name: str) -> None:
    x = body.floating()
    other = partner(body, x) if body.chance(2) else None
    if other is None:
        sizes = [d for d in x.shape if d.is_symbol()]
        divisor: Value | float | Dim = sizes[0] if sizes and body.chance(2) else float(body.choose(2.0, -1.5, 3.0))
        low = 1.0
    else:
        divisor, low = body.fit(other, 0.5, 8.0), 0.5
    y = bound_of(divisor)
    err = x.bound.err / low + x.bound.mag * y.err / low**2
    lo, hi = corners(x.bound, y, lambda a, b: a / b)
    body.apply(name, x, divisor, bound=computed(lo, hi, err), form="{} / {}")


@recipe("//", "%")
def whole_division(body: Body, name: str) -> None:
    """Jumps at multiples of the divisor: ints by any number, floats that are exact by a power of two."""
    x = body.find(lambda v: v.dtype is not DType.BOOL and v.bound.exact)
    y: float | int = float(body.choose(0.5, -2.0)) if x.is_float else int(body.choose(3, 2, -3))
    lo, hi = sorted((x.bound.lo // y, x.bound.hi // y) if name == "//" else (0, y))
    body.apply(name, x, y, bound=Bound(lo, hi), form=f"{{}} {name} {{}}")


@recipe("**")
def power(body: Body, name: str) -> None:
    x = body.find(lambda v: v.dtype is not DType.BOOL)
    if not x.is_float:
        n = body.choose(2, 3)
        body.apply(name, x, n, bound=x.bound.through(lambda v: v**n, 1, exact=True), form="{} ** {}")
        return
    kind = body.choose("square", "cube", "root", "base", "both")
    if kind in ("square", "cube"):
        n = 2 if kind == "square" else 3
        x = body.fit(x, -2, 2)
        body.apply(name, x, n, bound=x.bound.through(lambda v: v**n, n * 2.0 ** (n - 1)), form="{} ** {}")
    elif kind == "base":
        x = body.fit(x, -4, 2)
        body.apply(name, 2, x, bound=x.bound.through(lambda v: 2**v, 3), form="{} ** {}")
    elif kind == "root":
        x = body.fit(x, 0.5, 4)
        body.apply(name, x, 0.5, bound=x.bound.through(math.sqrt, 1), form="{} ** {}")
    else:
        y = body.fit(partner(body, x), -2, 2)
        x = body.fit(x, 0.5, 2)
        err = 8 * x.bound.err + 4 * y.bound.err
        body.apply(name, x, y, bound=computed(0.25, 4, err), form="{} ** {}")


@recipe("maximum", "minimum")
def extreme(body: Body, name: str) -> None:
    x = body.find(lambda v: v.dtype is not DType.BOOL)
    a, b = pair(body, x, swap=False)
    p, q = bound_of(a), bound_of(b)
    pick = max if name == "maximum" else min
    body.apply(name, a, b, bound=Bound(pick(p.lo, q.lo), pick(p.hi, q.hi), max(p.err, q.err)))


@recipe("<", "<=", ">", ">=", "==", "!=")
def comparison(body: Body, name: str) -> None:
    """Of values that both programs hold bit by bit."""
    equality = name in ("==", "!=")
    x = body.find(lambda v: v.bound.exact and (equality or v.dtype is not DType.BOOL))
    if x.dtype is not DType.BOOL and body.chance(2):
        y: Value | float | int | Dim = number_for(body, x)
    else:
        y = body.find(lambda v: v is not x and v.bound.exact and meets(v, x))
    body.apply(name, x, y, bound=TRUTH, form=f"{{}} {name} {{}}")


@recipe("and", "or")
def logic(body: Body, name: str) -> None:
    x = condition(body)
    y = body.find(lambda v: v is not x and meets(v, x)) if body.chance(2) else condition_like(body, x)
    body.apply(name, x, y, bound=TRUTH, form=f"{{}} {name} {{}}")


@recipe("not")
def negation(body: Body, name: str) -> None:
    body.apply(name, condition(body), bound=TRUTH, form="not {}")


def condition(body: Body) -> Value:
    """A Bool tensor: one in scope or an input."""
    if any(v.dtype is DType.BOOL for v in body.pool) and not body.chance(4):
        return body.find(lambda v: v.dtype is DType.BOOL)
    shape = body.find().shape
    return body.need(DType.BOOL, *shape)


def condition_like(body: Body, x: Value) -> Value:
    return body.need(x.dtype, *x.shape)


@recipe("where")
def where(body: Body, name: str) -> None:
    x = body.find(lambda v: v.type.rank > 0)
    cond = body.need(DType.BOOL, *x.shape) if body.chance(2) else condition(body)
    if x.dtype is DType.BOOL or body.chance(2):
        y: Value | float | int = body.find(lambda v: v is not x and meets(v, x))
    else:
        y = 0.0 if x.is_float else 0
    if not all(p == q or p.unit or q.unit for p, q in zip(reversed(cond.shape), reversed(x.shape), strict=False)):
        raise Unfit
    body.apply(name, cond, x, y, bound=x.bound.union(bound_of(y)))


# ---- dtypes and draws ---------------------------------------------------------------------------------------------


@recipe("cast")
def cast(body: Body, name: str) -> None:
    """Between all dtypes; a float becomes an int where both programs hold it bit by bit."""
    dtype = body.choose(DType.F32, DType.I64, DType.BOOL, DType.I32, DType.F64, DType.I16, DType.I8, DType.U8)
    x = body.find(lambda v: v.bound.exact or dtype in (DType.F32, DType.F64))
    if dtype is DType.U8:
        x = body.fit(x, 0, 6) if x.is_float else body.find(lambda v: v.bound.exact and v.bound.within(0, 6))
    if dtype in (DType.I8, DType.U8) and x.bound.mag > 100:
        raise Unfit
    if dtype is DType.BOOL:
        bound = TRUTH
    elif dtype in (DType.F32, DType.F64):
        bound = x.bound
    else:
        bound = Bound(math.floor(x.bound.lo), math.ceil(x.bound.hi))
    made = body.apply(name, x, bound=bound, dtype=dtype, inline=dtype in NARROW)
    if dtype in NARROW:  # kernels for these are few: they come back at once
        back = DType.I64 if made.dtype.is_int else DType.F32
        body.apply(name, body.use(made), bound=made.bound, dtype=back)


NARROW = (DType.F64, DType.I16, DType.I8, DType.U8)


@recipe("cast_like")
def cast_like(body: Body, name: str) -> None:
    like = body.floating(dtypes=(DType.COMPUTE,))
    others = any(v.dtype is not DType.COMPUTE for v in body.pool)
    x = body.find(lambda v: v.dtype is not DType.COMPUTE) if others else condition(body)
    body.apply(name, x, like, bound=x.bound)


@recipe("rand_like", "randn_like", "randint", "bernoulli")
def draw_in_training(body: Body, name: str) -> None:
    """`when train { .. }`: nothing of it is in the graph, and the module in eval mode skips it."""
    x = body.keep(body.find(lambda v: v.dtype is DType.COMPUTE))
    if name == "bernoulli":
        text = f"bernoulli({body.choose(0.5, 0.1)}, {body.sizes(x.shape)})"
    elif name == "randint":
        text = f"cast_like(randint(0, {body.choose(1, 5)}, {body.sizes(x.shape)}), {x.text})"
    else:
        text = f"{name}({x.text})"
    aux = f"\n    aux {body.file.name('loss')} = mean(square({x.text}))" if body.kind != "fn" and body.chance(4) else ""
    body.lines.append(f"when train {{\n    {x.text} += 0.1 * {text}{aux}\n  }}")


@recipe("zeros_like", "ones_like")
def filled_like(body: Body, name: str) -> None:
    x = body.find(lambda v: v.dtype is not DType.BOOL)
    value = 0 if name == "zeros_like" else 1
    body.apply(name, x, bound=Bound(value, value))

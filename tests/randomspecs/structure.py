"""The language's structures: blocks, functions, lists of parts, loops, choices, optional parts and inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from specc.dims import Dim
from specc.types import DType, TensorType

from .body import Body
from .bounds import ERROR, TRUTH, Bound
from .values import FLOATS, Argument, Unfit, Value
from .writing import block_text, fn_text, loose

Fill = Callable[[Body, int], None]
Structure = Callable[[Body, Fill], None]
STRUCTURES: list[Structure] = []
LIMIT = 4.0
"""A block that is repeated keeps its values within this."""


def structure(write: Structure) -> Structure:
    STRUCTURES.append(write)
    return write


# ---- a body below another -----------------------------------------------------------------------------------------


def unit(dim: Dim) -> Dim:
    return Dim.UNIT if dim.value == 1 else dim


def enter(body: Body, given: Sequence[Value], kind: str, bounds: Sequence[Bound]) -> tuple[Body, dict[str, Dim]]:
    """A body that takes these values, and what its dims stand for: an axis that is no plain dim gets a fresh one."""
    child = Body(body.file, kind, body.depth + 1)
    stands: dict[str, Dim] = {}
    for value, bound in zip(given, bounds, strict=True):
        shape = []
        for dim in value.shape:
            if dim.value is not None:
                shape.append(unit(dim))
                continue
            known = [name for name, actual in stands.items() if actual == dim]
            same = str(dim) if dim.is_symbol() and str(dim) not in stands else ""
            free = [n for n in body.file.dims if n not in stands and n not in body.low]
            if not (known or same or free):
                raise Unfit
            name = known[0] if known else same or free[0]
            stands[name] = dim.plain()
            shape.append(Dim.symbol(name))
        child.low |= {n: body.least(d) if kind == "block" else 1 for n, d in stands.items()}
        child.argument(TensorType(value.dtype, tuple(shape)), bound).used = 0
    return child, stands


def actuals(body: Body, child: Body, given: Sequence[Value], stands: dict[str, Dim]) -> list[str]:
    """The texts of a call's arguments; those that the body below came to ask for are asked for here."""
    texts = [v.text for v in given]
    for argument in child.arguments[len(given) :]:
        shape = [d.substitute(stands) for d in argument.type.shape]
        value = body.need(argument.type.dtype, *shape, reuse=argument.type.dtype in FLOATS)
        if argument.type.dtype in FLOATS:
            value = body.fit(value, argument.bound.lo, argument.bound.hi)
            if value.bound.err > argument.bound.err:
                raise Unfit
        elif not value.bound.within(argument.bound.lo, argument.bound.hi):
            raise Unfit
        texts.append(value.text)
    return texts


def part_of(body: Body, child: Body, results: list[Value]) -> str:
    """Declare the block; returns the text that makes a part of it."""
    name = body.file.name("Block")
    facts = [f"{s} >= {low}" for s, low in child.low.items() if low > 1]
    passed = {n: body.size(v) for n, (kind, v) in child.hypers.items() if kind == "int" and body.chance(2)}
    body.file.declarations += [block_text(child, f"block {name}", results, facts, without_default=set(passed)), ""]
    return f"{name}({', '.join(f'{n} = {text}' for n, text in passed.items())})"


def take(body: Body, text: str, results: list[Value], stands: dict[str, Dim]) -> None:
    """The call's results as values of this body."""
    names = [body.file.name("v") for _ in results]
    body.lines.append(f"{', '.join(names)} = {text}")
    for name, result in zip(names, results, strict=True):
        type_ = TensorType(result.dtype, tuple(unit(d.substitute(stands)) for d in result.shape))
        body.admissible(type_)
        body.add(Value(name, type_, result.bound))


def some(body: Body) -> list[Value]:
    """One or two values to call something with."""
    first = body.find(lambda v: v.type.rank >= 1)
    if not body.chance(3):
        return [first]
    return [first, body.find(lambda v: v is not first and v.type.rank >= 1)]


@structure
def block_once(body: Body, fill: Fill) -> None:
    given = some(body)
    child, stands = enter(body, given, "block", [v.bound for v in given])
    fill(child, body.choose(2, 1, 4))
    results = loose(child)
    texts = actuals(body, child, given, stands)
    part = body.file.name("part")
    making = part_of(body, child, results)
    if body.chance(4):  # a group: names only
        body.members.append(f"{part}: {{ inner: {making} }}")
        part = f"{part}.inner"
    else:
        body.members.append(f"{part}: {making}")
    take(body, f"{part}({', '.join(texts)})", results, stands)


@structure
def function(body: Body, fill: Fill) -> None:
    given = some(body)
    child, stands = enter(body, given, "fn", [v.bound for v in given])
    fill(child, body.choose(2, 1, 3))
    results = loose(child)
    texts = actuals(body, child, given, stands)
    name = body.file.name("mix")
    body.file.declarations += [fn_text(child, name, results), ""]
    piped = len(results) == 1 and body.chance(3)
    call = f"{given[0].atom} |> {name}({', '.join(texts[1:])})" if piped else f"{name}({', '.join(texts)})"
    take(body, call, results, stands)


@structure
def blocks_in_a_row(body: Body, fill: Fill) -> None:
    """A list of equal blocks, folded or looped over. What comes in is assumed to be as wide as what goes out."""
    x = body.fit(body.floating(rank=1, dtypes=(DType.COMPUTE,)), -LIMIT, LIMIT)
    before = Bound(-LIMIT, LIMIT, max(x.bound.err, 2e-7))
    child, stands = enter(body, [x], "block", [before])
    fill(child, body.choose(1, 2, 3))
    result = residual(child)
    count = body.choose(2, 3)
    growth = max(1.0, result.bound.err / before.err)
    if before.err * growth**count > ERROR:
        raise Unfit
    texts = actuals(body, child, [x], stands)
    part, i = body.file.name("layers"), body.file.name("at")
    body.members.append(f"{part}: [{part_of(body, child, [result])} for {i} in range({body.size(count)})]")
    name, rest = body.file.name("v"), "".join(f", {t}" for t in texts[1:])
    kind = body.choose("fold", "loop", "enumerate")
    if kind == "fold":
        body.lines.append(f"{name} = {part}({', '.join(texts)})")
    elif kind == "loop":
        body.lines.append(f"{name} = {x.text}\n    for {i} in {part} {{ {name} = {i}({name}{rest}) }}")
    else:
        step = f"if {i} > 0 {{ {name} = -{name} }}\n      {name} = one({name}{rest})"
        body.lines.append(f"{name} = {x.text}\n    for {i}, one in enumerate({part}) {{\n      {step}\n    }}")
    bound = Bound(-LIMIT, LIMIT, before.err * growth**count)
    body.add(Value(name, TensorType(x.dtype, tuple(map(unit, x.shape))), bound))


def residual(child: Body) -> Value:
    """One value of the type of the first argument, within the limit, in which all others take part."""
    first = child.arguments[0]
    x = next((v for v in child.pool if v.text == first.name), None) or Value(first.name, first.type, first.bound)
    total = child.keep(x)
    for other in [v for v in child.pool if not v.used and v is not x and v.dtype is DType.COMPUTE][:3]:
        child.use(other)
        if other.type != x.type:
            bound = Bound(other.bound.lo, other.bound.hi, other.bound.err + 1e-7)
            other = child.use(child.apply("mean", other, bound=bound, inline=True))
        bound = Bound(-2 * LIMIT, 2 * LIMIT, total.bound.err + other.bound.err)
        total = child.use(child.keep(child.apply("+", total, other, bound=bound, form="{} + {}", inline=True)))
    clamped = replace(total.bound.clamped(-LIMIT, LIMIT), err=max(total.bound.err, first.bound.err))
    result = child.apply("clamp", total, bound=clamped, min=-LIMIT, max=LIMIT, inline=False)
    child.pool = [result]
    return result


# ---- compile-time choices and loops ---------------------------------------------------------------------------------


def flag(body: Body) -> tuple[str, bool]:
    """A hyper-parameter that is true or false."""
    name, value = body.file.name("use"), body.choose(True, False)
    if body.kind == "fn":
        raise Unfit
    body.hypers[name] = ("bool", value)
    return name, value


@structure
def conditional(body: Body, fill: Fill) -> None:
    """`if` on a hyper-parameter; one branch is not there."""
    x = body.keep(body.floating())
    name, value = flag(body)
    y = body.file.name("v")
    body.lines.append(f"if {name} {{ {y} = relu({x.text}) }} else {{ {y} = {x.text} * 0.5 }}")
    bound = x.bound.through(lambda v: max(v, 0.0), 1, exact=True) if value else x.bound.scaled(0.5)
    body.add(Value(y, x.type, replace(bound, distinct=False)))


@structure
def optional_part(body: Body, fill: Fill) -> None:
    """A part that is absent when its hyper-parameter is false."""
    x = body.keep(body.find(lambda v: v.dtype is DType.COMPUTE and v.type.rank >= 1 and (v.shape[-1].value or 0) > 1))
    name, value = flag(body)
    part, y = body.file.name("scale"), body.file.name("v")
    body.file.std("nn", "RMSNorm")
    body.members.append(f"{part}: RMSNorm({body.size(x.shape[-1])}, eps = 0.25) if {name}")
    body.lines.append(f"{y} = {x.text}\n    if {part} != none {{ {y} = {part}({y}) }}")
    edge = 1.5 * (x.shape[-1].value or 1) ** 0.5
    bound = Bound(-edge, edge, 6 * x.bound.err + 1e-6) if value else x.bound
    if bound.err > ERROR:
        raise Unfit
    body.add(Value(y, x.type, bound))


@structure
def optional_input(body: Body, fill: Fill) -> None:
    """`if mask != none`: the model is built with the input, and run without it too."""
    if body.kind != "model" or sum(a.optional for a in body.arguments) > 2:
        raise Unfit
    x = body.keep(body.floating(rank=1))
    if not all(d.value is not None or d.is_symbol() for d in x.shape) or not {
        s for d in x.shape for s in d.symbols
    } <= {s for a in body.arguments if not a.optional for d in a.type.shape if d.is_symbol() for s in d.symbols}:
        raise Unfit
    mask, y = body.file.name("mask"), body.file.name("v")
    body.arguments.append(Argument(mask, TensorType(DType.BOOL, tuple(map(unit, x.shape))), TRUTH, optional=True))
    body.lines.append(f"{y} = {x.text}\n    if {mask} != none {{ {y} = where({mask}, {x.text}, 0.0) }}")
    body.add(Value(y, x.type, x.bound.repeated().union(Bound(0, 0))))


@structure
def loop(body: Body, fill: Fill) -> None:
    """A loop over a range that collects a list of tensors."""
    x = body.keep(body.floating(rank=1))
    count = body.choose(2, 3)
    step, many, i = body.file.name("v"), body.file.name("many"), body.file.name("at")
    body.lines.append(
        f"{step} = {x.text}\n    {many} = []\n    for {i} in range({count}) {{\n"
        f"      {step} = cos({step}) * 0.5 + {i}\n      {many} += [{step}]\n    }}"
    )
    if body.chance(2):
        text, shape = f"stack({many})", (Dim.const(count), *x.shape)
    else:
        text, shape = f"concat({many}, axis = -1)", (*x.shape[:-1], x.shape[-1].plain() * count)
    type_ = TensorType(x.dtype, shape)
    body.admissible(type_)
    body.pool.append(Value(step, x.type, Bound(-1, count + 1, x.bound.err + 1e-6), used=1))
    name = body.file.name("v")
    body.lines.append(f"{name} = {text}")
    body.add(Value(name, type_, Bound(-1, count + 1, x.bound.err + 1e-6)))


@structure
def scanned(body: Body, fill: Fill) -> None:
    """`scan` along a declared dim, with a state and a stacked result."""
    if body.kind == "fn":
        raise Unfit

    def fits(v: Value) -> bool:
        return v.dtype is DType.COMPUTE and v.type.rank == 3 and v.shape[1].is_symbol() and v.shape[0] != v.shape[1]

    x = body.keep(body.find(fits))
    batch, time, width = x.shape
    if width == time:
        raise Unfit
    u, h, ys = (body.file.name(s) for s in ("row", "h", "v"))
    start = f"zeros([{body.size(batch)}, {body.size(width)}])"
    start = f"carried({start})" if body.chance(2) else start
    update = body.choose(f"{h} = {h} * 0.5 + tanh({u})", f"{h} = sigmoid({u}) * {h} + {u} * 0.25")
    edge = 2.0 if "tanh" in update else 4.0
    if x.bound.mag > 8:
        raise Unfit
    last = f"{h}" if body.chance(2) else "_"
    body.lines.append(
        f"{ys}, {last} = scan {u} in {x.text} along {time} with {h} = {start} {{\n"
        f"      {update}\n      emit {h}\n    }}"
    )
    bound = Bound(-10 * edge, 10 * edge, 4 * x.bound.err + 1e-6)
    if bound.err > ERROR:
        raise Unfit
    scaled = body.file.name("v")
    body.lines.append(f"{scaled} = {ys} * 0.125")
    # A state begins as `zeros`, whose sizes are no unit axes, whatever those of the rows are.
    batch, width = (Dim.const(d.value) if d.value is not None else d for d in (batch, width))
    body.add(Value(scaled, TensorType(x.dtype, (batch, time, width)), bound.scaled(0.125)))
    if last != "_":
        state = body.file.name("v")
        body.lines.append(f"{state} = {last} * 0.125")
        body.add(Value(state, TensorType(x.dtype, (batch, width)), bound.scaled(0.125)))

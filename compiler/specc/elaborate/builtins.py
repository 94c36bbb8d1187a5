"""Functions over compile-time values (LANGUAGE 11, first row)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from specc.dims import Dim, ceil_div
from specc.elaborate.values import number, show

MAX_LIST = 65_536
ROUTE = "route"
"""The built-in function of bodies that takes parts (`elaborate.routing`)."""


class BadArgument(Exception):
    """What is wrong with the arguments, and under which code."""

    def __init__(self, message: str, code: str = "E125") -> None:
        super().__init__(message)
        self.code = code


def _numbers(name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        if not number(value) and not isinstance(value, Dim):
            raise BadArgument(f"{name} takes numbers, found {show(value)}")


def _sequence(name: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, tuple):
        raise BadArgument(f"{name} takes a list, found {show(value)}")
    return value


def _range(*args: Any) -> tuple[int, ...]:
    if not 1 <= len(args) <= 3 or any(not isinstance(a, int) or isinstance(a, bool) for a in args):
        raise BadArgument(f"range takes one to three ints, found {', '.join(show(a) for a in args) or 'nothing'}")
    if len(args) == 3 and args[2] == 0:
        raise BadArgument("range: the step is 0")
    span = range(*args)
    if span and len(span) > MAX_LIST:
        raise BadArgument(f"range has {len(span):,} elements (limit {MAX_LIST:,})", "E190")
    return tuple(span)


def _flat(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    values = _sequence(name, args[0]) if len(args) == 1 and not number(args[0]) else args
    _numbers(name, values)
    return values


def _extreme(name: str, pick: Callable[..., Any]) -> Callable[..., Any]:
    def function(*args: Any) -> Any:
        values = _flat(name, args)
        if not values:
            raise BadArgument(f"{name} of nothing")
        if any(isinstance(v, Dim) for v in values):
            raise BadArgument(f"{name} of a runtime size is not a size: sizes are polynomials and floor quotients")
        return pick(values)

    return function


def _sum(*args: Any) -> Any:
    values = _flat("sum", args)
    return sum(values)


def _prod(*args: Any) -> Any:
    return math.prod(_flat("prod", args))


def _real(name: str, function: Callable[[float], float]) -> Callable[..., float]:
    def apply(x: Any) -> float:
        if not number(x):
            raise BadArgument(f"{name} takes a number, found {show(x)}")
        try:
            return function(x)
        except (ValueError, OverflowError):
            raise BadArgument(f"{name}({show(x)}) is not a finite number", "E191") from None

    return apply


def _abs(x: Any) -> Any:
    _numbers("abs", (x,))
    return abs(x)


def _round(x: Any) -> int:
    if not number(x):
        raise BadArgument(f"round takes a number, found {show(x)}")
    return int(x) if isinstance(x, int) else round(float(x))


def _whole(name: str, function: Callable[[float], int]) -> Callable[..., int]:
    def apply(x: Any) -> int:
        if not number(x):
            raise BadArgument(f"{name} takes a number, found {show(x)}")
        return function(x)

    return apply


def _ceil_div(a: Any, b: Any) -> Any:
    _numbers("ceil_div", (a, b))
    if b == 0:
        raise BadArgument("ceil_div by 0", "E110")
    return ceil_div(a, b)


def _float(x: Any) -> float:
    if not number(x):
        raise BadArgument(f"float takes a number, found {show(x)}")
    return float(x)


def _int(x: Any) -> int:
    if not number(x):
        raise BadArgument(f"int takes a number, found {show(x)}")
    return int(x)


def _len(x: Any) -> int:
    return len(x if isinstance(x, str) else _sequence("len", x))


def _text(name: str, method: Callable[[str, str], bool]) -> Callable[..., bool]:
    def apply(s: Any, p: Any) -> bool:
        if not isinstance(s, str) or not isinstance(p, str):
            raise BadArgument(f"{name} takes two strings")
        return method(s, p)

    return apply


def _zip(*lists: Any) -> tuple[Any, ...]:
    columns = [_sequence("zip", one) for one in lists]
    if len({len(c) for c in columns}) > 1:
        raise BadArgument(f"zip: the lists have {', '.join(str(len(c)) for c in columns)} elements")
    return tuple(zip(*columns, strict=True))


COMPILE_TIME: dict[str, Callable[..., Any]] = {
    "len": _len,
    "range": _range,
    "enumerate": lambda xs: tuple(enumerate(_sequence("enumerate", xs))),
    "zip": _zip,
    "reversed": lambda xs: tuple(reversed(_sequence("reversed", xs))),
    "prod": _prod,
    "round": _round,
    "floor": _whole("floor", math.floor),
    "ceil": _whole("ceil", math.ceil),
    "ceil_div": _ceil_div,
    "float": _float,
    "int": _int,
    "startswith": _text("startswith", str.startswith),
    "endswith": _text("endswith", str.endswith),
    "sum": _sum,
    "min": _extreme("min", min),
    "max": _extreme("max", max),
    "abs": _abs,
    "sqrt": _real("sqrt", math.sqrt),
    "log": _real("log", math.log),
    "exp": _real("exp", math.exp),
}

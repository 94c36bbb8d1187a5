"""The strategy: random valid specs as text."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from hypothesis import strategies as st

from specc.dims import Dim
from specc.types import DType, TensorType

from . import layers, norms, parts, pointwise, reducing, shaping  # noqa: F401  (each registers its recipes)
from .body import Body
from .recipes import RECIPES
from .structure import STRUCTURES
from .values import Choose, File, Unfit
from .writing import text_of

LONGEST, SHORTEST = 30, 5
ATTEMPTS = 6
"""Recipes that are tried for one step before it is left out."""


@cache
def _below(n: int) -> st.SearchStrategy[int]:
    return st.integers(0, n - 1)


@st.composite
def specs(draw: st.DrawFn, first: str) -> str:
    """The text of a valid spec of 5 to 40 operators, the operator `first` among them if it can be."""
    return write(lambda n: draw(_below(n)) if n > 1 else 0, first)


def write(choose: Choose, first: str = "") -> str:
    """A spec by these choices."""
    file = File(choose)
    body = Body(file, "model")
    symbols = file.dims[: 1 + choose(3)]
    body.low = {s: 1 + (choose(6) == 5) for s in symbols}
    shape = [*map(Dim.symbol, symbols), Dim.const((4, 6, 8)[choose(3)])]
    body.argument(TensorType(DType.COMPUTE, tuple(shape)))
    body.pool[0].used = 0
    file.budget = SHORTEST + choose(LONGEST - SHORTEST + 1)
    done = not first or try_one(body, lambda: RECIPES[first](body))
    fill(body)
    if not done:  # at the end there is more that it could take
        try_one(body, lambda: RECIPES[first](body))
    return text_of(body)


def fill(body: Body, steps: int | None = None) -> None:
    """Steps until the budget of operators is spent."""
    file = body.file
    done = 0
    while file.budget > 0 and (steps is None or done < steps):
        file.budget -= 1
        done += 1
        try_one(body, lambda: step(body))


def try_one(body: Body, write: Callable[[], None]) -> bool:
    """What is unfit is undone, and tried again with other choices a few times; whether it came to be."""
    for _ in range(ATTEMPTS):
        try:
            with body.attempt():
                write()
            return True
        except Unfit:
            continue
    return False


def step(body: Body) -> None:
    """One operator, or one of the language's structures."""
    if STRUCTURES and body.kind != "fn" and body.depth < 3 and body.chance(5):
        STRUCTURES[body.file.choose(len(STRUCTURES))](body, fill)
        return
    names = list(RECIPES)
    RECIPES[names[body.file.choose(len(names))]](body)

"""The strategy: random valid specs as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from hypothesis import strategies as st

from specc.dims import Dim
from specc.types import DType, TensorType

from . import layers, pointwise, reducing, shaping  # noqa: F401  (each registers its recipes)
from .body import Body, Choose, File, Unfit
from .recipes import RECIPES
from .structure import STRUCTURES, text_of

LONGEST, SHORTEST = 40, 5
ELSEWHERE = {"= combine", "= dispatch"}
"""Operators without a recipe of their own: what `route` becomes."""
ATTEMPTS = 6
"""Recipes that are tried for one step before it is left out."""


@cache
def _below(n: int) -> st.SearchStrategy[int]:
    return st.integers(0, n - 1)


@st.composite
def specs(draw: st.DrawFn, first: Sequence[str] = ()) -> str:
    """The text of a valid spec of 5 to 40 operators; `first`: operators of which one is there from the start."""
    return write(lambda n: draw(_below(n)) if n > 1 else 0, first)


def write(choose: Choose, first: Sequence[str] = ()) -> str:
    """A spec by these choices."""
    file = File(choose)
    body = Body(file, "model")
    symbols = file.dims[: 1 + choose(3)]
    body.low = {s: 1 + (choose(6) == 5) for s in symbols}
    shape = [*map(Dim.symbol, symbols), Dim.const((4, 6, 8)[choose(3)])]
    body.argument(TensorType(DType.COMPUTE, tuple(shape)))
    body.pool[0].used = 0
    file.budget = SHORTEST + choose(LONGEST - SHORTEST + 1)
    if first:
        try_one(body, lambda: RECIPES[first[choose(len(first))]](body))
    fill(body)
    return text_of(body)


def fill(body: Body, steps: int | None = None) -> None:
    """Steps until the budget of operators is spent."""
    file = body.file
    done = 0
    while file.budget > 0 and (steps is None or done < steps):
        file.budget -= 1
        done += 1
        try_one(body, lambda: step(body))


def try_one(body: Body, write: Callable[[], None]) -> None:
    """What is unfit is undone, and tried again with other choices a few times."""
    for _ in range(ATTEMPTS):
        try:
            with body.attempt():
                write()
            return
        except Unfit:
            continue


def step(body: Body) -> None:
    """One operator, or one of the language's structures."""
    if STRUCTURES and body.kind != "fn" and body.depth < 3 and body.chance(5):
        write_structure = list(STRUCTURES)[body.file.choose(len(STRUCTURES))]
        write_structure(body, fill)
        return
    names = list(RECIPES)
    RECIPES[names[body.file.choose(len(names))]](body)

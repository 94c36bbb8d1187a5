"""The registry of recipes: for each operator, how a spec comes to use it."""

from __future__ import annotations

from collections.abc import Callable

from .body import Body

Recipe = Callable[[Body], None]
RECIPES: dict[str, Recipe] = {}
"""Operator -> what writes one use of it into a body (and what its operands need)."""


def recipe(*names: str) -> Callable[[Callable[[Body, str], None]], Callable[[Body, str], None]]:
    """Register a function as the recipe of these operators; it is called with the body and the operator's name."""

    def register(write: Callable[[Body, str], None]) -> Callable[[Body, str], None]:
        for name in names:
            RECIPES[name] = lambda body, name=name: write(body, name)  # type: ignore[misc]
        return write

    return register

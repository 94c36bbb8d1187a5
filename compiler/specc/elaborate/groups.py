"""`group(["*.head.*"], lr = 1e-3)`: parameters of an optimiser with settings of their own (LANGUAGE 16)."""

from __future__ import annotations

from dataclasses import dataclass

from specc.elaborate.evaluate import Evaluator
from specc.elaborate.values import describe, number
from specc.syntax import ast

SETTINGS = ("lr", "weight_decay")


@dataclass(frozen=True)
class Group:
    """Parameters by pattern, and their settings."""

    patterns: tuple[str, ...]
    settings: tuple[tuple[str, float], ...]


def group_of(place: Evaluator, call: ast.Call) -> Group:
    """The value of `group(..)`; raises `Fail` (E120, E124, E125)."""
    patterns: tuple[str, ...] = ()
    settings: dict[str, float] = {}
    for i, arg in enumerate(call.args):
        if isinstance(arg, ast.StarArg):
            raise place.fail("E120", "`*` has nothing to pass on in a train section", arg.span)
        name = arg.name.id if arg.name is not None else "patterns" if i == 0 else ""
        value = place.value(arg.value)
        if name == "patterns":
            found = value if isinstance(value, tuple) else (value,)
            if not found or not all(isinstance(pattern, str) for pattern in found):
                raise place.fail(
                    "E125", "group: the patterns are strings", arg.span, help='group(["*.head.*"], lr = ..)'
                )
            patterns = tuple(found)
        elif name not in SETTINGS:
            span = arg.name.span if arg.name is not None else arg.span
            message = f"group has no argument `{name}`" if name else "group takes one list of patterns"
            raise place.no_such("E120", message, span, name, SETTINGS)
        elif not number(value) or value < 0:
            message = f"group: `{name}` is a number of at least 0, found {describe(value)}"
            raise place.fail("E125", message, arg.value.span)
        else:
            settings[name] = float(value)
    if not patterns or not settings:
        missing = "patterns" if not patterns else "lr or weight_decay"
        raise place.fail("E124", f"group needs {missing}", call.span, help='group(["*.head.*"], lr = 1e-3)')
    return Group(patterns, tuple(settings.items()))

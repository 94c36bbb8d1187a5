"""Arguments of the functions that settings take: `adamw(lr = 3e-4)`, `best("val_loss")`, by name (LANGUAGE 16)."""

from __future__ import annotations

from specc.elaborate import settings as known
from specc.elaborate.groups import Group
from specc.elaborate.losses import LossChecker
from specc.elaborate.names import available, counted
from specc.syntax import ast


def check_call(place: LossChecker, call: ast.Call, name: str) -> None:
    """Arguments have names that the function has, once each, and none is missing (E120 to E124)."""
    named = [arg.name for arg in call.args if isinstance(arg, ast.Arg) and arg.name is not None]
    twice = next((n for i, n in enumerate(named) if any(n.id == other.id for other in named[:i])), None)
    if twice is not None:
        raise place.fail("E121", f"{name}: `{twice.id}` is given twice", twice.span)
    names = known.ARGUMENTS.get(name)
    if names is None:
        return
    optimiser = name in known.FUNCTIONS["optim"]
    every = (*names, *known.OPTIMISER) if optimiser else names
    given: list[str] = []
    for arg in call.args:
        if isinstance(arg, ast.StarArg):
            raise place.fail("E120", "`*` has nothing to pass on in a train section", arg.span)
        if arg.name is None:
            if len(given) >= len(names):
                what = counted(len(names), "argument")
                raise place.fail("E122", f"{name} takes {what}", arg.span, available=available(names))
            given.append(names[len(given)])
            continue
        if arg.name.id not in every:
            message = f"{name} has no argument `{arg.name.id}`"
            raise place.no_such("E120", message, arg.name.span, arg.name.id, every)
        if arg.name.id in given:
            raise place.fail("E121", f"{name}: `{arg.name.id}` is given twice", arg.span)
        given.append(arg.name.id)
        if arg.name.id == "groups" and optimiser:
            groups = place.value(arg.value)
            if not isinstance(groups, tuple) or not all(isinstance(g, Group) for g in groups):
                help = 'groups = [group(["*.head.*"], lr = 1e-3)]'
                raise place.fail("E125", f"{name}: `groups` is a list of groups", arg.value.span, help=help)
    missing = next((n for n in names[: known.REQUIRED.get(name, 0)] if n not in given), None)
    if missing is not None:
        raise place.fail("E124", f"{name} needs `{missing}`", call.span)

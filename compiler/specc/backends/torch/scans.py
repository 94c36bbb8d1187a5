"""A scan as a Python loop over the slices of its sequences; what the steps emit is stacked after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from specc.backends.torch.labels import python_name
from specc.backends.torch.printer import joined, names_in, tidy
from specc.backends.torch.program import ScanStep
from specc.backends.torch.statements import Block, Line, Statement, assign
from specc.ir.graph import Input, Value

if TYPE_CHECKING:
    from specc.backends.torch.methods import Method

_STEPS = "steps"  # the list of what the steps emit


def write_scan(method: Method, step: ScanStep) -> None:
    """Appends the loop and what it gives out to the statements of a method."""
    method.names.position = step.start
    wholes = [method.text(value) for value in step.sequences]
    states = _states(method, step)
    lists = [_list(method) for _ in step.emits]
    targets = [_target(method, s.slice) for s in step.scan.sequences]
    pieces = [f"{text}.unbind({s.axis})" for text, s in zip(wholes, step.scan.sequences, strict=True)]
    over = pieces[0] if len(pieces) == 1 else f"zip({joined(pieces)}, strict=True)"
    method.lines[-1].append(Block(f"for {joined(targets)} in {tidy(over)}", _body(method, step, states, lists)))
    for name, state in zip(states, step.scan.states, strict=True):
        method.names.hold(state.result, name)
    for name, (_, emitted) in zip(lists, step.emits, strict=True):
        stacked = _target(method, emitted.stacked)
        method.lines[-1].append(assign(stacked, f"torch.stack({name}, {emitted.axis})"))
        method.names.reserved.discard(name)


def _states(method: Method, step: ScanStep) -> list[str]:
    """A local for every state, which holds what the first step begins with."""
    names: list[str] = []
    for state, start in zip(step.scan.states, step.starts, strict=True):
        name = _own(method, start, step.start, state.before.name)
        if name is None or name in names:
            text = method.text(start)
            name = method.names.fresh([python_name(state.before.name or "h")], numbered=True)
            method.lines[-1].append(assign(name, tidy(text)))
        names.append(name)
        method.names.hold(state.before, name)
    return names


def _own(method: Method, value: Input, position: int, wanted: str | None) -> str | None:
    """The local that holds a value which nothing reads after that position: it may be bound anew.

    None if it has a name of its own that is not the wanted one.
    """
    if not isinstance(value, Value) or not method.names.over(value, position) or value.name not in (None, wanted):
        return None
    name = method.names.of.get(value)
    return None if name in method.names.reserved else name


def _list(method: Method) -> str:
    """A list for what the steps emit."""
    name, number = _STEPS, 2
    while name in method.names.arguments or not method.names.free(name):
        name, number = f"{_STEPS}{number}", number + 1
    method.names.reserved.add(name)
    method.lines[-1].append(assign(name, "[]"))
    return name


def _target(method: Method, value: Value) -> str:
    if value not in method.program.last_use:
        return "_"
    name = method.names.fresh([python_name(value.name)] if value.name else [], numbered=value.name is not None)
    method.names.hold(value, name)
    return name


def _body(method: Method, step: ScanStep, states: Sequence[str], lists: Sequence[str]) -> tuple[Statement, ...]:
    method.lines.append([])
    method.emit(step.items)
    method.names.position = step.position
    for name, (value, _) in zip(lists, step.emits, strict=True):
        method.lines[-1].append(Line("", (), tidy(f"{name}.append({method.text(value)})")))
    ends = [(name, tidy(method.text(end))) for name, end in zip(states, step.ends, strict=True)]
    method.lines[-1] += _next([(name, text) for name, text in ends if name != text])
    return tuple(method.lines.pop())


def _next(changes: Sequence[tuple[str, str]]) -> list[Statement]:
    """The states of the next step: one by one, at once where one's new value reads another."""
    names = {name for name, _ in changes}
    if any(names_in(text) & names for _, text in changes):
        targets = tuple(name for name, _ in changes)
        return [assign(targets, tidy(joined([text for _, text in changes])))]
    return [assign(name, text) for name, text in changes]

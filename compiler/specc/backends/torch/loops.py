"""Repeated parts as `for` statements: what they run over, what they bind, and where one loop would not say the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from specc.backends.torch.labels import python_name
from specc.backends.torch.program import Item, LoopStep, ScanStep, WhenStep
from specc.backends.torch.statements import Block, Statement, assign
from specc.ir.graph import Path

if TYPE_CHECKING:
    from specc.backends.torch.methods import Method


def write_loop(method: Method, step: LoopStep) -> None:
    """Append a `for` statement, or the iterations one by one where their statements differ."""
    before = method.names.saved()
    header = _header(method, step)
    if header is not None:
        variables, text, copies = header
        bodies = [_iteration(method, items, variables[i]) for i, (_, items) in enumerate(step.iterations)]
        if all(body == bodies[0] for body in bodies[1:]):
            if bodies[0]:
                method.lines[-1] += [*copies, Block(text, bodies[0])]
            return
        method.names.restore(before)
    if step.start is not None and step.carrier is not None:
        method.names.of[step.carrier] = method.text(step.start)
    for _, items in step.iterations:
        method.lines[-1] += _iteration(method, items, ())


def _iteration(method: Method, items: tuple[Item, ...], binds: tuple[tuple[str, Path], ...]) -> tuple[Statement, ...]:
    method.lines.append([])
    method.binds += binds
    method.emit(items)
    del method.binds[len(method.binds) - len(binds) :]
    return tuple(method.lines.pop())


def _header(method: Method, step: LoopStep) -> tuple[list[tuple[tuple[str, Path], ...]], str, list[Statement]] | None:
    """Per iteration, what its loop variables stand for; the `for` line; and what must stand before it."""
    columns: dict[str, list[Path]] = {}
    for binds, _ in step.iterations:
        for name, path in binds:
            if path is not None:
                columns.setdefault(name, []).append(path)
    times = len(step.iterations)
    columns = {name: paths for name, paths in columns.items() if len(paths) == times}
    lists = {name: list_text(method, paths) for name, paths in columns.items()}
    if any(text is None for text in lists.values()):
        return None
    names = {name: _loop_variable(method, name) for name in columns}
    variables = [tuple((names[n], columns[n][i]) for n in columns) for i in range(times)]
    if not columns:
        if times == 1:
            return None
        text = f"for _ in range({times})"
    elif len(columns) == 1:
        (name,) = columns
        text = f"for {names[name]} in {lists[name]}"
    else:
        text = f"for {', '.join(names.values())} in zip({', '.join(str(v) for v in lists.values())}, strict=True)"
    return variables, text, _carrier(method, step)


def _loop_variable(method: Method, name: str) -> str:
    taken = {*method.names.holder, *(a.of or a.name for a in method.graph.inputs)}
    name = python_name(name)
    return f"{name}_" if name in taken else name


def list_text(method: Method, paths: list[Path]) -> str | None:
    """The list whose elements the loop runs over."""
    parent = paths[0][:-1]
    indices = [path[-1] for path in paths if path and path[:-1] == parent and isinstance(path[-1], int)]
    return (
        _selection(method.path_text(parent), indices, method.around.list_length(parent))
        if len(indices) == len(paths)
        else None
    )


def _carrier(method: Method, step: LoopStep) -> list[Statement]:
    """A fold re-binds what it begins with; if that is still needed afterwards, the fold works on another name."""
    if step.start is None or step.carrier is None:
        return []
    name = method.text(step.start)
    method.names.position = step.position
    if (
        step.start in method.names.of
        and method.names.over(step.start, step.position)
        and name not in method.names.reserved
    ):
        method.names.hold(step.carrier, name)
        return []
    fresh = method.names.fresh(())
    method.names.hold(step.carrier, fresh)
    return [assign(fresh, name)]


def _selection(text: str, indices: Sequence[str | int], length: int | None) -> str | None:
    """A list of that length as a loop runs over it: whole, a slice of it, or reversed."""
    times = len(indices)
    first = indices[0]
    if not isinstance(first, int):
        return None
    if list(indices) == list(range(first, first + times)):
        if first == 0 and times == length:
            return text
        return f"{text}[{first or ''}:{'' if first + times == length else first + times}]"
    return f"reversed({text})" if length == times and list(indices) == list(range(times - 1, -1, -1)) else None


def loops_of(items: Sequence[Item]) -> list[LoopStep]:
    """The loops among some items, those within others included."""
    found: list[LoopStep] = []
    for item in items:
        if isinstance(item, LoopStep):
            found.append(item)
            for _, body in item.iterations:
                found += loops_of(body)
        elif isinstance(item, (WhenStep, ScanStep)):
            found += loops_of(item.items)
    return found

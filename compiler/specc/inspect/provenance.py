"""Where the shape of a value comes from, axis by axis: back through operators and calls to an input or a parameter.

Which operand's axis an axis of a result is, is found by asking the operator: its shape rule is applied once more with
one axis of another size. Where the rule ties axes together (a sum, a pattern), the axis of the same size is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from specc.diagnostics import Diagnostic, Rejected
from specc.dims import Dim, DimError, Facts
from specc.elaborate.names import closest
from specc.inspect.repeats import folded
from specc.ir.graph import (
    Apply,
    Call,
    Graph,
    Input,
    Loop,
    Node,
    Parameter,
    Path,
    Read,
    Scan,
    Value,
    When,
)
from specc.ir.members import member_at
from specc.op import OpError
from specc.passes.plain import Sizes, call_sizes, entry_sizes
from specc.passes.steps import operand_type
from specc.source import Span
from specc.types import Operand, TensorType

PROBE = 7919
"""A size that no model has: what an axis is changed to, to see where it arrives."""


@dataclass(frozen=True)
class Step:
    """One step back: `where` in the source, its `text`, and what it says of the axis."""

    where: str
    text: str
    rule: str

    def to_json(self) -> dict[str, str]:
        return {"where": self.where, "text": self.text, "rule": self.rule}


@dataclass(frozen=True)
class Axis:
    """`written`: as its block writes the size; `size`: over the entry's dims; `meaning`: of the names in it."""

    written: str
    size: str
    meaning: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Provenance:
    """Of one value."""

    path: str
    where: str
    type: str
    full: str
    axes: tuple[Axis, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        axes = [
            {"written": a.written, "size": a.size, "meaning": list(a.meaning), "steps": [s.to_json() for s in a.steps]}
            for a in self.axes
        ]
        return {"path": self.path, "where": self.where, "type": self.type, "full": self.full, "axes": axes}

    def __str__(self) -> str:
        return "\n".join(_lines(self))


@dataclass(frozen=True, eq=False)
class _Frame:
    """A graph at one place: its sizes over the entry's dims, and the call that it is."""

    graph: Graph
    sizes: Sizes
    caller: _Frame | None
    call: Call | None

    @property
    def path(self) -> Path:
        """Of the part that is called, in its caller; () for the entry and a block's own methods."""
        return self.call.path if self.call is not None else ()

    @property
    def owner(self) -> str:
        return self.graph.module.name if self.graph.module is not None else self.graph.method


def explain(graph: Graph, path: str) -> Provenance:
    """`path`: a part and a name in its method, `h.0.attn.k`; of a part itself, its result; of `h.{0..11}`, as the tree
    shows repeated blocks, the first. Raises `Rejected` (E103).
    """
    one = re.sub(r"\{(\d+)\.\.\d+\}", r"\1", path)
    segments = [int(part) if part.isdecimal() else part for part in one.split(".")]
    frame, value = _find(_Frame(graph, entry_sizes(graph), None, None), segments, path)
    type_ = frame.sizes.type(value.type)
    full = TensorType(type_.dtype, tuple(size.plain() for size in type_.shape))
    axes = tuple(_axis(frame, value, axis) for axis in range(value.type.rank))
    return Provenance(one, value.span.where, str(value.type), str(full), axes)


# ---- finding it ------------------------------------------------------------------------------------------------------


def _find(frame: _Frame, segments: Sequence[str | int], path: str) -> tuple[_Frame, Value]:
    calls = list(_calls(frame))
    inner = next((f for f in calls if f.path == tuple(segments)), None)
    if inner is not None and inner.call is not None:
        return inner.caller or frame, inner.call.outputs[0]
    within = [
        f for f in calls if f.call is not None and f.call.path and tuple(segments[: len(f.call.path)]) == f.call.path
    ]
    if within:
        deepest = max(within, key=lambda f: len(f.call.path) if f.call is not None else 0)
        assert deepest.call is not None
        return _find(deepest, segments[len(deepest.call.path) :], path)
    values = {
        name: (f, value)
        for f in [frame, *(f for f in calls if f.call and not f.call.path)]
        for name, value in _named(f)
    }
    name = ".".join(map(str, segments))
    if name in values:
        return values[name]
    owner = frame.owner
    of_parts = list(dict.fromkeys(".".join(map(str, f.path)) for f in calls if f.path))
    parts = [row[0] for rows, _ in folded([(part,) for part in of_parts]) for row in rows]
    known = [f"values {', '.join(values)}"] if values else []
    known += [f"parts {', '.join(parts[:12])}{', ..' if len(parts) > 12 else ''}"] if parts else []
    notes = (("available", f"in {owner}: {'; '.join(known) or 'nothing with a name'}"),)
    guess = closest(name, [*values, *of_parts])
    message = f"--explain {path}: {owner} has no value or part `{name}`"
    raise Rejected([Diagnostic("E103", message, notes=notes, help=f"did you mean `{guess}`?" if guess else "")])


def _calls(frame: _Frame) -> Iterator[_Frame]:
    """What a graph calls, own methods gone into."""
    for node in _flat(frame.graph.nodes):
        if isinstance(node, Call) and node.graph.module is not None:
            operands = [operand_type(i, frame.sizes) for i in node.inputs]
            inner = _Frame(node.graph, call_sizes(node.graph.inputs, operands, frame.sizes), frame, node)
            yield inner
            if not node.path:
                yield from _calls(inner)


def _named(frame: _Frame) -> Iterator[tuple[str, Value]]:
    """Arguments and local names; of one that is assigned several times the last."""
    for argument in frame.graph.inputs:
        if argument.value is not None:
            yield argument.name, argument.value
    for node in _flat(frame.graph.nodes):
        for value in node.outputs:
            if value.name is not None:
                yield value.name, value
    for (name, value), said in zip(frame.graph.results, frame.graph.output_names, strict=True):
        yield name or said, value


def _flat(nodes: Sequence[Node]) -> Iterator[Node]:
    for node in nodes:
        if isinstance(node, Loop):
            for iteration in node.iterations:
                yield from _flat(iteration.nodes)
        elif isinstance(node, (When, Scan)):
            yield from _flat(node.nodes)
            yield node
        else:
            yield node


# ---- going back ------------------------------------------------------------------------------------------------------


def _axis(frame: _Frame, value: Value, axis: int) -> Axis:
    size = value.type.shape[axis]
    written = size.label or str(size)
    full = str(frame.sizes.type(value.type).shape[axis].plain())
    return Axis(written, full, tuple(_meaning(frame, written)), tuple(_steps(frame, value, axis)))


def _meaning(frame: _Frame, written: str) -> Iterator[str]:
    """What the names of a size stand for in the block that writes it."""
    module = frame.graph.module
    for name in dict.fromkeys(re.findall(r"[A-Za-z_]\w*", written)):
        hyper = next((h for h in module.hypers if h.name == name), None) if module is not None else None
        if hyper is not None:
            yield f"{name} = {hyper.value}, {hyper.origin}"


def _steps(frame: _Frame, value: Value, axis: int) -> Iterator[Step]:
    """Back from a value to where the size of one of its axes is stated."""
    while True:
        node = _producer(frame, value)
        if node is None:
            place = next(i for i, a in enumerate(frame.graph.inputs) if a.value is value)
            argument = frame.graph.inputs[place]
            if frame.caller is None or frame.call is None:
                yield Step(argument.span.where, _short(f"{argument.name}: {argument.type}"), f"axis {axis} of an input")
                return
            given = frame.call.inputs[place]
            owner = frame.graph.module.name if frame.graph.module is not None else frame.graph.method
            yield Step(
                argument.span.where, f"{argument.name}: {argument.type}", f"axis {axis} of an argument of {owner}"
            )
            assert isinstance(given, Value)
            frame, value = frame.caller, given
        elif isinstance(node, Read):
            name = ".".join(map(str, node.path))
            yield Step(_declared(frame, node).where, _short(f"{name}: {value.type}"), f"axis {axis} of a parameter")
            return
        elif isinstance(node, Call):
            place = node.outputs.index(value)
            operands = [operand_type(i, frame.sizes) for i in node.inputs]
            inner = _Frame(node.graph, call_sizes(node.graph.inputs, operands, frame.sizes), frame, node)
            yield Step(node.span.where, _text(node.span), f"axis {axis} of what {_called(node)} gives")
            frame, value = inner, node.graph.results[place][1]
        elif isinstance(node, Apply):
            source = _source(node, axis, node.outputs.index(value))
            size = value.type.shape[axis]
            shown = size.label or str(size)
            if source is None:
                yield Step(node.span.where, _text(node.span), f"{shown}, stated by `{node.op.name}`")
                return
            operand, number, exact = source
            given = node.inputs[operand]
            assert isinstance(given, Value)
            before = given.type.shape[number].label or str(given.type.shape[number])
            change = "" if exact else f", {before} -> {shown}"
            yield Step(node.span.where, _text(node.span), f"axis {number} of {_what(given, operand)}{change}")
            value, axis = given, number
        else:
            back = _through(node, value, axis)
            if back is None:
                yield Step(node.span.where, _text(node.span.head()), f"axis {axis}: the steps of a scan")
                return
            value, axis = back


def _producer(frame: _Frame, value: Value) -> Node | None:
    return next((node for node in _flat(frame.graph.nodes) if value in node.outputs), None)


def _through(node: Node, value: Value, axis: int) -> tuple[Value, int] | None:
    """Past a region to the value that it hands on; None at the axis that a scan stacks its steps on."""
    if isinstance(node, When):
        return next((before, axis) for before, _, after in node.rebinds if after is value)
    if isinstance(node, Scan):
        for emitted in node.emits:
            if emitted.stacked is value:
                if axis == emitted.axis:
                    return None
                return emitted.value, axis - (axis > emitted.axis)
        return next((state.start, axis) for state in node.states if state.result is value)
    raise AssertionError(f"{type(node).__name__} has no values of its own")


def _source(node: Apply, axis: int, result: int) -> tuple[int, int, bool] | None:
    """The operand and its axis that an axis of a result is, and whether it has the same size; None where the operator
    states the size itself.
    """
    operands = [operand_type(i, _Same()) for i in node.inputs]
    wanted = node.outputs[result].type.shape[axis]
    moved: list[tuple[int, int]] = []
    for i, operand in enumerate(operands):
        for number in range(operand.rank) if isinstance(operand, TensorType) else ():
            if _arrives(node, operands, i, number, axis, result):
                moved.append((i, number))
    equal = [
        (i, number)
        for i, operand in enumerate(operands)
        if isinstance(operand, TensorType)
        for number, size in enumerate(operand.shape)
        if size == wanted and (size.value is None or size.label == wanted.label or (i, number) in moved)
    ]
    related = [
        (i, number)
        for i, operand in enumerate(operands)
        if isinstance(operand, TensorType)
        for number, size in enumerate(operand.shape)
        if set(size.symbols) & set(wanted.symbols)
    ]
    candidates = [pair for pair in moved if pair in equal] or moved or equal or related
    if not candidates:
        return None
    i, number = min(candidates, key=lambda pair: (pair[0], abs(pair[1] - axis)))
    operand = operands[i]
    assert isinstance(operand, TensorType)
    return i, number, operand.shape[number] == wanted


def _arrives(node: Apply, operands: Sequence[Operand], i: int, number: int, axis: int, result: int) -> bool:
    """Whether the axis of a result changes when that one axis of an operand has another size."""
    operand = operands[i]
    assert isinstance(operand, TensorType)
    changed = operand.with_shape((*operand.shape[:number], Dim.const(PROBE), *operand.shape[number + 1 :]))
    try:
        found = node.op.infer(Facts(), *operands[:i], changed, *operands[i + 1 :])
    except (OpError, DimError):
        return False
    types = found if isinstance(found, tuple) else (found,)
    return axis < types[result].rank and types[result].shape[axis] != node.outputs[result].type.shape[axis]


class _Same(Sizes):
    """Every size stands for itself."""

    def __missing__(self, name: str) -> Dim:
        return Dim.symbol(name)


def _what(value: Input, operand: int) -> str:
    assert isinstance(value, Value)
    return f"{value.name or f'operand {operand}'}: {value.type}"


def _called(node: Call) -> str:
    name = node.graph.module.name if node.graph.module is not None else node.graph.method
    return f"{'.'.join(map(str, node.path))} ({name})" if node.path else name


def _declared(frame: _Frame, node: Read) -> Span:
    """Where a parameter is declared."""
    module = frame.graph.module
    member = member_at(module, node.path) if module is not None else None
    return member.span if isinstance(member, Parameter) else node.span


def _text(span: Span) -> str:
    """The first line of what was written."""
    return _short(" ".join(span.head().text.split()))


def _short(text: str) -> str:
    """Cut to the width of a column: of a chain of calls the last ones are what is spoken of."""
    if len(text) <= WIDE:
        return text
    return "..." + text[3 - WIDE :] if "|>" in text else text[: WIDE - 3] + "..."


WIDE = 44


def _lines(found: Provenance) -> Iterator[str]:
    equal = f" = {found.full}" if found.full != found.type else ""
    yield f"{found.path}: {found.type}{equal}   {found.where}"
    for i, axis in enumerate(found.axes):
        yield ""
        yield f"axis {i}: {axis.written}" + (f" = {axis.size}" if axis.size != axis.written else "")
        yield from (f"  {meaning}" for meaning in axis.meaning)
        places = max((len(step.where) for step in axis.steps), default=0)
        texts = max((len(step.text) for step in axis.steps), default=0)
        for rows, times in folded([(step.where, step.text, step.rule) for step in axis.steps]):
            yield from (f"  {where:<{places}}  {text:<{texts}}  {rule}".rstrip() for where, text, rule in rows)
            if times > 1:
                what = f"these {len(rows)} steps" if len(rows) > 1 else "this step"
                yield f"  {'':<{places}}  ({what} {times} times)"

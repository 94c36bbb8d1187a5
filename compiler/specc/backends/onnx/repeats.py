"""Which iterations of an unrolled loop are the same picture, so that twelve equal blocks are drawn once, with a
count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from specc.ir.graph import Absent, Apply, Call, Graph, Input, Iteration, Loop, Node, Path, Read, Scan, Value, When
from specc.types import Scalar


@dataclass(frozen=True, eq=False)
class Run:
    """Consecutive iterations that differ only in the parts they use.

    `inputs` are the values that the first iteration takes from outside, `outputs` those of the last one that anybody
    else reads, as (value in the first iteration, value in the last). A single iteration is drawn as it is and has
    neither.
    """

    iterations: tuple[Iteration, ...]
    inputs: tuple[Value, ...] = ()
    outputs: tuple[tuple[Value, Value], ...] = ()

    def ranged(self, path: Path) -> Path:
        """A path of the first iteration as that of the whole run: ("h", 0, "attn") is ("h", "0..11", "attn")."""
        for (_, first), (_, last) in zip(self.iterations[0].binds, self.iterations[-1].binds, strict=True):
            if first is not None and last is not None and path[: len(first)] == first and len(first) == len(last):
                return (*(a if a == b else f"{a}..{b}" for a, b in zip(first, last, strict=True)), *path[len(first) :])
        return path


def runs(loop: Loop, graph: Graph) -> list[Run]:
    """The iterations of a loop of `graph`, grouped."""
    shapes = [_Shape(iteration) for iteration in loop.iterations]
    readers = _readers(graph.nodes)
    for _, value in graph.results:
        readers.setdefault(value, set()).add(None)
    found: list[Run] = []
    at = 0
    while at < len(shapes):
        end = at + 1
        while end < len(shapes) and _continues(shapes, at, end, readers):
            end += 1
        found.append(_run(shapes[at:end], readers))
        at = end
    return found


class _Shape:
    """An iteration in canonical form: what it does, with its own values and outside ones numbered."""

    def __init__(self, iteration: Iteration) -> None:
        self.iteration = iteration
        self.numbers: dict[Value, int] = {}
        self.outside: list[Value] = []
        self.made: list[Value] = []
        self.form = tuple(self._node(node) for node in iteration.nodes)
        self.nodes = set(every(iteration.nodes))

    def _node(self, node: Node) -> Any:
        inputs = tuple(self._input(i) for i in node.inputs)
        form: Any
        if isinstance(node, Apply):
            form = "apply", node.op, inputs
        elif isinstance(node, Call):
            form = "call", id(node.graph), self._path(node.path), inputs
        elif isinstance(node, Read):
            form = "read", self._path(node.path)
        elif isinstance(node, When):
            body = tuple(self._node(n) for n in node.nodes)
            form = "when", node.mode, body, inputs, tuple(self._input(end) for _, end, _ in node.rebinds)
        elif isinstance(node, Scan):
            form = "scan", self._scan(node), inputs
        else:
            form = "loop", tuple(tuple(self._node(n) for n in i.nodes) for i in node.iterations)
        self._number(node.outputs)
        return form

    def _scan(self, node: Scan) -> Any:
        self._number(node.bound)
        body = tuple(self._node(n) for n in node.nodes)
        axes = tuple(s.axis for s in node.sequences), tuple(e.axis for e in node.emits)
        return node.along, axes, body, tuple(self._input(value) for value in node.kept)

    def _number(self, values: Sequence[Value]) -> None:
        for value in values:
            self.numbers[value] = len(self.made)
            self.made.append(value)

    def _input(self, input_: Input) -> Any:
        if isinstance(input_, Absent):
            return None
        if isinstance(input_, Scalar):
            return "number", type(input_.value), input_.value
        if input_ not in self.numbers:
            if input_ not in self.outside:
                self.outside.append(input_)
            return "outside", self.outside.index(input_)
        return self.numbers[input_]

    def _path(self, path: Path) -> Any:
        for name, part in self.iteration.binds:
            if part is not None and path[: len(part)] == part:
                return name, path[len(part) :]
        return path


Readers = Mapping[Value, set[Node | None]]


def _continues(shapes: Sequence[_Shape], start: int, at: int, readers: Readers) -> bool:
    """Whether iteration `at` repeats the run begun at `start`: same form, fed by the one before or from outside."""
    first, before, this = shapes[start], shapes[at - 1], shapes[at]
    if this.form != first.form or len(this.outside) != len(first.outside):
        return False
    for slot, value in enumerate(this.outside):
        fed = value in before.numbers
        if fed and at > start + 1:
            fed = before.outside[slot] in shapes[at - 2].numbers
            fed = fed and before.numbers[value] == shapes[at - 2].numbers[before.outside[slot]]
            if not fed:
                return False
        elif not fed and (value is not first.outside[slot] or value is not before.outside[slot]):
            return False
    return all(readers.get(value, set()) <= before.nodes | this.nodes for value in before.made)


def _run(shapes: Sequence[_Shape], readers: Readers) -> Run:
    iterations = tuple(shape.iteration for shape in shapes)
    if len(shapes) == 1:
        return Run(iterations)
    first, last = shapes[0], shapes[-1]
    outputs = tuple(
        (a, b) for a, b in zip(first.made, last.made, strict=True) if not readers.get(b, set()) <= last.nodes
    )
    return Run(iterations, tuple(first.outside), outputs)


def every(nodes: Sequence[Node]) -> list[Node]:
    """The nodes, each before those inside it."""
    found: list[Node] = []
    for node in nodes:
        found.append(node)
        if isinstance(node, Loop):
            for iteration in node.iterations:
                found += every(iteration.nodes)
        elif isinstance(node, (When, Scan)):
            found += every(node.nodes)
    return found


def _readers(nodes: Sequence[Node]) -> dict[Value, set[Node | None]]:
    """Which nodes read a value; None stands for the graph's results."""
    readers: dict[Value, set[Node | None]] = {}
    for node in every(nodes):
        read = [i for i in node.inputs if isinstance(i, Value)]
        if isinstance(node, (When, Scan)):
            read += node.kept
        for value in read:
            readers.setdefault(value, set()).add(node)
    return readers

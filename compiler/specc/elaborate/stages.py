"""What a section computes of a batch as three functions: before the model, the loss after it, what metrics compare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from specc.dims import Dim
from specc.elaborate.generation import Generated
from specc.elaborate.metrics import Measure
from specc.elaborate.training import TrainChecker
from specc.ir.graph import Apply, Argument, Call, Graph, Node, Value
from specc.op import Pattern
from specc.source import Span
from specc.types import DType, Scalar


@dataclass(frozen=True)
class Stage:
    """A function of a section: its graph (None if there is nothing to compute), what its results are called."""

    graph: Graph | None
    results: tuple[str, ...]


@dataclass(frozen=True)
class Stages:
    """All that a section computes of a batch. Every tensor has a name of its own, by which the next stage finds it.

    `fields`: name -> (field, dtype); `bound`: input of the entry -> name; `outputs`: names in the order of the entry's
    results; `auxiliary`: name -> aux; `generated`: name -> how a text comes about; `measures`: metrics with the names
    of their tensors. The loss is called `loss`.
    """

    before: Stage
    loss: Stage
    measured: Stage
    fields: Mapping[str, tuple[str, DType]]
    inputs: Mapping[str, str]
    bound: Mapping[str, str]
    outputs: tuple[str, ...]
    auxiliary: Mapping[str, str]
    generated: Mapping[str, Generated]
    measures: tuple[tuple[Measure, tuple[str, ...]], ...]

    @property
    def graphs(self) -> tuple[Graph, ...]:
        return tuple(s.graph for s in (self.before, self.loss, self.measured) if s.graph is not None)


def stages(checker: TrainChecker) -> Stages:
    """The functions of a section that was checked with its data: every value has a type."""
    place = checker.place
    inputs = {n: place.locals[n] for n in (a.name for a in place.entry.full.inputs) if n not in place.lets}
    assert checker.loss is not None
    compared = [v for m in checker.measures for v in m.values if v is not None]
    spans = [0, *checker.cuts, len(place.nodes)]
    before, loss, measured = (place.nodes[a:b] for a, b in pairwise(spans))
    naming = _Naming()
    naming.names = {checker.loss: "loss", place.locals["loss"]: "loss"}
    outputs = tuple(naming.of(v) for v in place.outputs)
    taken = {n: naming.of(v) for n, v in inputs.items() if isinstance(v, Value)}
    fields = {naming.of(v): key for key, v in place.read.items()}
    auxiliary = {naming.of(v): name for name, v in place.auxiliary.items()}
    fed = [value for value, _ in checker.bound.values() if value is not None]
    first = next(iter(place.read.values()), None)
    later = (*_live(loss, [checker.loss]), *_live(measured, compared))
    wanted = {*_read(later), checker.loss, *compared}
    ending = {*_read(_live(measured, compared)), *compared}
    span, facts = checker.node.span.head(), place.facts

    def stage(name: str, nodes: Sequence[Node], results: Iterable[Value], doc: str) -> Stage:
        made = {v for node in nodes for v in node.outputs}
        wanted = [v for v in dict.fromkeys(results) if v in made]
        live = _live(nodes, wanted)
        if not wanted:
            return Stage(None, ())
        arguments = [v for v in dict.fromkeys(_read(live)) if not any(v in n.outputs for n in live)]
        if not _sizes(live) <= {s for v in arguments for d in v.type.shape if d.is_symbol() for s in d.symbols}:
            arguments += [first] if first is not None and first not in arguments else []
        named = {v: naming.of(v) for v in (*arguments, *wanted)}
        return Stage(_graph(name, live, arguments, wanted, named, doc, span, facts), tuple(named[v] for v in wanted))

    return Stages(
        before=stage("inputs", before, [*fed, *(v for v in _ordered(before) if v in wanted)], "What the model takes."),
        loss=stage("loss", loss, [checker.loss, *(v for v in _ordered(loss) if v in ending)], "What is made small."),
        measured=stage("measured", measured, compared, "What metrics hold against each other."),
        fields=fields,
        inputs=taken,
        bound={n: naming.of(value) for n, (value, _) in checker.bound.items() if value is not None},
        outputs=outputs,
        auxiliary=auxiliary,
        generated={naming.of(value): how for value, how in place.generated.items()},
        measures=tuple((m, tuple(naming.of(v) for v in m.values if v is not None)) for m in checker.measures),
    )


class _Naming:
    """One name for every tensor: the spec's, numbered where two have it."""

    def __init__(self) -> None:
        self.names: dict[Value, str] = {}

    def of(self, value: Value) -> str:
        if value not in self.names:
            wish, number = value.name or "value", 2
            name = wish
            while name in self.names.values():
                name = f"{wish}{number}"
                number += 1
            self.names[value] = name
        return self.names[value]


def _graph(
    name: str,
    nodes: Sequence[Node],
    arguments: Sequence[Value],
    results: Sequence[Value],
    named: Mapping[Value, str],
    doc: str,
    span: Span,
    facts: Any,
) -> Graph:
    dims = dict.fromkeys(s for v in arguments for d in v.type.shape if d.is_symbol() for s in d.symbols)
    inputs = tuple(Argument(named[v], v.type, False, v, v.span) for v in arguments)
    return Graph(None, name, inputs, tuple((None, v) for v in results), tuple(nodes), tuple(dims), facts, doc, span)


def _ordered(nodes: Sequence[Node]) -> Iterator[Value]:
    for node in nodes:
        yield from node.outputs


def _live(nodes: Sequence[Node], results: Iterable[Value]) -> list[Node]:
    """The nodes that results depend on."""
    needed, kept = set(results), []
    for node in reversed(nodes):
        if any(v in needed for v in node.outputs):
            kept.append(node)
            needed.update(v for v in node.inputs if isinstance(v, Value))
    return kept[::-1]


def _read(nodes: Iterable[Node]) -> Iterator[Value]:
    for node in nodes:
        yield from (v for v in node.inputs if isinstance(v, Value))


def _sizes(nodes: Iterable[Node]) -> set[str]:
    """The symbols that operators name."""
    found: set[str] = set()
    for node in nodes:
        assert isinstance(node, (Apply, Call))
        attributes = node.op.attributes.values() if isinstance(node, Apply) else ()
        numbers = (i.value for i in node.inputs if isinstance(i, Scalar))
        for dim in (*_dims(tuple(attributes)), *_dims(tuple(numbers))):
            found.update(dim.symbols)
    return found


def _dims(value: Any) -> Iterator[Dim]:
    if isinstance(value, Dim):
        yield value
    elif isinstance(value, Pattern):
        yield from _dims((value.left, value.right))
    elif isinstance(value, tuple):
        for item in value:
            yield from _dims(item)

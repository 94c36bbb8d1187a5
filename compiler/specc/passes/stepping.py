"""One walk over an entry as a step of decoding: what is kept, what depends on what, and what is illegal (LANGUAGE 13).

Every operator says how it behaves along the step (`Op.stepwise`); here are the rules that are about more than one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from specc.codes import severity
from specc.diagnostics import Collector, Diagnostic, Edit
from specc.dims import Dim
from specc.ir.graph import Absent, Apply, Call, Graph, Input, Loop, Node, Scan, Value, When, dotted
from specc.op import Op, OpError, Step
from specc.ops.state import Cached, past
from specc.passes.plain import Sizes, call_sizes, is_past
from specc.source import Span
from specc.types import Operand, Scalar, TensorType


class StepSizes(Sizes):
    """Sizes in an incremental entry. `step` is the entry's axis of new positions, `earlier` how many came before it.

    `past(X)` is `earlier` where X is `step`, and 0 elsewhere: nothing grows along another axis.
    """

    def __init__(self, step: Dim, earlier: Dim, known: Mapping[str, Dim] | None = None) -> None:
        super().__init__(known or {})
        self.step, self.earlier = step, earlier

    def __missing__(self, name: str) -> Dim:
        if is_past(name):
            bound = self.get(name.removeprefix("past(").removesuffix(")"))
            return self.earlier if bound is not None and bound == self.step else Dim.const(0)
        return super().__missing__(name)

    def empty(self) -> StepSizes:
        return StepSizes(self.step, self.earlier)

    def own(self, graph: Graph) -> Step:
        """The step in the sizes of the graph that these are the sizes of."""
        name = next((name for name in graph.dims if self.get(name) == self.step), None)
        size = Dim.symbol(name) if name is not None else self.step
        return Step(size, past(size))


NO_AXIS = -1
"""In place of the axis that grows, for what is kept as it is."""


@dataclass(frozen=True)
class State:
    """One tensor that is kept: its names and types before and after a step, and the axis that grows."""

    input: str
    output: str
    before: TensorType
    after: TensorType
    axis: int


def resized(type_: TensorType, axis: int, size: Dim) -> TensorType:
    return type_.with_shape((*type_.shape[:axis], size, *type_.shape[axis + 1 :]))


class _NothingPast(dict[str, Dim]):
    """Every `past(..)` is 0, and nothing else is replaced."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and is_past(name)

    def __missing__(self, name: str) -> Dim:
        return Dim.const(0)


_NOTHING_PAST = _NothingPast()


@dataclass(frozen=True)
class Known:
    """What a value depends on: the step at all, and which inputs of the entry; and whether a `cached` gave it."""

    varies: bool = False
    inputs: frozenset[str] = frozenset()
    cached: bool = False


@dataclass
class Walk:
    model: str
    entry: str
    sizes: StepSizes
    has_once: bool
    first: Span  # of what makes the entry one that continues
    states: list[tuple[State, ...]] = field(default_factory=list)
    once: list[tuple[State, ...]] = field(default_factory=list)
    needs: frozenset[str] = frozenset()
    once_needs: frozenset[str] = frozenset()
    start: tuple[int, int] = (0, 0)
    steps: dict[Graph, Step] = field(default_factory=dict)
    collector: Collector = field(default_factory=Collector)
    outside: Collector = field(default_factory=Collector)
    told: set[tuple[str, Span]] = field(default_factory=set)

    @property
    def step(self) -> Step:
        return Step(self.sizes.step, self.sizes.earlier)

    def graph(self, graph: Graph, sizes: StepSizes, path: str, operands: Sequence[Known]) -> list[Known]:
        values: dict[Value, Known] = {}
        for argument, operand in zip(graph.inputs, operands, strict=True):
            if argument.value is not None:
                values[argument.value] = operand
        self._nodes(graph, graph.nodes, sizes, path, values)
        return [values.get(value, Known()) for _, value in graph.results]

    def _nodes(
        self, graph: Graph, nodes: Sequence[Node], sizes: StepSizes, path: str, values: dict[Value, Known]
    ) -> None:
        for node in nodes:
            if isinstance(node, Apply):
                self._apply(graph, node, sizes, path, values)
            elif isinstance(node, Call):
                self._call(graph, node, sizes, path, values)
            elif isinstance(node, Loop):
                for iteration in node.iterations:
                    self._nodes(graph, iteration.nodes, sizes, path, values)
            elif isinstance(node, Scan):
                self._scan(graph, node, sizes, path, values)
            elif isinstance(node, When):
                if node.mode == "infer":
                    self._nodes(graph, node.nodes, sizes, path, values)
                for before, end, after in node.rebinds:
                    values[after] = values.get(end if node.mode == "infer" else before, Known())

    def _scan(self, graph: Graph, node: Scan, sizes: StepSizes, path: str, values: dict[Value, Known]) -> None:
        """A loop along another axis is like any other nodes; one along the step begins anew in every step."""
        if self.step.varies(node.along.substitute(sizes)):
            shown = node.along.label or str(node.along)
            self._say(OpError("D402", f"`scan` along {shown} mixes positions of different steps"), node.span, path)
        known = _depends(node.inputs, values)
        values.update(dict.fromkeys(node.bound, known))
        self._nodes(graph, node.nodes, sizes, path, values)
        kept = _depends(node.kept, values)
        values.update(dict.fromkeys(node.outputs, Known(known.varies or kept.varies, known.inputs | kept.inputs)))

    def _call(self, graph: Graph, node: Call, sizes: StepSizes, path: str, values: dict[Value, Known]) -> None:
        types = [operand_type(i, sizes) for i in node.inputs]
        inner = call_sizes(node.graph.inputs, types, sizes)
        below = ".".join(filter(None, (path, dotted(node.path))))
        known = [values.get(i, Known()) if isinstance(i, Value) else Known() for i in node.inputs]
        assert isinstance(inner, StepSizes)
        results = self.graph(node.graph, inner, below, known)
        if node.graph in self.steps:
            self.steps.setdefault(graph, sizes.own(graph))
        values.update(zip(node.outputs, results, strict=True))

    def _apply(self, graph: Graph, node: Apply, sizes: StepSizes, path: str, values: dict[Value, Known]) -> None:
        types = [operand_type(i, sizes) for i in node.inputs]
        results = [sizes.type(value.type) for value in node.outputs]
        step = self.step
        op = node.op.substitute(sizes)
        known = _depends(node.inputs, values)
        try:
            for i, operand in enumerate(types):
                if isinstance(operand, Scalar) and isinstance(operand.value, Dim) and step.varies(operand.value):
                    shown = operand.label or str(operand.value)
                    raise OpError("D403", f"`{shown}` as a number differs from step to step", operand=i, found=shown)
            if op.name == "once" and known.varies:
                shown = f"it depends on inputs along {sizes.step}"
                raise OpError("D408", "an argument of `once` depends on the step", operand=0, found=shown)
            op.stepwise(step, *types)
        except OpError as error:
            self._say(error, node.span, path)
        tensors = [*results, *(t for t in types if isinstance(t, TensorType))]
        own_form = type(op).torch_step is not Op.torch_step and any(varies(step, t) for t in tensors)
        if own_form or node.op.substitute(_NOTHING_PAST) != node.op:
            self.steps.setdefault(graph, sizes.own(graph))
        others = [i for position, i in enumerate(node.inputs) if op.name != "sdpa" or position not in (1, 2)]
        if any(isinstance(i, Value) and values.get(i, Known()).cached for i in others):
            message = f"`{op.name}` reads a cached value: a static cache has rows that hold nothing yet"
            self.outside.add(Diagnostic("D406", message, node.span, path=self._trail(path), help="--cache concat"))
        is_kept = isinstance(op, Cached) and op.along == sizes.step
        if isinstance(op, Cached) and is_kept:
            self._keep(node, op, types)
            self.needs |= known.inputs
        if op.name == "once":
            self.steps.setdefault(graph, sizes.own(graph))
            self._once(node, types)
            self.once_needs |= known.inputs
            known = Known()
        created = Known(known.varies or any(varies(step, r) for r in results), known.inputs, is_kept)
        values.update(dict.fromkeys(node.outputs, created))

    def _once(self, node: Apply, types: Sequence[Operand]) -> None:
        """What `once` gives is an input of every step, and a result of an entry of its own."""
        number, group = len(self.once), []
        for label, type_ in zip(self._labels(node, "encoder."), types, strict=True):
            assert isinstance(type_, TensorType)
            names = f"past_key_values.{number}.{label}", f"present.{number}.{label}"
            group.append(State(*names, type_, type_, NO_AXIS))
        self.once.append(tuple(group))

    def _labels(self, node: Apply, side: str) -> list[str]:
        """Two values together are a key and a value, others have the names of the spec."""
        if len(node.outputs) == 2:
            return [f"{side}key", f"{side}value"]
        return [output.name or str(i) for i, output in enumerate(node.outputs)]

    def _keep(self, node: Apply, op: Cached, types: Sequence[Operand]) -> None:
        """The past and present values of a `cached` call, named as the table of LANGUAGE 13 says."""
        number = len(self.states)
        labels = self._labels(node, "decoder." if self.has_once else "")
        group = []
        for label, type_ in zip(labels, types, strict=True):
            assert isinstance(type_, TensorType)
            axis = op.axis(type_)
            earlier, step = self.sizes.earlier, self.sizes.step
            before, after = resized(type_, axis, earlier), resized(type_, axis, earlier + step)
            group.append(State(f"past_key_values.{number}.{label}", f"present.{number}.{label}", before, after, axis))
        if not self.states:
            self.start = (len(self.once), group[0].axis)
        self.states.append(tuple(group))

    def _say(self, error: OpError, span: Span, path: str) -> None:
        """Each finding once, where it is first met."""
        if (error.code, span) in self.told:
            return
        self.told.add((error.code, span))
        step = self.sizes.step
        notes = [("why", f"{self.model}.{self.entry} caches along {step} ({self.first.where})")]
        if error.code == "D402":
            notes.append((f"allowed along {step}", _ALLOWED))
        self.collector.add(
            Diagnostic(
                error.code,
                error.message,
                span,
                label=error.found,
                path=self._trail(path),
                notes=tuple(notes),
                help=error.help,
                edits=_fix(error.code, span),
                severity=severity(error.code),
            )
        )

    def _trail(self, path: str) -> str:
        return f"in the incremental entry of {self.model}.{self.entry}" + (f" > {path}" if path else "")


_ALLOWED = "cached, positions, causal attention over cached keys, and what works on each position alone"


def _fix(code: str, span: Span) -> tuple[Edit, ...]:
    """The change of the text that is safe to make: positions go on where a range restarts; attention becomes causal."""
    text = span.text
    if code == "D401" and re.fullmatch(r"arange\(\s*\w+\s*\)", text):
        return (Edit(span, "positions" + text.removeprefix("arange")),)
    if code == "D404" and text.startswith("sdpa(") and text.endswith(")") and "causal" not in text:
        return (Edit(span, f"{text[:-1].rstrip()}, causal = true)"),)
    return ()


def _depends(inputs: Sequence[Input], values: Mapping[Value, Known]) -> Known:
    known = [values.get(i, Known()) for i in inputs if isinstance(i, Value)]
    return Known(any(k.varies for k in known), frozenset[str]().union(*(k.inputs for k in known)))


def varies(step: Step, type_: TensorType) -> bool:
    return any(step.varies(size) for size in type_.shape)


def operand_type(input_: Input, sizes: Sizes) -> Operand:
    if isinstance(input_, Absent):
        return None
    if isinstance(input_, Scalar):
        value = input_.value
        return Scalar(value.substitute(sizes), input_.label) if isinstance(value, Dim) else input_
    return sizes.type(input_.type)

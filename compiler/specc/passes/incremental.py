"""The incremental entry of an entry (LANGUAGE 13): what is kept between steps, and whether steps give what the whole
gives.

Nothing is rewritten: the entry's graphs are read with `StepSizes`, in which `past(T)` is a size of its own, and every
operator says how it behaves along T (`Op.stepwise`) and what it becomes (`Op.torch_step`, `Op.onnx_step`). What a
backend has to know beside that is in `Incremental`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from specc.codes import severity
from specc.diagnostics import Collector, Diagnostic, Edit
from specc.dims import Dim, Facts
from specc.ir.graph import Absent, Apply, Call, Entry, Graph, Input, Loop, Model, Node, Scan, Value, When, dotted
from specc.op import Op, OpError, Step
from specc.ops.state import Cached, past
from specc.passes.plain import Sizes, call_sizes, is_past
from specc.source import Span
from specc.types import Operand, Scalar, TensorType

STATEFUL = frozenset({"cached"})
"""Operators that keep something between steps."""
_NOT_YET = frozenset({"carried", "causal_conv1d", "lstm", "gru"})


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


@dataclass(frozen=True)
class State:
    """One tensor that is kept: its names and types before and after a step, and the axis that grows."""

    input: str
    output: str
    before: TensorType
    after: TensorType
    axis: int


@dataclass(frozen=True, eq=False)
class Incremental:
    """An entry that continues from what earlier calls of it kept.

    `states`: for every `cached` call in the order of execution, its tensors. `steps`: each graph that differs from its
    plain form -> the step in its own sizes. `warnings` are about steps that may differ from the whole.
    """

    entry: str
    graph: Graph
    sizes: StepSizes
    states: tuple[tuple[State, ...], ...]
    steps: Mapping[Graph, Step]
    warnings: tuple[Diagnostic, ...]
    outside_sdpa: tuple[Diagnostic, ...] = ()  # D406: what a static cache is refused for
    length: int | None = None  # of a static cache

    @property
    def name(self) -> str:
        return f"{self.entry}_cached"

    @property
    def step(self) -> Step:
        """In the sizes of the entry."""
        return Step(self.sizes.step, self.sizes.earlier)

    @property
    def flat(self) -> tuple[State, ...]:
        """All states in order."""
        return tuple(state for group in self.states for state in group)


def static(incremental: Incremental, length: int) -> Incremental:
    """The same with a cache of fixed length: all keys are there at once, those of later positions are masked."""
    step = incremental.sizes.step
    room = Dim.const(length)
    states = tuple(
        tuple(replace(s, before=_resized(s.before, s.axis, room), after=_resized(s.after, s.axis, room)) for s in group)
        for group in incremental.states
    )
    return replace(incremental, sizes=StepSizes(step, room - step, incremental.sizes), states=states, length=length)


def _resized(type_: TensorType, axis: int, size: Dim) -> TensorType:
    return type_.with_shape((*type_.shape[:axis], size, *type_.shape[axis + 1 :]))


def keeps_state(model: Model, entry: str) -> bool:
    """Whether an entry reaches an operator that keeps something."""
    return any(_stateful(graph.nodes) for graph in model.entries[entry].graphs.values())


def _stateful(nodes: Sequence[Node]) -> bool:
    return any(node.op.name in STATEFUL for node in _reached(nodes) if isinstance(node, Apply))


def _reached(nodes: Sequence[Node], seen: set[int] | None = None) -> Iterator[Node]:
    """Every node below, those of a graph that is called often once."""
    seen = set() if seen is None else seen
    for node in nodes:
        yield node
        if isinstance(node, Loop):
            for iteration in node.iterations:
                yield from _reached(iteration.nodes, seen)
        elif isinstance(node, (When, Scan)):
            yield from _reached(node.nodes, seen)
        elif isinstance(node, Call) and id(node.graph) not in seen:
            seen.add(id(node.graph))
            yield from _reached(node.graph.nodes, seen)


def innermost(model: Model, entry: str) -> str:
    """The entry that contains the calls: `decode` of an encoder-decoder, whose `forward` only calls it."""
    own = {graph for found in model.entries.values() for graph in found.graphs.values()}
    for graph in model.entries[entry].graphs.values():
        for node in _reached(graph.nodes):
            if isinstance(node, Call) and not node.path and node.graph in own and _stateful(node.graph.nodes):
                return innermost(model, node.graph.method)
    return entry


def without_cache(model: Model, entry: str) -> Diagnostic:
    """What to say of an entry that has nothing to keep (B620)."""
    having = [f"`{name}`" for name in model.entries if keeps_state(model, name)]
    return Diagnostic(
        "B620",
        f"`{entry}` of {model.module.name} has no cache: nothing that it calls is `cached`",
        model.entries[entry].full.span,
        help=f"choose {' or '.join(having)} with --entry" if having else "k, v = cached(k, v, along = T)",
    )


def derive(model: Model, entry: str, without: frozenset[str] = frozenset()) -> Incremental | list[Diagnostic]:
    """The incremental entry of an entry without these optional inputs, or why there is none: B620, D401 to D408."""
    of: Entry = model.entries[entry]
    graph = of.graphs[of.full.present - without]
    if not _stateful(graph.nodes):
        return [without_cache(model, entry)]
    carried = next((n for n in _reached(graph.nodes) if isinstance(n, Apply) and n.op.name in _NOT_YET), None)
    if carried is not None:
        message = f"a cache for `{carried.op.name}` is not supported yet"
        return [Diagnostic("B650", message, carried.span, help="build without --cache")]
    step = _step_of(graph)
    if step is None:
        message = "`cached` along a computed size: only the new positions of a step can be appended"
        return [Diagnostic("D407", message, _first_cached(graph), help="along = T, a dim of the entry's signature")]
    names = dict.fromkeys((*graph.dims, *(s for a in graph.inputs for d in a.type.shape for s in d.symbols)))
    sizes = StepSizes(step, past(step), {name: Dim.symbol(name) for name in names if not is_past(name)})
    has_once = any(isinstance(node, Apply) and node.op.name == "once" for node in _reached(graph.nodes))
    walk = _Walk(model.module.name, entry, sizes, has_once, _first_cached(graph))
    walk.graph(graph, sizes, "", [_Known(_varies(walk.step, sizes.type(a.type))) for a in graph.inputs])
    found = walk.collector.found
    if any(d.severity == "error" for d in found):
        return found
    return Incremental(entry, graph, sizes, tuple(walk.states), walk.steps, tuple(found), tuple(walk.outside.found))


def findings(model: Model) -> list[Diagnostic]:
    """What there is to say of the incremental entries of a model, each where its calls are."""
    entries = dict.fromkeys(innermost(model, name) for name in model.entries if keeps_state(model, name))
    said: list[Diagnostic] = []
    for entry in entries:
        found = derive(model, entry)
        said += found if isinstance(found, list) else found.warnings
    return said


def step_facts(model: Model, incremental: Incremental) -> Facts:
    """What an incremental entry promises about its sizes, past positions included."""
    named = {*incremental.sizes, *incremental.sizes.earlier.symbols}
    stated = incremental.graph.facts.union(model.facts).statements()
    return Facts(tuple(f for f in stated if all(s in named for s in f.dim.symbols))).rename(
        {name: Dim.symbol(name) for name in named}
    )


def _step_of(graph: Graph) -> Dim | None:
    """The entry's dim that `past` is of in its signature; else the one that its first cached values grow along."""
    for argument in graph.inputs:
        for size in argument.type.shape:
            for symbol in size.symbols:
                if is_past(symbol):
                    return Dim.symbol(symbol.removeprefix("past(").removesuffix(")"))
    trail = _Trail()
    trail.graph(graph, {name: Dim.symbol(name) for name in graph.dims})
    return trail.found


class _Trail:
    """Follows calls to the first `cached`, with what each callee's dims are in the entry."""

    def __init__(self) -> None:
        self.found: Dim | None = None

    def graph(self, graph: Graph, dims: Mapping[str, Dim]) -> None:
        self.nodes(graph.nodes, dims)

    def nodes(self, nodes: Sequence[Node], dims: Mapping[str, Dim]) -> None:
        for node in nodes:
            if self.found is not None:
                return
            if isinstance(node, Loop):
                for iteration in node.iterations:
                    self.nodes(iteration.nodes, dims)
            elif isinstance(node, Apply) and isinstance(node.op, Cached) and node.op.along.is_symbol():
                self.found = dims.get(node.op.along.symbols[0])
            elif isinstance(node, Call):
                types = [_type(i, _plain(dims)) for i in node.inputs]
                bound = call_sizes(node.graph.inputs, types)
                self.graph(node.graph, {n: d for n, d in bound.items() if d.is_symbol()})


def _plain(dims: Mapping[str, Dim]) -> Sizes:
    return Sizes(dims)


def _first_cached(graph: Graph) -> Span:
    return next(n.span for n in _reached(graph.nodes) if isinstance(n, Apply) and n.op.name in STATEFUL)


# ---- one walk over the entry: what is kept, what is illegal ----------------------------------------------------------


class _NothingPast(dict[str, Dim]):
    """Every `past(..)` is 0, and nothing else is replaced."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and is_past(name)

    def __missing__(self, name: str) -> Dim:
        return Dim.const(0)


_NOTHING_PAST = _NothingPast()


@dataclass(frozen=True)
class _Known:
    """Whether a value depends on the step at all, and whether it is what a `cached` gave."""

    varies: bool = False
    cached: bool = False


@dataclass
class _Walk:
    model: str
    entry: str
    sizes: StepSizes
    has_once: bool
    first: Span  # of what makes the entry one that continues
    states: list[tuple[State, ...]] = field(default_factory=list)
    steps: dict[Graph, Step] = field(default_factory=dict)
    collector: Collector = field(default_factory=Collector)
    outside: Collector = field(default_factory=Collector)
    told: set[tuple[str, Span]] = field(default_factory=set)

    @property
    def step(self) -> Step:
        return Step(self.sizes.step, self.sizes.earlier)

    def graph(self, graph: Graph, sizes: StepSizes, path: str, operands: Sequence[_Known]) -> list[_Known]:
        values: dict[Value, _Known] = {}
        for argument, operand in zip(graph.inputs, operands, strict=True):
            if argument.value is not None:
                values[argument.value] = operand
        self._nodes(graph, graph.nodes, sizes, path, values)
        return [values.get(value, _Known()) for _, value in graph.results]

    def _nodes(
        self, graph: Graph, nodes: Sequence[Node], sizes: StepSizes, path: str, values: dict[Value, _Known]
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
                    values[after] = values.get(end if node.mode == "infer" else before, _Known())

    def _scan(self, graph: Graph, node: Scan, sizes: StepSizes, path: str, values: dict[Value, _Known]) -> None:
        """A loop along another axis is like any other nodes; one along the step begins anew in every step."""
        if self.step.varies(node.along.substitute(sizes)):
            shown = node.along.label or str(node.along)
            self._say(OpError("D402", f"`scan` along {shown} mixes positions of different steps"), node.span, path)
        known = _depends(node.inputs, values)
        values.update(dict.fromkeys(node.bound, known))
        self._nodes(graph, node.nodes, sizes, path, values)
        values.update(dict.fromkeys(node.outputs, _Known(known.varies or _depends(node.kept, values).varies)))

    def _call(self, graph: Graph, node: Call, sizes: StepSizes, path: str, values: dict[Value, _Known]) -> None:
        types = [_type(i, sizes) for i in node.inputs]
        inner = call_sizes(node.graph.inputs, types, sizes)
        below = ".".join(filter(None, (path, dotted(node.path))))
        known = [values.get(i, _Known()) if isinstance(i, Value) else _Known() for i in node.inputs]
        assert isinstance(inner, StepSizes)
        results = self.graph(node.graph, inner, below, known)
        if node.graph in self.steps:
            self.steps.setdefault(graph, sizes.own(graph))
        values.update(zip(node.outputs, results, strict=True))

    def _apply(self, graph: Graph, node: Apply, sizes: StepSizes, path: str, values: dict[Value, _Known]) -> None:
        types = [_type(i, sizes) for i in node.inputs]
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
        own_form = type(op).torch_step is not Op.torch_step and any(_varies(step, t) for t in tensors)
        if own_form or node.op.substitute(_NOTHING_PAST) != node.op:
            self.steps.setdefault(graph, sizes.own(graph))
        others = [i for position, i in enumerate(node.inputs) if op.name != "sdpa" or position not in (1, 2)]
        if any(isinstance(i, Value) and values.get(i, _Known()).cached for i in others):
            message = f"`{op.name}` reads a cached value: a static cache has rows that hold nothing yet"
            self.outside.add(Diagnostic("D406", message, node.span, path=self._trail(path), help="--cache concat"))
        is_kept = isinstance(op, Cached) and op.along == sizes.step
        if isinstance(op, Cached) and is_kept:
            self._keep(node, op, types)
        created = _Known(known.varies or any(_varies(step, r) for r in results), is_kept)
        values.update(dict.fromkeys(node.outputs, created))

    def _keep(self, node: Apply, op: Cached, types: Sequence[Operand]) -> None:
        """The past and present values of a `cached` call, named as the table of LANGUAGE 13 says."""
        number = len(self.states)
        labels = [output.name or str(i) for i, output in enumerate(node.outputs)]
        if len(labels) == 2:
            labels = [f"decoder.{kind}" if self.has_once else kind for kind in ("key", "value")]
        group = []
        for label, type_ in zip(labels, types, strict=True):
            assert isinstance(type_, TensorType)
            axis = op.axis(type_)
            earlier, step = self.sizes.earlier, self.sizes.step
            before, after = _resized(type_, axis, earlier), _resized(type_, axis, earlier + step)
            group.append(State(f"past_key_values.{number}.{label}", f"present.{number}.{label}", before, after, axis))
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


def _depends(inputs: Sequence[Input], values: Mapping[Value, _Known]) -> _Known:
    return _Known(any(values.get(i, _Known()).varies for i in inputs if isinstance(i, Value)))


def _varies(step: Step, type_: TensorType) -> bool:
    return any(step.varies(size) for size in type_.shape)


def _type(input_: Input, sizes: Sizes) -> Operand:
    if isinstance(input_, Absent):
        return None
    if isinstance(input_, Scalar):
        value = input_.value
        return Scalar(value.substitute(sizes), input_.label) if isinstance(value, Dim) else input_
    return sizes.type(input_.type)

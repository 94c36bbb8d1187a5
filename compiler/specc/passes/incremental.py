"""The incremental entry of an entry (LANGUAGE 13): what is kept between steps, and whether steps give what the whole
gives.

Nothing is rewritten: the entry's graphs are read with `StepSizes`, in which `past(T)` is a size of its own, and every
operator says how it behaves along T (`Op.stepwise`) and what it becomes (`Op.torch_step`, `Op.onnx_step`). What a
backend has to know beside that is in `Incremental`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from specc.diagnostics import Diagnostic
from specc.dims import Dim, Facts
from specc.ir.graph import Apply, Call, Entry, Graph, Loop, Model, Node, Scan, When
from specc.op import Step
from specc.ops.convolution import CausalConv1d
from specc.ops.recurrent import GRU, LSTM
from specc.ops.state import Cached, past
from specc.passes.plain import Sizes, call_sizes, is_past
from specc.passes.stepping import Known, Walk
from specc.passes.steps import State, StepSizes, operand_type, resized, varies
from specc.source import Span

STATEFUL = frozenset({"cached", "carried", "causal_conv1d"})
"""Operators that keep something between steps."""


@dataclass(frozen=True, eq=False)
class Incremental:
    """An entry that continues from what earlier calls of it kept.

    `states`: for every `cached` call in the order of execution, its tensors; `once`: the same for `once`. `needs` are
    the inputs that a step reads, `once_needs` those that the `once` values are computed from, and what states
    begin with: `starts`, for each that is carried in the order of execution, None where that is 0. `start`: in which
    group of all that is kept, and on which axis, the number of positions is seen; None where nothing grows.
    `carried`: for every recurrence and causal convolution its states; `carriers`: a `carried` -> which state of its
    reader it is; `consumers`: a reader -> how many states it has; `calls`: those of graphs that differ, where they see
    the step. `steps`: each graph that differs from its plain form -> the step in its own sizes. `warnings` are about
    steps that may differ from the whole.
    """

    entry: str
    graph: Graph
    sizes: StepSizes
    states: tuple[tuple[State, ...], ...]
    carried: tuple[tuple[State, ...], ...]
    once: tuple[tuple[State, ...], ...]
    starts: tuple[State | None, ...]
    needs: frozenset[str]
    once_needs: frozenset[str]
    start: tuple[int, int] | None
    carriers: Mapping[Apply, int]
    consumers: Mapping[Node, int]
    calls: frozenset[Call]
    steps: Mapping[Graph, Step]
    warnings: tuple[Diagnostic, ...]
    outside_sdpa: tuple[Diagnostic, ...] = ()  # D406: what a static cache is refused for
    length: int | None = None  # of a static cache
    buffered: bool = False  # attention writes into buffers longer than the text
    last: tuple[str, ...] = ()  # outputs of which only the last position is computed (`passes.last`)
    whole: Graph | None = None  # what `graph` was before that
    into: Graph | None = None  # the entry that the `once` values are appended to (`passes.fused`)

    @property
    def name(self) -> str:
        return f"{self.entry}_cached"

    @property
    def once_name(self) -> str:
        return f"{self.entry}_once"

    @property
    def first(self) -> tuple[tuple[State, ...], ...]:
        """All that is computed before the first step: what is the same in every step, then what states begin with."""
        return (*self.once, *((state,) for state in self.starts if state is not None))

    @property
    def step(self) -> Step:
        """In the sizes of the entry."""
        return Step(self.sizes.step, self.sizes.earlier)

    @property
    def flat(self) -> tuple[State, ...]:
        """All that a step changes: what grows, then what is replaced."""
        return tuple(state for group in (*self.states, *self.carried) for state in group)


def static(incremental: Incremental, length: int) -> Incremental:
    """The same with a cache of fixed length: all keys are there at once, those of later positions are masked."""
    step = incremental.sizes.step
    room = Dim.const(length)
    states = tuple(
        tuple(replace(s, before=resized(s.before, s.axis, room), after=resized(s.after, s.axis, room)) for s in group)
        for group in incremental.states
    )
    return replace(incremental, sizes=StepSizes(step, room - step, incremental.sizes), states=states, length=length)


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
    sizes = step_sizes(graph)
    if sizes is None:
        message = "what is kept goes along a computed size: a step has new positions of a dim of the entry"
        return [Diagnostic("D407", message, _first_cached(graph), help="along = T, a dim of the entry's signature")]
    has_once = any(isinstance(node, Apply) and node.op.name == "once" for node in _reached(graph.nodes))
    walk = Walk(model.module.name, entry, sizes, has_once, _first_cached(graph))
    given = [Known(varies(walk.step, sizes.type(a.type)), frozenset([a.name])) for a in graph.inputs]
    results = walk.graph(graph, sizes, "", given)
    needs = walk.needs.union(*(known.inputs for known in results))
    if not walk.states and walk.reads_past is not None:
        message = "positions where nothing is `cached` are not supported yet: nothing tells how many came before"
        walk.collector.add(Diagnostic("B650", message, walk.reads_past, help="--position-ids makes them an input"))
    found = walk.collector.found
    if any(d.severity == "error" for d in found):
        return found
    return Incremental(
        entry=entry,
        graph=graph,
        sizes=sizes,
        states=tuple(walk.states),
        carried=tuple(walk.carried),
        once=tuple(walk.once),
        starts=tuple(walk.starts),
        needs=needs,
        once_needs=walk.once_needs | _sizing(graph, walk, needs),
        start=walk.start,
        carriers=walk.carriers,
        consumers=walk.consumers,
        calls=frozenset(walk.calls),
        steps=walk.steps,
        warnings=tuple(found),
        outside_sdpa=tuple(walk.outside.found),
    )


def _sizing(graph: Graph, walk: Walk, needs: frozenset[str]) -> frozenset[str]:
    """The inputs that tell sizes of what states begin with, where nothing that it is computed from does."""
    given = [(a.name, walk.sizes.type(a.type).shape) for a in graph.inputs if a.value is not None]
    given.sort(key=lambda one: (one[0] not in walk.once_needs, one[0] not in needs))  # what is read anyway comes first
    asked = {name for state in walk.starts if state is not None for size in state.before.shape for name in size.symbols}
    found = (next((name for name, shape in given if Dim.symbol(size) in shape), None) for size in sorted(asked))
    return frozenset(name for name in found if name is not None)


def step_sizes(graph: Graph) -> StepSizes | None:
    """The sizes of an entry that goes on from earlier positions; None where these are not along a dim of its own."""
    step = _step_of(graph)
    if step is None:
        return None
    names = dict.fromkeys((*graph.dims, *(s for a in graph.inputs for d in a.type.shape for s in d.symbols)))
    return StepSizes(step, past(step), {name: Dim.symbol(name) for name in names if not is_past(name)})


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
    """The entry's dim that `past` is of in its signature; else that along which it keeps something, and has results."""
    for argument in graph.inputs:
        for size in argument.type.shape:
            for symbol in size.symbols:
                if is_past(symbol):
                    return Dim.symbol(symbol.removeprefix("past(").removesuffix(")"))
    trail = _Trail(any(isinstance(n, Apply) and isinstance(n.op, Cached) for n in _reached(graph.nodes)))
    trail.graph(graph, {name: Dim.symbol(name) for name in graph.dims})
    given = {size for _, value in graph.results for size in value.type.shape}
    return next((dim for dim in trail.found if dim in given), next(iter(trail.found), None))


class _Trail:
    """Follows calls to what keeps something, with what each callee's dims are in the entry; finds the dims along which.

    `only_cached`: what is cached, whatever recurrences there are.
    """

    def __init__(self, only_cached: bool) -> None:
        self.only_cached = only_cached
        self.found: dict[Dim, None] = {}

    def graph(self, graph: Graph, dims: Mapping[str, Dim]) -> None:
        self.nodes(graph.nodes, dims)

    def nodes(self, nodes: Sequence[Node], dims: Mapping[str, Dim]) -> None:
        for node in nodes:
            if isinstance(node, Loop):
                for iteration in node.iterations:
                    self.nodes(iteration.nodes, dims)
            elif (along := _along(node, self.only_cached)) is not None and along.is_symbol():
                found = dims.get(along.symbols[0])
                self.found.update({found: None} if found is not None else {})
            elif isinstance(node, Call):
                types = [operand_type(i, _plain(dims)) for i in node.inputs]
                bound = call_sizes(node.graph.inputs, types)
                self.graph(node.graph, {n: d for n, d in bound.items() if d.is_symbol()})


def _along(node: Node, only_cached: bool) -> Dim | None:
    """The size that a node goes along, if it keeps something of it."""
    if isinstance(node, Apply) and isinstance(node.op, Cached):
        return node.op.along
    if only_cached:
        return None
    if isinstance(node, Scan):
        return node.along
    if isinstance(node, Apply) and isinstance(node.op, (LSTM, GRU)):
        return node.op.along
    return node.outputs[0].type.shape[2] if isinstance(node, Apply) and isinstance(node.op, CausalConv1d) else None


def _plain(dims: Mapping[str, Dim]) -> Sizes:
    return Sizes(dims)


def _first_cached(graph: Graph) -> Span:
    return next(n.span for n in _reached(graph.nodes) if isinstance(n, Apply) and n.op.name in STATEFUL)

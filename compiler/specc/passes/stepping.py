"""One walk over an entry as a step of decoding: what is kept, what depends on what, and what is illegal (LANGUAGE 13).

Every operator says how it behaves along the step (`Op.stepwise`); here are the rules that are about more than one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from specc.codes import severity
from specc.diagnostics import Collector, Diagnostic, Edit
from specc.dims import Dim
from specc.ir.graph import Apply, Call, Graph, Input, Loop, Node, Scan, Value, When, dotted
from specc.op import Op, OpError, Step
from specc.ops.convolution import CausalConv1d
from specc.ops.index import Index
from specc.ops.recurrent import GRU, LSTM
from specc.ops.state import Cached, Carried
from specc.passes.plain import call_sizes, is_past
from specc.passes.steps import NO_AXIS, State, StepSizes, operand_type, resized, varies
from specc.source import Span
from specc.types import Operand, Scalar, TensorType


class _NothingPast(dict[str, Dim]):
    """Every `past(..)` is 0, and nothing else is replaced."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and is_past(name)

    def __missing__(self, name: str) -> Dim:
        return Dim.const(0)


_NOTHING_PAST = _NothingPast()


@dataclass(frozen=True)
class Known:
    """What a value depends on: the step at all, and which inputs of the entry; and whether a `cached` gave it, which
    `carried` did, that it is 0 throughout, or that it is of the last position of a step."""

    varies: bool = False
    inputs: frozenset[str] = frozenset()
    cached: bool = False
    carried: Apply | None = None
    zero: bool = False
    last: bool = False


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
    start: tuple[int, int] | None = None
    carried: list[tuple[State, ...]] = field(default_factory=list)
    carriers: dict[Apply, int] = field(default_factory=dict)
    consumers: dict[Node, int] = field(default_factory=dict)
    calls: set[Call] = field(default_factory=set)
    waiting: list[Apply] = field(default_factory=list)  # what is carried and not yet a state of anything
    starts: list[State | None] = field(default_factory=list)  # of what is carried, in order; None of what begins at 0
    reads_past: Span | None = None
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
        names = [state.before.name or "h" for state in node.states]
        along = node.along.substitute(sizes)
        self._carry(graph, node, along, [state.start for state in node.states], names, sizes, path, values)
        known = _depends(node.inputs, values)
        values.update(dict.fromkeys(node.bound, known))
        self._nodes(graph, node.nodes, sizes, path, values)
        kept = _depends(node.kept, values)
        if kept.last and self.step.varies(along):
            message = f"what is at the last position of {self.step.size} reaches earlier positions of a step"
            self._say(OpError("D402", message, found="every turn of the loop reads it"), node.span, path)
        for output in node.outputs:
            last = self.step.varies(along) and not varies(self.step, sizes.type(output.type))
            values[output] = Known(known.varies or kept.varies, known.inputs | kept.inputs, last=last)

    def _call(self, graph: Graph, node: Call, sizes: StepSizes, path: str, values: dict[Value, Known]) -> None:
        types = [operand_type(i, sizes) for i in node.inputs]
        inner = call_sizes(node.graph.inputs, types, sizes)
        below = ".".join(filter(None, (path, dotted(node.path))))
        known = [values.get(i, Known()) if isinstance(i, Value) else Known() for i in node.inputs]
        assert isinstance(inner, StepSizes)
        results = self.graph(node.graph, inner, below, known)
        if node.graph in self.steps and inner.is_stepping:
            self.steps.setdefault(graph, sizes.own(graph))
            self.calls.add(node)
        values.update(zip(node.outputs, results, strict=True))

    def _apply(self, graph: Graph, node: Apply, sizes: StepSizes, path: str, values: dict[Value, Known]) -> None:
        types = [operand_type(i, sizes) for i in node.inputs]
        results = [sizes.type(value.type) for value in node.outputs]
        step = self.step
        op = node.op.substitute(sizes)
        legal = self._is_legal(node, op, types, results, values, path)
        tensors = [*results, *(t for t in types if isinstance(t, TensorType))]
        own_form = type(op).torch_step is not Op.torch_step and any(varies(step, t) for t in tensors)
        if own_form or node.op.substitute(_NOTHING_PAST) != node.op:
            self.steps.setdefault(graph, sizes.own(graph))
        others = [i for position, i in enumerate(node.inputs) if op.name != "sdpa" or position not in (1, 2)]
        if any(isinstance(i, Value) and values.get(i, Known()).cached for i in others):
            message = f"`{op.name}` reads a cached value: a static cache has rows that hold nothing yet"
            self.outside.add(Diagnostic("D406", message, node.span, path=self._trail(path), help="--cache concat"))
        known = self._state(graph, node, op, types, sizes, path, values)
        if any(step.is_wide(size) for t in tensors for size in t.shape) or op.name == "positions":
            self.reads_past = self.reads_past or node.span
        created = Known(
            known.varies or any(varies(step, r) for r in results),
            known.inputs,
            isinstance(op, Cached) and op.along == sizes.step,
            node if isinstance(op, Carried) else None,
            op.name == "zeros" or (isinstance(op, Carried) and _is_zero(node, values)),
        )
        takes_last = legal and isinstance(op, (Index, LSTM, GRU)) and any(varies(step, t) for t in tensors)
        for output, result in zip(node.outputs, results, strict=True):
            values[output] = replace(created, last=not varies(step, result) and (known.last or takes_last))

    def _is_legal(
        self,
        node: Apply,
        op: Op,
        types: Sequence[Operand],
        results: Sequence[TensorType],
        values: Mapping[Value, Known],
        path: str,
    ) -> bool:
        """Whether step by step gives what all at once does; says so where it does not."""
        step = self.step
        try:
            for i, operand in enumerate(types):
                if isinstance(operand, Scalar) and isinstance(operand.value, Dim) and step.varies(operand.value):
                    shown = operand.label or str(operand.value)
                    raise OpError("D403", f"`{shown}` as a number differs from step to step", operand=i, found=shown)
            if op.name == "once" and _depends(node.inputs, values).varies:
                shown = f"it depends on inputs along {step.size}"
                raise OpError("D408", "an argument of `once` depends on the step", operand=0, found=shown)
            op.stepwise(step, *types)
            self._stays_last(node, types, results, values)
        except OpError as error:
            self._say(error, node.span, path)
            return False
        return True

    def _state(
        self,
        graph: Graph,
        node: Apply,
        op: Op,
        types: Sequence[Operand],
        sizes: StepSizes,
        path: str,
        values: dict[Value, Known],
    ) -> Known:
        """Notes what an operator keeps from step to step; what is known of its operands then."""
        keeps = op.name in ("cached", "once")
        if isinstance(op, (LSTM, GRU)):
            count = len(node.outputs) - 1
            self._carry(graph, node, op.along, node.inputs[1 : 1 + count], ["h", "c"][:count], sizes, path, values)
        elif isinstance(op, CausalConv1d) and self._has_frames(op, types, sizes.type(node.outputs[0].type)):
            self._frames(graph, node, op, types, sizes)
            keeps = True
        elif isinstance(op, Carried):
            self.waiting.append(node)
        if keeps and self.waiting:
            self._say(_unordered(), node.span, path)
        known = _depends(node.inputs, values)
        if isinstance(op, Cached) and op.along == sizes.step:
            self._keep(node, op, types)
            self.needs |= known.inputs
        if op.name == "once":
            self.steps.setdefault(graph, sizes.own(graph))
            self._once(node, types)
            self.once_needs |= known.inputs
            return Known()
        return known

    def _has_frames(self, op: CausalConv1d, types: Sequence[Operand], result: TensorType) -> bool:
        return self.step.varies(result.shape[2]) and bool(op.frames(types[1]))

    def _stays_last(
        self, node: Apply, types: Sequence[Operand], results: Sequence[TensorType], values: Mapping[Value, Known]
    ) -> None:
        """What is of the step's last position (`x[:, -1]`, a final state), spread over the step again, would be seen by
        earlier positions. Raises `OpError` (D402)."""
        step = self.step
        if not any(varies(step, result) for result in results):
            return
        for i, (operand, type_) in enumerate(zip(node.inputs, types, strict=True)):
            if isinstance(operand, Value) and values.get(operand, Known()).last:
                message = f"what is at the last position of {step.size} reaches earlier positions of a step"
                raise OpError("D402", message, operand=i, found=f"{type_} is of the last position alone")

    def _carry(
        self,
        graph: Graph,
        node: Apply | Scan,
        along: Dim,
        starts: Sequence[Input],
        names: Sequence[str],
        sizes: StepSizes,
        path: str,
        values: dict[Value, Known],
    ) -> None:
        """The states of a recurrence along the step come in and go out; along another axis they are its own."""
        known = [values.get(i, Known()) if isinstance(i, Value) else Known() for i in starts]
        sources = [k.carried for k in known if k.carried is not None]
        stepping = self.step.varies(along)
        what = "scan" if isinstance(node, Scan) else node.op.name
        if stepping and len(sources) < len(starts):
            found = f"{names[next(i for i, k in enumerate(known) if k.carried is None)]} begins anew in every step"
            message = f"`{what}` along {sizes.step} mixes positions of different steps: a state is not carried"
            self._say(
                OpError("D402", message, found=found, help="carried(..) around what it begins with"), node.span, path
            )
        elif stepping and any(k.varies or k.last for k in known):
            message = f"a carried state of `{what}` begins with what depends on the positions of a step"
            self._say(
                OpError("D402", message, found="what comes before the first step has no positions"), node.span, path
            )
        elif stepping and self.waiting[: len(sources)] != sources:
            self._say(_unordered(), node.span, path)
        elif stepping:
            kept = [operand_type(i, sizes) for i in starts]
            self._add(graph, node, zip(names, kept, strict=True), sizes)
            self.carriers.update((source, k) for k, source in enumerate(sources))
            self._begin(known, starts, values)
        self.waiting = [one for one in self.waiting if one not in sources]

    def _begin(self, known: Sequence[Known], starts: Sequence[Input], values: dict[Value, Known]) -> None:
        """What states begin with is computed before the first step, and read by none."""
        for k, start, state in zip(known, starts, self.carried[-1], strict=True):
            self.starts.append(None if k.zero else state)
            self.once_needs |= k.inputs
            if isinstance(start, Value):
                values[start] = replace(k, inputs=frozenset())

    def _frames(self, graph: Graph, node: Apply, op: CausalConv1d, types: Sequence[Operand], sizes: StepSizes) -> None:
        """The last inputs of a causal convolution are the left context of the next step."""
        x = types[0]
        assert isinstance(x, TensorType)
        self._add(graph, node, [("conv", resized(x, 2, Dim.const(op.frames(types[1]))))], sizes)

    def _add(self, graph: Graph, node: Apply | Scan, kept: Iterable[tuple[str, Operand]], sizes: StepSizes) -> None:
        number, group = len(self.carried), []
        for name, type_ in kept:
            assert isinstance(type_, TensorType)
            names = f"past_states.{number}.{name}", f"present_states.{number}.{name}"
            group.append(State(*names, type_, type_, NO_AXIS))
        self.carried.append(tuple(group))
        self.consumers[node] = len(group)
        self.steps.setdefault(graph, sizes.own(graph))

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
        if self.start is None:
            self.start = (len(self.once) + len(self.carried), group[0].axis)
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


_ALLOWED = "cached, carried, causal_conv1d, positions, causal attention, and what works on each position alone"


def _fix(code: str, span: Span) -> tuple[Edit, ...]:
    """The change of the text that is safe to make: positions go on where a range restarts; attention becomes causal."""
    text = span.text
    if code == "D401" and re.fullmatch(r"arange\(\s*\w+\s*\)", text):
        return (Edit(span, "positions" + text.removeprefix("arange")),)
    if code == "D404" and text.startswith("sdpa(") and text.endswith(")") and "causal" not in text:
        return (Edit(span, f"{text[:-1].rstrip()}, causal = true)"),)
    return ()


def _unordered() -> OpError:
    """Steps tell what is kept by its order."""
    message = "a state is carried before something else is kept, and read after it: not supported yet"
    return OpError("B650", message, help="carried(..) where the recurrence begins, in its own body")


def _is_zero(node: Apply, values: Mapping[Value, Known]) -> bool:
    return all(isinstance(i, Value) and values.get(i, Known()).zero for i in node.inputs)


def _depends(inputs: Sequence[Input], values: Mapping[Value, Known]) -> Known:
    known = [values.get(i, Known()) for i in inputs if isinstance(i, Value)]
    reached = frozenset[str]().union(*(k.inputs for k in known))
    return Known(any(k.varies for k in known), reached, last=any(k.last for k in known))

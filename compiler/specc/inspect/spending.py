"""What a graph takes when it runs: arithmetic forward and backward, memory kept for gradients, memory at its peak.

Values of one memory (`Op.views`) are a `Storage`. In inference a storage lives from the node that makes it to the last
one that reads it; in training also as long as a gradient needs it, as `Op.saved` says: what eager torch keeps. Memory
of parameters and of the caller is not counted here. A graph is walked once for each choice of sizes and of inputs that
have gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from specc.dims import Dim, DimError
from specc.inspect.counts import BYTES
from specc.inspect.formulas import ZERO, Formula, Largest, at_ones, largest, total
from specc.inspect.storages import Event, Spent, Storage, both, peak_of, save, use
from specc.ir.graph import (
    Apply,
    Call,
    Graph,
    Input,
    Loop,
    Module,
    Node,
    Parameter,
    Read,
    Scan,
    Value,
    When,
)
from specc.ir.members import member_at
from specc.ir.route import Route
from specc.op import Op, numel
from specc.ops.state import Once
from specc.passes.plain import IDENTITIES, Sizes, call_sizes
from specc.passes.steps import StepSizes, in_a_step
from specc.types import DType, Operand, Scalar, TensorType


@dataclass(frozen=True)
class Result:
    """`input`: the number of the argument whose memory it is, None for memory of the graph's own of `bytes`."""

    input: int | None
    bytes: Dim
    saved: bool
    needs: bool
    order: tuple[int, ...] | None


@dataclass(frozen=True, eq=False)
class Spending:
    """Of one graph. `saves`: arguments whose memory the gradients need. `calls`, by the id of the node: of what it
    calls; `turns`, by the id of the iteration.
    """

    spent: Spent
    results: tuple[Result, ...]
    saves: frozenset[int]
    calls: Mapping[int, Spending]
    turns: Mapping[int, Spent]
    again: Largest = ()  # of blocks that are computed again for their gradients, what one of them keeps


@dataclass
class _Frame:
    sizes: Sizes
    module: Module | None
    needs: dict[Value, bool] = field(default_factory=dict)
    storage: dict[Value, Storage] = field(default_factory=dict)
    order: dict[Value, tuple[int, ...]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    calls: dict[int, Spending] = field(default_factory=dict)
    ranges: dict[int, tuple[int, int]] = field(default_factory=dict)
    repeated: bool = False  # within a loop
    again: list[Dim] = field(default_factory=list)


class Spendings:
    """Computes and remembers. `width`: bytes of an element of the compute dtype; `dropout`: whether it is on when
    gradients are computed; `checkpoint`: whether repeated blocks keep their inputs alone and are computed again.
    """

    def __init__(self, width: int = 4, dropout: bool = True, checkpoint: bool = False) -> None:
        self.dropout, self.checkpoint = dropout, checkpoint
        self.bytes_of = {**BYTES, DType.COMPUTE: width}
        self._known: dict[tuple[Graph, frozenset[tuple[str, Dim]], tuple[bool, ...]], Spending] = {}

    def entry(self, graph: Graph, sizes: Sizes) -> Spending:
        """Its inputs have no gradients."""
        return self.of(graph, sizes, (False,) * len(graph.inputs))

    def of(self, graph: Graph, sizes: Sizes, needs: tuple[bool, ...]) -> Spending:
        key = graph, frozenset(sizes.items()), needs
        if key not in self._known:
            self._known[key] = self._walked(graph, sizes, needs)
        return self._known[key]

    def bytes(self, type_: TensorType) -> Dim:
        try:
            return numel(type_) * self.bytes_of[type_.dtype]
        except DimError:
            return ZERO

    def _walked(self, graph: Graph, sizes: Sizes, needs: tuple[bool, ...]) -> Spending:
        frame = _Frame(sizes, graph.module)
        for i, (argument, need) in enumerate(zip(graph.inputs, needs, strict=True)):
            if argument.value is not None:
                frame.storage[argument.value] = Storage(ZERO, ZERO, input=i)
                frame.needs[argument.value] = need
        self._nodes(frame, in_a_step(graph) if isinstance(sizes, StepSizes) else graph.nodes)
        given = [value for _, value in graph.results]
        for value in given:
            use(frame.storage[value], len(frame.events))
        storages = {id(s): s for s in frame.storage.values()}.values()
        peak = peak_of(frame.events)
        results = tuple(_result(frame, value) for value in given)
        turns = {key: self._spent(frame.events[a:b]) for key, (a, b) in frame.ranges.items()}
        saves = frozenset(s.input for s in storages if s.input is not None and s.saved)
        spent = replace(self._spent(frame.events), peak=peak)
        return Spending(spent, results, saves, frame.calls, turns, largest(frame.again))

    def _spent(self, events: Sequence[Event]) -> Spent:
        found = both(event.spent for event in events)
        made = total(s.bytes for event in events for s in event.made if s.saved and not s.counted)
        return replace(found, saved=total((found.saved, made)))

    # ---- nodes -------------------------------------------------------------------------------------------------------

    def _nodes(self, frame: _Frame, nodes: Sequence[Node]) -> None:
        for node in nodes:
            if isinstance(node, Read):
                frame.storage[node.output] = Storage(ZERO, ZERO)
                frame.needs[node.output] = node.output.type.dtype.is_float and not _is_buffer(frame.module, node)
            elif isinstance(node, Apply):
                self._apply(frame, node)
            elif isinstance(node, Call):
                self._call(frame, node)
            elif isinstance(node, Route):
                self._route(frame, node)
            elif isinstance(node, Loop):
                outside, frame.repeated = frame.repeated, True
                for iteration in node.iterations:
                    start = len(frame.events)
                    self._nodes(frame, iteration.nodes)
                    frame.ranges[id(iteration)] = start, len(frame.events)
                frame.repeated = outside
            elif isinstance(node, Scan):
                self._scan(frame, node)
            elif isinstance(node, When):
                if node.mode == "infer":
                    self._nodes(frame, node.nodes)
                for before, end, after in node.rebinds:
                    _alias(frame, after, end if node.mode == "infer" else before)

    def _apply(self, frame: _Frame, node: Apply) -> None:
        if isinstance(node.op, Once) and isinstance(frame.sizes, StepSizes):  # computed by no step
            for value in node.outputs:
                frame.storage[value], frame.needs[value] = Storage(ZERO, ZERO), False
            return
        if node.op.name in IDENTITIES:
            for kept, value in zip(node.inputs, node.outputs, strict=True):
                assert isinstance(kept, Value)
                _alias(frame, value, kept)
            return
        op = node.op.substitute(frame.sizes)
        operands = [frame.sizes.operand(i) for i in node.inputs]
        results = [frame.sizes.type(value.type) for value in node.outputs]
        storages = [frame.storage[i] if isinstance(i, Value) else None for i in node.inputs]
        needs = [isinstance(i, Value) and frame.needs[i] for i in node.inputs]
        for storage in storages:
            if storage is not None:
                use(storage, len(frame.events))
        first = node.inputs[0] if node.inputs else None
        order = frame.order.get(first) if isinstance(first, Value) else None
        own: list[Storage] = []
        views = op.views(order, *operands) or (op.converts and self._is_already(results[0], operands[0]))
        whole = storages[0] if storages and views else None
        if whole is None:
            own = [Storage(self.bytes(type_), self.bytes(type_)) for type_ in results]
        given = own if whole is None else [whole] * len(results)
        wanted = any(need and (op.smooth is None or i in op.smooth) for i, need in enumerate(needs))
        for value, memory, type_ in zip(node.outputs, given, results, strict=True):
            frame.storage[value] = memory
            frame.needs[value] = wanted and type_.dtype.is_float
            if (lies := _order(op, operands, type_, len(results), frame.order, node.inputs)) is not None:
                frame.order[value] = lies
        spent = self._cost(op, needs if wanted else (), results, operands)
        if whole is None and not op.train_only:
            spent = replace(spent, moved=self._moved(op, results, operands))
        if op.train_only:
            spent = self._noise(op, wanted, own, storages[0], results[0])
        elif any(frame.needs[value] for value in node.outputs):
            saved = op.saved(needs, results, *operands)
            copied = [i for i in saved.in_order if not self._in_order(frame, node.inputs[i], operands[i])]
            memory_of = (*saved.operands, *(i for i in saved.in_order if i not in copied))
            for storage in (*(storages[i] for i in memory_of), *(given[i] for i in saved.results)):
                if storage is not None:
                    save(storage)
            copies = [operand for i in copied if isinstance(operand := operands[i], TensorType)]
            spent = replace(spent, saved=total(self.bytes(type_) for type_ in (*saved.own, *copies)))
        frame.events.append(Event(own, spent))

    def _is_already(self, type_: TensorType, operand: Operand) -> bool:
        """Whether an operand has this element type, that of the model among them where it is f32."""
        if not isinstance(operand, TensorType):
            return False
        f32 = {DType.F32, DType.COMPUTE} if self.bytes_of[DType.COMPUTE] == self.bytes_of[DType.F32] else set[DType]()
        return operand.dtype == type_.dtype or {operand.dtype, type_.dtype} == f32

    def _in_order(self, frame: _Frame, given: Input, operand: Operand) -> bool:
        """Whether it lies in memory as its axes are counted, and is not a part of something larger."""
        if not (isinstance(given, Value) and isinstance(operand, TensorType)):
            return True
        return given not in frame.order and frame.storage[given].bytes in (ZERO, self.bytes(operand))

    def _noise(self, op: Op, wanted: bool, made: Sequence[Storage], given: Storage | None, type_: TensorType) -> Spent:
        """The identity in inference; in training it keeps which elements it dropped."""
        if not (self.dropout and op.attributes.get("p")) or given is None or not made:
            for storage in made:
                storage.bytes, storage.live, storage.of = ZERO, ZERO, given
            return Spent()
        made[0].live, made[0].of = ZERO, given
        return Spent(saved=self.bytes(type_.with_dtype(DType.BOOL)) if wanted else ZERO)

    def _cost(self, op: Op, needs: Sequence[bool], results: Sequence[TensorType], operands: Sequence[Operand]) -> Spent:
        if op.train_only:
            return Spent()
        try:
            forward = op.cost(results, *operands)
            if not any(needs) or not any(type_.dtype.is_float for type_ in results):
                return Spent(forward.flops, forward.products)
            backward = op.backward(needs, results, *operands)
        except DimError:
            return Spent(None, None, None, None)
        return Spent(forward.flops, forward.products, backward.flops, backward.products)

    def _moved(self, op: Op, results: Sequence[TensorType], operands: Sequence[Operand]) -> Formula:
        """Bytes read and written; of a table only the rows that are looked up."""
        written = total(self.bytes(type_) for type_ in results)
        read = [ZERO if operand is None or isinstance(operand, Scalar) else self.bytes(operand) for operand in operands]
        if op.picks is not None and written is not None:
            read[op.picks] = written
        return total((written, *read))

    def _call(self, frame: _Frame, node: Call) -> None:
        sizes = call_sizes(node.graph.inputs, [frame.sizes.operand(i) for i in node.inputs], frame.sizes)
        needs = tuple(isinstance(i, Value) and frame.needs[i] for i in node.inputs)
        found = frame.calls[id(node)] = self.of(node.graph, sizes, needs)
        self._called(frame, node, found)

    def _called(self, frame: _Frame, node: Call, found: Spending) -> None:
        given = [frame.storage[i] if isinstance(i, Value) else None for i in node.inputs]
        for storage in given:
            if storage is not None:
                use(storage, len(frame.events))
        again = self.checkpoint and frame.repeated and bool(node.path)
        for i, storage in enumerate(given):
            if storage is not None and (i in found.saves or again):
                save(storage)
        frame.again += found.again if not again or found.spent.saved is None else (found.spent.saved,)
        made: list[Storage] = []
        for value, result in zip(node.outputs, found.results, strict=True):
            own = given[result.input] if result.input is not None else None
            if own is None:
                own = Storage(result.bytes, result.bytes, counted=result.saved and not again)
                made.append(own)
            frame.storage[value], frame.needs[value] = own, result.needs
            if result.order is not None:
                frame.order[value] = result.order
        spent = replace(found.spent, saved=ZERO) if again else found.spent
        frame.events.append(Event(made, spent, found.spent.peak, whole=True))

    def _route(self, frame: _Frame, route: Route) -> None:
        """All pairs through the dearest expert, as they are shared among equal ones; `calls` has each one's share."""
        pairs = numel(frame.sizes.type(route.dispatch.outputs[0].type))
        symbols = [size.symbols[0] for size in route.dispatch.op.attributes["rows"]]
        every, none, share = (
            _with(frame.sizes, dict.fromkeys(symbols, size)) for size in (pairs, ZERO, pairs // len(route.experts))
        )
        self._apply_sized(frame, route.dispatch, every, none)
        needs = [tuple(isinstance(i, Value) and frame.needs[i] for i in call.inputs) for call in route.calls]

        def spent(call: Call, need: tuple[bool, ...], sizes: Sizes) -> Spending:
            operands = [sizes.operand(i) for i in call.inputs]
            return self.of(call.graph, call_sizes(call.graph.inputs, operands, sizes), need)

        whole = [spent(call, need, every) for call, need in zip(route.calls, needs, strict=True)]
        dearest = max(range(len(whole)), key=lambda i: at_ones(whole[i].spent.flops or ZERO))
        for i, (call, need) in enumerate(zip(route.calls, needs, strict=True)):
            frame.calls[id(call)] = spent(call, need, share)
            self._called(frame, call, whole[i] if i == dearest else spent(call, need, none))
        self._apply_sized(frame, route.combine, every, every)

    def _apply_sized(self, frame: _Frame, node: Apply, first: Sizes, others: Sizes) -> None:
        """With sizes of its own: those of rows, of which all are taken to be the first expert's."""
        before, frame.sizes = frame.sizes, first
        self._apply(frame, node)
        frame.sizes = before
        for value in node.outputs[2:]:
            storage = frame.storage[value]
            storage.bytes = storage.live = self.bytes(others.type(value.type))

    def _scan(self, frame: _Frame, scan: Scan) -> None:
        """Each step makes its values anew; what it emits is put together at the end."""
        steps = scan.along.substitute(frame.sizes)
        at = len(frame.events)
        for part in scan.sequences:
            _alias(frame, part.slice, part.whole)
        needs = any(frame.needs[v] for v in (*(s.whole for s in scan.sequences), *(s.start for s in scan.states)))
        for state in scan.states:
            frame.storage[state.before] = Storage(ZERO, ZERO)
            frame.needs[state.before] = True if needs else frame.needs[state.start]
        inner = replace(frame, events=[], ranges={})
        self._nodes(inner, scan.nodes)
        for state in scan.states:
            if frame.storage[state.before].saved:
                save(frame.storage[state.after])
        for value in scan.kept:
            use(frame.storage[value], len(inner.events))
        spent = self._spent(inner.events).repeated(steps)
        made = []
        for value, source in (
            *((e.stacked, e.value) for e in scan.emits),
            *((s.result, s.after) for s in scan.states),
        ):
            size = self.bytes(frame.sizes.type(value.type))
            frame.storage[value] = Storage(size, size)
            frame.needs[value] = frame.needs[source]
            made.append(frame.storage[value])
        for read in scan.inputs:
            if isinstance(read, Value):
                use(frame.storage[read], at)
        frame.events.append(Event(made, spent, peak_of(inner.events)))


# ---- values ----------------------------------------------------------------------------------------------------------


def _with(sizes: Sizes, more: Mapping[str, Dim]) -> Sizes:
    """Sizes of the same kind with these instead."""
    found = sizes.empty()
    found.update({**sizes, **more})
    return found


def _alias(frame: _Frame, value: Value, of: Value) -> None:
    frame.storage[value], frame.needs[value] = frame.storage[of], frame.needs[of]
    if of in frame.order:
        frame.order[value] = frame.order[of]


def _result(frame: _Frame, value: Value) -> Result:
    storage = frame.storage[value]
    while storage.of is not None and storage.bytes == ZERO:
        storage = storage.of
    return Result(storage.input, storage.bytes, storage.saved, frame.needs[value], frame.order.get(value))


def _order(
    op: Op,
    operands: Sequence[Operand],
    result: TensorType,
    results: int,
    known: Mapping[Value, tuple[int, ...]],
    inputs: Sequence[Input],
) -> tuple[int, ...] | None:
    """How the axes of a result lie in memory, if not as they are counted."""
    first = operands[0] if operands else None
    if not isinstance(first, TensorType):
        return None
    perm = op.permutation(first.rank)
    if perm is not None:
        return None if list(perm) == sorted(perm) else tuple(perm.index(a) for a in range(len(perm)))
    of = inputs[op.like if op.like is not None else 0]
    before = known.get(of) if isinstance(of, Value) else None
    if before is None or not (op.like is not None or op.views(before, *operands)):
        return None
    if result.rank == first.rank:
        return before
    if results > 1 and result.rank == first.rank - 1:  # the first axis is taken apart
        rest = tuple(axis - 1 for axis in before if axis != 0)
        return None if list(rest) == sorted(rest) else rest
    return None


def _is_buffer(module: Module | None, node: Read) -> bool:
    """Whether what is read is no parameter of the training."""
    member = member_at(module, node.path) if module is not None else None
    return isinstance(member, Parameter) and member.buffer

"""From a graph to its steps: what is an expression, what becomes a statement, and until when each value is needed.

What means nothing at run time is gone here (`cached(k, v)` is `k, v`), the fold of an `nn.Sequential` is one step, and
every use of a value has the position of the statement that will contain it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from specc.backends.torch.program import END, Item, LoopStep, Program, ScanStep, Step, WhenStep, made, whens
from specc.ir.graph import Absent, Apply, Call, Graph, Input, Loop, Node, Path, Read, Scan, Value, When
from specc.ir.route import Route
from specc.ops.extern import Extern


def schedule(
    graph: Graph,
    *,
    sequential: Callable[[Path], bool],
    identity: Callable[[Apply], bool],
    constant: Callable[[Value], bool],
    own_line: Callable[[Step, Step | None], bool],
    arrange: Callable[[Program], tuple[Item, ...]] = lambda program: program.items,
) -> Program:
    """The steps of a graph, those that nothing needs left out.

    `sequential`: whether the list at a path is called as one module. `identity`: whether an operator does nothing.
    `constant`: values computed in `__init__`. `own_line`: whether a step gets a name although its only user could
    contain it. `arrange`: the items in the order in which they are written.
    """
    return _Scheduler(graph, sequential, identity, constant, own_line, arrange).run()


class _Scheduler:
    """Makes the steps, drops what is dead, numbers the statements, and then decides what needs none of its own."""

    def __init__(
        self,
        graph: Graph,
        sequential: Callable[[Path], bool],
        identity: Callable[[Apply], bool],
        constant: Callable[[Value], bool],
        own_line: Callable[[Step, Step | None], bool],
        arrange: Callable[[Program], tuple[Item, ...]],
    ) -> None:
        self.graph, self.sequential, self.identity = graph, sequential, identity
        self.constant, self.own_line, self.arrange = constant, own_line, arrange
        self.program = Program()
        self.alias: dict[Value, Input] = {}
        self.regions = 0
        self.position = 0
        self.uses: dict[Value, list[tuple[Step | int, int]]] = {}  # (the step, or a position), region
        self.bound: set[Value] = set()
        self.starts: dict[Value, Value] = {}  # carrier of a fold -> what the fold begins with

    def run(self) -> Program:
        program = self.program
        program.items = self.region(self.graph.nodes)
        program.results = tuple(self.resolve(value) for _, value in self.graph.results)
        program.items = self.without_dead(program.items, set(self.needed(program.results)))
        program.items = self.arrange(program)
        self.number(program.items)
        for result in program.results:
            self.use(result, END, 0)
        self.decide()
        return program

    def resolve(self, value: Input) -> Input:
        while isinstance(value, Value) and value in self.alias:
            value = self.alias[value]
        return value

    # ---- steps ---------------------------------------------------------------------------------------------------

    def region(self, nodes: Sequence[Node]) -> tuple[Item, ...]:
        here = self.regions
        self.regions += 1
        return tuple(item for node in nodes for item in self.items(node, here))

    def items(self, node: Node, region: int) -> Iterator[Item]:
        if isinstance(node, Read):
            self.program.reads[node.output] = node.path
        elif isinstance(node, Loop):
            yield from self.loop(node, region)
        elif isinstance(node, When):
            inside = self.regions
            items = self.region(node.nodes)
            rebinds = tuple((self._value(b), self.resolve(e), a) for b, e, a in node.rebinds)
            aux = tuple((name, self.resolve(value)) for name, value in node.aux)
            yield WhenStep(node, items, rebinds, aux, inside)
        elif isinstance(node, Scan):
            yield self.scan(node)
        elif isinstance(node, Apply) and self.identity(node):
            kept = [i for i in node.inputs if not isinstance(i, Absent)]
            self.alias.update(zip(node.outputs, (self.resolve(i) for i in kept), strict=False))
        elif not all(self.constant(v) for v in node.outputs):
            inner = _extern_operation(node.graph) if isinstance(node, Call) else None
            yield self.step(inner or node, tuple(self.resolve(i) for i in node.inputs), node.outputs, region)

    def _value(self, value: Value) -> Value:
        resolved = self.resolve(value)
        assert isinstance(resolved, Value)
        return resolved

    def step(
        self, node: Apply | Call | Loop, inputs: tuple[Input, ...], outputs: tuple[Value, ...], region: int
    ) -> Step:
        step = Step(node, inputs, outputs, region)
        for value in outputs:
            self.program.producer[value] = step
        return step

    def loop(self, loop: Loop, region: int) -> Iterator[Item]:
        if not loop.iterations:
            return
        if isinstance(loop, Route):
            yield self.step(loop, tuple(self.resolve(i) for i in loop.operands), (loop.result,), region)
            return
        if loop.fold is not None and self.sequential(loop.fold):
            start, end = _first_input(loop), _last_output(loop)
            if start is not None and end is not None:
                yield self.step(loop, (self.resolve(start),), (end,), region)
            return
        iterations = tuple((i.binds, self.region(i.nodes)) for i in loop.iterations)
        step = LoopStep(loop, iterations)
        found = _first_input(loop) if loop.fold is not None else None
        start = self.resolve(found) if found is not None else None
        if isinstance(start, Value):
            step.start, step.carrier = start, Value(None, start.type, start.span)
            self.starts[step.carrier] = start
            _carry(step, step.carrier)
        yield step

    def scan(self, node: Scan) -> ScanStep:
        inside = self.regions
        step = ScanStep(
            scan=node,
            items=self.region(node.nodes),
            sequences=tuple(self.resolve(s.whole) for s in node.sequences),
            starts=tuple(self.resolve(s.start) for s in node.states),
            ends=tuple(self.resolve(s.after) for s in node.states),
            emits=tuple((self.resolve(e.value), e) for e in node.emits),
            region=inside,
        )
        self.program.scanned.update(dict.fromkeys((*node.bound, *node.outputs), step))
        return step

    # ---- uses ----------------------------------------------------------------------------------------------------

    def needed(self, roots: Sequence[Input]) -> set[Value]:
        """Values that results or training-only values depend on."""
        pending = [v for v in roots if isinstance(v, Value)]
        for when in whens(self.program.items):
            pending += [v for _, end, _ in when.rebinds for v in (end,) if isinstance(v, Value)]
            pending += [before for before, _, _ in when.rebinds]
            pending += [v for _, v in when.aux if isinstance(v, Value)]
        found: set[Value] = set()
        while pending:
            value = pending.pop()
            if value in found:
                continue
            found.add(value)
            step = self.program.producer.get(value)
            pending += [v for v in step.inputs if isinstance(v, Value)] if step else []
            scan = self.program.scanned.get(value)
            if scan is not None:
                emitted = [v for v, e in scan.emits if e.stacked is value]
                pending += [v for v in (*scan.inputs, *emitted) if isinstance(v, Value)]
            pending += [self.starts[value]] if value in self.starts else []
        return found

    def without_dead(self, items: Sequence[Item], needed: set[Value]) -> tuple[Item, ...]:
        kept: list[Item] = []
        for item in items:
            if isinstance(item, LoopStep):
                item.iterations = tuple((b, self.without_dead(i, needed)) for b, i in item.iterations)
            elif isinstance(item, (WhenStep, ScanStep)):
                item.items = self.without_dead(item.items, needed)
            if isinstance(item, ScanStep):
                item.emits = tuple((v, e) for v, e in item.emits if e.stacked in needed)
            if isinstance(item, (LoopStep, WhenStep)) or any(v in needed for v in item.outputs):
                kept.append(item)
        return tuple(kept)

    def use(self, value: Input, user: Step | int, region: int) -> None:
        if isinstance(value, Value):
            self.uses.setdefault(value, []).append((user, region))

    def number(self, items: Sequence[Item], region: int = 0) -> None:
        for item in items:
            self.position += 1
            if isinstance(item, Step):
                item.position = self.position
                for value in item.inputs:
                    self.use(value, item, item.region)
            elif isinstance(item, LoopStep):
                if item.start is not None:
                    item.position = self.position
                    self.bound.add(item.start)
                    self.use(item.start, self.position, -1)
                for _, body in item.iterations:
                    self.number(body, -1)
            elif isinstance(item, ScanStep):
                self.number_scan(item, region)
            else:
                for before, _, _ in item.rebinds:
                    self.bound.add(before)
                    self.use(before, self.position, region)
                self.number(item.items, -1)
                self.position += 1
                item.position = self.position
                for _, end, after in item.rebinds:
                    self.use(end, self.position, item.region)
                    self.bound.add(after)
                for _, value in item.aux:
                    self.use(value, self.position, item.region)

    def number_scan(self, item: ScanStep, region: int) -> None:
        """What a step reads from outside the scan is needed until the last step has run."""
        item.start = self.position
        for value in (*item.sequences, *item.starts):
            self.use(value, item.start, region)
        before = {value: len(uses) for value, uses in self.uses.items()}
        self.number(item.items, -1)
        self.position += 1
        item.position = self.position
        for value in (*item.ends, *(v for v, _ in item.emits)):
            self.use(value, item.position, item.region)
        inside = {*item.scan.bound, *made(item.items)}
        for value, uses in self.uses.items():
            if value not in inside and len(uses) > before.get(value, 0):
                uses.append((item.position, -1))

    def _on_its_own(self, step: Step, user: Step | int) -> bool:
        return self.own_line(step, user if isinstance(user, Step) else None)

    def decide(self) -> None:
        """Which values are written where they are used: nameless ones with one use, in the same body."""
        program = self.program
        for value, step in program.producer.items():
            uses = self.uses.get(value, [])
            alone = len(step.outputs) == 1 and value.name is None and len(uses) == 1 and value not in self.bound
            if alone and uses[0][1] == step.region and not self._on_its_own(step, uses[0][0]):
                program.inline.add(value)

        ends: dict[Value, int] = {}

        def end(value: Value) -> int:
            """The position of the last statement that reads the value."""
            if value not in ends:
                ends[value] = max((place(user) for user, _ in self.uses.get(value, ())), default=0)
            return ends[value]

        def place(user: Step | int) -> int:
            if isinstance(user, int):
                return user
            return end(user.outputs[0]) if user.outputs[0] in program.inline else user.position

        for value in list(self.uses):
            program.last_use[value] = end(value)


def _extern_operation(graph: Graph) -> Apply | None:
    """What a call of an extern function comes to: the operation itself, for its graph holds nothing else."""
    first = graph.nodes[0] if graph.nodes and graph.module is None else None
    return first if isinstance(first, Apply) and isinstance(first.op, Extern) else None


def _carry(loop: LoopStep, carrier: Value) -> None:
    """Make the first expression of a fold start from `carrier`."""
    for _, items in loop.iterations:
        for item in items:
            if isinstance(item, LoopStep) and item.start is not None:
                item.start = carrier
                return
            if isinstance(item, Step):
                item.inputs = (carrier, *item.inputs[1:])
                return


def _first_input(loop: Loop) -> Input | None:
    """What a fold begins with."""
    for iteration in loop.iterations:
        for node in iteration.nodes:
            if isinstance(node, Loop):
                found = _first_input(node)
                if found is not None:
                    return found
            elif isinstance(node, (Apply, Call)):
                return node.inputs[0]
    return None


def _last_output(loop: Loop) -> Value | None:
    """What a fold ends with."""
    for iteration in reversed(loop.iterations):
        for node in reversed(iteration.nodes):
            if isinstance(node, Loop):
                found = _last_output(node)
                if found is not None:
                    return found
            elif isinstance(node, (Apply, Call)):
                return node.outputs[0]
    return None

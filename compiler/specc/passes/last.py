"""Results of an incremental entry for the last position only: what generation reads of its logits.

Where a result has an axis of new positions, what it is computed from is cut to the last of them as early as that is
exact: backwards through everything that works on each position alone, a head's product with a large vocabulary first of
all. That steps give what the whole gives is known by then (`incremental.derive`), so a graph without a form of its own
for steps mixes no positions. Left padding makes the last column the last token of every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from specc.dims import Dim
from specc.ir.graph import Apply, Call, Graph, Input, Loop, Node, Read, Scan, Value, When
from specc.ir.route import Route
from specc.op import Op, Step
from specc.ops.index import ALL, Index, Item
from specc.passes.incremental import Incremental
from specc.passes.steps import operand_type
from specc.types import Scalar, TensorType


def last_only(of: Incremental) -> Incremental:
    """The entry with every result along its new positions cut to the last one: size 1 on that axis."""
    cut = _Cut(of)
    for _, value in of.graph.results:
        cut.want(value)
    graph = cut.rewritten()
    if graph is of.graph:
        return of
    results = zip(of.graph.output_names, of.graph.results, strict=True)
    names = tuple(name for name, (_, value) in results if value in cut.last)
    return replace(of, graph=graph, whole=of.graph, last=names, steps={**of.steps, graph: of.steps[of.graph]})


@dataclass
class _Cut:
    """`last`: values that are read at the last position -> their axis; `whole`: values that are read everywhere;
    `moved`: the nodes that work on one position.
    """

    of: Incremental
    last: dict[Value, int] = field(default_factory=dict)
    whole: set[Value] = field(default_factory=set)
    moved: set[Node] = field(default_factory=set)

    def want(self, value: Value) -> None:
        """A result of the entry."""
        axis = self._axis(value.type)
        if axis is None:
            self.whole.add(value)
        else:
            self.last[value] = axis

    def rewritten(self) -> Graph:
        graph = self.of.graph
        if not self.last:
            return graph
        for node in reversed(graph.nodes):
            self._back(node)
        new: dict[Value, Value] = {}
        nodes: list[Node] = [self._slice(value, new) for a in graph.inputs for value in self._ends_at(a.value)]
        for node in graph.nodes:
            if node in self.moved:
                nodes.append(self._narrow(node, new))
                continue
            nodes.append(node)
            nodes += [self._slice(value, new) for made in _made(node) for value in self._ends_at(made)]
        results = tuple((name, new.get(value, value)) for name, value in graph.results)
        return replace(graph, nodes=tuple(nodes), results=results)

    # ---- backwards: who works on one position --------------------------------------------------------------------

    def _back(self, node: Node) -> None:
        if isinstance(node, Loop) and self._back_through(node):
            return
        wanted = [value for value in node.outputs if value in self.last]
        if wanted and not self.whole.intersection(node.outputs) and self._acts_alone(node):
            self.moved.add(node)
            for value in _values(node.inputs):
                axis = self._axis(value.type)
                if axis is None:
                    self.whole.add(value)
                else:
                    self.last[value] = axis
            return
        self.whole.update(wanted)
        self.whole.update(_read(node))

    def _back_through(self, loop: Loop) -> bool:
        """Whether everything in a loop works on one position; otherwise nothing of it does: iterations stay alike."""
        if isinstance(loop, Route):
            return False
        before = dict(self.last), set(self.whole), set(self.moved)
        inside = [node for iteration in loop.iterations for node in iteration.nodes]
        for node in reversed(inside):
            self._back(node)
            if node not in self.moved and not isinstance(node, Read):
                self.last, self.whole, self.moved = before
                return False
        self.moved.add(loop)
        return True

    def _acts_alone(self, node: Node) -> bool:
        """Whether each position of the results depends on the same position of the operands alone."""
        sizes = self.of.sizes
        if isinstance(node, Apply):
            alone = _is_plain(node.op) and self._mixes_nothing(node)
        elif isinstance(node, Call):
            alone = node.graph not in self.of.steps and not _takes_the_last(node.graph.nodes)
        else:
            return False
        types = [operand_type(i, sizes) for i in node.inputs]
        numbers = [t.value for t in types if isinstance(t, Scalar) and isinstance(t.value, Dim)]
        tensors = [t for t in types if isinstance(t, TensorType)] + [sizes.type(v.type) for v in node.outputs]
        results = [sizes.type(v.type) for v in node.outputs]
        return (
            alone
            and not any(map(self._varies, numbers))
            and all(self._is_clear(t) for t in tensors)
            and all(self._axis(t) is not None for t in results)
        )

    def _mixes_nothing(self, node: Apply) -> bool:
        """Along positions; nor is one of its settings the number of them."""
        sizes = self.of.sizes
        types = [operand_type(i, sizes) for i in node.inputs]
        op = node.op.substitute(sizes)
        if op.substitute(dict.fromkeys((*self._step.size.symbols, *self._step.past.symbols), 1)) != op:
            return False
        mixed = op.mixes(*types)
        pairs = [(t, axes) for t, axes in zip(types, mixed, strict=True) if isinstance(t, TensorType)]
        return not any(self._varies(t.shape[axis]) for t, axes in pairs for axis in axes)

    def _axis(self, type_: TensorType) -> int | None:
        """The one axis of new positions; None where there is none, or sizes tell of positions in another way."""
        shape = self.of.sizes.type(type_).shape
        axes = [axis for axis, size in enumerate(shape) if self._varies(size)]
        return axes[0] if len(axes) == 1 and shape[axes[0]] == self._step.size else None

    def _is_clear(self, type_: TensorType) -> bool:
        return self._axis(type_) is not None or not any(map(self._varies, type_.shape))

    def _varies(self, size: Dim) -> bool:
        return self._step.varies(size)

    @property
    def _step(self) -> Step:
        return self.of.step

    # ---- forwards: the new nodes ---------------------------------------------------------------------------------

    def _ends_at(self, value: Value | None) -> Iterator[Value]:
        """The value, if it is computed everywhere and read at the last position."""
        if value is not None and value in self.last:
            yield value

    def _slice(self, value: Value, new: dict[Value, Value]) -> Apply:
        axis = self.last[value]
        items: tuple[Item, ...] = (*[ALL] * axis, (Dim.const(-1), None, 1))
        new[value] = made = _narrowed(value, axis)
        return Apply(Index(items=items), (value,), (made,), value.span)

    def _narrow(self, node: Node, new: dict[Value, Value]) -> Node:
        if isinstance(node, Read):
            return node
        if isinstance(node, Loop):
            iterations = [replace(i, nodes=tuple(self._narrow(n, new) for n in i.nodes)) for i in node.iterations]
            return replace(node, iterations=tuple(iterations))
        assert isinstance(node, (Apply, Call))
        outputs = []
        for value in node.outputs:
            axis = self._axis(value.type)
            assert axis is not None
            new[value] = _narrowed(value, axis)
            outputs.append(new[value])
        inputs = tuple(new.get(i, i) if isinstance(i, Value) else i for i in node.inputs)
        return replace(node, inputs=inputs, outputs=tuple(outputs))


def _narrowed(value: Value, axis: int) -> Value:
    shape = value.type.shape
    return replace(value, type=value.type.with_shape((*shape[:axis], Dim.UNIT, *shape[axis + 1 :])))


def _is_plain(op: Op) -> bool:
    """Whether an operator is in a step what it is elsewhere; one that is not may know which positions it is given."""
    own = type(op)
    return own.torch_step is Op.torch_step and own.onnx_step is Op.onnx_step and not _takes_positions(op)


def _takes_positions(op: Op) -> bool:
    return isinstance(op, Index)


def _takes_the_last(nodes: Sequence[Node]) -> bool:
    """Whether a graph indexes; the last position is an index that steps may have."""
    for node in nodes:
        if isinstance(node, Apply) and _takes_positions(node.op):
            return True
        if isinstance(node, Call) and _takes_the_last(node.graph.nodes):
            return True
        if isinstance(node, Loop) and any(_takes_the_last(iteration.nodes) for iteration in node.iterations):
            return True
        if isinstance(node, (Scan, When)) and _takes_the_last(node.nodes):
            return True
    return False


def _values(inputs: Sequence[Input]) -> list[Value]:
    return [i for i in inputs if isinstance(i, Value)]


def _read(node: Node) -> Iterator[Value]:
    """What a node and those inside it read."""
    yield from _values(node.inputs)
    if isinstance(node, Loop):
        for iteration in node.iterations:
            for inner in iteration.nodes:
                yield from _read(inner)
    elif isinstance(node, (Scan, When)):
        yield from node.kept
        for inner in node.nodes:
            yield from _read(inner)


def _made(node: Node) -> Iterator[Value]:
    """What a node and, of an unrolled loop, those inside it compute for others."""
    yield from node.outputs
    if isinstance(node, Loop):
        for iteration in node.iterations:
            for inner in iteration.nodes:
                yield from _made(inner)

"""What an entry asks of its inputs, read off the IR: ranges of indices, visible keys, depth, memory.

One abstract run over the hierarchical graphs: a value is known by the integer inputs it was copied from and by the
number of repeated blocks before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from specc.dims import Dim
from specc.ir.graph import Absent, Apply, Call, Graph, Input, Iteration, Loop, Node, Scan, Submodule, Value, When
from specc.ir.members import walk_members
from specc.op import numel
from specc.passes.plain import Sizes, call_sizes, entry_sizes
from specc.types import DType, Operand, Scalar, TensorType

ITEM_BYTES: Mapping[DType, int] = {
    DType.COMPUTE: 4,
    DType.F64: 8,
    DType.F32: 4,
    DType.F16: 2,
    DType.BF16: 2,
    DType.I64: 8,
    DType.I32: 4,
    DType.I16: 2,
    DType.I8: 1,
    DType.U8: 1,
    DType.BOOL: 1,
}
"""Bytes of one element; the compute dtype is float32."""

# Operators whose result holds elements of these operands, unchanged; None: of all.
_COPIES: Mapping[str, tuple[int, ...] | None] = {
    **dict.fromkeys(
        "[] reshape rearrange flatten transpose permute expand squeeze unsqueeze flip roll repeat_interleave split "
        "identity detach carried cast cast_like take gather take_along max min pad".split(),
        (0,),
    ),
    **dict.fromkeys("concat stack cached once maximum minimum".split(), None),
    "= unpack": (0,),
    "where": (1, 2),
}
# Operators that read by number: operand of the indices, operand and attribute of what they index.
_READS: Mapping[str, tuple[int, int, str | None]] = {
    "embedding": (0, 1, None),
    "take": (1, 0, "axis"),
    "gather": (1, 0, "axis"),
    "take_along": (1, 0, "axis"),
    "scatter_add": (1, 0, "axis"),
}
_SCORES = 4  # copies of the attention scores that a decomposed kernel holds: scaled, masked, softmax, the mask


@dataclass(frozen=True)
class _Known:
    """`sources`: (input, offset): the value's elements are that input's plus the offset.

    `depth`: repeated blocks so far.
    """

    sources: tuple[tuple[str, Dim], ...] = ()
    depth: int = 0


_NOTHING = _Known()


@dataclass
class Demands:
    """`ranges`: integer input -> bounds (lowest, exclusive highest) that hold together; sizes over the entry's dims.

    `visible_every`: with true in every column that is a multiple of it, a key mask leaves no query without a key.
    `depth`: the iterations of loops over parts with parts of their own, along the longest chain of dependent values.
    `memory`: bytes of the values that one operator touches, each distinct formula once.
    """

    ranges: dict[str, list[tuple[Dim, Dim]]] = field(default_factory=dict)
    visible_every: int | None = None
    depth: int = 0
    memory: list[Dim] = field(default_factory=list)


def demands(graph: Graph) -> Demands:
    """The demands of an entry's graph."""
    found = Demands()
    walk = _Walk(found)
    operands: list[_Known | None] = []
    for argument in graph.inputs:
        given = argument.value is not None
        sources = ((argument.name, Dim.const(0)),) if argument.type.dtype.is_int else ()
        operands.append(_Known(sources) if given else None)
    results = walk.graph(graph, entry_sizes(graph), operands)
    found.depth = max((r.depth for r in results), default=0)
    found.memory = list(walk.formulas)
    return found


class _Walk:
    def __init__(self, found: Demands) -> None:
        self.found = found
        self.formulas: dict[Dim, None] = {}
        self.seen: set[object] = set()  # calls of a graph with operands of some types and sources
        self.is_repeated = False  # within such a call, which asks for nothing new: only depths are of interest

    def graph(self, graph: Graph, sizes: Sizes, operands: Sequence[_Known | None]) -> list[_Known]:
        values: dict[Value, _Known] = {}
        for argument, operand in zip(graph.inputs, operands, strict=True):
            if argument.value is not None:
                values[argument.value] = operand or _NOTHING
        self._nodes(graph.nodes, sizes, values, None)
        return [values.get(value, _NOTHING) for _, value in graph.results]

    def _nodes(
        self, nodes: Sequence[Node], sizes: Sizes, values: dict[Value, _Known], counted: set[Value] | None
    ) -> None:
        """`counted`: in an iteration, the values after a block that has raised the depth already."""
        for node in nodes:
            if isinstance(node, Apply):
                self._apply(node, sizes, values)
            elif isinstance(node, Call):
                self._call(node, sizes, values, counted)
            elif isinstance(node, Loop):
                for iteration in node.iterations:
                    self._iteration(iteration, sizes, values)
            elif isinstance(node, When):
                self._when(node, sizes, values, counted)
            elif isinstance(node, Scan):
                self._scan(node, sizes, values, counted)
            if counted is not None and any(v in counted for v in node.inputs if isinstance(v, Value)):
                counted.update(node.outputs)

    def _iteration(self, iteration: Iteration, sizes: Sizes, values: dict[Value, _Known]) -> None:
        self._nodes(iteration.nodes, sizes, values, set())

    def _when(self, node: When, sizes: Sizes, values: dict[Value, _Known], counted: set[Value] | None) -> None:
        runs = node.mode == "infer"
        if runs:
            self._nodes(node.nodes, sizes, values, counted)
        for before, end, after in node.rebinds:
            values[after] = values.get(end if runs else before, _NOTHING)

    def _scan(self, node: Scan, sizes: Sizes, values: dict[Value, _Known], counted: set[Value] | None) -> None:
        """One step stands for all: what a state holds after it is not followed."""
        for one in node.sequences:
            values[one.slice] = values.get(one.whole, _NOTHING)
        for state in node.states:
            values[state.before] = values.get(state.start, _NOTHING)
        self._nodes(node.nodes, sizes, values, counted)
        for emitted in node.emits:
            values[emitted.stacked] = values.get(emitted.value, _NOTHING)
        for state in node.states:
            values[state.result] = values.get(state.after, _NOTHING)

    def _call(self, node: Call, sizes: Sizes, values: dict[Value, _Known], counted: set[Value] | None) -> None:
        known = [_known(i, values) for i in node.inputs]
        before = self.is_repeated
        if not self.is_repeated:
            types = [_type(i, sizes) for i in node.inputs]
            call = node.graph, tuple(types), tuple(k and k.sources for k in known)
            self.is_repeated = call in self.seen
            self.seen.add(call)
            sizes = call_sizes(node.graph.inputs, types)
        results = self.graph(node.graph, sizes, known)
        self.is_repeated = before
        again = any(v in counted for v in node.inputs if isinstance(v, Value)) if counted is not None else False
        if counted is not None and not again and has_parts(node.graph):
            results = [_Known(r.sources, r.depth + 1) for r in results]
            counted.update(node.outputs)
        values.update(zip(node.outputs, results, strict=True))

    def _apply(self, node: Apply, sizes: Sizes, values: dict[Value, _Known]) -> None:
        operands = [_known(i, values) for i in node.inputs]
        depth = max((o.depth for o in operands if o is not None), default=0)
        if not self.is_repeated:
            self._asked(node, sizes, operands)
        for value in node.outputs:
            values[value] = _Known(_copied(node.op, operands, node.inputs), depth)

    def _asked(self, node: Apply, sizes: Sizes, operands: Sequence[_Known | None]) -> None:
        types = [_type(i, sizes) for i in node.inputs]
        op = node.op.substitute(sizes)
        if op.name == "= dispatch":  # each expert may be sent every pair
            pairs = numel(sizes.type(node.outputs[0].type))
            sizes.update((rows.symbols[0], pairs) for rows in node.op.attributes["rows"])
        self._index(op, operands, types)
        self._touched(op, types, [sizes.type(v.type) for v in node.outputs])
        window = getattr(op, "window", None)
        if op.name == "sdpa" and len(node.inputs) > 3 and isinstance(node.inputs[3], Value):
            every = window or self.found.visible_every
            self.found.visible_every = min(filter(None, (every, self.found.visible_every)), default=None)

    def _index(self, op: Any, operands: Sequence[_Known | None], types: Sequence[Operand]) -> None:
        if op.name == "one_hot":
            numbers, size = operands[0], op.n
        elif op.name == "= dispatch":
            numbers, size = operands[1], Dim.const(len(op.rows))
        elif op.name in _READS:
            at, of, attribute = _READS[op.name]
            table = types[of]
            assert isinstance(table, TensorType)
            numbers, size = operands[at], table.shape[getattr(op, attribute) if attribute else 0]
        else:
            return
        for name, offset in numbers.sources if numbers is not None else ():
            bounds = (-offset, size.plain() - offset)
            known = self.found.ranges.setdefault(name, [])
            if bounds not in known:
                known.append(bounds)

    def _touched(self, op: Any, inputs: Sequence[Operand], outputs: Sequence[TensorType]) -> None:
        total = Dim.const(0)
        for type_ in (*inputs, *outputs):
            if isinstance(type_, TensorType):
                total = total + numel(type_) * ITEM_BYTES[type_.dtype]
        if op.name == "sdpa":
            q, k = inputs[0], inputs[1]
            assert isinstance(q, TensorType) and isinstance(k, TensorType)
            total = total + numel(q) // q.shape[3] * k.shape[2] * (4 * _SCORES)
        if total.value is None:
            self.formulas[total] = None


def has_parts(graph: Graph) -> bool:
    """Whether a call runs a module that has modules of its own."""
    module = graph.module
    return module is not None and any(isinstance(member, Submodule) for _, member, _ in walk_members(module))


def _known(input_: Input, values: Mapping[Value, _Known]) -> _Known | None:
    return values.get(input_, _NOTHING) if isinstance(input_, Value) else None


def _type(input_: Input, sizes: Sizes) -> Operand:
    if isinstance(input_, Absent):
        return None
    return input_ if isinstance(input_, Scalar) else sizes.type(input_.type)


def _copied(op: Any, operands: Sequence[_Known | None], inputs: Sequence[Input]) -> tuple[tuple[str, Dim], ...]:
    """The integer inputs that the results hold elements of."""
    if op.name in ("+", "-") and len(inputs) == 2:
        return _shifted(op.name, operands, inputs)
    if op.name not in _COPIES:
        return ()
    chosen = _COPIES[op.name]
    picked = operands if chosen is None else [operands[i] for i in chosen]
    return tuple(dict.fromkeys(source for known in picked if known is not None for source in known.sources))


def _shifted(op: str, operands: Sequence[_Known | None], inputs: Sequence[Input]) -> tuple[tuple[str, Dim], ...]:
    """x + n, n + x and x - n for a number n."""
    for x, n in ((0, 1), (1, 0)) if op == "+" else ((0, 1),):
        known, number = operands[x], inputs[n]
        if known is not None and isinstance(number, Scalar) and isinstance(number.value, (int, Dim)):
            shift = Dim.of(number.value).plain()
            return tuple((name, offset + shift if op == "+" else offset - shift) for name, offset in known.sources)
    return ()

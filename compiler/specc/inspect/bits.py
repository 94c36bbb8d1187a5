"""How many bytes a model's weights take: in each dtype, and in few bits as `--quant` builds store them.

Which weights a build packs follows from where they are multiplied with or looked up (`Op.packing`); a product that
gives the entry's result is packed only where `head` is asked for. What is packed is counted as `specc_runtime.packing`
lays it out: rows of blocks, a scale for each, a zero point where the scheme is asymmetric.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from specc.inspect.counts import BYTES
from specc.inspect.lowering import Draft, DraftHandle
from specc.ir.graph import Apply, Call, Graph, Loop, Model, Node, Path, Read, Scan, Value, When, dotted
from specc.ir.members import aliases, element_count, parameters
from specc.op import Emitter, Op, OpError
from specc.passes.plain import IDENTITIES, Sizes, call_sizes, entry_sizes
from specc.passes.steps import operand_type
from specc.quantisation import TO_A_RESULT, Scheme
from specc.types import DType, TensorType

SCALE_BYTES = 4


@dataclass(frozen=True)
class Weights:
    """Bytes of all weights and buffers. `packed` of them are in few bits; `dtypes`, `schemes` by name."""

    dtypes: Mapping[str, int]
    schemes: Mapping[str, int]


@dataclass(frozen=True)
class Site:
    """Where a parameter could be packed. `result`: its product is a result of the entry, but for what mixes nothing."""

    path: Path
    looked_up: bool
    result: bool


Use = tuple[bool, bool]
"""`looked_up` and `result` of a site."""


def weights(model: Model, schemes: Sequence[Scheme] = (Scheme(8), Scheme(4))) -> Weights:
    """Of the whole model; in few bits as far as its entries multiply with them."""
    tied = aliases(model.module)
    types = _types(model, tied)
    uses = _uses(model, tied)
    plain = _read_otherwise(model, tied)
    alike = Counter((id(t), tuple(uses.get(n, ())), n in plain) for n, t in types.items())
    of = {id(t): t for t in types.values()}  # a type is one object in all equal parts
    dtypes = {
        name: sum(_bytes(of[t], width) * count for (t, _, _), count in alike.items()) for name, width in _WIDTHS.items()
    }
    sizes = {
        scheme.text: sum(_stored(of[t], used, kept, scheme) * count for (t, used, kept), count in alike.items())
        for scheme in schemes
    }
    return Weights(dtypes, sizes)


def read_bytes(model: Model, dtype: str, scheme: Scheme | None = None) -> dict[str, int]:
    """Of each stored weight or buffer, what a product reads: of what a build keeps plain and packed, the packed one."""
    tied = aliases(model.module)
    types = _types(model, tied)
    if scheme is None:
        return {name: _bytes(type_, _WIDTHS[dtype]) for name, type_ in types.items()}
    uses = _uses(model, tied)
    packed = {n for n, t in types.items() if any(_wanted(use, t, scheme) for use in uses.get(n, []))}
    return {n: packed_bytes(t, scheme) if n in packed else _bytes(t, 4) for n, t in types.items()}


def _types(model: Model, tied: Mapping[str, str]) -> dict[str, TensorType]:
    """Of what is stored."""
    return {name: p.type for name, p in parameters(model.module).items() if name not in tied}


def _uses(model: Model, tied: Mapping[str, str]) -> dict[str, list[Use]]:
    """Stored name -> how all entries use it."""
    uses: dict[str, list[Use]] = {}
    for entry in model.entries.values():
        for site in sites(entry.full):
            name = dotted(site.path)
            uses.setdefault(tied.get(name, name), []).append((site.looked_up, site.result))
    return uses


_WIDTHS = {"f32": 4, "f16": 2, "bf16": 2}


def _bytes(type_: TensorType, width: int) -> int:
    return element_count(type_) * (width if type_.dtype is DType.COMPUTE else BYTES[type_.dtype])


def _stored(type_: TensorType, uses: Sequence[Use], plain: bool, scheme: Scheme) -> int:
    """Bytes of one parameter: packed where every use is, beside its plain form where only some are."""
    wanted = [_wanted(use, type_, scheme) for use in uses]
    size = packed_bytes(type_, scheme) if any(wanted) else 0
    return size if wanted and all(wanted) and not plain else size + _bytes(type_, 4)


def _wanted(use: Use, type_: TensorType, scheme: Scheme) -> bool:
    looked_up, result = use
    if type_.rank != 2 or type_.dtype is not DType.COMPUTE:
        return False
    if looked_up:
        width = type_.shape[1].value
        return scheme.embed and (scheme.bits == 8 or (width is not None and width >= scheme.block))
    return scheme.head or not result


def packed_bytes(type_: TensorType, scheme: Scheme) -> int:
    """A matrix [rows, width] in few bits, with its scales and zero points."""
    rows, width = (size.value for size in type_.shape)
    assert rows is not None and width is not None
    if scheme.bits == 8:
        return rows * width + rows * SCALE_BYTES
    blocks = scheme.blocks(width)
    zeros = 0 if scheme.symmetric else rows * -(-blocks // 2)
    return rows * blocks * scheme.block // 2 + rows * blocks * SCALE_BYTES + zeros


def lora_parameters(model: Model, rank: int) -> int:
    """Elements of adapters of that rank on every linear layer: [rank, in] and [out, rank] for each [out, in]."""
    tied, types = aliases(model.module), parameters(model.module)
    names = {
        tied.get(dotted(s.path), dotted(s.path))
        for e in model.entries.values()
        for s in sites(e.full)
        if not s.looked_up
    }
    return sum(rank * (size.value or 0) for name in names for size in types[name].type.shape)


# ---- where weights are used ------------------------------------------------------------------------------------------


def sites(graph: Graph) -> list[Site]:
    """Of an entry, in the order met; a part that runs twice is there twice."""
    walk = _Walk()
    return list(walk.graph(graph, entry_sizes(graph), (True,) * len(graph.results)))


def _read_otherwise(model: Model, tied: Mapping[str, str]) -> set[str]:
    """Parameters that something else than a product or a look-up reads."""
    known: dict[Graph, tuple[Path, ...]] = {}
    paths = (path for entry in model.entries.values() for path in _others(entry.full, known))
    return {tied.get(name, name) for name in map(dotted, paths)}


def _others(graph: Graph, known: dict[Graph, tuple[Path, ...]]) -> tuple[Path, ...]:
    """Of one graph, matrices alone: nothing else is ever packed."""
    if graph not in known:
        reads: dict[Value, Path] = {}
        found: list[Path] = []
        for node in flat(graph.nodes):
            if isinstance(node, Read):
                if node.output.type.rank == 2:
                    reads[node.output] = node.path
            elif isinstance(node, Call) and node.graph.module is not None:
                found += ((*node.path, *path) for path in _others(node.graph, known))
            elif isinstance(node, Apply):
                packed = node.op.packing.operand if node.op.packing is not None else None
                others = (value for i, value in enumerate(node.inputs) if i != packed and isinstance(value, Value))
                found += (reads[value] for value in others if value in reads)
        known[graph] = tuple(found)
    return known[graph]


@dataclass
class _Scope:
    """One graph: who reads each value, which values lead to the entry's results as far as is known."""

    sizes: Sizes
    users: dict[Value, list[Node]] = field(default_factory=dict)
    results: dict[Value, bool] = field(default_factory=dict)
    passing: dict[Node, bool] = field(default_factory=dict)


class _Walk:
    """Remembers the sites of each graph, relative to its module."""

    def __init__(self) -> None:
        self._known: dict[tuple[Graph, tuple[bool, ...]], tuple[Site, ...]] = {}
        self._passing: dict[object, bool] = {}

    def graph(self, graph: Graph, sizes: Sizes, leads: tuple[bool, ...]) -> tuple[Site, ...]:
        key = graph, leads
        if key not in self._known:
            self._known[key] = tuple(self._sites(graph, sizes, leads))
        return self._known[key]

    def _scope(self, graph: Graph, sizes: Sizes, leads: tuple[bool, ...]) -> _Scope:
        scope = _Scope(sizes)
        for node in flat(graph.nodes):
            for value in node.inputs:
                if isinstance(value, Value):
                    scope.users.setdefault(value, []).append(node)
        for (_, value), lead in zip(graph.results, leads, strict=True):
            scope.results[value] = lead
        return scope

    def _sites(self, graph: Graph, sizes: Sizes, leads: tuple[bool, ...]) -> Iterator[Site]:
        scope = self._scope(graph, sizes, leads)
        reads: dict[Value, Path] = {}
        for node in flat(graph.nodes):
            if isinstance(node, Read):
                reads[node.output] = node.path
            elif isinstance(node, Apply) and node.op.packing is not None:
                weight = node.inputs[node.op.packing.operand]
                x = node.inputs[0]
                wide = node.op.packing.looked_up or (isinstance(x, Value) and x.type.rank >= 2)
                if isinstance(weight, Value) and weight in reads and wide:
                    looked_up = node.op.packing.looked_up
                    yield Site(reads[weight], looked_up, not looked_up and self._leads(scope, node.outputs[0]))
            elif isinstance(node, Call):
                inner = tuple(self._leads(scope, value) for value in node.outputs)
                bound = call_sizes(node.graph.inputs, [operand_type(i, sizes) for i in node.inputs])
                for site in self.graph(node.graph, bound, inner):
                    yield Site((*node.path, *site.path), site.looked_up, site.result)

    def _leads(self, scope: _Scope, value: Value) -> bool:
        """Whether a value becomes a result by operations that mix nothing, and is read by nothing else."""
        if value not in scope.results:
            scope.results[value] = self._passes_on(scope, value)
        return scope.results[value]

    def _passes_on(self, scope: _Scope, value: Value) -> bool:
        """Whether the one node that reads a value leads from it to a result."""
        readers = scope.users.get(value, [])
        if len(readers) != 1:
            return False
        (reader,) = readers
        if isinstance(reader, Apply):
            if reader not in scope.passing:
                scope.passing[reader] = self._passes(reader, scope.sizes)
            return scope.passing[reader] and self._leads(scope, reader.outputs[0])
        if isinstance(reader, Call):
            place = reader.inputs.index(value)
            given = reader.graph.inputs[place].value
            leads = tuple(self._leads(scope, output) for output in reader.outputs)
            bound = call_sizes(reader.graph.inputs, [operand_type(i, scope.sizes) for i in reader.inputs])
            return given is not None and self._leads(self._scope(reader.graph, bound, leads), given)
        return False

    def _passes(self, node: Apply, sizes: Sizes) -> bool:
        if node.op.name in IDENTITIES or node.op.train_only:
            return True
        types = tuple(operand_type(i, sizes) for i in node.inputs)
        op = node.op.substitute(sizes)
        if (op, types) not in self._passing:
            self._passing[op, types] = _only(op, types)
        return self._passing[op, types]


def _only(op: Op, types: Sequence[object]) -> bool:
    """Whether all that an operator becomes in ONNX may lie between a head and a result."""
    draft = Draft(23)
    operands = [DraftHandle(t) if isinstance(t, TensorType) else t for t in types]
    try:
        op.onnx(cast("Emitter", draft), *operands)
    except OpError:
        return False
    return all(name in TO_A_RESULT for name in draft.nodes)


def flat(nodes: Sequence[Node]) -> Iterator[Node]:
    """Nodes as inference runs them, those of loops and scans in line."""
    for node in nodes:
        if isinstance(node, Loop):
            for iteration in node.iterations:
                yield from flat(iteration.nodes)
        elif isinstance(node, Scan):
            yield node
            yield from flat(node.nodes)
        elif isinstance(node, When):
            if node.mode == "infer":
                yield from flat(node.nodes)
        else:
            yield node

"""The leading axes of a stream stay joined: what acts on each row by itself works on matrices between linear layers.

`products` joins [B, T] around every `Gemm`. Between two of them lie norms, activations, additions of the residual
stream: none of them minds whether rows are counted along one axis or two. Such nodes that hang together are taken as a
group, and the group as matrices if that leaves fewer `Reshape`s, or as many: attention and whatever else looks at
positions gets its three axes back.

`add_in_products` goes on from there: `Gemm` adds a bias, too, or the residual stream. The sum is copied into the result
first, by one thread, which eight prompts of 128 tokens at once feel (1-3%) and single ones do not. So graphs for
generation have it, and those of the whole entry do not.

Both make graphs smaller, by a third for decoders, and steps hardly faster: a node that does nothing takes 0.3
microseconds of a step when nobody is profiling, all that is left out together 0.3% of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from specc.backends.onnx.emitter import GraphEmitter
from specc.backends.onnx.values import Record, Ref, in_order, live, users_of
from specc.dims import Dim
from specc.types import TensorType

_ELEMENTWISE = frozenset(
    "Abs Add Cast Ceil Celu Clip Cos Div Elu Erf Exp Floor Gelu HardSigmoid HardSwish LeakyRelu Log Max Min Mish Mul "
    "Neg Pow Reciprocal Relu Selu Sigmoid Sin Softplus Softsign Sqrt Sub Swish Tanh Where".split()
)
_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})
_Group = list[Record]


def join_rows(emit: GraphEmitter, watched: Sequence[Ref] = ()) -> None:
    """Takes groups of nodes as matrices; `watched` values and results of the graph keep their shapes."""
    _Joiner(emit, watched).run()


class _Joiner:
    def __init__(self, emit: GraphEmitter, watched: Sequence[Ref]) -> None:
        self.emit = emit
        kept = [*(ref for _, ref in emit.outputs), *watched]
        self.users = users_of(live(emit.records, kept))
        self.fixed = {id(ref) for ref in kept}
        self.rows: dict[int, list[Ref]] = {}  # id(record) -> the operands that have the rows of its result
        for record in live(emit.records, kept):
            operands = _row_operands(record)
            if operands and id(record.outputs[0]) not in self.fixed:
                self.rows[id(record)] = operands

    def run(self) -> None:
        for group in list(self._groups()):
            if self._is_worth_it(group):
                self._rewrite(group)
        self.emit.records = in_order(self.emit.records)

    def _groups(self) -> Iterator[_Group]:
        """The nodes that hang together, each group in the order of the graph."""
        number: dict[int, int] = {}
        groups: dict[int, _Group] = {}
        for record in self.emit.records:
            if id(record) not in self.rows or id(record) in number:
                continue
            waiting = [record]
            number[id(record)] = this = len(groups)
            while waiting:
                for other in self._neighbours(waiting.pop()):
                    if id(other) not in number:
                        number[id(other)] = this
                        waiting.append(other)
            groups[this] = []
        for record in self.emit.records:
            if id(record) in number:
                groups[number[id(record)]].append(record)
        yield from groups.values()

    def _neighbours(self, record: Record) -> Iterator[Record]:
        before = [ref.node for ref in self.rows[id(record)] if ref.node is not None]
        for other in (*before, *self.users.get(id(record.outputs[0]), [])):
            if id(other) in self.rows:
                yield other

    def _is_worth_it(self, group: _Group) -> bool:
        """Whether some `Reshape` goes, and no more of them come."""
        inside = {id(record) for record in group}
        results = {id(record.outputs[0]) for record in group}
        gone: set[int] = set()
        new: set[int] = set()
        for record in group:
            for ref in self.rows[id(record)]:
                if id(ref) in results:
                    continue
                readers = self.users.get(id(ref), [])
                if _source(ref) is None:
                    if not any(map(_to_matrix, readers)):
                        new.add(id(ref))
                elif id(ref) not in self.fixed and all(id(r) in inside or _to_matrix(r) for r in readers):
                    gone.add(id(ref))
            for reader in self.users.get(id(record.outputs[0]), []):
                if _to_matrix(reader):
                    gone.add(id(reader))
                elif id(reader) not in inside:
                    new.add(id(record.outputs[0]))
        return bool(gone) and len(new) <= len(gone)

    def _rewrite(self, group: _Group) -> None:
        inside = {id(record) for record in group}
        flat: dict[int, Ref] = {}
        for record in group:
            rows = {id(ref) for ref in self.rows[id(record)]}
            with self.emit.at(record.scope, record.origin):
                record.inputs = [
                    self._matrix(ref, flat) if ref is not None and id(ref) in rows else ref for ref in record.inputs
                ]
            if "axis" in record.attributes:
                record.attributes["axis"] = -1
            self.emit.forget(record)
            before = record.outputs[0]
            made = Ref(TensorType(before.type.dtype, _joined(before)), True, record, hint=before.hint)
            record.outputs = [made]
            flat[id(before)] = made
            before.hint = None
            readers = self.users.get(id(before), [])
            for reader in readers:
                if _to_matrix(reader):
                    self._pass(reader, made)
            if any(id(reader) not in inside and not _to_matrix(reader) for reader in readers):
                with self.emit.at(record.scope, record.origin):
                    self.emit.adopt(self.emit.reshape(made, before.type.shape), before)

    def _matrix(self, ref: Ref, flat: dict[int, Ref]) -> Ref:
        if id(ref) not in flat:
            flat[id(ref)] = _source(ref) or self.emit.reshape(ref, _joined(ref))
        return flat[id(ref)]

    def _pass(self, reshape: Record, made: Ref) -> None:
        """What read the result of a `Reshape` reads the matrix itself; inside the body of a node it stays."""
        before = reshape.outputs[0]
        self.emit.forget(reshape)
        reshape.inputs[0] = made
        if id(before) not in self.fixed:
            for reader in self.users.get(id(before), []):
                reader.inputs = [made if ref is before else ref for ref in reader.inputs]


def merge_reshapes(emit: GraphEmitter) -> None:
    """A `Reshape` of what a `Reshape` made reads what that one read."""
    records, emit.records = emit.records, []
    for record in records:
        source = _before_reshapes(record)
        if source is None:
            emit.records.append(record)
            continue
        target = record.outputs[0]
        emit.forget(record)
        with emit.at(record.scope, record.origin):
            made = emit.reshape(source, target.type.shape)
        if emit.records and emit.records[-1] is made.node:
            emit.adopt(made, target)
        else:  # there is one already, or nothing to do: its readers are not worth the search
            emit.records.append(record)
    emit.records = in_order(emit.records)


def add_in_products(emit: GraphEmitter) -> None:
    """An addition to a `Gemm` that nothing else reads becomes its third operand."""
    results = [ref for _, ref in emit.outputs]
    emit.records = live(emit.records, results)
    users = users_of(emit.records)
    kept = {id(ref) for ref in results}
    for record in emit.records:
        if record.op_type != "Add" or record.domain:
            continue
        for product, other in (record.inputs, record.inputs[::-1]):
            layer = product.node if product is not None and id(product) not in kept else None
            if product is None or other is None or layer is None or users[id(product)] != [record]:
                continue
            if layer.op_type == "Gemm" and len(layer.inputs) == 2 and _addable(product, other, record, users):
                emit.forget(record)
                record.op_type, record.attributes = "Gemm", dict(layer.attributes)
                record.inputs = [*layer.inputs, other]
                record.scope, record.origin = layer.scope, layer.origin
                break
    emit.records = live(emit.records, results)


def _addable(product: Ref, other: Ref, addition: Record, users: dict[int, list[Record]]) -> bool:
    """Of the same type, a matrix or a bias; a bias before `Gelu` is left, onnxruntime adds it there."""
    shape = product.type.shape
    if not other.known or other.type.dtype is not product.type.dtype:
        return False
    if other.type.rank == 1:
        readers = users.get(id(addition.outputs[0]), [])
        return other.type.shape == shape[1:] and [reader.op_type for reader in readers] != ["Gelu"]
    return other.type.shape == shape


def _before_reshapes(record: Record) -> Ref | None:
    """What goes into the first of the `Reshape`s of which this is the last; None if it is the only one."""
    found: Ref | None = None
    node: Record | None = record
    while node is not None and node.op_type == "Reshape" and not node.domain and node.outputs[0].known:
        source = node.inputs[0]
        if source is None or not source.known:
            break
        found = source if node is not record else None
        node = source.node
    return found


# ---- what has rows ---------------------------------------------------------------------------------------------------


def _row_operands(record: Record) -> list[Ref] | None:
    """The operands with the rows of the result, if each of its rows depends on the same row of them alone."""
    result = record.outputs[0]
    if record.domain or record.body is not None or len(record.outputs) != 1 or not result.known:
        return None
    rank = result.type.rank
    given = [ref for ref in record.inputs if ref is not None]
    if rank < 3 or not all(ref.known for ref in given):
        return None
    if record.op_type in _NORMS:
        is_last = record.attributes.get("axis", -1) in (-1, rank - 1)
        return given[:1] if is_last and all(ref.type.rank <= 1 for ref in given[1:]) else None
    if record.op_type not in _ELEMENTWISE:
        return None
    rows = [ref for ref in given if ref.type.rank > 1]
    return rows if all(ref.type.shape[:-1] == result.type.shape[:-1] for ref in rows) else None


def _joined(ref: Ref) -> tuple[Dim, Dim]:
    rows = Dim.const(1)
    for size in ref.type.shape[:-1]:
        rows = rows * size
    return rows, ref.type.shape[-1]


def _source(ref: Ref) -> Ref | None:
    """The matrix that `ref` is a `Reshape` of."""
    node = ref.node
    source = node.inputs[0] if node is not None and node.op_type == "Reshape" and not node.domain else None
    return source if source is not None and source.known and source.type.shape == _joined(ref) else None


def _to_matrix(record: Record) -> bool:
    """Whether the node joins the leading axes of its operand and does nothing else."""
    source = record.inputs[0] if record.op_type == "Reshape" and not record.domain else None
    made = record.outputs[0]
    return source is not None and source.known and source.type.rank > 2 and made.known and _same(made, _joined(source))


def _same(ref: Ref, shape: tuple[Dim, Dim]) -> bool:
    return ref.type.shape == shape

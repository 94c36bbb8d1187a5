"""The last position alone, in the graph: what `passes.last` cuts in an entry is cut in the blocks that it calls, too.

A `Slice` of the last position goes up through nodes that work on each position by themselves, as long as nothing else
reads them: the second half of the last layer of a decoder, its product with the largest matrices, takes one row, and so
do the queries of its attention, their projection and the mask (1% of a prompt of Llama 110M). Exact: the same numbers
are computed, fewer of them. (Activations that are rounded together, those of the last position then, are rounded by a
step of their own, which is no larger.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

from specc.backends.onnx.emitter import GraphEmitter
from specc.backends.onnx.packed import CONTRIB
from specc.backends.onnx.values import Record, Ref, in_order, users_of
from specc.dims import Dim
from specc.types import DType

_ONE = Dim.const(1)
_END = 2**63 - 1
_ELEMENTWISE = frozenset(
    "Abs Add Cast Ceil Celu Clip Cos Div Elu Equal Erf Exp Floor Gelu HardSigmoid HardSwish LeakyRelu Log Max Min Mish "
    "Mul Neg Not Pow Reciprocal Relu Sigmoid Sin Softplus Softsign Sqrt Sub Tanh Where".split()
)
_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})
_ROUNDING = "DynamicQuantizeLinear"


def push_last(emit: GraphEmitter) -> None:
    """Moves the cuts of a finished graph, before its linear layers are rewritten."""
    _Push(emit).run()


@dataclass(eq=False)
class _Push:
    """`asked`: id(value) -> for every node that reads its last position alone, on which axis; `moved`: the nodes that
    compute one position -> on which axis of their results, and of each input.
    """

    emit: GraphEmitter
    asked: dict[int, dict[int, int]] = field(default_factory=dict)
    moved: dict[int, tuple[int, list[int | None]]] = field(default_factory=dict)
    cuts: set[int] = field(default_factory=set)

    def run(self) -> None:
        records = self.emit.records
        self.users = users_of(records)
        self.outputs = {id(ref) for _, ref in self.emit.outputs}
        for record in reversed(records):
            axis = cut_axis(record)
            if axis is not None and record.inputs[0] is not None:
                self.cuts.add(id(record))
                self.asked.setdefault(id(record.inputs[0]), {})[id(record)] = axis
            else:
                self._move(record)
        if self.moved:
            self._rewrite(records)

    def _move(self, record: Record) -> None:
        """The node computes one position if that is all that is read of it, and it works on each by itself."""
        results = _with_positions(record)
        axes = {self._only_last(ref) for ref in results if self.users.get(id(ref)) or id(ref) in self.outputs}
        if len(axes) != 1 or (axis := axes.pop()) is None:
            return
        inputs = _along(record, axis)
        if inputs is None or not any(axis is not None for axis in inputs):
            return
        self.moved[id(record)] = axis, inputs
        for ref, position in zip(record.inputs, inputs, strict=True):
            if ref is not None and position is not None:
                self.asked.setdefault(id(ref), {})[id(record)] = position

    def _only_last(self, ref: Ref) -> int | None:
        """The axis of which the last position is all that is read."""
        asked = self.asked.get(id(ref), {})
        readers = {id(user) for user in self.users.get(id(ref), [])}
        axes = set(asked.values())
        return axes.pop() if id(ref) not in self.outputs and readers == {*asked} and len(axes) == 1 else None

    def _rewrite(self, records: list[Record]) -> None:
        emit, self.emit.records = self.emit, []
        stand_ins: dict[int, Ref] = {}
        narrow: dict[tuple[int, int], Ref] = {}
        made: set[int] = set()  # values that have one position now
        for record in records:
            record.inputs = [stand_ins.get(id(ref), ref) if ref is not None else None for ref in record.inputs]
            x = record.inputs[0] if record.inputs else None
            if id(record) in self.cuts and x is not None and id(x) in made:
                stand_ins[id(record.outputs[0])] = x  # there is nothing left to cut
                self._named(record.outputs[0], x)
                continue
            if id(record) in self.moved:
                axis, positions = self.moved[id(record)]
                for i, (ref, position) in enumerate(zip(record.inputs, positions, strict=True)):
                    if ref is None or position is None or id(ref) in made:
                        continue
                    key = id(ref), position
                    if key not in narrow:
                        with emit.at(record.scope, record.origin):
                            narrow[key] = last_of(emit, ref, position)
                    record.inputs[i] = narrow[key]
                emit.forget(record)
                for ref in _with_positions(record):
                    ref.type = ref.type.with_shape(_with_one(ref, axis))
                    made.add(id(ref))
                if record.op_type == "Reshape":
                    _reshape(emit, record)
                    continue
            emit.records.append(record)
        emit.records = in_order(emit.records)  # a size may be computed later, for something else
        emit.outputs = [(name, stand_ins.get(id(ref), ref)) for name, ref in emit.outputs]

    def _named(self, old: Ref, new: Ref) -> None:
        new.hint = old.hint or new.hint


def cut_axis(record: Record) -> int | None:
    """The axis of which a Slice keeps the last position."""
    if record.op_type != "Slice" or record.domain or len(record.inputs) < 4:
        return None
    arrays = [ref.array.tolist() if ref is not None and ref.array is not None else None for ref in record.inputs[1:]]
    starts, ends, axes, *steps = arrays
    x = record.inputs[0]
    one = steps in ([], [[1]])
    if starts != [-1] or ends != [_END] or not axes or len(axes) != 1 or not one or x is None or not x.known:
        return None
    return int(axes[0]) % x.type.rank


def _with_positions(record: Record) -> list[Ref]:
    """The results of a node; of rounded activations without their step and zero point, which are read with them."""
    return record.outputs[:1] if record.op_type == _ROUNDING else record.outputs


def _along(record: Record, axis: int) -> list[int | None] | None:
    """For each input its axis that goes along the axis of the results, None where it has none; None if each position of
    the results does not depend on the same one of the inputs alone."""
    inputs, outputs = record.inputs, record.outputs
    if record.body is not None or not all(ref.known for ref in outputs):
        return None
    if record.op_type == "Reshape" and not record.domain:
        return _along_reshape(record, axis)
    if any(ref is not None and not ref.known for ref in inputs):
        return None
    rank = outputs[0].type.rank
    size = outputs[0].type.shape[axis]
    last = axis == rank - 1
    if record.domain:
        blocks = (record.domain, record.op_type) == (CONTRIB, "MatMulNBits")
        return [axis, *[None] * (len(inputs) - 1)] if blocks and not last else None
    if record.op_type == _ROUNDING:
        return [axis]
    if record.op_type in _ELEMENTWISE:
        return _aligned(inputs, rank, axis, size)
    if record.op_type in _NORMS and not last and record.attributes.get("axis") in (-1, rank - 1):
        return [axis, *[None] * (len(inputs) - 1)]
    is_product = record.op_type in ("MatMul", "MatMulInteger") and inputs[1] is not None and inputs[1].type.rank == 2
    if is_product and not last:
        return [axis, *[None] * (len(inputs) - 1)]
    if record.op_type == "Split" and record.attributes.get("axis", 0) % rank != axis:
        return [axis, *[None] * (len(inputs) - 1)]
    if record.op_type == "Transpose" and "perm" in record.attributes:
        return [record.attributes["perm"][axis]]
    if record.op_type in ("Attention", "RotaryEmbedding") and (rank, axis) == (4, 2):
        return _along_heads(record, size)
    return None


def _along_reshape(record: Record, axis: int) -> list[int | None] | None:
    """The leading axes, that of the positions the last of them, are left as they are."""
    x, after = record.inputs[0], record.outputs[0].type.shape
    if x is None or not x.known or x.type.shape[: axis + 1] != after[: axis + 1]:
        return None
    return [axis, *[None] * (len(record.inputs) - 1)]


def _along_heads(record: Record, size: Dim) -> list[int | None] | None:
    """Of heads [B, H, T, d]. Which keys a query sees is a matter of its row of the mask, if the kernel has no say."""
    others = record.inputs[1:]
    if record.op_type == "RotaryEmbedding":
        by_positions = len(others) > 2  # they choose the rows of the tables
        return [2, None, None, 1] if by_positions else [2, 1, 1]
    mask = others[2] if len(others) > 2 else None
    rows = mask.type.rank - 2 if mask is not None else 0
    if record.attributes.get("is_causal") or (mask is not None and mask.type.shape[rows] != size):
        return None
    return [2, None, None, *[rows if ref is mask and mask is not None else None for ref in others[2:]]]


def _aligned(inputs: list[Ref | None], rank: int, axis: int, size: Dim) -> list[int | None] | None:
    found: list[int | None] = []
    for ref in inputs:
        place = axis - (rank - ref.type.rank) if ref is not None else -1
        if ref is None or place < 0 or ref.type.shape[place].value == 1:
            found.append(None)
        elif ref.type.shape[place] == size:
            found.append(place)
        else:
            return None
    return found


def last_of(emit: GraphEmitter, ref: Ref, axis: int) -> Ref:
    """The last position, size 1 on that axis."""
    bounds = [emit.const([value], DType.I64) for value in (-1, _END, axis)]
    return emit("Slice", ref, *bounds, type=ref.type.with_shape(_with_one(ref, axis)))


def _reshape(emit: GraphEmitter, record: Record) -> None:
    """The node once more, now that its result has one position."""
    source, target = record.inputs[0], record.outputs[0]
    assert source is not None
    with emit.at(record.scope, record.origin):
        emit.adopt(emit.reshape(source, target.type.shape), target)


def _with_one(ref: Ref, axis: int) -> tuple[Dim, ...]:
    shape = ref.type.shape
    return (*shape[:axis], _ONE, *shape[axis + 1 :])

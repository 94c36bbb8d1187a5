"""A static cache is read as far as it is filled.

`Attention` computes with all the rows that it is given, masked or not (onnxruntime 1.31, with `nonpad_kv_seqlen` as
with a mask): a step at position 128 of a cache of 2,048 costs as much as one at its end. A `Slice` before it copies the
rows that hold something, 22 microseconds a layer instead of 207 there, 133 at 1,000, and 261 only where the cache is
full. Exact: the rows left out were masked.
"""

from __future__ import annotations

from specc.backends.onnx.emitter import GraphEmitter
from specc.backends.onnx.values import Record, Ref, in_order
from specc.dims import Dim
from specc.types import DType

_WRITES = ("TensorScatter", "ScatterElements")
_ROWS = 2  # the axis of positions in [B, H, S, d]


def read_valid(emit: GraphEmitter, start: Ref, new: Dim, valid: Dim) -> None:
    """Before each `Attention` that reads a static cache: keys, values and the mask up to the last valid position.

    `start` (int64[1]) is where the `new` positions begin; `valid` names how many there are with them, a size that no
    input has.
    """
    written = {
        id(ref) for record in emit.records if record.op_type in _WRITES and not record.domain for ref in record.outputs
    }
    records, emit.records = emit.records, []
    for record in records:
        if _reads(record, written):
            with emit.at(record.scope, record.origin):
                end = emit("Add", start, emit.dim(new), type=start.type)
                _shorten(emit, record, end, valid)
        emit.records.append(record)
    emit.records = in_order(emit.records)


def _reads(record: Record, written: set[int]) -> bool:
    keys_and_values = record.inputs[1:3]
    return (
        record.op_type == "Attention"
        and not record.domain
        and all(ref is not None and id(ref) in written and ref.type.rank == 4 for ref in keys_and_values)
    )


def _shorten(emit: GraphEmitter, record: Record, end: Ref, valid: Dim) -> None:
    keys = record.inputs[1]
    assert keys is not None
    room = keys.type.shape[_ROWS]
    for place, ref in enumerate(record.inputs[1:4], start=1):
        axis = _ROWS if place < 3 else -1
        if ref is None or ref.type.shape[axis] != room:
            continue
        axis %= ref.type.rank
        shape = (*ref.type.shape[:axis], valid, *ref.type.shape[axis + 1 :])
        bounds = emit.const([0], DType.I64), end, emit.const([axis], DType.I64)
        record.inputs[place] = emit("Slice", ref, *bounds, type=ref.type.with_shape(shape))
    emit.forget(record)

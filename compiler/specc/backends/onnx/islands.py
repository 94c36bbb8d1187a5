"""Islands of f32 in graphs of f16 and bf16, for operators that the opset does not define for these types.

`Range` knows neither, `Conv` no bf16 before opset 22. Such a node gets its operands in f32 and gives its results back
in the narrow type. What LANGUAGE 8 wants in f32 (norms, softmax, reductions, rotary tables) the lowerings say
themselves; `Attention` has a setting for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from onnx import defs

from specc.backends.onnx.emitter import GraphEmitter
from specc.backends.onnx.values import ELEMENT, Record, Ref
from specc.types import DType

_NARROW = {ELEMENT[DType.F16]: "tensor(float16)", ELEMENT[DType.BF16]: "tensor(bfloat16)"}


def widen_undefined(emit: GraphEmitter) -> None:
    """Puts casts around the nodes of a graph that its opset does not define for the types they have."""
    emit.records = list(_defined(emit))


def _defined(emit: GraphEmitter) -> Iterator[Record]:
    for record in emit.records:
        if record.body is not None:
            record.body.records = list(_defined(record.body))
        if record.op_type == "Attention" and not record.domain and record.inputs[0] and _narrow(emit, record.inputs[0]):
            record.attributes["softmax_precision"] = ELEMENT[DType.F32]
        if record.domain or not any(_is_undefined(emit, record, i) for i in range(len(record.inputs))):
            yield record
            continue
        for i, ref in enumerate(record.inputs):
            if ref is not None and _narrow(emit, ref):
                yield (cast := _cast(record, ref, Ref(ref.type.with_dtype(DType.F32), ref.known)))
                record.inputs[i] = cast.outputs[0]
        yield record
        for i, ref in enumerate(record.outputs):
            if _narrow(emit, ref):
                wide = Ref(ref.type.with_dtype(DType.F32), ref.known, record)
                record.outputs[i] = wide
                yield _cast(record, wide, ref, _NAMED[_narrow(emit, ref)])


_NAMED = {text: element for element, text in _NARROW.items()}


def _cast(record: Record, x: Ref, result: Ref, to: int = ELEMENT[DType.F32]) -> Record:
    made = Record("Cast", "", [x], {"to": to}, record.scope, record.origin)
    made.outputs.append(result)
    result.node = made
    return made


def _narrow(emit: GraphEmitter, ref: Ref) -> str:
    """How ONNX spells the type of a value of 16 bits; empty for others."""
    return _NARROW.get(emit.element(ref.type.dtype), "")


def _is_undefined(emit: GraphEmitter, record: Record, position: int) -> bool:
    ref = record.inputs[position]
    text = _narrow(emit, ref) if ref is not None else ""
    return bool(text) and text not in _types(record.op_type, emit.opset, position)


@cache
def _types(op_type: str, opset: int, position: int) -> frozenset[str]:
    """The types that an operator of the standard takes there."""
    schema = defs.get_schema(op_type, opset, "")
    formal = schema.inputs[min(position, len(schema.inputs) - 1)]
    return frozenset(formal.types)

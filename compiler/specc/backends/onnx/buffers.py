"""`build_buffered`: the incremental entry of a model in the form that onnxruntime-genai runs.

`GroupQueryAttention` writes new keys and values into buffers that are longer than the text, the same ones in every
step, and goes by how long the text of each row is. An integer mask says that: ones for text, zeros for what pads
shorter prompts of a batch on the right.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from onnx import ModelProto

from specc.backends.onnx.attention import HEADS_FORWARD, joined, side_by_side
from specc.backends.onnx.cached import TOTAL, CachedFlattener
from specc.backends.onnx.emitter import GraphEmitter
from specc.backends.onnx.export import metadata
from specc.backends.onnx.flatten import Argument
from specc.backends.onnx.products import use_gemm
from specc.backends.onnx.rows import add_in_products
from specc.backends.onnx.target import STRUCTURE, Target
from specc.backends.onnx.values import Record, Ref, users_of
from specc.diagnostics import Diagnostic, Rejected
from specc.ir.graph import Model
from specc.op import Buffer, Handle
from specc.passes.buffered import LENGTHS, text_mask
from specc.passes.incremental import Incremental, step_facts
from specc.passes.steps import State, resized
from specc.types import DType, TensorType

BUFFER = "max_sequence_length"
_OPERATOR, _DOMAIN = "GroupQueryAttention", "com.microsoft"


def build_buffered(model: Model, incremental: Incremental, target: Target = STRUCTURE) -> ModelProto:
    """The flat graph of a `buffered` incremental entry. Raises `Rejected` (B621)."""
    emit = target.emitter()
    emit.functions[_DOMAIN] = 1
    BufferFlattener(emit, model, incremental).run_entry()
    target.pack(emit, steps=True)
    take_buffers(emit, incremental)
    use_gemm(emit)
    add_in_products(emit)
    about = metadata(model, incremental.entry, incremental.graph) | {
        "specc.entry": incremental.name,
        "specc.dims": "; ".join(str(fact) for fact in step_facts(model, incremental).statements()),
        "specc.cache": "genai",
    }
    doc = incremental.graph.doc or model.module.doc
    proto = target.model(emit, model.name, doc=doc, metadata=about)
    step = incremental.step
    names = {str(step.past + step.size): TOTAL, f"buffer({step.size})": BUFFER}
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]
    return proto


class BufferFlattener(CachedFlattener):
    """Runs the graphs of an entry with the sizes of a step; attention takes buffers."""

    def _declared(self, needs: frozenset[str]) -> list[Argument]:
        """The mask of text is an integer input, whatever the entry calls it; the graph reads it as Bool."""
        emit, graph, sizes = self.emit, self.incremental.graph, self.incremental.sizes
        mask = text_mask(self.incremental)
        operands: list[Argument] = []
        text: Ref | None = None
        read: Ref | None = None
        for argument in graph.inputs:
            if argument.value is None or argument.name not in needs:
                operands.append(None)
                continue
            type_ = sizes.type(argument.type)
            if argument.name == mask:
                text = emit.input(argument.name, type_.with_dtype(DType.I64))
                operands.append(read := emit.cast(text, DType.BOOL))
            else:
                operands.append(emit.input(argument.name, type_))
        if text is None:
            batch = self.incremental.states[0][0].before.shape[0]
            step = self.incremental.step
            text = emit.input(LENGTHS, TensorType(DType.I64, (batch, step.past + step.size)))
        self.buffer = self._measured(text, read)
        return operands

    def _grown(self, state: State, before: Ref, new: Ref) -> Ref:
        """All keys or values as a size of the entry; `take_buffers` takes them apart again."""
        step = self.incremental.step
        whole = resized(state.after, state.axis, step.past + step.size)
        return self.emit("Concat", before, new, type=whole, axis=state.axis)

    def _measured(self, text: Ref, read: Ref | None) -> Buffer:
        """How long the rows are: what `GroupQueryAttention` goes by."""
        emit = self.emit
        batch, total = text.type.shape
        count = emit("ReduceSum", text, emit.const([1], DType.I64), keepdims=0, type=TensorType(DType.I64, (batch,)))
        last = emit.cast(emit("Sub", count, emit.const(1, DType.I64)), DType.I32)
        width = emit.cast(emit.squeeze(emit.dim(total), [0]), DType.I32)
        return Buffer(cast("Handle | None", read), cast("Handle", last), cast("Handle", width))


def take_buffers(emit: GraphEmitter, incremental: Incremental) -> None:
    """Every `GroupQueryAttention` takes past and new keys and values as they are, with heads side by side, and gives
    out what is kept."""
    users = users_of(emit.records)
    given_out = {id(ref) for _, ref in emit.outputs}
    records, emit.records = emit.records, []
    dropped: set[int] = set()
    for record in records:
        if record.op_type == _OPERATOR and record.domain == _DOMAIN:
            dropped |= {id(node) for node in _taken(emit, record, users, given_out)}
        elif id(record) not in dropped:
            emit.records.append(record)
    emit.records = [record for record in emit.records if id(record) not in dropped]
    kept = {state.input for state in incremental.flat}
    for record in emit.records:
        if record.op_type == "Concat" and record.inputs[0] is not None and record.inputs[0].name in kept:
            raise _refused("attention reads what it has to keep more than once, or not at all", record.origin)


def _taken(emit: GraphEmitter, record: Record, users: dict[int, list[Record]], given_out: set[int]) -> Iterator[Record]:
    """Completes one node; gives the nodes that it stands for."""
    query, *whole = record.inputs[:3]
    result = record.outputs[0]
    assert query is not None
    parts = [_past_and_new(ref, users, record) for ref in whole]
    yield from (ref.node for ref in whole if ref is not None and ref.node is not None)
    tail = joined(users, given_out, record)
    with emit.at(record.scope, record.origin):
        flat = [side_by_side(emit, ref) for ref in (query, *(new for _, new in parts))]
        record.inputs[:5] = [*flat, *(past for past, _ in parts)]
        emit.records.append(record)
        for ref, (past, _) in zip(whole, parts, strict=True):
            assert ref is not None
            ref.node, ref.type = record, past.type  # as long as the buffer
            record.outputs.append(ref)
        batch, heads, length, width = result.type.shape
        if tail is not None:
            _, together = tail
            yield from (ref.node for ref in tail if ref.node is not None)
            together.hint = result.hint or together.hint
        else:
            together = Ref(result.type.with_shape((batch, length, heads * width)), True)
            apart = emit.reshape(together, (batch, length, heads, width))
            emit.adopt(emit.transpose(apart, HEADS_FORWARD), result)
        record.outputs[0] = together
        together.node = record


def _past_and_new(ref: Ref | None, users: dict[int, list[Record]], reader: Record) -> tuple[Ref, Ref]:
    node = ref.node if ref is not None else None
    past = node.inputs[0] if node is not None and node.op_type == "Concat" else None
    if node is None or past is None or past.node is not None or users.get(id(ref), []) != [reader]:
        raise _refused("its keys or values are not those of one `cached` alone", reader.origin)
    new = node.inputs[1]
    assert new is not None
    return past, new


def _refused(what: str, origin: str) -> Rejected:
    message = f"GroupQueryAttention cannot express this attention: {what}"
    return Rejected([Diagnostic("B621", message, notes=(("at", origin),), help="k, v = cached(k, v, along = T)")])

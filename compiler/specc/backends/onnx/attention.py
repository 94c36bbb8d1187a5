"""Attention without moving heads: the 3-D form of the `Attention` operator reads the projections as they are.

A spec splits heads explicitly, `[B, T, H*d] -> [B, H, T, d]`, and merges them again. `Attention` (opset 23) also takes
[B, T, H*d] with the numbers of heads as attributes, which is the same function without four transposes. A packed
projection `[B, T, 3*H*d] -> [3, B, H, T, d]` becomes a Split of the last axis. Exact: no number changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from specc.backends.onnx.emitter import GraphEmitter
from specc.backends.onnx.last import cut_axis, last_of
from specc.backends.onnx.values import Record, Ref, users_of
from specc.dims import Dim
from specc.types import DType, TensorType

HEADS_FORWARD = [0, 2, 1, 3]  # [B, T, H, d] <-> [B, H, T, d]
_PACK_FORWARD = [2, 0, 3, 1, 4]  # [B, T, n, H, d] -> [n, B, H, T, d]


def merge_heads(emit: GraphEmitter, watched: Sequence[Ref] = ()) -> dict[int, Ref]:
    """Rewrites every `Attention` whose operands are split and whose result is merged in one of these ways.

    `watched` are values that a debug graph gives out: those that disappear are computed again from what replaced them,
    and the answer is id(value) -> its stand-in.
    """
    users = users_of(emit.records)
    given_out = {id(ref) for _, ref in emit.outputs}
    records, emit.records = emit.records, []
    dropped: set[int] = set()
    stand_ins: dict[int, Ref] = {}
    seen = {id(ref) for ref in watched}
    for record in records:
        if id(record) in dropped:
            continue
        tail = joined(users, given_out, record) if _plain_attention(record) else None
        sources = [_unsplit(ref) for ref in record.inputs[:3]] if tail else []
        if tail is None or any(source is None for source in sources):
            emit.records.append(record)
            continue
        with emit.at(record.scope, record.origin):
            heads = [source for source in sources if source is not None]
            record.inputs[:3] = [_narrow(emit, source) for source in heads]
        transposed, merged = tail
        before = record.outputs[0]
        record.attributes |= {"q_num_heads": heads[0].heads, "kv_num_heads": heads[1].heads}
        record.outputs[0] = merged
        assert merged.node is not None and transposed.node is not None
        dropped |= {id(merged.node), id(transposed.node)}
        merged.node = record
        merged.hint = before.hint or merged.hint
        emit.records.append(record)
        if id(before) in seen or id(transposed) in seen:
            with emit.at(record.scope, record.origin):
                stand_ins[id(transposed)] = split = emit.reshape(merged, transposed.type.shape)
                stand_ins[id(before)] = emit.transpose(split, HEADS_FORWARD)
    return stand_ins


def take_past(emit: GraphEmitter) -> None:
    """Where `Attention` reads keys and values that a Concat makes of past and new ones, and nothing else does, it takes
    both as they are and gives out what is kept."""
    users = users_of(emit.records)
    dropped: set[int] = set()
    for record in emit.records:
        if not _plain_attention(record) or len(record.inputs) > 4:
            continue
        whole = [ref for ref in record.inputs[1:3] if ref is not None]
        joins = [_past_and_new(ref, users, record) for ref in whole]
        if joins[0] is None or joins[1] is None or whole[0] is whole[1]:
            continue
        dropped |= {id(ref.node) for ref in whole}
        mask = record.inputs[3] if len(record.inputs) > 3 else None
        record.inputs = [record.inputs[0], joins[0][1], joins[1][1], mask, joins[0][0], joins[1][0]]
        for ref in whole:
            ref.node = record
            record.outputs.append(ref)
    emit.records = [record for record in emit.records if id(record) not in dropped]


def _past_and_new(ref: Ref, users: dict[int, list[Record]], reader: Record) -> tuple[Ref, Ref] | None:
    node = ref.node
    if node is None or node.op_type != "Concat" or node.attributes.get("axis") != 2 or len(node.inputs) != 2:
        return None
    past, new = node.inputs
    if past is None or new is None or past.node is not None or [*users.get(id(ref), [])] != [reader]:
        return None
    return past, new


def side_by_side(emit: GraphEmitter, ref: Ref) -> Ref:
    """Heads [B, H, T, d] as [B, T, H*d]: what they were split from, or moved there."""
    source = _unsplit(ref)
    if source is not None:
        return _narrow(emit, source)
    batch, heads, length, width = ref.type.shape
    return emit.reshape(emit.transpose(ref, HEADS_FORWARD), (batch, length, heads * width))


@dataclass(frozen=True)
class _Source:
    """A projection [B, T, n*H*d], its number of heads H, which of how many pieces of its last axis is meant, whether
    that is of the last position alone, and how it is rotated."""

    projection: Ref
    heads: int
    pieces: int
    piece: int
    is_last: bool = False
    rotary: Record | None = None


def _plain_attention(record: Record) -> bool:
    """With four axes, and not made three-dimensional yet."""
    return (
        record.op_type == "Attention"
        and record.domain == ""
        and "q_num_heads" not in record.attributes
        and all(ref is not None and ref.known and ref.type.rank == 4 for ref in record.inputs[:3])
    )


def _unsplit(ref: Ref | None) -> _Source | None:
    """What `ref` [B, H, T, d] was split from."""
    assert ref is not None
    node = ref.node
    if node is not None and node.op_type == "RotaryEmbedding" and "num_heads" not in node.attributes:
        turned = _unsplit(node.inputs[0])
        return None if turned is None or turned.rotary is not None else replace(turned, rotary=node)
    if node is not None and cut_axis(node) == 2:
        whole = _unsplit(node.inputs[0])
        return None if whole is None or whole.rotary is not None else replace(whole, is_last=True)
    reshaped = _transposed(ref, HEADS_FORWARD)
    if reshaped is not None:
        return _unpacked(reshaped, 1, 0)
    piece = _piece(ref)
    if piece is not None:
        reshaped = _transposed(piece[0], _PACK_FORWARD)
        if reshaped is not None and reshaped.known and reshaped.type.shape[2] == piece[2]:
            return _unpacked(reshaped, piece[2], piece[1])
    return None


def _transposed(ref: Ref, perm: list[int]) -> Ref | None:
    if ref.node is None or ref.node.op_type != "Transpose" or ref.node.attributes.get("perm") != perm:
        return None
    return ref.node.inputs[0]


def _unpacked(ref: Ref, pieces: int, piece: int) -> _Source | None:
    """`ref` [B, T, H, d] or [B, T, n, H, d] as the reshape of a matrix per batch entry."""
    if ref.node is None or ref.node.op_type != "Reshape" or not ref.known:
        return None
    source = ref.node.inputs[0]
    heads, width = (size.value for size in ref.type.shape[-2:])
    if source is None or not source.known or source.type.rank != 3 or heads is None or width is None:
        return None
    flat = (*ref.type.shape[:2], Dim.const(pieces * heads * width))
    return _Source(source, heads, pieces, piece) if source.type.shape == flat else None


def _piece(ref: Ref) -> tuple[Ref, int, int] | None:
    """(whole, i, n) if `ref` is element i of the first axis, of length n, of `whole`."""
    node = ref.node
    if node is None:
        return None
    index = node.inputs[1] if len(node.inputs) > 1 else None
    whole = node.inputs[0]
    if node.op_type == "Gather" and node.attributes.get("axis", 0) == 0 and index is not None:
        length = whole.type.shape[0].value if whole is not None and whole.known else None
        if whole is not None and length is not None and index.array is not None and index.array.ndim == 0:
            return whole, int(index.array) % length, length
    if node.op_type == "Squeeze" and index is not None and index.array is not None and index.array.tolist() == [0]:
        split = whole.node if whole is not None else None
        if split is not None and split.op_type == "Split" and split.attributes.get("axis", 0) == 0:
            position = next(i for i, output in enumerate(split.outputs) if output is whole)
            if split.inputs[0] is not None:
                return split.inputs[0], position, len(split.outputs)
    return None


def _narrow(emit: GraphEmitter, source: _Source) -> Ref:
    """The piece that is meant, [B, T, H*d], rotated head by head."""
    ref, pieces = source.projection, source.pieces
    if pieces > 1:
        width = ref.type.shape[-1] // pieces
        type_ = TensorType(ref.type.dtype, (*ref.type.shape[:-1], width))
        sizes = emit.const([width.value] * pieces, DType.I64) if emit.opset < 18 else None
        count = pieces if emit.opset >= 18 else None
        ref = emit.many("Split", pieces, ref, sizes, types=[type_] * pieces, axis=2, num_outputs=count)[source.piece]
    if source.is_last:
        ref = last_of(emit, ref, 1)
    if source.rotary is None:
        return ref
    angles, options = source.rotary.inputs[1:], source.rotary.attributes
    return emit("RotaryEmbedding", ref, *angles, type=ref.type, num_heads=source.heads, **options)


def joined(users: dict[int, list[Record]], given_out: set[int], record: Record) -> tuple[Ref, Ref] | None:
    """The Transpose and the Reshape that put the heads of a result side by side, if nothing else reads it."""
    transposed = _only_user(users, given_out, record.outputs[0], "Transpose")
    if transposed is None or transposed.node is None or transposed.node.attributes.get("perm") != HEADS_FORWARD:
        return None
    merged = _only_user(users, given_out, transposed, "Reshape")
    if merged is None or not merged.known or not transposed.known or merged.type.rank != 3:
        return None
    batch, length, heads, width = transposed.type.shape
    return (transposed, merged) if merged.type.shape == (batch, length, heads * width) else None


def _only_user(users: dict[int, list[Record]], given_out: set[int], ref: Ref, op_type: str) -> Ref | None:
    found = users.get(id(ref), [])
    if id(ref) in given_out or len(found) != 1 or found[0].op_type != op_type:
        return None
    return found[0].outputs[0]

"""Weights in few bits: the operators that state it (`Op.packing`) are lowered again onto packed weights.

int8 is written in standard operators: `DynamicQuantizeLinear`, `MatMulInteger`, a scale for each output channel.
onnxruntime fuses them when a session is loaded (`DynamicQuantizeMatMul`, `MatMulIntegerToFloat`), and writing those
ourselves is no faster: 0.55 ms each for 128 x 768 by 768 x 2304. Weights keep torch's layout [out, in]; the transpose
is folded when a session is loaded, so a table that is looked up and multiplied with is stored once.

int4 is `MatMulNBits`, whose layout is that of a row-major [out, in] matrix in blocks, low nibble first.

Linear layers of one block that read the same rows (queries, keys and values; both sides of a gated product) can be one
product, and a `Split` of it: steps of one position are as much a matter of how many products there are as of reading
their weights. After 128 positions of Llama 110M, 48 instead of 84 save 13% of a step in int4 with two threads and 6% of
its processor time, in int8 6%; a prompt of 128 takes the same in int4 and 1% more in int8, eight of them 4% more, which
is what the copies of gated products cost. So graphs for generation have it, and those of the whole entry do not. The
rows lie one below the other in the file, and nothing is stored twice. Heads are not joined: the pieces would be copies
of results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from specc.backends.onnx.emitter import GraphEmitter
from specc.backends.onnx.values import Ref, Site, in_order, live, users_of
from specc.diagnostics import Diagnostic, Rejected
from specc.dims import Dim
from specc.op import Emitter, Packed
from specc.quantisation import SCALE, TO_A_RESULT, ZERO, Scheme, joined, part
from specc.types import DType, TensorType

CONTRIB = "com.microsoft"
ACCURACY_LEVEL = 4  # of MatMulNBits on the CPU: activations in int8, blocks summed in int32


def pack(emit: GraphEmitter, scheme: Scheme, *, join: bool) -> None:
    """Rewrites the places that the scheme is about. `join`: layers that read the same rows become one product."""
    heads = _heads(emit)
    sites = [site for site in {id(site.result): site for site in emit.sites}.values() if _is_stored(emit, site)]
    sites = [site for site in sites if _wanted(site, scheme, heads)]
    beside = _side_by_side([site for site in sites if id(site.weight) not in heads]) if join else {}
    replaced: set[int] = set()
    for site in sites:
        packed = cast("Packed", PackedWeight(emit, scheme, beside.get(id(site), [site]), site))
        with emit.at(site.scope, site.origin):
            made = cast("Ref", site.op.onnx_packed(cast("Emitter", emit), packed, *site.operands))
        if made is not site.result:  # it is, where all that it reads has been replaced already
            replaced.add(id(site.result.node))
            emit.adopt(made, site.result)
    emit.records = [record for record in emit.records if id(record) not in replaced]
    emit.records = live(in_order(emit.records), [ref for _, ref in emit.outputs])


def _is_stored(emit: GraphEmitter, site: Site) -> bool:
    """Whether the weight is a tensor of the state_dict, and a node of this graph reads it."""
    weight = site.weight
    return weight is not None and emit.parameters.get(weight.name) is weight and site.result.node is not None


def _side_by_side(sites: Sequence[Site]) -> dict[int, list[Site]]:
    """id(site) -> the linear layers of its block that read the same rows, itself among them, each weight once.

    One that adds something computed is left alone: that may be computed from another one's product.
    """
    groups: dict[tuple[int, str], dict[int, Site]] = {}
    for site in sites:
        if not site.packing.looked_up and (site.added is None or site.added.node is None):
            block, _, _ = site.scope.rpartition(".")
            groups.setdefault((id(site.operands[0]), block), {}).setdefault(id(site.weight), site)
    return {id(site): [*group.values()] for group in groups.values() for site in group.values()}


def _wanted(site: Site, scheme: Scheme, heads: frozenset[int]) -> bool:
    weight = site.weight
    assert weight is not None
    if site.packing.looked_up:  # a table narrower than a block gains nothing
        width = weight.type.shape[1].value
        return scheme.embed and (scheme.bits == 8 or (width is not None and width >= scheme.block))
    x = site.operands[0]
    return isinstance(x, Ref) and x.type.rank >= 2 and (scheme.head or id(weight) not in heads)


def _heads(emit: GraphEmitter) -> frozenset[int]:
    """The weights whose products are results of the graph, but for operations that mix nothing."""
    outputs = [ref for _, ref in emit.outputs]
    users = users_of(live(emit.records, outputs))
    results = {id(ref) for ref in outputs}

    def gives_result(ref: Ref) -> bool:
        if id(ref) in results:
            return True
        readers = users.get(id(ref), [])
        return len(readers) == 1 and readers[0].op_type in TO_A_RESULT and gives_result(readers[0].outputs[0])

    products = [site for site in emit.sites if not site.packing.looked_up]
    return frozenset(id(site.weight) for site in products if gives_result(site.result))


class PackedWeight:
    """A matrix of the state_dict, its rows in few bits. Implements `specc.op.Packed`.

    `group`: the sites whose weights lie one below the other, multiplied with together; this one is that of `site`.
    """

    def __init__(self, emit: GraphEmitter, scheme: Scheme, group: Sequence[Site], site: Site) -> None:
        self.emit, self.scheme, self.group, self.place = emit, scheme, group, group.index(site)
        weights = [site.weight for site in group if site.weight is not None]
        self.name = joined([weight.name for weight in weights])
        self.heights = [weight.type.shape[0].value or 0 for weight in weights]
        self.rows, self.width = sum(self.heights), weights[0].type.shape[1].value or 0

    def product(self, x: Ref, added: Ref | None = None) -> Ref:
        if len(self.group) == 1:
            return self._sum(x, added)
        first = self.group[0]
        types = [x.type.with_shape((*x.type.shape[:-1], Dim.const(rows))) for rows in self.heights]
        with self.emit.at(first.scope.rpartition(".")[0], first.origin):
            whole = self._sum(x, self._added())
            sizes = self.emit.const(self.heights, DType.I64)
            return self.emit.many("Split", len(types), whole, sizes, types=types, axis=-1)[self.place]

    def _added(self) -> Ref | None:
        """What is added to all products of the group: one below the other, 0 where nothing is."""
        given = [site.added for site in self.group]
        if not any(given):
            return None
        parts = [
            ref or self.emit.const(np.zeros(rows), DType.COMPUTE) for ref, rows in zip(given, self.heights, strict=True)
        ]
        return self.emit("Concat", *parts, type=TensorType(DType.COMPUTE, (Dim.const(self.rows),)), axis=0)

    def _sum(self, x: Ref, added: Ref | None) -> Ref:
        type_ = TensorType(DType.COMPUTE, (*x.type.shape[:-1], Dim.const(self.rows)))
        product = self._integers(x, type_) if self.scheme.bits == 8 else self._blocks(x, type_)
        return product if added is None else self.emit("Add", product, added)

    def look_up(self, ids: Ref) -> Ref:
        type_ = TensorType(DType.COMPUTE, (*ids.type.shape, Dim.const(self.width)))
        if self.scheme.bits == 8:
            rows = self.emit("Gather", self._data(), ids, type=type_.with_dtype(DType.I8), axis=0)
            scales = self._part(SCALE, DType.COMPUTE, self.rows)
            scale = self.emit("Gather", scales, ids, type=TensorType(DType.COMPUTE, ids.type.shape), axis=0)
            return self.emit("Mul", self.emit.cast(rows, DType.COMPUTE), self.emit.unsqueeze(scale, [-1]), type=type_)
        if self.width % self.scheme.block:
            fitting = [str(b) for b in (256, 128, 64, 32, 16) if self.width % b == 0]
            message = f"{self.name} has rows of {self.width}: blocks of {self.scheme.block} do not divide them"
            help = f"int4:block={fitting[0]},embed" if fitting else "leave `embed` out"
            raise Rejected([Diagnostic("B670", message, help=help)])
        flat = self.emit.reshape(self._data(), (Dim.const(self.rows), Dim.const(self.width // 2)))
        self.emit.functions[CONTRIB] = 1
        return self.emit(
            "GatherBlockQuantized",
            flat,
            ids,
            self._scales(),
            self._zeros(),
            type=type_,
            domain=CONTRIB,
            bits=4,
            block_size=self.scheme.block,
            gather_axis=0,
            quantize_axis=1,
        )

    # ---- the two forms -----------------------------------------------------------------------------------------------

    def _integers(self, x: Ref, type_: TensorType) -> Ref:
        single = TensorType(DType.COMPUTE, ())
        types = (x.type.with_dtype(DType.U8), single, single.with_dtype(DType.U8))
        rounded, step, zero = self.emit.many("DynamicQuantizeLinear", 3, x, types=types)
        turned = self.emit.transpose(self._data(), (1, 0))
        sums = self.emit("MatMulInteger", rounded, turned, zero, type=type_.with_dtype(DType.I32))
        scale = self.emit("Mul", step, self._part(SCALE, DType.COMPUTE, self.rows))
        return self.emit("Mul", self.emit.cast(sums, DType.COMPUTE), scale, type=type_)

    def _blocks(self, x: Ref, type_: TensorType) -> Ref:
        self.emit.functions[CONTRIB] = 1
        return self.emit(
            "MatMulNBits",
            x,
            self._data(),
            self._scales(),
            self._zeros(),
            type=type_,
            domain=CONTRIB,
            K=self.width,
            N=self.rows,
            bits=4,
            block_size=self.scheme.block,
            accuracy_level=ACCURACY_LEVEL,
        )

    # ---- what is stored ----------------------------------------------------------------------------------------------

    def _data(self) -> Ref:
        if self.scheme.bits == 8:
            return self._part(self.scheme.kind, DType.I8, self.rows, self.width)
        blocks = self.scheme.blocks(self.width)
        return self._part(self.scheme.kind, DType.U8, self.rows, blocks, self.scheme.block // 2)

    def _scales(self) -> Ref:
        return self._part(SCALE, DType.COMPUTE, self.rows, self.scheme.blocks(self.width))

    def _zeros(self) -> Ref | None:
        if self.scheme.symmetric:
            return None
        return self._part(ZERO, DType.U8, self.rows, -(-self.scheme.blocks(self.width) // 2))

    def _part(self, what: str, dtype: DType, *shape: int) -> Ref:
        type_ = TensorType(dtype, tuple(Dim.const(n) for n in shape))
        return self.emit.parameter(part(self.name, what), type_)

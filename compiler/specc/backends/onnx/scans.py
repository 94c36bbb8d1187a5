"""The graph of one step of a scan, and the `Scan` node around it.

What depends on no value of the step is computed once, outside: `BodyEmitter` hands it to the graph around it. So a
body reads weights, constants and sizes from there, as ONNX allows, and holds only what changes from step to step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from specc.backends.onnx.emitter import GraphEmitter
from specc.backends.onnx.sizes import Sizes
from specc.backends.onnx.values import Record, Ref, live, reads
from specc.dims import Dim
from specc.types import TensorType

Pair = tuple[Sequence[Any], Sequence[Any]]
"""Of states, and of sequences or emitted values."""


class BodyEmitter(GraphEmitter):
    """A graph inside another one; it shares everything but its inputs, outputs and nodes."""

    def __init__(self, parent: GraphEmitter) -> None:
        vars(self).update(vars(parent))
        self.parent = parent
        self.inputs, self.outputs, self.records, self.measured, self._nodes = [], [], [], [], {}
        self._sizes = BodySizes(self)
        self._own: set[int] = set()

    def input(self, name: str, type_: TensorType) -> Ref:
        """The name is a wish: it may be taken outside."""
        ref = super().input("", type_)
        ref.hint = f"{self.parent.scope}.{name}" if self.parent.scope else name
        self._own.add(id(ref))
        return ref

    def many(self, op_type: str, count: int, *inputs: Any, **given: Any) -> tuple[Ref, ...]:
        if not any(id(ref) in self._own for ref in inputs):
            with self.parent.at(self.scope, self.origin):
                return self.parent.many(op_type, count, *inputs, **given)
        return super().many(op_type, count, *inputs, **given)

    def add(self, record: Record) -> None:
        super().add(record)
        self._own.update(map(id, record.outputs))

    def owns(self, ref: Ref) -> bool:
        return super().owns(ref) and id(ref) in self._own

    def captures(self) -> Iterator[Ref]:
        """The values that are read from outside."""
        read = (*(ref for record in self.records for ref in reads(record)), *(ref for _, ref in self.outputs))
        return (ref for ref in read if id(ref) not in self._own)


class BodySizes(Sizes):
    """Sizes that only a value of the step has are computed in the body, all others outside."""

    def __init__(self, body: BodyEmitter) -> None:
        super().__init__(body)
        self._body = body

    def dim(self, dim: Dim) -> Ref:
        return super().dim(dim) if self._measured(dim) else self._body.parent.dim(dim)

    def shape(self, dims: Sequence[Dim]) -> Ref:
        return super().shape(dims) if any(map(self._measured, dims)) else self._body.parent.shape(dims)

    def _measured(self, dim: Dim) -> bool:
        known = {name for ref in self._body.measured for size in ref.type.shape for name in size.symbols}
        return not known.isdisjoint(dim.symbols)


def add_scan(
    emit: GraphEmitter, body: BodyEmitter, given: Pair, ends: Pair, axes: Pair, types: Sequence[TensorType]
) -> tuple[Ref, ...]:
    """Appends a `Scan`: the last states, then what was emitted, stacked.

    `given`: the first states and the sequences; `ends`: the body's states and what it emits; `axes`: those of the
    sequences and of what is emitted; `types` are the results'.
    """
    for ref in (*ends[0], *ends[1]):
        body.output("", ref)
    body.records = live(body.records, [*ends[0], *ends[1]])
    attributes = {
        "num_scan_inputs": len(given[1]),
        "scan_input_axes": list(axes[0]),
        "scan_output_axes": list(axes[1]) or None,
    }
    named = {key: value for key, value in attributes.items() if value is not None}
    record = Record("Scan", "", [*given[0], *given[1]], named, emit.scope, emit.origin, body=body)
    record.outputs = [Ref(type_, True, record) for type_ in types]
    emit.add(record)
    return tuple(record.outputs)

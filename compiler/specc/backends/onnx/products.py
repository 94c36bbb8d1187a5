"""Linear layers as `Gemm`, where that is what the runtime does best.

`MatMul(x, Transpose(w)) + b` is what a linear layer says. onnxruntime transposes the weight when a session is loaded, a
third of the load time of a model; `Gemm(transB)` takes torch's layout as it is, but only of matrices. So the leading
axes of `x` are joined around it, a `Reshape` that copies nothing, and stay joined as far as that goes (`rows`).

Left alone: results of the whole graph (there a `Reshape` would copy) unless they are of one position, as logits for
generation are, and the bias: adding it afterwards is 2-3% faster at 8 x 128 tokens of GPT-2 than handing it to `Gemm`,
which copies it into the result first. Steps of one position are another matter (`rows.add_in_products`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specc.backends.onnx.emitter import GraphEmitter
from specc.backends.onnx.rows import join_rows, merge_reshapes
from specc.backends.onnx.values import Record, Ref, in_order
from specc.dims import Dim
from specc.types import TensorType


def use_gemm(emit: GraphEmitter, watched: Sequence[Ref] = ()) -> None:
    """Rewrites the linear layers of three and more axes. `watched` values keep their shapes."""
    _Rewriter(emit).run()
    join_rows(emit, watched)
    merge_reshapes(emit)


@dataclass(frozen=True, eq=False)
class _Layer:
    """x @ w^T"""

    product: Record
    x: Ref
    weight: Ref


class _Rewriter:
    def __init__(self, emit: GraphEmitter) -> None:
        self.emit = emit
        self.results = {id(ref) for _, ref in emit.outputs}

    def run(self) -> None:
        records, self.emit.records = self.emit.records, []
        for record in records:
            layer = self._layer(record)
            if layer is None:
                self.emit.records.append(record)
            else:
                with self.emit.at(record.scope, record.origin):
                    self._write(layer)
        self.emit.records = in_order(self.emit.records)

    def _layer(self, record: Record) -> _Layer | None:
        if record.op_type != "MatMul" or record.domain:
            return None
        x, turned = record.inputs
        product = record.outputs[0]
        if x is None or turned is None or not x.known or x.type.rank < 3:
            return None
        if id(product) in self.results and any(size.value != 1 for size in x.type.shape[1:-1]):
            return None
        weight = self._untransposed(turned)
        return None if weight is None else _Layer(record, x, weight)

    def _untransposed(self, ref: Ref) -> Ref | None:
        """The matrix whose transpose `ref` is."""
        if ref.node is None or ref.node.op_type != "Transpose" or ref.node.attributes.get("perm") != [1, 0]:
            return None
        weight = ref.node.inputs[0]
        return weight if weight is not None and weight.known and weight.type.rank == 2 else None

    def _write(self, layer: _Layer) -> None:
        shape = layer.x.type.shape
        rows = Dim.const(1)
        for size in shape[:-1]:
            rows = rows * size
        width = layer.weight.type.shape[0]
        flat = self.emit.reshape(layer.x, (rows, shape[-1]))
        type_ = TensorType(layer.x.type.dtype, (rows, width))
        made = self.emit("Gemm", flat, layer.weight, type=type_, transB=1)
        product = layer.product.outputs[0]
        made.hint, product.hint = product.hint, None
        self.emit.adopt(self.emit.reshape(made, (*shape[:-1], width)), product)

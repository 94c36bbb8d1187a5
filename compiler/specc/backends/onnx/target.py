"""`Target`: what every graph of a model is written for, whichever entry it is of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto

from specc.backends.onnx import packed
from specc.backends.onnx.emitter import GraphEmitter
from specc.backends.onnx.externs import Externs, NotLoaded
from specc.backends.onnx.proto import IR_VERSION, WeightsRef, model_proto
from specc.diagnostics import Diagnostic, Rejected
from specc.quantisation import Scheme
from specc.types import DType

DEFAULT_OPSET = 23


@dataclass(frozen=True, eq=False, kw_only=True)
class Target:
    """How the graphs of a model are written.

    `weights` says where their bytes are; None declares them as external data without a file. `compute` is what `Tensor`
    is stored and computed in. `externs` lowers extern operations; without it a model that has any is refused (X901).
    `quant`: how to store weights that operators can read packed; what it cannot pack is refused (B670). `version` is
    told in the file as that of its producer.
    """

    opset: int = DEFAULT_OPSET
    weights: WeightsRef | None = None
    compute: DType = DType.F32
    externs: Externs | None = None
    quant: Scheme | None = None
    version: str = ""

    def emitter(self) -> GraphEmitter:
        """An empty graph. Raises `Rejected` (B601) for an opset that specc does not write."""
        if self.opset not in IR_VERSION:
            found = f"opset {self.opset} is not one of {min(IR_VERSION)} to {max(IR_VERSION)}"
            raise Rejected([Diagnostic("B601", found, help=f"the default is {DEFAULT_OPSET}")])
        return GraphEmitter(self.opset, self.compute, self.externs or NotLoaded())

    def pack(self, emit: GraphEmitter, *, steps: bool = False) -> None:
        """Stores weights as `quant` says; `steps`: of a graph that computes steps of one position."""
        if self.quant is not None:
            packed.pack(emit, self.quant, join=steps)

    def model(self, emit: GraphEmitter, name: str, *, doc: str, metadata: Mapping[str, str]) -> ModelProto:
        """The finished graph as a file's content."""
        return model_proto(emit, name, weights=self.weights, doc=doc, metadata=metadata, version=self.version)


STRUCTURE = Target()
"""In fp32 and without weights: what a graph consists of, and nothing to run it with."""

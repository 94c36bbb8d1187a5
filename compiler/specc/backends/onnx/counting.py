"""How many nodes of each operator a graph has, told without writing a hundred equal layers out.

Of a run of equal iterations four are flattened. The third stands between two of its kind, as all in the middle do, so
it counts for those that are left out; the last follows it. What passes over the graph see around a node is then what
they see in the whole graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from specc.backends.onnx.attention import merge_heads
from specc.backends.onnx.export import select
from specc.backends.onnx.flatten import Flattener, Frame
from specc.backends.onnx.products import use_gemm
from specc.backends.onnx.proto import Listing, listing
from specc.backends.onnx.repeats import every, runs
from specc.backends.onnx.scans import BodyEmitter
from specc.backends.onnx.target import STRUCTURE
from specc.backends.onnx.values import Record
from specc.ir.graph import Apply, Call, Iteration, Loop, Model, Scan, Value
from specc.ir.members import aliases
from specc.ir.route import Route
from specc.passes.plain import entry_sizes

_FLATTENED = 4


def count_operators(model: Model, entry: str = "forward", *, without: frozenset[str] = frozenset()) -> dict[str, int]:
    """The operators of the graph that `export.build` makes, the bodies of scans included.

    Raises `Rejected` (X901) for a model with extern functions, KeyError for an entry or input that it does not have.
    """
    graph = select(model, entry, without)
    emit = STRUCTURE.emitter()
    _Counting(emit, aliases(model.module)).entry(graph, entry_sizes(graph))
    merge_heads(emit)
    use_gemm(emit)
    found: Counter[str] = Counter()
    _count(listing(emit), 1, found)
    return dict(found)


class _Scope(str):
    """The scope of nodes that stand for `times` of them each; nodes made from one of them are in its scope."""

    times: int

    @staticmethod
    def of(record: Record, times: int) -> _Scope:
        scope = _Scope(record.scope)
        scope.times = _times(record) * times
        return scope


def _times(record: Record) -> int:
    return record.scope.times if isinstance(record.scope, _Scope) else 1


def _count(found: Listing, times: int, counts: Counter[str]) -> None:
    for _, record in found.records:
        here = times * _times(record)
        counts[f"{record.domain}.{record.op_type}" if record.domain else record.op_type] += here
        if record.body is not None:
            _count(found.bodies[id(record)], here, counts)


class _Counting(Flattener):
    def _loop(self, frame: Frame, node: Loop) -> None:
        if isinstance(node, Route) or isinstance(self.emit, BodyEmitter):
            super()._loop(frame, node)
            return
        for run in runs(node, frame.graph):
            left_out = len(run.iterations) - _FLATTENED
            if left_out <= 0:
                for iteration in run.iterations:
                    self._nodes(frame, iteration.nodes)
            else:
                self._shortened(frame, run.iterations, left_out)

    def _shortened(self, frame: Frame, iterations: Sequence[Iteration], left_out: int) -> None:
        first, second, third = iterations[:3]
        self._nodes(frame, first.nodes)
        self._nodes(frame, second.nodes)
        begun = len(self.emit.records)
        self._nodes(frame, third.nodes)
        for record in self.emit.records[begun:]:
            record.scope = _Scope.of(record, 1 + left_out)
        for value, stand_in in zip(_made(iterations[-2]), _made(third), strict=True):
            if stand_in in frame.values:
                frame.values[value] = frame.values[stand_in]
        self._nodes(frame, iterations[-1].nodes)

    def _tap(self, frame: Frame, node: Apply | Call | Scan, position: int, result: object) -> None:
        """Nobody looks at values here."""


def _made(iteration: Iteration) -> list[Value]:
    return [value for node in every(iteration.nodes) for value in node.outputs]

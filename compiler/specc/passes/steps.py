"""What a step of decoding is made of: its sizes, and the tensors that are kept between steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from specc.dims import Dim
from specc.ir.graph import Absent, Apply, Call, Graph, Input, Loop, Node, Scan, When
from specc.op import Step
from specc.ops.state import Once, past
from specc.passes.plain import Sizes, is_past
from specc.types import Operand, Scalar, TensorType


class StepSizes(Sizes):
    """Sizes in an incremental entry. `step` is the entry's axis of new positions, `earlier` how many came before it.

    `past(X)` is `earlier` where X is `step`, and 0 elsewhere: nothing grows along another axis.
    """

    def __init__(self, step: Dim, earlier: Dim, known: Mapping[str, Dim] | None = None) -> None:
        super().__init__(known or {})
        self.step, self.earlier = step, earlier

    def __missing__(self, name: str) -> Dim:
        if is_past(name):
            bound = self.get(name.removeprefix("past(").removesuffix(")"))
            return self.earlier if bound is not None and bound == self.step else Dim.const(0)
        return super().__missing__(name)

    def empty(self) -> StepSizes:
        return StepSizes(self.step, self.earlier)

    @property
    def is_stepping(self) -> bool:
        """Whether the graph that these are the sizes of sees the step at all."""
        return any(size == self.step for size in self.values())

    def own(self, graph: Graph) -> Step:
        """The step in the sizes of the graph that these are the sizes of."""
        name = next((name for name in graph.dims if self.get(name) == self.step), None)
        size = Dim.symbol(name) if name is not None else self.step
        return Step(size, past(size))


NO_AXIS = -1
"""In place of the axis that grows, for what is kept as it is."""


@dataclass(frozen=True)
class State:
    """One tensor that is kept: its names and types before and after a step, and the axis that grows."""

    input: str
    output: str
    before: TensorType
    after: TensorType
    axis: int


def resized(type_: TensorType, axis: int, size: Dim) -> TensorType:
    return type_.with_shape((*type_.shape[:axis], size, *type_.shape[axis + 1 :]))


def varies(step: Step, type_: TensorType) -> bool:
    return any(step.varies(size) for size in type_.shape)


def operand_type(input_: Input, sizes: Sizes) -> Operand:
    if isinstance(input_, Absent):
        return None
    if isinstance(input_, Scalar):
        value = input_.value
        return Scalar(value.substitute(sizes), input_.label) if isinstance(value, Dim) else input_
    return sizes.type(input_.type)


def in_a_step(graph: Graph) -> list[Node]:
    """The nodes without those whose results only `once` reads: they are computed elsewhere."""
    read: set[Input] = {value for _, value in graph.results}
    found: list[Node] = []
    for node in reversed(graph.nodes):
        if not isinstance(node, (Apply, Call)) or not read.isdisjoint(node.outputs):
            found.append(node)
            read.update(_reads(node))
    return found[::-1]


def _reads(node: Node) -> Iterator[Input]:
    """What a node needs in a step, those inside it too."""
    if isinstance(node, Apply) and isinstance(node.op, Once):
        return
    yield from node.inputs
    if isinstance(node, (Scan, When)):
        yield from node.kept
        yield from (read for inner in node.nodes for read in _reads(inner))
    elif isinstance(node, Loop):
        yield from (read for iteration in node.iterations for inner in iteration.nodes for read in _reads(inner))

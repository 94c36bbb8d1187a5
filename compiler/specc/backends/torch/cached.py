"""The incremental form of a method: `forward_cached` beside `forward`, the same statements with a cache.

An entry takes what its last call gave as `past` and returns it, longer, beside its results; the methods that it calls
hand a `Cache` on, which knows how many positions came before and collects keys and values in the order of execution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from specc.backends.torch.classes import Param
from specc.backends.torch.methods import Method
from specc.backends.torch.optext import OpText, is_identity
from specc.backends.torch.signatures import argument_defaults, plain_sizes, size_names
from specc.backends.torch.statements import Line, Statement, assign
from specc.backends.torch.surroundings import Surroundings
from specc.dims import Dim
from specc.ir.graph import Apply, Call, Graph, Input, Loop, Node, Path, When
from specc.op import Step
from specc.passes.incremental import STATEFUL

CACHE, START, PAST = "cache", "start", "past"
CACHE_CLASS = '''\
class Cache:
    """Keys and values of earlier positions, one tuple for each attention in the order of execution.

    `past` is what the step before gave as `present`, None in the first one; `start` is how many positions it holds.
    """

    def __init__(self, past: list[tuple[torch.Tensor, ...]] | None, dim: int) -> None:
        self.past = past
        self.present: list[tuple[torch.Tensor, ...]] = []
        self.start = 0 if past is None else past[0][0].shape[dim]

    def extend(self, *new: torch.Tensor, dim: int) -> tuple[torch.Tensor, ...]:
        """Append the new positions to the earlier ones and keep the whole."""
        if self.past is not None:
            earlier = self.past[len(self.present)]
            new = tuple(torch.cat(pair, dim) for pair in zip(earlier, new, strict=True))
        self.present.append(new)
        return new
'''
_KEPT = "list[tuple[torch.Tensor, ...]]"


@dataclass(frozen=True)
class Stepping:
    """`steps`: each graph with an incremental form -> the step in its own sizes.

    `axis`: of an entry, the axis of the first kept tensor that grows; None for a method that is called by one.
    """

    steps: Mapping[Graph, Step]
    axis: int | None

    def params(self, plain: Sequence[Param]) -> tuple[Param, ...]:
        if self.axis is not None:
            return (*plain, Param(PAST, f"{_KEPT} | None", "None"))
        return (*(Param(p.name, p.annotation) for p in plain), Param(CACHE, "Cache"))

    def returns(self, plain: str) -> str:
        if self.axis is None:
            return plain
        return f"tuple[{plain.removeprefix('tuple[').removesuffix(']')}, {_KEPT}]"

    def prelude(self, used: bool) -> list[Statement]:
        """`used`: whether anything reads how many positions came before."""
        begin = [assign(CACHE, f"Cache({PAST}, dim={self.axis})")] if self.axis is not None else []
        return [*begin, *([assign(START, f"{CACHE}.{START}")] if used else [])]

    def doc(self, graph: Graph) -> str:
        if self.axis is None:
            return graph.doc
        what = f"`{graph.method}` of positions that follow those of `past`, and what to pass as `past` next"
        return f"{graph.doc}\n\n{what}" if graph.doc else what


class CachedMethod(Method):
    """The statements of one graph as a step of decoding."""

    def __init__(self, graph: Graph, around: Surroundings, stepping: Stepping) -> None:
        self.stepping = stepping
        self.step = stepping.steps[graph]
        self.folds = frozenset(_stateful_folds(graph.nodes, stepping.steps))
        super().__init__(graph, around)
        self.names.reserved |= {CACHE, START, PAST}

    def statements(self) -> tuple[Statement, ...]:
        lines = super().statements()
        if self.stepping.axis is None or not isinstance(lines[-1], Line):
            return lines
        return (*lines[:-1], Line("return", (), f"{lines[-1].expr}, {CACHE}.present"))

    def is_sequential(self, path: Path) -> bool:
        return path not in self.folds and super().is_sequential(path)

    def is_identity(self, node: Apply) -> bool:
        return node.op.name not in STATEFUL and super().is_identity(node)

    def sizes(self) -> tuple[Mapping[str, Dim | int], Mapping[str, str]]:
        return plain_sizes(self.graph, self.step), size_names(self.graph, self.step)

    def _operator(self, node: Apply, operands: Sequence[str | None]) -> str:
        return node.op.torch_step(OpText(self, node), self.step, *operands)

    def _call(self, node: Call, inputs: tuple[Input, ...]) -> str:
        if node.graph not in self.stepping.steps:
            return super()._call(node, inputs)
        names = argument_defaults(node.graph)
        pairs = zip(node.graph.inputs, inputs, strict=True)
        arguments = [self.text(value) for argument, value in pairs if argument.name in names]
        callee = self.path_text(node.path) if node.path else "self"
        return f"{callee}.{node.graph.method}_cached({', '.join([*arguments, CACHE])})"


def _stateful_folds(nodes: Sequence[Node], steps: Mapping[Graph, Step]) -> Iterator[Path]:
    """The lists of parts whose calls need the cache."""
    for node in nodes:
        if isinstance(node, Loop):
            inside = [inner for iteration in node.iterations for inner in iteration.nodes]
            if node.fold is not None and any(isinstance(n, Call) and n.graph in steps for n in inside):
                yield node.fold
            yield from _stateful_folds(inside, steps)
        elif isinstance(node, When):
            yield from _stateful_folds(node.nodes, steps)

"""The incremental form of a method: `forward_cached` beside `forward`, the same statements with a cache.

An entry takes what its last call gave as `past` and returns it, longer, beside its results; the methods that it calls
hand a `Cache` on, which knows how many positions came before and collects keys and values in the order of execution.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from specc.backends.torch.classes import Param
from specc.backends.torch.methods import Method
from specc.backends.torch.optext import OpText
from specc.backends.torch.program import Item, LoopStep, Program, ScanStep, WhenStep
from specc.backends.torch.program import Step as ItemStep
from specc.backends.torch.signatures import argument_defaults, plain_sizes, size_names
from specc.backends.torch.statements import Block, Line, Statement, assign
from specc.backends.torch.surroundings import Surroundings
from specc.dims import Dim
from specc.ir.graph import Apply, Call, Graph, Input, Loop, Node, Path, Scan, Value, When
from specc.op import Step
from specc.ops.convolution import CausalConv1d

CACHE, START, PAST = "cache", "start", "past"
CACHE_CLASS = '''\
class Cache:
    """What is kept of earlier positions: a tuple for each attention or recurrence, in the order of
    execution.

    `past` is what the step before gave as `present`, None in the first one; `start` is how many
    positions it holds.
    """

    def __init__(self, past: list[tuple[torch.Tensor, ...]] | None, start: int) -> None:
        self.past, self.start = past, start
        self.present: list[tuple[torch.Tensor, ...]] = []
'''
GROWN = '''
    def extend(self, *new: torch.Tensor, dim: int) -> tuple[torch.Tensor, ...]:
        """Append the new positions to the earlier ones and keep the whole."""
        if self.past is not None:
            earlier = self.past[len(self.present)]
            new = tuple(torch.cat(pair, dim) for pair in zip(earlier, new, strict=True))
        self.present.append(new)
        return new
'''
EACH = '''
    def extend_each(self, *new: torch.Tensor, dims: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        """Append the new positions to the earlier ones, each tensor along its own axis."""
        if self.past is not None:
            earlier = self.past[len(self.present)]
            new = tuple(map(torch.cat, zip(earlier, new, strict=True), dims))
        self.present.append(new)
        return new
'''
ONCE = '''
    def keep(self, *new: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Keep what is the same in every step."""
        self.present.append(new)
        return new

    def again(self) -> tuple[torch.Tensor, ...]:
        """What the first step kept."""
        assert self.past is not None
        return self.keep(*self.past[len(self.present)])
'''
STATES = '''
    def state(self, index: int, first: torch.Tensor) -> torch.Tensor:
        """A state of the recurrence that `carry` comes next for; `first` in the first step."""
        return first if self.past is None else self.past[len(self.present)][index]

    def carry(self, *results: torch.Tensor, states: int) -> tuple[torch.Tensor, ...]:
        """Keep the last results, which are states; returns all."""
        self.present.append(results[-states:])
        return results
'''
FRAMES = '''
    def frames(self, x: torch.Tensor, count: int) -> torch.Tensor:
        """x [B, C, T] after the last frames of earlier steps, or zeros; keeps the last ones of all."""
        earlier = x.new_zeros(*x.shape[:2], count)
        x = torch.cat((earlier if self.past is None else self.past[len(self.present)][0], x), -1)
        self.present.append((x[..., x.shape[-1] - count :],))
        return x
'''
"""Methods of the class for what grows, along one axis and along several, for what is computed once, for recurrences,
for causal convolutions."""
_KEPT = "list[tuple[torch.Tensor, ...]]"


@dataclass(frozen=True)
class Stepping:
    """`steps`: each graph with an incremental form -> the step in its own sizes.

    `carriers`, `consumers`, `calls`: see `Incremental`. `is_entry`: other methods are called by one; `start`: in which
    group of what is kept, and on which axis, the number of earlier positions is seen. `cut`: a graph -> what stands for
    it where results are of the last position only.
    """

    steps: Mapping[Graph, Step]
    carriers: Mapping[Apply, int]
    consumers: Mapping[Node, int]
    calls: frozenset[Call]
    is_entry: bool
    start: tuple[int, int] | None
    cut: Mapping[Graph, Graph] = field(default_factory=dict)

    def params(self, plain: Sequence[Param]) -> tuple[Param, ...]:
        if self.is_entry:
            return (*plain, Param(PAST, f"{_KEPT} | None", "None"))
        return (*(Param(p.name, p.annotation) for p in plain), Param(CACHE, "Cache"))

    def returns(self, plain: str) -> str:
        if not self.is_entry:
            return plain
        return f"tuple[{plain.removeprefix('tuple[').removesuffix(']')}, {_KEPT}]"

    def prelude(self, used: bool) -> list[Statement]:
        """`used`: whether anything reads how many positions came before."""
        if not self.is_entry:
            return [assign(START, f"{CACHE}.{START}")] if used else []
        if self.start is None:
            return [assign(CACHE, f"Cache({PAST}, 0)")]
        group, axis = self.start
        length = f"0 if {PAST} is None else {PAST}[{group}][0].shape[{axis}]"
        return [assign(START, length), assign(CACHE, f"Cache({PAST}, {START})")]

    def doc(self, graph: Graph) -> str:
        if not self.is_entry:
            return graph.doc
        what = f"`{graph.method}` of positions that follow those of `past`, and what to pass as `past` next"
        return f"{graph.doc}\n\n{what}" if graph.doc else what


class CachedMethod(Method):
    """The statements of one graph as a step of decoding."""

    def __init__(self, graph: Graph, around: Surroundings, stepping: Stepping) -> None:
        self.stepping = stepping
        self.step = stepping.steps[graph]
        self.lazy: dict[int, list[Item]] = {}  # id of a `once` -> the steps that only it needs
        self.folds = frozenset(_stateful_folds(graph.nodes, stepping.calls))
        super().__init__(graph, around)
        self.names.reserved |= {CACHE, START, PAST}

    def statements(self) -> tuple[Statement, ...]:
        lines = super().statements()
        if not self.stepping.is_entry or not isinstance(lines[-1], Line):
            return lines
        return (*lines[:-1], Line("return", (), f"{lines[-1].expr}, {CACHE}.present"))

    def arrange(self, program: Program) -> tuple[Item, ...]:
        """What only a `once` needs stands right before it."""
        items = list(program.items)
        for once in [item for item in items if isinstance(item, ItemStep) and _is_once(item)]:
            moved: list[Item] = []
            for item in reversed(items[: items.index(once)]):
                others = [other for other in items if other is not once and other not in moved and other is not item]
                read = set(program.results).union(*map(_reads, others))
                needed = {value for user in (once, *moved) for value in _reads(user)}
                if isinstance(item, ItemStep) and needed & set(item.outputs) and not read & set(item.outputs):
                    moved.insert(0, item)
            self.lazy[id(once)] = moved
            items = [item for item in items if item not in moved]
            items[items.index(once) : items.index(once)] = moved
        return tuple(items)

    def emit(self, items: Iterable[Item]) -> None:
        lazy = {id(item) for moved in self.lazy.values() for item in moved}
        for item in items:
            if isinstance(item, ItemStep) and _is_once(item):
                self._once(item)
            elif id(item) not in lazy:
                super().emit([item])

    def _once(self, step: ItemStep) -> None:
        """The first step computes and keeps, later ones read what it kept."""
        self.lines.append([])
        super().emit(self.lazy[id(step)])
        self.names.position = step.position
        kept = ", ".join(self.text(value) for value in step.inputs)
        targets = tuple(self._bind(value, step) for value in step.outputs)
        shape = self._comment(step.outputs)
        one = "[0]" if len(targets) == 1 else ""
        self.lines[-1].append(assign(targets, f"{CACHE}.keep({kept}){one}"))
        body = tuple(self.lines.pop())
        again = assign(targets, f"{CACHE}.again(){one}", shape)
        self.lines[-1].append(Block(f"if {CACHE}.{PAST} is None", body, (again,)))

    def is_sequential(self, path: Path) -> bool:
        return path not in self.folds and super().is_sequential(path)

    def is_identity(self, node: Apply) -> bool:
        return (
            node.op.name not in ("cached", "once") and node not in self.stepping.carriers and super().is_identity(node)
        )

    def sizes(self) -> tuple[Mapping[str, Dim | int], Mapping[str, str]]:
        return plain_sizes(self.graph, self.step), size_names(self.graph, self.step)

    def _operator(self, node: Apply, operands: Sequence[str | None]) -> str:
        text = OpText(self, node)
        if node in self.stepping.carriers:
            return f"{CACHE}.state({self.stepping.carriers[node]}, {operands[0]})"
        if isinstance(node.op, CausalConv1d) and node not in self.stepping.consumers:
            return super()._operator(node, operands)
        return self.carrying(node, node.op.torch_step(text, self.step, *operands))

    def carrying(self, node: Apply | Scan, call: str) -> str:
        count = self.stepping.consumers.get(node, 0)
        if not count or (isinstance(node, Apply) and isinstance(node.op, CausalConv1d)):
            return call
        return f"{CACHE}.carry(*{call}, states={count})"

    def _call(self, node: Call, inputs: tuple[Input, ...]) -> str:
        if node not in self.stepping.calls:
            return super()._call(node, inputs)
        names = argument_defaults(node.graph)
        arguments = [text for name, text, _ in self.passed(node, inputs) if name in names]
        callee = self.path_text(node.path) if node.path else "self"
        return f"{callee}.{node.graph.method}_cached({', '.join([*arguments, CACHE])})"


def _stateful_folds(nodes: Sequence[Node], calls: frozenset[Call]) -> Iterator[Path]:
    """The lists of parts whose calls need the cache."""
    for node in nodes:
        if isinstance(node, Loop):
            inside = [inner for iteration in node.iterations for inner in iteration.nodes]
            if node.fold is not None and any(isinstance(n, Call) and n in calls for n in inside):
                yield node.fold
            yield from _stateful_folds(inside, calls)
        elif isinstance(node, When):
            yield from _stateful_folds(node.nodes, calls)


def _is_once(step: ItemStep) -> bool:
    return isinstance(step.node, Apply) and step.node.op.name == "once"


def _reads(item: Item) -> set[Value]:
    """Every value that an item reads, in its body too."""
    read = {i for i in getattr(item, "inputs", ()) if isinstance(i, Value)}
    if isinstance(item, LoopStep):
        inside = [inner for _, body in item.iterations for inner in body]
        read |= {item.start} if item.start is not None else set()
    elif isinstance(item, (WhenStep, ScanStep)):
        inside = list(item.items)
    else:
        return read
    if isinstance(item, WhenStep):
        read |= {v for before, end, _ in item.rebinds for v in (before, end) if isinstance(v, Value)}
        read |= {value for _, value in item.aux if isinstance(value, Value)}
    return read.union(*map(_reads, inside))

"""The blocks of an entry in the order in which they run, each with its result, its parameters and its cost.

A graph is walked once for each choice of sizes it is called with, however many instances call it; equal iterations of
a loop become one row with a count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from specc.dims import Dim
from specc.inspect.counts import Counts
from specc.inspect.formulas import Formula
from specc.inspect.spending import Spending
from specc.inspect.storages import Spent
from specc.ir.graph import (
    Call,
    Graph,
    Loop,
    Member,
    Module,
    Node,
    PartGroup,
    PartList,
    Path,
    Read,
    Scan,
    Submodule,
    When,
    dotted,
)
from specc.ir.route import Route
from specc.op import numel
from specc.passes.plain import Sizes, call_sizes
from specc.types import TensorType

Use = Literal["called", "again", "inside", "unused"]
"""`inside`: a call that reaches into a block which has a row of its own. Its parameters are counted there."""


@dataclass(frozen=True)
class Block:
    """One row: a block, or `count` equal ones in a row.

    `path` is relative to the enclosing row, with the range of a repeated block as a segment: `h.{0..11}`. A loop whose
    iterations hold several blocks is a row without a name. `results` and `spent` are of one of the `count`,
    `parameters` of one of the `parts`.
    """

    path: str
    name: str
    method: str  # "forward", or another method of the block; "" for a loop
    count: int
    parts: int  # how many different parts the `count` are: 1 if the same one runs again and again
    results: tuple[tuple[str | None, TensorType], ...]
    parameters: int  # of the row's own subtree; 0 when they are counted in another row
    tied: tuple[str, ...]  # parameters that stand for those of other parts: not counted here
    spent: Spent | None  # None where nothing runs
    use: Use
    children: tuple[Block, ...]
    uneven: bool = False  # the first of the `count` has fewer gradients: its input has none

    @property
    def flops(self) -> Formula:
        """Of the forward pass."""
        return self.spent.flops if self.spent is not None else None


@dataclass(frozen=True)
class Body:
    """One graph with its sizes bound: what of a row does not depend on where it stands."""

    results: tuple[tuple[str | None, TensorType], ...]
    children: tuple[Block, ...]


@dataclass(frozen=True)
class Row:
    """A block on its way into the tree, its path not yet text."""

    path: Path
    block: Block

    def shown(self, skip: int = 0) -> Block:
        return replace(self.block, path=dotted(self.path[skip:]))


@dataclass
class _Frame:
    """One walk: the sizes of the graph at hand, what its module has shown already, which parameters others tied."""

    sizes: Sizes
    called: frozenset[Path]  # every part that the module's method calls, now or later
    used: set[Path]
    tied: frozenset[Path]
    spending: Spending


class Trees:
    """Builds and remembers bodies."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self._bodies: dict[tuple[Graph, frozenset[tuple[str, Dim]], frozenset[Path], Spending], Body] = {}

    def body(self, graph: Graph, sizes: Sizes, spending: Spending, tied: frozenset[Path] = frozenset()) -> Body:
        """`sizes`: what the graph's dims stand for; `spending`: what it takes at these sizes; `tied`: parameters below
        here that an outer block made aliases.
        """
        key = graph, frozenset(sizes.items()), tied, spending
        if key not in self._bodies:
            ties = graph.module.ties if graph.module is not None else ()
            frame = _Frame(sizes, frozenset(_called(graph.nodes)), set(), tied | {tie.left for tie in ties}, spending)
            rows = self._nodes(frame, graph.nodes)
            self._bodies[key] = Body(_results(graph, sizes), tuple(row.shown() for row in rows))
        return self._bodies[key]

    def unused(self, graph: Graph) -> tuple[Block, ...]:
        """The parts of the entry's module that the entry does not reach, in order of declaration."""
        module = graph.module
        assert module is not None  # an entry is a method
        touched = set(_touched(graph))
        tied = frozenset(tie.left for tie in module.ties)
        rows: list[Row] = []
        for name, member in module.members.items():
            rows += self._unused(member, (name,), touched, tied)
        return tuple(row.shown() for row in rows)

    # ---- nodes -------------------------------------------------------------------------------------------------------

    def _nodes(self, frame: _Frame, nodes: Sequence[Node]) -> list[Row]:
        rows: list[Row] = []
        for node in nodes:
            if isinstance(node, Call):
                rows += self._call(frame, node)
            elif isinstance(node, Loop):
                rows += self._loop(frame, node)
            elif isinstance(node, Scan):
                steps = node.along.substitute(frame.sizes)
                rows += [Row(row.path, _repeated(row.block, steps)) for row in self._nodes(frame, node.nodes)]
            elif isinstance(node, When) and node.mode == "infer":
                rows += self._nodes(frame, node.nodes)
        return rows

    def _call(self, frame: _Frame, node: Call) -> list[Row]:
        operands = [frame.sizes.operand(i) for i in node.inputs]
        sizes = call_sizes(node.graph.inputs, operands)
        module, spending = node.graph.module, frame.spending.calls[id(node)]
        if module is None:
            return []
        if not node.path:  # a method of the same block: its parts are this block's
            return self._nodes(replace(frame, sizes=sizes, spending=spending), node.graph.nodes)
        tied = _below(frame.tied, node.path)
        body = self.body(node.graph, sizes, spending, tied)
        use = _use(frame, node.path)
        frame.used.add(node.path)
        block = Block(
            path="",
            name=module.name,
            method=node.graph.method,
            count=1,
            parts=1,
            results=body.results,
            parameters=self.counts.of(module, tied).parameters if use == "called" else 0,
            tied=tuple(sorted(dotted(path) for path in tied)) if use == "called" else (),
            spent=spending.spent,
            use=use,
            children=body.children,
        )
        return [Row(node.path, block)]

    def _loop(self, frame: _Frame, loop: Loop) -> list[Row]:
        """Of a route a row is an expert that gets its share of the pairs; together they work on each pair once."""
        iterations, turned = loop.iterations, frame
        if isinstance(loop, Route):
            pairs = numel(frame.sizes.type(loop.dispatch.outputs[0].type))
            shares = {size.symbols[0]: pairs // len(loop.experts) for size in loop.dispatch.op.attributes["rows"]}
            iterations, turned = loop.experts, replace(frame, sizes=Sizes({**frame.sizes, **shares}))
        turns = [_Turn(self._nodes(turned, i.nodes), frame.spending.turns.get(id(i))) for i in iterations]
        return [row for run in _runs(turns, _same_turn) for row in _fold(run)]

    def _unused(self, member: Member, path: Path, touched: set[Path], tied: frozenset[Path]) -> list[Row]:
        if isinstance(member, Submodule):
            return self._unused_part(member.module, path, touched, tied)
        if isinstance(member, PartGroup):
            inner = [self._unused(item, (*path, name), touched, tied) for name, item in member.members.items()]
            return [row for rows in inner for row in rows]
        if isinstance(member, PartList):
            turns = [_Turn(self._unused(m, (*path, i), touched, tied), None) for i, m in enumerate(member.items)]
            return [row for run in _runs(turns, _same_turn) for row in _fold(run)]
        return []

    def _unused_part(self, module: Module, path: Path, touched: set[Path], tied: frozenset[Path]) -> list[Row]:
        if path in touched:
            return []
        if any(t[: len(path)] == path for t in touched):  # the entry reaches past it, into its parts
            inner = [self._unused(m, (*path, name), touched, tied) for name, m in module.members.items()]
            return [row for rows in inner for row in rows]
        below = _below(tied, path)
        count = self.counts.of(module, below).parameters
        names = tuple(sorted(dotted(p) for p in below))
        return [Row(path, Block("", module.name, "", 1, 1, (), count, names, None, "unused", ()))]


# ---- repetition ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Turn:
    """The rows of one iteration."""

    rows: list[Row] = field(default_factory=list)
    spent: Spent | None = None


def _runs(turns: Sequence[_Turn], same: Callable[[_Turn, _Turn, int], bool]) -> list[list[_Turn]]:
    """Consecutive equal iterations."""
    runs: list[list[_Turn]] = []
    for turn in turns:
        if runs and same(runs[-1][0], turn, len(runs[-1])):
            runs[-1].append(turn)
        else:
            runs.append([turn])
    return runs


def _same_turn(first: _Turn, turn: _Turn, steps: int) -> bool:
    """Whether `turn`, `steps` iterations after `first`, does the same with the parts that many places further on."""
    if len(first.rows) != len(turn.rows) or _flops(first) != _flops(turn):
        return False
    return all(
        _follows(a.path, b.path, steps) and _alike(a.block, b.block, a.path == b.path)
        for a, b in zip(first.rows, turn.rows, strict=True)
    )


def _flops(turn: _Turn) -> Formula:
    return turn.spent.flops if turn.spent is not None else None


def _follows(a: Path, b: Path, steps: int) -> bool:
    if len(a) != len(b):
        return False
    moved = ((x, y) for x, y in zip(a, b, strict=True) if x != y)
    return all(isinstance(x, int) and isinstance(y, int) and y - x == steps for x, y in moved)


def _alike(a: Block, b: Block, one_part: bool) -> bool:
    """Equal but for the path, and for gradients, of which a first block that reads an input has fewer; the same part in
    every iteration has its parameters counted in the first one.
    """
    if one_part:
        a, b = (replace(block, parameters=0, tied=(), use="again") for block in (a, b))
    return a == b or _forward(a) == _forward(b)


def _forward(block: Block) -> Block:
    """Without what its gradients take."""
    spent = block.spent and replace(block.spent, backward=None, backward_products=None, saved=None)
    return replace(block, spent=spent, children=tuple(_forward(child) for child in block.children))


def _fold(run: Sequence[_Turn]) -> list[Row]:
    """A run of equal iterations as rows: one row for a single block, else one for the loop with its blocks inside."""
    first, last, count = run[0], run[-1], len(run)
    if count == 1 or not first.rows:
        return first.rows
    rows = [Row(_ranged(a.path, b.path), _even(a.block, b.block)) for a, b in zip(first.rows, last.rows, strict=True)]
    if len(rows) == 1:
        (row,) = rows
        parts = row.block.parts * (1 if row.path == last.rows[0].path else count)
        return [Row(row.path, replace(row.block, count=count * row.block.count, parts=parts))]
    heads = [_head(a.path, b.path) for a, b in zip(first.rows, last.rows, strict=True)]
    shared = heads[0] if heads[0] and all(head == heads[0] for head in heads) else ()
    children = tuple(row.shown(len(shared)) for row in rows)
    moving = [head != () for head in heads]
    sums = [row.block.parameters * row.block.parts for row in rows]
    if all(moving):
        parts, parameters = count, sum(sums)
    else:  # parts that every iteration shares are counted once: only the sum over all iterations says it
        parts, parameters = 1, sum(n * count if moves else n for n, moves in zip(sums, moving, strict=True))
    return [Row(shared, Block("", "", "", count, parts, (), parameters, (), last.spent, rows[0].block.use, children))]


def _even(first: Block, last: Block) -> Block:
    """The first one, with the gradients of the last."""
    if first.spent == last.spent:
        return first
    children = tuple(_even(a, b) for a, b in zip(first.children, last.children, strict=True))
    return replace(first, spent=last.spent, children=children, uneven=True)


def _ranged(first: Path, last: Path) -> Path:
    return tuple(a if a == b else f"{{{a}..{b}}}" for a, b in zip(first, last, strict=True))


def _head(first: Path, last: Path) -> Path:
    """The path up to what is ranged over: `layers.{0..5}` of `layers.{0..5}.attn`."""
    ranged = _ranged(first, last)
    changed = [i for i, (a, b) in enumerate(zip(first, last, strict=True)) if a != b]
    return ranged[: changed[-1] + 1] if changed else ()


# ---- sizes and cost --------------------------------------------------------------------------------------------------


def _repeated(block: Block, steps: Dim) -> Block:
    """The block with the cost of running that often."""
    children = tuple(_repeated(child, steps) for child in block.children)
    spent = block.spent.repeated(steps) if block.spent is not None else None
    return replace(block, spent=spent, children=children)


def _results(graph: Graph, sizes: Sizes) -> tuple[tuple[str | None, TensorType], ...]:
    """Without labels: sizes are formulas over the entry's dims."""
    typed = ((name, sizes.type(value.type)) for name, value in graph.results)
    return tuple((name, TensorType(t.dtype, tuple(size.plain() for size in t.shape))) for name, t in typed)


def _below(paths: Iterable[Path], part: Path) -> frozenset[Path]:
    """The paths inside a part, relative to it."""
    return frozenset(path[len(part) :] for path in paths if path[: len(part)] == part)


def _use(frame: _Frame, part: Path) -> Use:
    if part in frame.used:
        return "again"
    return "inside" if any(part[:n] in frame.called for n in range(1, len(part))) else "called"


def _own(nodes: Iterable[Node]) -> Iterator[Node]:
    """The nodes of a graph, those of loops and of its block's own methods included."""
    for node in nodes:
        if isinstance(node, Call) and not node.path and node.graph.module is not None:
            yield from _own(node.graph.nodes)
        elif isinstance(node, Loop):
            for iteration in node.iterations:
                yield from _own(iteration.nodes)
        elif isinstance(node, (When, Scan)):
            yield from _own(node.nodes)
        else:
            yield node


def _called(nodes: Iterable[Node]) -> Iterator[Path]:
    """Parts whose methods are called."""
    return (node.path for node in _own(nodes) if isinstance(node, Call) and node.path)


def _touched(graph: Graph) -> Iterator[Path]:
    """Parts whose methods or parameters a graph uses."""
    yield from _called(graph.nodes)
    yield from (node.path[:-1] for node in _own(graph.nodes) if isinstance(node, Read))

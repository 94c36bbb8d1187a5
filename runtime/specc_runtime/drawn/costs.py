"""What the nodes of a drawing take: parameters and FLOPs by the formulas of `inspect`, time by onnxruntime's profile.

A node of a drawing may stand for many: `h.0..11.attn` for the attention of twelve blocks. Its figures are those of all
of them together, and its share is that of the whole model, whichever function it is drawn in.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from specc.inspect.formats import walk
from specc.inspect.formulas import Formula
from specc.inspect.numbers import rounded
from specc_runtime.bench.text import seconds
from specc_runtime.drawn.places import (
    Key,
    Place,
    Scope,
    base_name,
    functions,
    is_own,
    key_of,
    name_nodes,
    parse,
    scope,
    scopes,
    shared,
    within,
)

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from specc.inspect import Report
    from specc_runtime.bench.profile import NodeTime

Measure = Literal["parameters", "flops", "time"]
NAMES: Mapping[Measure, str] = {"parameters": "parameters", "flops": "FLOPs", "time": "time"}


@dataclass(frozen=True)
class Row:
    """A row of the tree of blocks with its figures for all equal ones together."""

    place: Place
    method: str
    parameters: int
    flops: int | None


@dataclass(frozen=True)
class Known:
    """What is known of a model. `own`: FLOPs of methods that the entry's own block calls, by `Block.method`.

    `totals`: of the whole entry. `sizes`: what FLOPs and times are for.
    """

    rows: Sequence[Row]
    own: Mapping[str, int]
    times: Sequence[tuple[Place, NodeTime]]
    totals: Mapping[Measure, float]
    sizes: Mapping[str, int] = field(default_factory=dict)


def known(report: Report | None, own: Mapping[str, Formula], times: Sequence[NodeTime] = ()) -> Known:
    """`report` at the sizes that figures are wanted for, None for times alone."""
    totals: dict[Measure, float] = {}
    rows: list[Row] = []
    methods: dict[str, int] = {}
    if report is not None:
        rows = list(_rows(report))
        flops = report.number(report.root.flops)
        totals["parameters"] = report.parameters
        if flops is not None:
            totals["flops"] = flops
        methods = {name: number for name, formula in own.items() if (number := report.number(formula)) is not None}
    if times:
        totals["time"] = sum(node.seconds for node in times)
    placed = [(parse(node.scope), node) for node in times]
    return Known(rows, methods, placed, totals, (report.at if report is not None else None) or {})


def _rows(report: Report) -> Iterator[Row]:
    """Every block but the root, with how often it is there and how many parts of it."""
    above: list[tuple[int, int]] = []
    for path, depth, block in walk(report.root):
        del above[depth:]
        count, parts = above[-1] if above else (1, 1)
        above.append((count * block.count, parts * block.parts))
        if depth and block.name:
            flops = report.number(block.flops)
            total = None if flops is None else flops * above[-1][0]
            yield Row(parse(path), block.method, block.parameters * above[-1][1], total)


# ---- nodes -----------------------------------------------------------------------------------------------------------

Figures = dict[Measure, float]


class _Costs:
    """Goes through a drawing whose nodes still have the names that they were drawn with."""

    def __init__(self, model: ModelProto, of: Known) -> None:
        self._of, self._functions, self._scopes = of, functions(model), scopes(model)
        containers = [list(model.graph.node), *(list(f.node) for f in model.functions)]
        self._callers = Counter(key_of(node) for nodes in containers for node in nodes)

    def of(self, key: Key | None, nodes: Sequence[NodeProto]) -> list[Figures]:
        """Of every node of one function, None for the graph."""
        places = self._scopes.get(key, [])
        operators = Counter(scope(node) for node in nodes if key_of(node) not in self._functions)
        found = [self._node(node, places, operators) for node in nodes]
        if self._of.times:
            self._move_fused(nodes, found, places)
        return found

    def _node(self, node: NodeProto, places: Sequence[Scope], operators: Mapping[str, int]) -> Figures:
        if key_of(node) not in self._functions:
            label = scope(node)
            parts = [at.resolve(label) for at in places]
            found = self._parts(parts, "forward") if label and operators[label] == 1 else {}
            ran = self._ran(node, parts)
            return found | ({"time": sum(t.seconds for t in ran)} if ran else {})
        if is_own(node):
            return self._method(node)
        parts = [at.resolve(piece.replace("/", ".")) for at in places for piece in node.name.split(", ")]
        method = base_name(node.op_type).partition(".")[2] or "forward"
        found = self._parts(parts, method)
        if self._of.times:
            taken = sum(t.seconds for place, t in self._of.times if any(within(place, part) for part in parts))
            found["time"] = taken
        return found

    def _parts(self, parts: Sequence[Place], method: str) -> Figures:
        """From the rows of these parts, each of equal ones; of several methods of a part the one that is called."""
        rows = [(row, share) for row in self._of.rows if (share := sum(shared(row.place, part) for part in parts))]
        called = [(row, share) for row, share in rows if row.method == method] or rows
        if not rows:
            return {}
        found: Figures = {"parameters": float(sum(row.parameters * share for row, share in rows))}
        if self._of.totals.get("flops") and all(row.flops is not None for row, _ in called):
            found["flops"] = float(sum((row.flops or 0) * share for row, share in called))
        return found

    def _ran(self, node: NodeProto, parts: Sequence[Place]) -> list[NodeTime]:
        """The operators of this name on this line, in every part."""
        name = node.name.rpartition("/")[2]
        return [
            t
            for place, t in self._of.times
            if t.name.rpartition("/")[2] == name and t.line == node.doc_string and _is_one_of(place, parts)
        ]

    def _move_fused(self, nodes: Sequence[NodeProto], found: Sequence[Figures], places: Sequence[Scope]) -> None:
        """A product with its activation, which onnxruntime runs as one operator, has the time at the product."""
        makers = {output: i for i, node in enumerate(nodes) for output in node.output if output}
        for node, figures in zip(nodes, found, strict=True):
            if "time" not in figures or key_of(node) in self._functions or not node.input:
                continue
            ran = {t.operator for t in self._ran(node, [at.resolve(scope(node)) for at in places])}
            fused = {operator.removeprefix("Fused") for operator in ran if operator.startswith("Fused")}
            maker = makers.get(node.input[0])
            if not fused or ran != {f"Fused{name}" for name in fused} or node.op_type in fused or maker is None:
                continue
            is_product = nodes[maker].op_type in fused or key_of(nodes[maker]) in self._functions
            if is_product and not found[maker].get("time"):
                found[maker]["time"] = figures.pop("time")

    def _method(self, node: NodeProto) -> Figures:
        """A method of the same block: its FLOPs are known, its time is that of what is in it, if nothing else is."""
        found: Figures = {}
        flops = self._of.own.get(base_name(node.op_type))
        if flops is not None:
            found["flops"] = flops
        key = key_of(node)
        if self._of.times and self._callers[key] == 1:
            inner = self.of(key, list(self._functions[key].node))
            found["time"] = sum(figures.get("time", 0.0) for figures in inner)
        return found


def _is_one_of(place: Place, parts: Sequence[Place]) -> bool:
    return any(len(place) == len(part) and within(place, part) for part in parts)


def own_methods(report: Report, model: Any, entry: str, without: frozenset[str]) -> dict[str, Formula]:
    """FLOPs of the methods that an entry calls of its own block: they have no row of their own in the tree."""
    from specc.inspect import chosen_graph
    from specc.inspect.spending import Spendings
    from specc.ir.graph import Call
    from specc.passes.plain import entry_sizes

    graph = chosen_graph(model, entry, without)
    spending = Spendings(report.width).entry(graph, entry_sizes(graph))
    return {
        f"{node.graph.module.name}.{node.graph.method}": spending.calls[id(node)].spent.flops
        for node in graph.nodes
        if isinstance(node, Call) and not node.path and node.graph.module is not None
    }


# ---- attachments -----------------------------------------------------------------------------------------------------


def attach(model: ModelProto, of: Known, by: Measure, extra: Mapping[str, Any] | None = None) -> bytes:
    """Names every node of the drawing (`name_nodes`), and gives what Netron opens as an attachment of it.

    Nodes are coloured by their shares of `by`. `extra`: more to keep in the file, which Netron passes over.
    """
    costs = _Costs(model, of)
    graphs: list[tuple[Key | None, Sequence[NodeProto]]] = [(None, model.graph.node)]
    graphs += [((f.domain, f.name, f.overload), f.node) for f in model.functions]
    found = [
        (node, figures) for key, nodes in graphs for node, figures in zip(nodes, costs.of(key, nodes), strict=True)
    ]
    name_nodes(model)
    metrics = [
        {"kind": "node", "target": node.name, "name": NAMES[name], "value": _shown(name, number, of.totals)}
        for node, figures in found
        for name, number in figures.items()
    ]
    whole = of.totals.get(by)
    shares = {node.name: figures[by] / whole for node, figures in found if whole and by in figures}
    sizes = ", ".join(f"{name} = {size}" for name, size in of.sizes.items())
    title = f"{NAMES[by]}{f' at {sizes}' if sizes and by != 'parameters' else ''}: shares of {_total(by, whole or 0)}"
    content = {
        "signature": "netron:attachment",
        "metrics": metrics,
        "specc": {"by": by, "title": title, "shares": shares, "sizes": dict(of.sizes), **(extra or {})},
    }
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _total(name: Measure, number: float) -> str:
    if name == "time":
        return seconds(number)
    return f"{int(number):,}" if name == "parameters" else rounded(int(number))


def _shown(name: Measure, number: float, totals: Mapping[Measure, float]) -> str:
    whole = totals.get(name)
    share = f" ({number / whole:.1%})" if whole else ""
    return _total(name, number) + share

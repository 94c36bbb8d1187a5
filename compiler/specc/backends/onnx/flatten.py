"""The executed form: calls and loops of the hierarchical IR become one flat graph, named after the spec's paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from specc.backends.onnx.emitter import GraphEmitter
from specc.backends.onnx.scans import BodyEmitter, add_scan
from specc.backends.onnx.values import Ref, Site
from specc.diagnostics import Diagnostic, Rejected
from specc.dims import Dim
from specc.ir.graph import Absent, Apply, Call, Graph, Input, Loop, Node, Path, Read, Scan, Value, When, dotted
from specc.ir.route import Route
from specc.ir.taps import TapKeys, call_scope, numbered
from specc.op import Emitter, OpError
from specc.passes.plain import IDENTITIES, Sizes, call_sizes
from specc.source import Span
from specc.types import Operand, Scalar, TensorType

Argument = Ref | Scalar | None


@dataclass(eq=False)
class Tapped:
    """An intermediate value that a debug graph gives out: its key (`ir.taps`), where it comes from, the value."""

    key: str
    span: Span
    ref: Ref


@dataclass
class Frame:
    """One evaluation of one graph: where it is in the tree, what its sizes and values stand for."""

    graph: Graph
    path: Path
    scope: str
    sizes: Sizes
    origin: str | None  # the call's line where the graph is a leaf of std, else None
    values: dict[Value, Argument]

    def operand(self, input_: Input) -> Argument:
        if isinstance(input_, Absent):
            return None
        if isinstance(input_, Scalar):
            return _sized(input_, self.sizes)
        return self.values[input_]


class Flattener:
    """Runs the graphs of a model through an emitter. `aliases`: tied name -> the name that is stored.

    Raises `Rejected` for an operator that the opset cannot express.
    """

    def __init__(self, emit: GraphEmitter, aliases: Mapping[str, str]) -> None:
        self.emit = emit
        self.aliases = aliases
        self.taps: list[Tapped] = []
        self._keys = TapKeys()
        self._rows: dict[str, int] = {}
        self._numbers: dict[int, dict[Node, int]] = {}

    def entry(self, graph: Graph, sizes: Sizes) -> None:
        """Declares the inputs, runs the graph and declares the outputs."""
        operands: list[Argument] = []
        for argument in graph.inputs:
            present = argument.value is not None
            operands.append(self.emit.input(argument.name, sizes.type(argument.type)) if present else None)
        results = self.run(Frame(graph, (), "", sizes, None, {}), operands)
        for name, (_, value), result in zip(graph.output_names, graph.results, results, strict=True):
            type_ = sizes.type(value.type)
            self.emit.output(name, self._tensor(result, type_), type_)

    def _tensor(self, result: Argument, type_: TensorType) -> Ref:
        """A number becomes a constant."""
        assert result is not None  # only arguments may be absent
        return result if isinstance(result, Ref) else self.emit.scalar(result, Ref(type_, True))

    def run(self, frame: Frame, operands: Sequence[Argument]) -> list[Argument]:
        for argument, operand in zip(frame.graph.inputs, operands, strict=True):
            if argument.value is not None:
                frame.values[argument.value] = operand
        with self.emit.at(frame.scope, ""):
            self._nodes(frame, frame.graph.nodes)
        return [frame.values[value] for _, value in frame.graph.results]

    def _nodes(self, frame: Frame, nodes: Sequence[Node]) -> None:
        for node in nodes:
            if isinstance(node, Apply):
                self._apply(frame, node)
            elif isinstance(node, Call):
                self._call(frame, node)
            elif isinstance(node, Read):
                self._read(frame, node)
            elif isinstance(node, Loop):
                self._loop(frame, node)
            elif isinstance(node, Scan):
                self._scan(frame, node)
            else:
                self._when(frame, node)

    def _loop(self, frame: Frame, node: Loop) -> None:
        if isinstance(node, Route):
            self._dispatch(frame, node)
        for iteration in node.iterations[1 if isinstance(node, Route) else 0 :]:
            self._nodes(frame, iteration.nodes)

    def _dispatch(self, frame: Frame, node: Route) -> None:
        """The number of rows of each expert of the tree, and of each time it is reached, is a size of its own."""
        for rows in node.dispatch.op.attributes["rows"]:
            (symbol,) = rows.symbols
            name = f"{frame.scope}." if frame.scope else ""
            name = symbol.replace("(", f"({name}", 1)
            self._rows[name] = count = self._rows.get(name, 0) + 1
            frame.sizes[symbol] = Dim.symbol(name if count == 1 else f"{name[:-1]}#{count})")
        self._nodes(frame, [node.dispatch])
        made = (frame.values[value] for value in node.dispatch.outputs[1:])
        self.emit.measured += [ref for ref in made if isinstance(ref, Ref)]

    def _read(self, frame: Frame, node: Read) -> None:
        name = dotted((*frame.path, *node.path))
        frame.values[node.output] = self.emit.parameter(self.aliases.get(name, name), node.output.type)

    def _when(self, frame: Frame, node: When) -> None:
        runs = node.mode == "infer"
        if runs:
            self._nodes(frame, node.nodes)
        for before, end, after in node.rebinds:
            frame.values[after] = frame.values[end if runs else before]

    def _scan(self, frame: Frame, node: Scan) -> None:
        def typed(value: Value) -> TensorType:
            return frame.sizes.type(value.type)

        def tensor(value: Value) -> Ref:
            return self._tensor(frame.values[value], typed(value))

        given = [tensor(s.start) for s in node.states], [tensor(s.whole) for s in node.sequences]
        outer, body = self.emit, BodyEmitter(self.emit)
        for value in (*(s.before for s in node.states), *(s.slice for s in node.sequences)):
            frame.values[value] = body.input(value.name or "x", typed(value))
        self.emit = body
        with body.at(frame.scope, frame.origin or node.span.where):
            self._nodes(frame, node.nodes)
            ends = [tensor(s.after) for s in node.states], [tensor(e.value) for e in node.emits]
        self.emit = outer
        outer.origin = frame.origin or node.span.where
        axes = [s.axis for s in node.sequences], [e.axis for e in node.emits]
        results = (*(s.result for s in node.states), *(e.stacked for e in node.emits))
        made = add_scan(outer, body, given, ends, axes, [typed(value) for value in results])
        found = dict(zip(results, made, strict=True))
        self._bind(frame, node, [found[value] for value in node.outputs], None)

    def _apply(self, frame: Frame, node: Apply) -> None:
        operands = [frame.operand(i) for i in node.inputs]
        self.emit.origin = frame.origin or node.span.where
        if node.op.name in IDENTITIES:
            results = self._kept(node, operands)
        elif node.op.train_only:
            results = (operands[0],)
        else:
            results = self._lowered(frame, node, operands)
        self._bind(frame, node, results, None)

    def _kept(self, node: Apply, operands: Sequence[Argument]) -> tuple[Argument, ...]:
        """What keeps state between steps is the identity in a plain entry."""
        return tuple(operands)

    def _made(self, frame: Frame, node: Apply, operands: Sequence[Argument]) -> Any:
        return node.op.substitute(frame.sizes).onnx(cast("Emitter", self.emit), *operands)

    def _lowered(self, frame: Frame, node: Apply, operands: Sequence[Argument]) -> tuple[Argument, ...]:
        try:
            made = self._made(frame, node, operands)
        except OpError as error:
            where = f"in {frame.scope}" if frame.scope else ""
            raise Rejected([Diagnostic(error.code, error.message, node.span, path=where, help=error.help)]) from None
        packing = node.op.packing
        if packing is not None and not isinstance(self.emit, BodyEmitter):
            emit = self.emit
            emit.sites.append(Site(node.op, packing, tuple(operands), made, emit.scope, emit.origin))
        return made if isinstance(made, tuple) else (made,)

    def _call(self, frame: Frame, node: Call) -> None:
        operands = [frame.operand(i) for i in node.inputs]
        types: list[Operand] = [o.type if isinstance(o, Ref) else o for o in operands]
        sizes = call_sizes(node.graph.inputs, types, frame.sizes)
        path = (*frame.path, *node.path)
        origin = (frame.origin or node.span.where) if is_leaf(node.graph) else None
        scope = call_scope(frame.scope, node)
        results = self.run(Frame(node.graph, path, scope, sizes, origin, {}), operands)
        self._bind(frame, node, results, scope if node.path else None)

    def _bind(self, frame: Frame, node: Apply | Call | Scan, results: Sequence[Argument], hint: str | None) -> None:
        """Results become the node's values: exact types, names as in the spec, taps."""
        prefix = f"{frame.scope}." if frame.scope else ""
        for position, (value, result) in enumerate(zip(node.outputs, results, strict=True)):
            frame.values[value] = result
            if not isinstance(result, Ref):
                continue
            self.emit.typed(result, frame.sizes.type(value.type))
            if result.hint is None and (result.node is not None or result.array is not None):
                result.hint = f"{prefix}{value.name}" if value.name else hint
            self._tap(frame, node, position, result)

    def _tap(self, frame: Frame, node: Apply | Call | Scan, position: int, result: Ref) -> None:
        if isinstance(self.emit, BodyEmitter):
            return  # a step's values are nowhere outside it
        key = self._keys.key(frame.scope, self._index(frame.graph)[node], node, position)
        self.taps.append(Tapped(key, node.span, result))

    def _index(self, graph: Graph) -> dict[Node, int]:
        if id(graph) not in self._numbers:
            self._numbers[id(graph)] = numbered(graph)
        return self._numbers[id(graph)]


def is_leaf(graph: Graph) -> bool:
    """Whether a graph is a leaf of std, known by the line that calls it."""
    return graph.module is not None and graph.module.torch_class is not None


def _sized(scalar: Scalar, sizes: Sizes) -> Scalar:
    value = scalar.value
    return scalar if isinstance(value, (int, float)) else Scalar(value.substitute(sizes))

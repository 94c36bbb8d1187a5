"""The drawn form: one ONNX local function per block, nested as in the spec, a repeated block once with its count.

Made to be looked at in Netron, not to be run. Weights are declared (names, types, shapes) and have no data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import PurePath

from onnx import FunctionProto, ModelProto

from specc.backends.onnx.attention import merge_heads
from specc.backends.onnx.emitter import GraphEmitter
from specc.backends.onnx.export import metadata, select
from specc.backends.onnx.externs import Externs
from specc.backends.onnx.flatten import Argument, Flattener, Frame, is_leaf
from specc.backends.onnx.proto import function_proto, listing, model_proto
from specc.backends.onnx.repeats import Run, runs
from specc.backends.onnx.target import DEFAULT_OPSET
from specc.backends.onnx.values import Ref
from specc.dims import Dim
from specc.ir.graph import Apply, Call, Graph, Iteration, Loop, Model, Module, Node, Path, Read, Scan, Value, dotted
from specc.ir.members import aliases
from specc.ir.route import Route
from specc.ops.routing import Dispatch
from specc.passes.plain import Sizes, call_sizes, entry_sizes
from specc.passes.variants import named
from specc.types import Operand, Scalar, TensorType


def view(
    model: Model,
    entry: str = "forward",
    *,
    opset: int = DEFAULT_OPSET,
    without: frozenset[str] = frozenset(),
    externs: Externs | None = None,
) -> tuple[ModelProto, dict[str, ModelProto]]:
    """The picture of an entry, and by name one model for each block it uses.

    What extern operations are made of is shown if `externs` lowers them; else each is a node of its own name.
    """
    graph = select(model, entry, without)
    library = _Library(opset, PurePath(model.file).stem, externs, named(model.module))
    drawing = _Drawing(library.emitter(), aliases(model.module), library)
    drawing.entry(graph, entry_sizes(graph))
    merge_heads(drawing.emit)
    whole = model_proto(
        drawing.emit,
        model.name,
        functions=library.needed(drawing.emit),
        doc=graph.doc or model.module.doc,
        metadata=metadata(model, entry, graph),
    )
    blocks = {
        drawn.file_name: model_proto(drawn.emit, drawn.name, functions=library.needed(drawn.emit), doc=drawn.doc)
        for drawn in library.blocks()
    }
    return whole, blocks


@dataclass(frozen=True, eq=False)
class _Drawn:
    """A function. `parameters`: what it reads, in the order of its inputs, under the paths of its own text.

    Blocks of one name with different hyper-parameters are overloads of one function: "", "2", "3" ...
    """

    name: str
    overload: str
    doc: str
    emit: GraphEmitter
    parameters: tuple[tuple[Path, TensorType], ...]

    @property
    def file_name(self) -> str:
        return f"{self.name}_{self.overload}" if self.overload else self.name


class _Library:
    """The functions of one picture: each graph, and each body of a repeated loop, is drawn once."""

    def __init__(self, opset: int, domain: str, externs: Externs | None, names: Mapping[Module, str]) -> None:
        self.domain, self._names = domain, names
        self.called: dict[tuple[str, str], _Drawn] = {}  # by the name of the node, which may begin with a count
        self._opset, self._externs = opset, externs
        self._blocks: dict[Graph, _Drawn] = {}
        self._bodies: dict[Iteration, _Drawn] = {}
        self._overloads: dict[str, int] = {}

    def emitter(self) -> GraphEmitter:
        return GraphEmitter(self._opset, externs=self._externs)

    def block(self, graph: Graph, operands: Sequence[Operand]) -> _Drawn:
        if graph not in self._blocks:
            drawing = _Drawing(self.emitter(), {}, self)
            drawing.block(graph, call_sizes(graph.inputs, operands))
            doc = graph.doc or (graph.module.doc if graph.module else "")
            self._blocks[graph] = self._drawn(drawing, self._block_name(graph), doc)
        return self._blocks[graph]

    def body(self, frame: Frame, loop: Loop, run: Run) -> _Drawn:
        first = run.iterations[0]
        if first not in self._bodies:
            drawing = _Drawing(self.emitter(), {}, self, first.binds)
            drawing.body(frame, run)
            self._bodies[first] = self._drawn(drawing, "_".join(loop.names), "")
        return self._bodies[first]

    def blocks(self) -> Iterator[_Drawn]:
        yield from (drawn for graph, drawn in self._blocks.items() if not is_leaf(graph))

    def needed(self, emit: GraphEmitter) -> list[FunctionProto]:
        """The functions that a graph calls, directly or not; callers first."""
        found: dict[tuple[str, str], FunctionProto] = {}
        waiting = [emit]
        while waiting:
            for record in listing(waiting.pop(0)).everything():
                key = record.op_type, record.overload
                if record.domain == self.domain and key not in found:
                    drawn = self.called[key]
                    found[key] = function_proto(drawn.emit, key[0], self.domain, key[1], drawn.doc)
                    waiting.append(drawn.emit)
        return list(found.values())

    def _block_name(self, graph: Graph) -> str:
        """The emitted class's name (leaves have no class), with that of the method but for `forward`."""
        if graph.module is None:
            return graph.method
        name = graph.module.name if is_leaf(graph) else self._names[graph.module]
        return name if graph.method == "forward" else f"{name}.{graph.method}"

    def _drawn(self, drawing: _Drawing, name: str, doc: str) -> _Drawn:
        count = self._overloads[name] = self._overloads.get(name, 0) + 1
        read = listing(drawing.emit).parameters
        parameters = tuple((drawing.paths[key], ref.type) for key, ref in read.items())
        return _Drawn(name, "" if count == 1 else str(count), doc, drawing.emit, parameters)


class _Drawing(Flattener):
    """Runs one graph's own nodes; what it calls becomes a function node, unless it is a leaf of a single node.

    In the body of a loop, paths begin with the loop variable: `binds` says what it stands for.
    """

    def __init__(
        self,
        emit: GraphEmitter,
        aliases: Mapping[str, str],
        library: _Library,
        binds: tuple[tuple[str, Path | None], ...] = (),
    ) -> None:
        super().__init__(emit, aliases)
        self.paths: dict[str, Path] = {}  # name of a parameter -> its path
        self._library = library
        self._binds = binds

    def block(self, graph: Graph, called: Sizes) -> None:
        """Dims keep the names of the signature; the axes of a `...` are those of the first call."""
        sizes = entry_sizes(graph)
        rest = {name: called[name] for name in sizes if name.startswith("...")}
        sizes.update(_given_names(rest, {s for n, size in sizes.items() if n not in rest for s in size.symbols}))
        self.entry(graph, sizes)
        merge_heads(self.emit)

    def body(self, frame: Frame, run: Run) -> None:
        """The inputs are what the first iteration takes from outside, the results what is used after the last."""
        values: dict[Value, Argument] = {}
        names: dict[str, int] = {}
        for value in run.inputs:
            outer = frame.values[value]
            name = value.name or "x"
            names[name] = count = names.get(name, 0) + 1
            name = name if count == 1 else f"{name}_{count}"
            values[value] = self.emit.input(name, outer.type) if isinstance(outer, Ref) else outer
        inner = Frame(frame.graph, (), "", frame.sizes, None, values)
        self._nodes(inner, run.iterations[0].nodes)
        for value, _ in run.outputs:
            result = inner.values[value]
            if isinstance(result, Ref):
                self.emit.output(value.name or "output", result, frame.sizes.type(value.type))
        merge_heads(self.emit)

    # ---- what is drawn as it is, and what as a function --------------------------------------------------------------

    def _nodes(self, frame: Frame, nodes: Sequence[Node]) -> None:
        if self._binds and not frame.path:
            nodes = [replace(n, path=self._inside(n.path)) if isinstance(n, (Call, Read)) else n for n in nodes]
        super()._nodes(frame, nodes)

    def _inside(self, path: Path) -> Path:
        for name, part in self._binds:
            if part is not None and path[: len(part)] == part:
                return (name, *path[len(part) :])
        return path

    def _read(self, frame: Frame, node: Read) -> None:
        path = (*frame.path, *node.path)
        frame.values[node.output] = self._parameter(path, path, node.output.type)

    def _parameter(self, path: Path, shown: Path, type_: TensorType) -> Ref:
        name = self.aliases.get(dotted(path), dotted(shown))
        self.paths.setdefault(name, path)
        return self.emit.parameter(name, type_)

    def _tap(self, frame: Frame, node: Apply | Call | Scan, position: int, result: Ref) -> None:
        """A picture has no taps."""

    def _call(self, frame: Frame, node: Call) -> None:
        operands = self._operands(frame, node)
        drawn = self._block(node, operands)
        if is_leaf(node.graph) and len(listing(drawn.emit).records) < 2:
            super()._call(frame, node)
            return
        path = (*frame.path, *node.path)
        paths = [((*path, *inner), (*path, *inner)) for inner, _ in drawn.parameters]
        results = self._invoke(frame, drawn, 1, operands, paths, node.outputs)
        self._label(results, dotted(path), node.span.where)
        self._bind(frame, node, results, dotted(path) or None)

    def _loop(self, frame: Frame, node: Loop) -> None:
        if isinstance(node, Route):
            self._route(frame, node)
            return
        for run in runs(node, frame.graph):
            if len(run.iterations) == 1:
                self._nodes(frame, run.iterations[0].nodes)
            else:
                self._repeat(frame, node, run)

    def _route(self, frame: Frame, route: Route) -> None:
        """Neighbouring experts of one kind are one node, which takes the rows of all of them."""
        kinds = [list(some) for _, some in groupby(range(len(route.calls)), lambda e: route.calls[e].graph)]
        first, last = [kind[0] for kind in kinds], [kind[-1] for kind in kinds]
        order, *rows = route.dispatch.outputs
        sizes = route.dispatch.op.attributes["rows"]
        dispatch = Dispatch(rows=tuple(sizes[e] for e in first))
        self._nodes(frame, [replace(route.dispatch, op=dispatch, outputs=(order, *(rows[e] for e in first)))])
        for kind in kinds:
            (taken,), (made,) = (route.calls[kind[0]].inputs, route.calls[kind[0]].outputs)
            assert isinstance(taken, Value)
            iterations = tuple(route.experts[e] for e in kind)
            if len(kind) == 1:
                self._nodes(frame, iterations[0].nodes)
            else:
                self._repeat(frame, route, Run(iterations, (taken,), ((made, route.calls[kind[-1]].outputs[0]),)))
        results = [route.calls[e].outputs[0] for e in last]
        self._nodes(frame, [replace(route.combine, inputs=(*route.combine.inputs[:2], *results))])

    def _repeat(self, frame: Frame, loop: Loop, run: Run) -> None:
        """A run of equal iterations as one node: a call of the block if an iteration is no more, else of its body."""
        first, last = run.iterations[0].nodes, run.iterations[-1].nodes
        if len(first) == 1 and isinstance(first[0], Call) and isinstance(last[0], Call) and not is_leaf(first[0].graph):
            operands = self._operands(frame, first[0])
            drawn = self._block(first[0], operands)
            outputs: Sequence[Value] = last[0].outputs
            inner = [(*first[0].path, *path) for path, _ in drawn.parameters]
            label, loop_names = dotted(self._inside(run.ranged(first[0].path))), ""
        else:
            drawn = self._library.body(frame, loop, run)
            operands = [frame.values[value] for value in run.inputs]
            outputs = [value for _, value in run.outputs]
            binds = {name: part for name, part in run.iterations[0].binds if part is not None}
            inner = [(*binds.get(str(path[0]), path[:1]), *path[1:]) for path, _ in drawn.parameters]
            label = ", ".join(dotted(self._inside(run.ranged(part))) for part in binds.values())
            loop_names = ", ".join(binds)
        paths = [((*frame.path, *self._inside(p)), (*frame.path, *self._inside(run.ranged(p)))) for p in inner]
        results = self._invoke(frame, drawn, len(run.iterations), operands, paths, outputs)
        self._label(results, label, loop.span.where, len(run.iterations), loop_names)
        for value, result in zip(outputs, results, strict=True):
            frame.values[value] = result

    def _operands(self, frame: Frame, node: Call) -> list[Argument]:
        """A function's inputs are tensors: a number becomes a constant."""
        operands = [frame.operand(i) for i in node.inputs]
        for i, (argument, operand) in enumerate(zip(node.graph.inputs, operands, strict=True)):
            if isinstance(operand, Scalar):
                operands[i] = self.emit.scalar(operand, Ref(argument.type, True))
        return operands

    def _block(self, node: Call, operands: Sequence[Argument]) -> _Drawn:
        return self._library.block(node.graph, [o.type if isinstance(o, Ref) else o for o in operands])

    def _invoke(
        self,
        frame: Frame,
        drawn: _Drawn,
        count: int,
        operands: Sequence[Argument],
        paths: Sequence[tuple[Path, Path]],
        outputs: Sequence[Value],
    ) -> tuple[Ref, ...]:
        """A node that calls `drawn`; `paths` are its parameters' paths here and how they are shown."""
        op_type = drawn.name if count == 1 else f"{count} x {drawn.name}"
        self._library.called[op_type, drawn.overload] = drawn
        self.emit.functions[self._library.domain] = 1
        formal = [ref for ref in operands if isinstance(ref, Ref)]
        read = [
            self._parameter(path, shown, type_)
            for (path, shown), (_, type_) in zip(paths, drawn.parameters, strict=True)
        ]
        types = [frame.sizes.type(value.type) for value in outputs]
        domain = self._library.domain
        return self.emit.many(
            op_type, len(outputs), *formal, *read, types=types, domain=domain, overload=drawn.overload
        )

    def _label(self, results: Sequence[Ref], label: str, origin: str, count: int = 1, loop: str = "") -> None:
        """`loop`: names of variables that paths inside begin with, one for each part of the label."""
        record = results[0].node
        if record is not None and record.label is None:
            record.label, record.origin = label or None, origin
            if count > 1:
                record.metadata["repeat"] = str(count)
            if loop:
                record.metadata["loop"] = loop


def _given_names(axes: Mapping[str, Dim], known: set[str]) -> dict[str, Dim]:
    """Sizes of the axes of a `...`; one that is a formula over sizes which the block's inputs do not tell is a name."""
    known = known | {size.symbols[0] for size in axes.values() if size.is_symbol()}
    names: dict[Dim, Dim] = {}
    for size in axes.values():
        if not known.issuperset(size.symbols):
            names.setdefault(size, Dim.symbol(f"D{len(names)}"))
    return {name: names.get(size, size) for name, size in axes.items()}

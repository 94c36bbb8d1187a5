"""`build_cached`: the incremental entry of a model as one graph that prefills and decodes.

What was kept comes in as `past_key_values.{i}.*` and goes out, longer by the new positions, as `present.{i}.*`. With
a static cache both have one fixed length, the new rows are written at `past_length`, and nothing is copied by an
engine that gives both one buffer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from onnx import ModelProto

from specc.backends.onnx.attention import merge_heads, take_past
from specc.backends.onnx.emitter import GraphEmitter
from specc.backends.onnx.export import metadata
from specc.backends.onnx.flatten import Argument, Flattener, Frame
from specc.backends.onnx.last import push_last
from specc.backends.onnx.products import use_gemm
from specc.backends.onnx.rows import add_in_products
from specc.backends.onnx.scaled import scale_queries
from specc.backends.onnx.target import STRUCTURE, Target
from specc.backends.onnx.valid import read_valid
from specc.backends.onnx.values import Ref
from specc.dims import Dim
from specc.ir.graph import Apply, Model, Scan
from specc.ir.members import aliases
from specc.op import Buffer, Emitter, Step
from specc.ops.convolution import CausalConv1d
from specc.ops.positions import counted
from specc.passes.incremental import Incremental, step_facts
from specc.passes.plain import Sizes, entry_facts, entry_sizes
from specc.passes.steps import State, StepSizes
from specc.types import DType, TensorType

PAST, TOTAL, LENGTH = "past_sequence_length", "total_sequence_length", "past_length"
"""The names of the number of cached positions, of all positions, and of the input that says how many are valid."""
_SCATTER_OPSET = 24
_END = 2**63 - 1


def build_cached(model: Model, incremental: Incremental, target: Target = STRUCTURE) -> ModelProto:
    """The flat graph of an incremental entry."""
    emit = target.emitter()
    flattener = CachedFlattener(emit, model, incremental)
    flattener.run_entry()
    target.pack(emit, steps=True)
    if incremental.last:
        push_last(emit)
    if flattener.start is not None:
        read_valid(emit, flattener.start, incremental.step.size, Dim.symbol(TOTAL))
    take_past(emit)
    merge_heads(emit)
    scale_queries(emit)
    use_gemm(emit)
    add_in_products(emit)
    doc = incremental.graph.doc or model.module.doc
    facts = step_facts(model, incremental)
    about = metadata(model, incremental.entry, incremental.graph) | {
        "specc.entry": incremental.name,
        "specc.dims": "; ".join(str(fact) for fact in facts.statements()),
        "specc.cache": "concat" if incremental.length is None else f"static={incremental.length}",
    }
    proto = target.model(emit, model.name, doc=doc, metadata=about)
    _name_sizes(proto, incremental)
    return proto


def build_once(model: Model, incremental: Incremental, target: Target = STRUCTURE) -> ModelProto:
    """The flat graph of what an incremental entry computes once a sequence: keys and values of an encoder's output."""
    emit = target.emitter()
    OnceFlattener(emit, model, incremental).run_entry()
    target.pack(emit)
    use_gemm(emit)
    about = metadata(model, incremental.entry, incremental.graph) | {
        "specc.entry": incremental.once_name,
        "specc.dims": "; ".join(str(fact) for fact in entry_facts(model, incremental.graph).statements()),
    }
    return target.model(emit, model.name, doc=model.module.doc, metadata=about)


class CachedFlattener(Flattener):
    """Runs the graphs of an entry with the sizes of a step; `cached` appends to what came in, `once` came in whole."""

    def __init__(self, emit: GraphEmitter, model: Model, incremental: Incremental) -> None:
        super().__init__(emit, aliases(model.module))
        self.incremental = incremental
        self.past: list[list[Ref]] = []  # of the `cached` and of the `once` to come, in the order of execution
        self.once: list[list[Ref]] = []
        self.carried: list[
            Ref
        ] = []  # states, and the frames of causal convolutions, in the order in which they are read
        self.present: list[Ref] = []
        self.replaced: list[Ref] = []  # what takes the place of `carried`
        self.start: Ref | None = None  # int64[1], of a static cache
        self.buffer: Buffer | None = None  # where attention itself keeps keys and values
        self.is_stepping = False  # whether the graph at hand sees the step

    def run_entry(self) -> None:
        incremental = self.incremental
        operands = self._declared(incremental.needs)
        if incremental.length is not None:
            length = self.emit.input(LENGTH, TensorType(DType.I64, ()))
            self.start = self.emit.unsqueeze(length, [0])
        self.past = [[self.emit.input(state.input, state.before) for state in group] for group in incremental.states]
        self.carried = [self.emit.input(s.input, s.before) for group in incremental.carried for s in group]
        self.once = [[self.emit.input(state.input, state.before) for state in group] for group in incremental.once]
        graph, sizes = incremental.graph, incremental.sizes
        unread = self._unread(operands)
        results = self.run(Frame(graph, (), "", sizes, None, {}), operands)
        for name, (_, value), result in zip(graph.output_names, graph.results, results, strict=True):
            assert isinstance(result, Ref)
            self.emit.output(name, result, sizes.type(value.type))
        for state, ref in zip(incremental.flat, (*self.present, *self.replaced), strict=True):
            self.emit.output(state.output, ref, state.after)
        self.emit.inputs = [ref for ref in self.emit.inputs if id(ref) not in unread]

    def _declared(self, needs: frozenset[str]) -> list[Argument]:
        """The inputs that are read, in the order of the signature; None for the others."""
        graph, sizes = self.incremental.graph, self.incremental.sizes
        return [
            self.emit.input(a.name, sizes.type(a.type)) if a.value is not None and a.name in needs else None
            for a in graph.inputs
        ]

    def _unread(self, operands: list[Argument]) -> set[int]:
        """Stand-ins for the inputs that nothing which remains will read: they are declared last, for sizes that only
        such nodes ask for, and taken out in the end."""
        made = set()
        for i, argument in enumerate(self.incremental.graph.inputs):
            if argument.value is not None and operands[i] is None:
                operands[i] = ref = self.emit.input(argument.name, self.incremental.sizes.type(argument.type))
                made.add(id(ref))
        return made

    def _kept(self, node: Apply, operands: Sequence[Argument]) -> tuple[Argument, ...]:
        if node.op.name == "once":
            return tuple(self.once.pop(0))
        if node in self.incremental.carriers and self.is_stepping:
            return (self.carried.pop(0),)
        if node.op.name != "cached":
            return super()._kept(node, operands)
        states = self.incremental.states[len(self.incremental.states) - len(self.past)]
        past = self.past.pop(0)
        grown = tuple(
            self._grown(state, before, cast("Ref", new))
            for state, before, new in zip(states, past, operands, strict=True)
        )
        self.present += grown
        return grown

    def _framed(self, x: Ref) -> Ref:
        """The input of a causal convolution after what it still reads of earlier steps; the end of it is kept."""
        before = self.carried.pop(0)
        frames = before.type.shape[2]
        whole = x.type.with_shape((*x.type.shape[:2], x.type.shape[2] + frames))
        joined = self.emit("Concat", before, x, type=whole, axis=2)
        assert frames.value is not None
        starts, ends = (self.emit.const([n], DType.I64) for n in (-frames.value, _END))
        self.replaced.append(
            self.emit("Slice", joined, starts, ends, self.emit.const([2], DType.I64), type=before.type)
        )
        return joined

    def _grown(self, state: State, before: Ref, new: Ref) -> Ref:
        emit = self.emit
        if self.start is None:
            return emit("Concat", before, new, type=state.after, axis=state.axis)
        if emit.opset >= _SCATTER_OPSET:
            batch = state.after.shape[0]
            places = emit("Expand", self.start, emit.dim(batch), type=TensorType(DType.I64, (batch,)))
            return emit("TensorScatter", before, new, places, type=state.after, axis=state.axis)
        rows = emit("Add", counted(cast("Emitter", emit), new.type.shape[state.axis]), self.start)
        column = emit.unsqueeze(rows, list(range(1, new.type.rank - state.axis)))
        places = emit("Expand", column, emit.shape(new.type.shape), type=new.type.with_dtype(DType.I64))
        return emit("ScatterElements", before, places, new, type=state.after, axis=state.axis)

    def _apply(self, frame: Frame, node: Apply) -> None:
        self.is_stepping = isinstance(frame.sizes, StepSizes) and frame.sizes.is_stepping
        super()._apply(frame, node)
        self._replace(frame, node)

    def _scan(self, frame: Frame, node: Scan) -> None:
        super()._scan(frame, node)
        self._replace(frame, node)

    def _replace(self, frame: Frame, node: Apply | Scan) -> None:
        """The last states of a recurrence are those of the next step."""
        count = self.incremental.consumers.get(node, 0) if self._along_step(frame, node) else 0
        if count and not (isinstance(node, Apply) and isinstance(node.op, CausalConv1d)):
            self.replaced += [cast("Ref", frame.values[value]) for value in node.outputs[-count:]]

    def _along_step(self, frame: Frame, node: Apply | Scan) -> bool:
        """Whether this run of a node is along the step; another may be along the source of a sequence to sequence."""
        if isinstance(node, Scan):
            return node.along.substitute(frame.sizes) == self.incremental.sizes.step
        return isinstance(frame.sizes, StepSizes) and frame.sizes.is_stepping

    def _made(self, frame: Frame, node: Apply, operands: Sequence[Argument]) -> Any:
        if isinstance(node.op, CausalConv1d):
            if node not in self.incremental.consumers or not self.is_stepping:
                return super()._made(frame, node, operands)
            operands = (self._framed(cast("Ref", operands[0])), *operands[1:])
        step = self.incremental.step
        step = Step(step.size, step.past, self.start, self.buffer)
        return node.op.substitute(frame.sizes).onnx_step(cast("Emitter", self.emit), step, *operands)


class OnceFlattener(CachedFlattener):
    """Runs the graphs of the plain entry; only what `once` is given goes out, and what states begin with."""

    def run_entry(self) -> None:
        step = self.incremental.sizes.step
        sizes = StepSizes(step, Dim.const(0), entry_sizes(self.incremental.graph))
        self._run(self._declared(self.incremental.once_needs), sizes)

    def append(self, given: Mapping[str, Ref], sizes: Sizes) -> None:
        """After another entry's graph, whose results are `given`; `sizes`: those of the entry in its sizes."""
        inputs = self.incremental.graph.inputs
        self._run([given[a.name] if a.name in self.incremental.once_needs else None for a in inputs], sizes)

    def _run(self, operands: list[Argument], sizes: Sizes) -> None:
        graph = self.incremental.graph
        unread = self._unread(operands)
        self.run(Frame(graph, (), "", sizes, None, {}), operands)
        states = [state for group in self.incremental.once for state in group]
        starts = [(s, ref) for s, ref in zip(self.incremental.starts, self.carried, strict=False) if s is not None]
        for state, ref in (*zip(states, self.present, strict=True), *starts):
            self.emit.output(state.output, ref, sizes.type(state.after))
        self.emit.inputs = [ref for ref in self.emit.inputs if id(ref) not in unread]

    def _kept(self, node: Apply, operands: Sequence[Argument]) -> tuple[Argument, ...]:
        if node.op.name == "once":
            self.present += [cast("Ref", ref) for ref in operands]
        elif node in self.incremental.carriers and self.is_stepping:
            self.carried.append(cast("Ref", operands[0]))
        return tuple(operands)

    def _made(self, frame: Frame, node: Apply, operands: Sequence[Argument]) -> Any:
        return Flattener._made(self, frame, node, operands)


def _name_sizes(proto: ModelProto, incremental: Incremental) -> None:
    """The names that other tools expect for the sizes that grow."""
    past, size = incremental.step.past, incremental.step.size
    if incremental.length is not None:
        return
    names = {str(past): PAST, str(past + size): TOTAL}
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]

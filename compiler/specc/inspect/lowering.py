"""What each operator of a model becomes in ONNX at an operator set, told without building: native, fused or decomposed.

Operators say it themselves: their own `onnx` runs against a draft of a graph that keeps the names of nodes, and
`in_onnx` beside it names the ONNX operators that stand for the whole of it, with the operator set since when. Nothing
here knows an operator by name, and neither onnx nor numpy is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from specc.diagnostics import Diagnostic
from specc.dims import Dim
from specc.ir.graph import Apply, Call, Graph, Loop, Model, Node, Scan, When
from specc.ir.route import Route
from specc.lowering import OPSETS
from specc.op import Buffer, Emitter, Handle, Op, OpError, Step
from specc.passes.buffered import derive_buffered
from specc.passes.incremental import Incremental, derive, innermost, keeps_state
from specc.passes.plain import IDENTITIES, Sizes, call_sizes, entry_sizes
from specc.passes.steps import StepSizes, in_a_step, operand_type
from specc.source import Span
from specc.types import DType, Operand, Scalar, TensorType

Form = Literal["native", "fused", "decomposed", "constant", "extern", "not available"]
"""One node, or several of one kind, as it has always been; one node, of an operator set that not all runtimes know;
several nodes; computed when the graph is built; by the `onnx` function of its file; B601."""


@dataclass(frozen=True)
class Lowered:
    """One operator in one form. `nodes`: the ONNX operators it is made of; `calls`: how often it runs; `since`: where
    it is decomposed, the operators that would stand for it -> since which operator set.
    """

    operator: str
    form: Form
    nodes: tuple[str, ...]
    calls: int
    since: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "operator": self.operator,
            "form": self.form,
            "nodes": list(self.nodes),
            "calls": self.calls,
            "since": dict(self.since),
        }


@dataclass(frozen=True)
class Lowerings:
    """Of one entry of a model; `problems` are B601 for what has no form."""

    model: str
    preset: str | None
    entry: str
    target: str
    opset: int
    operators: tuple[Lowered, ...]
    problems: tuple[Diagnostic, ...]

    def of(self, operator: str) -> list[Lowered]:
        return [one for one in self.operators if one.operator == operator]

    def to_json(self) -> dict[str, Any]:
        return {
            "format": "specc-lowering/1",
            "model": self.model,
            "preset": self.preset,
            "entry": self.entry,
            "target": self.target,
            "opset": self.opset,
            "operators": [one.to_json() for one in self.operators],
        }

    def __str__(self) -> str:
        title = f"{self.model}{f' {self.preset!r}' if self.preset else ''}, {self.entry}: "
        rows = [("operator", "calls", "form", "in ONNX")]
        for one in self.operators:
            since = ", ".join(f"{name} from opset {opset}" for name, opset in one.since.items())
            nodes = _shown(one.nodes)
            rows.append((one.operator, str(one.calls), one.form, f"{nodes}; {since}" if since else nodes))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]}" for row in rows]
        return "\n".join([f"{title}{self.target}, opset {self.opset}", *(line.rstrip() for line in lines)])


def _shown(nodes: Sequence[str]) -> str:
    """`MatMul`, `Add x2`: each once, in the order met."""
    counts = Counter(nodes)
    return ", ".join(name if count == 1 else f"{name} x{count}" for name, count in counts.items())


def of_model(model: Model, *, target: str, opset: int) -> list[Lowerings]:
    """Of `forward`, or of every entry of a model without it; and of what `--cache` makes of them."""
    entries = ["forward"] if "forward" in model.entries else [*model.entries]
    told = [lowerings(model, entry, target=target, opset=opset) for entry in entries]
    if target == "genai":
        return told
    kept = dict.fromkeys(innermost(model, entry) for entry in entries if keeps_state(model, entry))
    cached = (derive(model, entry) for entry in kept)
    return told + [_of_steps(model, of, target, opset) for of in cached if isinstance(of, Incremental)]


def lowerings(model: Model, entry: str = "forward", *, target: str = "onnxruntime", opset: int = 23) -> Lowerings:
    """The operators of an entry with all its optional inputs, in the order met."""
    if target == "genai":
        entry = innermost(model, entry)
        buffered = derive_buffered(model, entry)
        if isinstance(buffered, list):
            problems = tuple(d for d in buffered if d.severity == "error")
            return Lowerings(model.module.name, model.preset, entry, target, opset, (), problems)
        return _told(model, entry, target, _Walk(opset, buffered), buffered.graph, buffered.sizes)
    graph = model.entries[entry].full
    return _told(model, entry, target, _Walk(opset), graph, entry_sizes(graph))


def _of_steps(model: Model, of: Incremental, target: str, opset: int) -> Lowerings:
    """Of the entry that goes on; what a cache itself takes (`Concat`, `TensorScatter`) is told nowhere."""
    return _told(model, of.name, target, _Walk(opset, of), of.graph, of.sizes)


def _told(model: Model, entry: str, target: str, walk: _Walk, graph: Graph, sizes: Sizes) -> Lowerings:
    walk.graph(graph, sizes, 1)
    opset = walk.opset
    found = tuple(Lowered(*key[:3], calls, dict(key[3])) for key, calls in walk.found.items())
    return Lowerings(model.module.name, model.preset, entry, target, opset, found, tuple(walk.problems.values()))


_Key = tuple[str, Form, tuple[str, ...], tuple[tuple[str, int], ...]]


@dataclass
class _Walk:
    opset: int
    of: Incremental | None = None  # what the nodes are a step of
    found: dict[_Key, int] = field(default_factory=dict)
    problems: dict[Span, Diagnostic] = field(default_factory=dict)
    known: dict[object, _Key | None] = field(default_factory=dict)

    def graph(self, graph: Graph, sizes: Sizes, times: int) -> None:
        self.nodes(graph.nodes if self.of is None else in_a_step(graph), sizes, times)

    def nodes(self, nodes: Sequence[Node], sizes: Sizes, times: int) -> None:
        for node in nodes:
            if isinstance(node, Apply):
                self._apply(node, sizes, times)
            elif isinstance(node, Call):
                inner = call_sizes(node.graph.inputs, [operand_type(i, sizes) for i in node.inputs], sizes)
                self.graph(node.graph, inner, times)
            elif isinstance(node, Route):
                self._apply(node.dispatch, sizes, times)
                for iteration in node.iterations[1:]:
                    self.nodes(iteration.nodes, sizes, times)
            elif isinstance(node, Loop):
                for iteration in node.iterations:
                    self.nodes(iteration.nodes, sizes, times)
            elif isinstance(node, Scan) or (isinstance(node, When) and node.mode == "infer"):
                self.nodes(node.nodes, sizes, times)

    def _apply(self, node: Apply, sizes: Sizes, times: int) -> None:
        if node.op.name in IDENTITIES or node.op.train_only:
            return
        types = tuple(operand_type(i, sizes) for i in node.inputs)
        op = node.op.substitute(sizes)
        stepping = self.of is not None and isinstance(sizes, StepSizes) and sizes.is_stepping
        key = (op, types, stepping)
        if key not in self.known:
            self.known[key] = self._lowered(op, types, node, stepping)
        made = self.known[key]
        if made is not None:
            self.found[made] = self.found.get(made, 0) + times

    def _lowered(self, op: Op, types: Sequence[Operand], node: Apply, stepping: bool) -> _Key | None:
        """None for what is no node at all."""
        if not any(isinstance(t, TensorType) for t in types) and all(
            dim.value is not None for value in node.outputs for dim in value.type.shape
        ):
            return op.name, "constant", (), ()
        draft = Draft(self.opset)
        operands = [DraftHandle(t) if isinstance(t, TensorType) else t for t in types]
        try:
            if stepping and self.of is not None:
                op.onnx_step(cast("Emitter", draft), _step(self.of, operands), *operands)
            else:
                op.onnx(cast("Emitter", draft), *operands)
        except OpError as error:
            found = Diagnostic(error.code, error.message, node.span, help=error.help)
            self.problems.setdefault(node.span, found)
            return op.name, "not available", (), ()
        if not draft.nodes and not draft.forms:
            return None
        nodes = tuple(draft.nodes or draft.forms)
        form = self._form(op, draft)
        later = tuple(pair for pair in op.in_onnx if pair[1] > self.opset) if form == "decomposed" else ()
        return op.name, form, nodes, later

    def _form(self, op: Op, draft: Draft) -> Form:
        if draft.is_extern:
            return "extern"
        if any(name.startswith("com.microsoft.") for name in draft.nodes):
            return "fused"
        whole = [since for name, since in op.in_onnx if name in draft.nodes]
        if whole:
            return "fused" if min(whole) > OPSETS.start else "native"
        return "native" if len({*draft.nodes}) <= 1 else "decomposed"


def _step(of: Incremental, operands: Sequence[DraftHandle | Scalar | None]) -> Step:
    """The step, with buffers if there are. What has the type of the mask of text is taken to be it."""
    if not of.buffered:
        return of.step
    size = of.step.past + of.step.size
    tensors = [o for o in operands if isinstance(o, DraftHandle)]
    masks = [o for o in tensors if o.type.dtype is DType.BOOL and o.type.rank == 2 and o.type.shape[1] == size]
    number = DraftHandle(TensorType(DType.I32, ()))
    buffer = Buffer(cast("Handle | None", next(iter(masks), None)), cast("Handle", number), cast("Handle", number))
    return replace(of.step, buffer=buffer)


# ---- a graph of which only the names are kept ------------------------------------------------------------------------


@dataclass(eq=False)
class DraftHandle:
    type: TensorType
    name: str = ""


_SAME = TensorType(DType.COMPUTE, ())


class Draft:
    """Implements `specc.op.Emitter`. `nodes`: the operators that lowerings ask for; `forms`: changes of form."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[str] = []
        self.forms: list[str] = []
        self.is_extern = False

    def __call__(
        self, op_type: str, *inputs: Any, type: TensorType | None = None, domain: str = "", **attributes: Any
    ) -> DraftHandle:
        return self.many(op_type, 1, *inputs, types=() if type is None else (type,), domain=domain, **attributes)[0]

    def many(
        self,
        op_type: str,
        count: int,
        *inputs: Any,
        types: Sequence[TensorType] = (),
        domain: str = "",
        **attributes: Any,
    ) -> tuple[DraftHandle, ...]:
        self.nodes.append(f"{domain}.{op_type}" if domain else op_type)
        first = next((i.type for i in inputs if i is not None), _SAME)
        return tuple(DraftHandle(types[i] if i < len(types) else first) for i in range(count))

    def const(self, value: Any, dtype: DType) -> DraftHandle:
        return DraftHandle(TensorType(dtype, tuple(map(Dim.const, _shape(value)))))

    def scalar(self, value: Any, like: DraftHandle) -> DraftHandle:
        return DraftHandle(TensorType(like.type.dtype, ()))

    def dim(self, dim: Dim) -> DraftHandle:
        return self.shape([dim])

    def shape(self, dims: Sequence[Dim]) -> DraftHandle:
        return DraftHandle(TensorType(DType.I64, (Dim.const(len(dims)),)))

    def extern(self, op: Op, *operands: Any) -> DraftHandle:
        self.is_extern = True
        return DraftHandle(_SAME)

    def reshape(self, x: DraftHandle, dims: Sequence[Dim]) -> DraftHandle:
        return self._formed("Reshape", x, tuple(dims), tuple(dims) != x.type.shape)

    def transpose(self, x: DraftHandle, perm: Sequence[int]) -> DraftHandle:
        shape = x.type.shape
        moved = tuple(shape[axis] for axis in perm) if len(perm) == len(shape) else shape
        return self._formed("Transpose", x, moved, list(perm) != sorted(perm))

    def cast(self, x: DraftHandle, dtype: DType) -> DraftHandle:
        narrow = {DType.COMPUTE, DType.F32}  # one type where builds are in f32
        if x.type.dtype != dtype and not {x.type.dtype, dtype} <= narrow:
            self.forms.append("Cast")
        return DraftHandle(x.type.with_dtype(dtype))

    def unsqueeze(self, x: DraftHandle, axes: Sequence[int]) -> DraftHandle:
        shape, rank = list(x.type.shape), x.type.rank + len(axes)
        for place in sorted(axis % rank for axis in axes):
            shape.insert(place, Dim.const(1))
        return self._formed("Unsqueeze", x, tuple(shape), bool(axes))

    def squeeze(self, x: DraftHandle, axes: Sequence[int]) -> DraftHandle:
        gone = {axis % max(x.type.rank, 1) for axis in axes}
        shape = tuple(size for axis, size in enumerate(x.type.shape) if axis not in gone)
        return self._formed("Squeeze", x, shape, bool(axes))

    def _formed(self, name: str, x: DraftHandle, shape: tuple[Dim, ...], changes: bool) -> DraftHandle:
        if changes:
            self.forms.append(name)
        return DraftHandle(x.type.with_shape(shape)) if changes else x


def _shape(value: Any) -> Iterator[int]:
    """Of a number, a nested list or an array."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        yield from shape
    while shape is None and isinstance(value, (list, tuple)):
        yield len(value)
        if not value:
            return
        value = value[0]

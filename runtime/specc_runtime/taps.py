"""Every intermediate value of a torch run, by the keys of `specc.ir.taps`: where do two programs first differ?

The IR is executed operator by operator with the text that the emitted source is made of, but with nothing inlined,
merged or folded into loops. So a value here is that of the emitted module, and a key exists for each node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specc.backends.torch.optext import operand_type, torch_dtype
from specc.backends.torch.printer import literal, protected
from specc.dims import Dim
from specc.ir.graph import Absent, Apply, Call, Graph, Input, Loop, Node, Path, Read, Scan, Value, When
from specc.ir.taps import TapKeys, call_scope, executed, numbered
from specc.ops.extern import Extern
from specc.types import DType, Operand, Scalar, TensorType

if TYPE_CHECKING:
    import torch

    from specc_runtime.externs import Loaded


def run(
    graph: Graph, module: torch.nn.Module, inputs: Mapping[str, torch.Tensor], externs: Loaded | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(results by name, taps by key) of one evaluation of an entry outside training.

    `graph` is the entry's graph for exactly the optional inputs that `inputs` holds, `module` the live emitted module,
    whose parameters are read; it is not called. A result without a name is called `output`, of several
    `output0`, `output1`. `externs` are the files of its extern functions, whose results are held against their
    signatures: raises `Rejected` (X903, X904).
    """
    import torch

    machine = _Machine(module, externs)
    given = [inputs.get(a.name) if a.value is not None else None for a in graph.inputs]
    with torch.no_grad():
        results = machine.call(graph, given, "", ())
    return dict(zip(graph.output_names, results, strict=True)), machine.taps


@dataclass
class _Frame:
    """One evaluation of a graph. `after`: what names stand for after a `when`; `index`: the nodes' numbers in keys."""

    scope: str
    path: Path
    values: dict[Value, torch.Tensor]
    sizes: Mapping[str, int]
    after: Mapping[Input, Value]
    index: Mapping[Node, int]

    def value(self, value: Value) -> torch.Tensor:
        return self.values[self.after.get(value, value)]


class _Machine:
    def __init__(self, module: torch.nn.Module, externs: Loaded | None) -> None:
        import torch
        import torch.nn.functional as F

        self.module, self.externs = module, externs
        self.keys = TapKeys()
        self.taps: dict[str, torch.Tensor] = {}
        self.tapping = True
        floating = next((p for p in module.parameters() if p.is_floating_point()), None)
        self.dtype = torch.get_default_dtype() if floating is None else floating.dtype
        self.namespace: dict[str, Any] = {"torch": torch, "nn": torch.nn, "F": F, "self": _Evaluation}

    def call(
        self, graph: Graph, arguments: Sequence[torch.Tensor | None], scope: str, path: Path
    ) -> list[torch.Tensor]:
        """Run one graph; `path` is where its module is, `scope` how keys call it."""
        values: dict[Value, torch.Tensor] = {}
        sizes: dict[str, int] = {}
        for argument, given in zip(graph.inputs, arguments, strict=True):
            if argument.value is not None and given is not None:
                values[argument.value] = given
                sizes.update(_bound(argument.value.type, given))
        frame = _Frame(scope, path, values, sizes, dict(_unchanged(graph.nodes)), numbered(graph))
        self.run(graph.nodes, frame)
        return [frame.value(value) for _, value in graph.results]

    def run(self, nodes: Sequence[Node], frame: _Frame) -> None:
        """Execute nodes of the graph that a frame is of."""
        for node in executed(nodes):
            if isinstance(node, Read):
                frame.values[node.output] = self.parameter((*frame.path, *node.path))
                continue
            inputs = [frame.after.get(i, i) for i in node.inputs]
            if isinstance(node, Scan):
                results = self.scan(node, frame)
            elif isinstance(node, Call):
                operands = [self.tensor(i, frame.values) for i in inputs]
                results = self.call(node.graph, operands, call_scope(frame.scope, node), (*frame.path, *node.path))
            else:
                results = self.apply(node, inputs, frame.values, frame.sizes)
            for position, (value, result) in enumerate(zip(node.outputs, results, strict=True)):
                frame.values[value] = result
                if self.tapping:
                    self.taps[self.keys.key(frame.scope, frame.index[node], node, position)] = result

    def scan(self, node: Scan, frame: _Frame) -> list[torch.Tensor]:
        """Every step in turn; a step's own values have no keys."""
        import torch

        tapping, self.tapping = self.tapping, False
        states = [frame.value(s.start) for s in node.states]
        rows = zip(*(frame.value(s.whole).unbind(s.axis) for s in node.sequences), strict=True)
        emitted = []
        for row in rows:
            frame.values.update(zip((s.slice for s in node.sequences), row, strict=True))
            frame.values.update(zip((s.before for s in node.states), states, strict=True))
            self.run(node.nodes, frame)
            states = [frame.value(s.after) for s in node.states]
            emitted.append([frame.value(e.value) for e in node.emits])
        self.tapping = tapping
        columns = zip(node.emits, zip(*emitted, strict=True), strict=True)
        return [*(torch.stack(column, e.axis) for e, column in columns), *states]

    def parameter(self, path: Path) -> torch.Tensor:
        found: Any = self.module
        for segment in path:
            found = found[segment] if isinstance(segment, int) else getattr(found, segment)
        tensor: torch.Tensor = found
        return tensor

    def tensor(self, value: Input, values: Mapping[Value, torch.Tensor]) -> torch.Tensor | None:
        return values[value] if isinstance(value, Value) else None

    def apply(
        self, node: Apply, inputs: Sequence[Input], values: Mapping[Value, torch.Tensor], sizes: Mapping[str, int]
    ) -> list[torch.Tensor]:
        """The operator's own torch text, evaluated."""
        if isinstance(node.op, Extern):
            return self.extern(node.op, [self.tensor(i, values) for i in inputs], sizes)
        namespace = dict(self.namespace)
        text = _Text(node, self, namespace, sizes)
        operands: list[str | None] = []
        for i, value in enumerate(inputs):
            if isinstance(value, Absent):
                operands.append(None)
            elif isinstance(value, Scalar):
                operands.append(text.number(value))
            else:
                namespace[f"x{i}"] = values[value]
                operands.append(f"x{i}")
        result = eval(node.op.torch(text, *operands), namespace)  # our own operators' text, never the spec's
        return [result] if len(node.outputs) == 1 else list(result)

    def extern(
        self, op: Extern, operands: Sequence[torch.Tensor | None], sizes: Mapping[str, int]
    ) -> list[torch.Tensor]:
        assert self.externs is not None  # whoever runs a model loads what it needs
        return self.externs.check(op, operands, self.externs.call_torch(op, operands), sizes, self.dtype)


def _unchanged(nodes: Sequence[Node]) -> Iterator[tuple[Input, Value]]:
    """What a name stands for after a `when`: outside training the value before it, or the end of `when infer`."""
    found: dict[Input, Value] = {}

    def visit(nodes: Sequence[Node]) -> None:
        for node in nodes:
            if isinstance(node, Loop):
                for iteration in node.iterations:
                    visit(iteration.nodes)
            elif isinstance(node, Scan):
                visit(node.nodes)
            elif isinstance(node, When):
                visit(node.nodes)
                for before, end, after in node.rebinds:
                    value = end if node.mode == "infer" else before
                    found[after] = found.get(value, value)

    visit(nodes)
    yield from found.items()


class _Evaluation:
    """What an operator's text may ask of `self`."""

    training = False


def _bound(type_: TensorType, tensor: torch.Tensor) -> dict[str, int]:
    """The sizes that an argument's axes name."""
    axes = zip(type_.shape, tensor.shape, strict=True)
    return {dim.symbols[0]: size for dim, size in axes if dim.is_symbol()}


class _Text:
    """`TorchText` with everything known: sizes are ints, attributes literals."""

    def __init__(self, node: Apply, machine: _Machine, namespace: dict[str, Any], sizes: Mapping[str, int]) -> None:
        self.node, self.machine, self.namespace, self.sizes = node, machine, namespace, sizes
        self.operands: Sequence[Operand] = [self._plain(operand_type(i)) for i in node.inputs]
        self.results: Sequence[TensorType] = [self._type(v.type) for v in node.outputs]

    def _size(self, dim: Dim) -> Dim:
        """The size with `past(..)` taken as 0: nothing is cached."""
        return dim.substitute({name: 0 for name in dim.symbols if name.startswith("past(")})

    def _type(self, type_: TensorType) -> TensorType:
        return type_.with_shape(tuple(self._size(d) for d in type_.shape))

    def _plain(self, type_: Operand) -> Operand:
        return self._type(type_) if isinstance(type_, TensorType) else type_

    def number(self, scalar: Scalar) -> str:
        return protected(self.dim(scalar.value) if isinstance(scalar.value, Dim) else literal(scalar.value))

    def attr(self, name: str) -> str:
        value = getattr(self.node.op, name)
        if isinstance(value, Dim):
            return self.dim(value)
        if isinstance(value, DType):
            return self.dtype(value)
        if isinstance(value, tuple) and len(value) == 1 and isinstance(value[0], int):
            return protected(literal(value[0]))
        return protected(literal(value))

    def dim(self, dim: Dim) -> str:
        return str(self._size(dim).evaluate(self.sizes))

    def dims(self, dims: Sequence[Dim]) -> str:
        return ", ".join(self.dim(d) for d in dims)

    def dtype(self, dtype: DType) -> str:
        return str(self.machine.dtype) if dtype is DType.COMPUTE else torch_dtype(dtype)

    def device(self) -> str:
        tensor = next(self.machine.module.parameters(), None)
        return "None" if tensor is None else f'torch.device("{tensor.device}")'

    def bind(self, hint: str, expression: str) -> str:
        number, name = 2, f"{hint}_"
        while name in self.namespace:
            name = f"{hint}_{number}"
            number += 1
        self.namespace[name] = eval(expression, self.namespace)
        return name

    def helper(self, name: str, source: str) -> str:
        if name not in self.machine.namespace:
            exec(source, self.machine.namespace)
        self.namespace[name] = self.machine.namespace[name]
        return name

    def extern(self, file: str) -> str:
        raise AssertionError(f"{file}: extern functions are called, not written")

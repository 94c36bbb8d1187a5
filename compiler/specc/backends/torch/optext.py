"""What a torch lowering may ask for (`specc.op.TorchText`): in a method, and in `__init__`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from specc.backends.torch.labels import Scope
from specc.backends.torch.printer import literal, protected, tidy
from specc.dims import Dim
from specc.ir.graph import Absent, Apply, Input
from specc.ir.graph import Value as Tensor
from specc.types import DType, Operand, TensorType

if TYPE_CHECKING:
    from specc.backends.torch.methods import Method
    from specc.op import TorchText

_TORCH_DTYPES = {
    DType.F64: "torch.float64",
    DType.F32: "torch.float32",
    DType.F16: "torch.float16",
    DType.BF16: "torch.bfloat16",
    DType.I64: "torch.int64",
    DType.I32: "torch.int32",
    DType.I16: "torch.int16",
    DType.I8: "torch.int8",
    DType.U8: "torch.uint8",
    DType.BOOL: "torch.bool",
}


def torch_dtype(dtype: DType) -> str:
    """A pinned element type as torch names it."""
    return _TORCH_DTYPES[dtype]


def operand_type(value: Input) -> Operand:
    """What an operator sees of a node's input."""
    if isinstance(value, Absent):
        return None
    return value.type if isinstance(value, Tensor) else value


def attribute(text: TorchText, node: Apply, name: str, number: Callable[[str | None, object], str | None]) -> str:
    """An attribute: over hyper-parameters where the spec wrote it so, else the literal.

    Switches (bools, strings, none) are structure: they print as they are, and differ from class to class.
    """
    value: Any = getattr(node.op, name)
    if isinstance(value, Dim):
        return text.dim(value)
    if isinstance(value, DType):
        return text.dtype(value)
    return protected(_plain(value, node.labels.get(name), number))


def _plain(value: Any, label: str | None, number: Callable[[str | None, object], str | None]) -> str:
    if isinstance(value, tuple) and len(value) == 1 and isinstance(value[0], int):
        return number(label, value[0]) or literal(value[0])
    if value is None or isinstance(value, (bool, str)):
        return literal(value)
    return number(label, value) or literal(value)


class OpText:
    """`TorchText` for an operator in a method."""

    def __init__(self, method: Method, node: Apply) -> None:
        self.method, self.node = method, node
        self.operands: Sequence[Operand] = [method.plain_type(operand_type(i)) for i in node.inputs]
        self.results: Sequence[TensorType] = [method.plain_tensor(v.type) for v in node.outputs]

    def attr(self, name: str) -> str:
        return attribute(self, self.node, name, self.method.scope.forward)

    def dim(self, dim: Dim) -> str:
        return protected(self.method.dim(dim))

    def dims(self, dims: Sequence[Dim]) -> str:
        return ", ".join(self.method.dim(d) for d in dims)

    def dtype(self, dtype: DType) -> str:
        if dtype is not DType.COMPUTE:
            return torch_dtype(dtype)
        source = self.method.tensor_in_scope(floating=True)
        return f"{source}.dtype" if source else "torch.get_default_dtype()"

    def device(self) -> str:
        source = self.method.tensor_in_scope(floating=False)
        return f"{source}.device" if source else "None"

    def bind(self, hint: str, expression: str) -> str:
        return self.method.bind(hint, expression)

    def helper(self, name: str, source: str) -> str:
        return self.method.around.helper(name, source)

    def extern(self, file: str) -> str:
        return self.method.around.extern(file)


class InitText:
    """`TorchText` for an operator in `__init__`: constant tables, and functions in an `nn.Sequential`."""

    def __init__(
        self, node: Apply, scope: Scope, helper: Callable[[str, str], str], variables: Mapping[str, Any] | None = None
    ) -> None:
        self.node, self.scope, self._helper, self.variables = node, scope, helper, variables
        self.operands: Sequence[Operand] = [operand_type(i) for i in node.inputs]
        self.results: Sequence[TensorType] = [v.type for v in node.outputs]

    def _number(self, label: str | None, value: object) -> str | None:
        return self.scope.init(label, value, self.variables)

    def attr(self, name: str) -> str:
        return attribute(self, self.node, name, self._number)

    def dim(self, dim: Dim) -> str:
        return protected(self._number(dim.label, dim.value) or str(dim))

    def dims(self, dims: Sequence[Dim]) -> str:
        return ", ".join(self.dim(d) for d in dims)

    def dtype(self, dtype: DType) -> str:
        return "torch.get_default_dtype()" if dtype is DType.COMPUTE else torch_dtype(dtype)

    def device(self) -> str:
        return "None"

    def bind(self, hint: str, expression: str) -> str:
        return protected(tidy(expression))

    def helper(self, name: str, source: str) -> str:
        return self._helper(name, source)

    def extern(self, file: str) -> str:
        raise AssertionError(f"{file}: an extern function takes a tensor, which __init__ has not")


class _Probe(InitText):
    """Asks an operator for its text with made-up operands, to see whether it does anything."""

    def __init__(self, node: Apply) -> None:
        super().__init__(node, Scope(None), lambda name, source: name)

    def dim(self, dim: Dim) -> str:
        return "0"

    def attr(self, name: str) -> str:
        return "0"

    def extern(self, file: str) -> str:
        return "extern"


def is_identity(node: Apply) -> bool:
    """Whether an operator's results are its operands, as written: `cached(k, v)`, `identity(x)`."""
    kept = [i for i in node.inputs if not isinstance(i, Absent)]
    if len(kept) != len(node.outputs) or not all(isinstance(i, Tensor) for i in kept):
        return False
    if any(i.type.rank != o.type.rank for i, o in zip(kept, node.outputs, strict=True) if isinstance(i, Tensor)):
        return False
    names = iter(f"operand{i}" for i in range(len(kept)))
    operands = [None if isinstance(i, Absent) else next(names) for i in node.inputs]
    text = tidy(node.op.torch(_Probe(node), *operands))
    return text == ", ".join(name for name in operands if name is not None)


def without_device(text: str) -> str:
    """The expression without `device=None`, which says nothing in `__init__`."""
    return tidy(text.replace(", device=None", ""))

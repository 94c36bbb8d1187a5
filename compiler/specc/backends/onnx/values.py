"""What an ONNX graph under construction is made of, before any protobuf: values, nodes, element types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from specc.dims import Dim
from specc.op import Op, Packing
from specc.types import DType, TensorType

if TYPE_CHECKING:
    from specc.backends.onnx.scans import BodyEmitter

ELEMENT: Mapping[DType, int] = {
    DType.F64: TensorProto.DOUBLE,
    DType.F32: TensorProto.FLOAT,
    DType.F16: TensorProto.FLOAT16,
    DType.BF16: TensorProto.BFLOAT16,
    DType.I64: TensorProto.INT64,
    DType.I32: TensorProto.INT32,
    DType.I16: TensorProto.INT16,
    DType.I8: TensorProto.INT8,
    DType.U8: TensorProto.UINT8,
    DType.BOOL: TensorProto.BOOL,
}
"""Element type -> TensorProto.DataType; the compute dtype is resolved first."""

_NUMPY: Mapping[DType, Any] = {
    DType.F64: np.float64,
    DType.F32: np.float32,
    DType.F16: np.float16,
    DType.I64: np.int64,
    DType.I32: np.int32,
    DType.I16: np.int16,
    DType.I8: np.int8,
    DType.U8: np.uint8,
    DType.BOOL: np.bool_,
}


@dataclass(eq=False, slots=True)
class Ref:
    """One value. `known` tells whether the shape of `type` is exact; names are given when the graph is written."""

    type: TensorType
    known: bool
    node: Record | None = None  # what computes it; None for inputs, initializers and constants
    hint: str | None = None  # the name it would like
    name: str = ""
    array: np.ndarray[Any, Any] | None = None  # a constant's content, in the bytes that are stored


@dataclass(eq=False, slots=True)
class Record:
    """One node. `scope` is the path of the module it belongs to, `origin` the `file:line` it came from.

    `body`: the graph of one step, if the node is a Scan.
    """

    op_type: str
    domain: str
    inputs: list[Ref | None]
    attributes: dict[str, Any]
    scope: str
    origin: str
    outputs: list[Ref] = field(default_factory=list)
    label: str | None = None  # its own name instead of the one made from scope and op_type
    metadata: dict[str, str] = field(default_factory=dict)
    overload: str = ""  # tells local functions of one name apart
    key: object = None  # under which the emitter finds it again
    body: BodyEmitter | None = None


@dataclass(frozen=True, eq=False)
class Site:
    """A place where an operator reads a weight that it could read packed (`Op.packing`)."""

    op: Op
    packing: Packing
    operands: tuple[Any, ...]
    result: Ref
    scope: str
    origin: str

    @property
    def weight(self) -> Ref | None:
        found = self.operands[self.packing.operand]
        return found if isinstance(found, Ref) else None

    @property
    def added(self) -> Ref | None:
        """What is added to the product."""
        found = self.operands[self.packing.added] if self.packing.added is not None else None
        return found if isinstance(found, Ref) else None


def numbers(array: np.ndarray[Any, Any]) -> str:
    """A constant's numbers as nested lists, floats with the fewest digits that give them back."""
    shortest = array.astype(np.str_).astype(np.float64) if array.dtype.kind == "f" else array
    return str(shortest.tolist())


def reads(record: Record) -> Iterator[Ref]:
    """The values that a node reads, those that its body takes from outside among them."""
    yield from (ref for ref in record.inputs if ref is not None)
    if record.body is not None:
        yield from record.body.captures()


def users_of(records: Sequence[Record]) -> dict[int, list[Record]]:
    """id(value) -> the nodes that read it, once for every time they do."""
    users: dict[int, list[Record]] = {}
    for record in records:
        for ref in reads(record):
            users.setdefault(id(ref), []).append(record)
    return users


def live(records: Sequence[Record], outputs: Sequence[Ref]) -> list[Record]:
    """The nodes that the outputs depend on, in order."""
    wanted = {id(ref) for ref in outputs}
    found: list[Record] = []
    for record in reversed(records):
        if any(id(ref) in wanted for ref in record.outputs):
            found.append(record)
            wanted.update(map(id, reads(record)))
    return found[::-1]


def in_order(records: Sequence[Record]) -> list[Record]:
    """The nodes in their order, but none before what it reads: a new `Reshape` may read a size that is computed later
    for something else.
    """
    own = {id(record) for record in records}
    placed: set[int] = set()
    ordered: list[Record] = []

    def place(record: Record) -> None:
        if id(record) in placed or id(record) not in own:
            return
        placed.add(id(record))
        for ref in record.inputs:
            if ref is not None and ref.node is not None:
                place(ref.node)
        ordered.append(record)

    for record in records:
        place(record)
    return ordered


def stored(value: Any, dtype: DType) -> np.ndarray[Any, Any]:
    """The numpy array whose little-endian bytes are a tensor of that element type; bfloat16 is its upper 16 bits."""
    if dtype is DType.BF16:
        bits = np.asarray(value, dtype=np.float32).view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # to nearest, ties to even
        return np.where((bits & 0x7FFFFFFF) > 0x7F800000, 0x7FC0, rounded).astype(np.uint16)
    array = np.asarray(value, dtype=_NUMPY[dtype])
    return array if array.flags.c_contiguous else np.array(array, order="C")


# ---- the types of intermediate values --------------------------------------------------------------------------------

_TO_BOOL = frozenset(
    "Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor Not IsNaN IsInf".split(),
)
_TO_INT64 = frozenset("Shape Size ArgMax ArgMin NonZero".split())
_DTYPE_OF = {"Where": 1, "CastLike": 1, "OneHot": 2}
_SAME_SHAPE = frozenset(
    "Abs Acos Asin Atan Cast CastLike Ceil Celu Clip Cos CumSum Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity "
    "IsInf IsNaN LayerNormalization LeakyRelu Log LogSoftmax Mish Neg Not RMSNormalization Reciprocal Relu Round Selu "
    "Sigmoid Sign Sin Softmax Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Trilu".split(),
)
_BROADCAST = frozenset(
    "Add Sub Mul Div Mod Pow Max Min Mean Sum Where And Or Xor Equal Greater GreaterOrEqual Less LessOrEqual "
    "BitwiseAnd BitwiseOr PRelu".split(),
)


def guess_type(op_type: str, inputs: Sequence[Ref | None], attributes: Mapping[str, Any]) -> tuple[TensorType, bool]:
    """The type of a node's first output, and whether its shape is exact. The element type always is."""
    given = [ref for ref in inputs if ref is not None]
    first = given[0].type if given else TensorType(DType.COMPUTE, ())
    dtype = first.dtype
    if op_type in _TO_BOOL:
        dtype = DType.BOOL
    elif op_type in _TO_INT64:
        dtype = DType.I64
    elif op_type in _DTYPE_OF:
        dtype = given[_DTYPE_OF[op_type]].type.dtype
    elif isinstance(attributes.get("to"), DType):
        dtype = attributes["to"]
    if not given or not all(ref.known for ref in given):
        return first.with_dtype(dtype), False
    if op_type in _SAME_SHAPE:
        return first.with_dtype(dtype), True
    if op_type in _BROADCAST:
        shape = broadcast([ref.type.shape for ref in given])
        return TensorType(dtype, first.shape if shape is None else shape), shape is not None
    if op_type == "Transpose" and "perm" in attributes:
        return TensorType(dtype, tuple(first.shape[axis] for axis in attributes["perm"])), True
    if op_type == "MatMul" and first.rank >= 2 and given[1].type.rank == 2:
        return TensorType(dtype, (*first.shape[:-1], given[1].type.shape[-1])), True
    return first.with_dtype(dtype), False


def broadcast(shapes: Sequence[Sequence[Dim]]) -> tuple[Dim, ...] | None:
    """The shape of numpy's broadcast, or None where the sizes do not tell."""
    result: list[Dim] = []
    for axis in range(1, max(map(len, shapes)) + 1):
        sizes = {shape[-axis].plain() for shape in shapes if len(shape) >= axis}
        sizes.discard(Dim.const(1))
        if len(sizes) > 1:
            return None
        result.append(next(iter(sizes), Dim.const(1)))
    return tuple(reversed(result))

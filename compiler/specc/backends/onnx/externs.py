"""Extern operations in a graph: what the `onnx` function of a user's Python file is given, and what it gives back.

The function runs only where its file was loaded, which is the runtime's business; here it is an `Externs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from onnx import AttributeProto, TypeProto, defs, helper, numpy_helper, shape_inference

from specc.backends.onnx.values import ELEMENT, Ref
from specc.dims import Dim
from specc.op import OpError
from specc.ops.extern import Extern
from specc.types import DType, TensorType

if TYPE_CHECKING:
    from specc.backends.onnx.emitter import GraphEmitter

DRAWN = "extern"
"""The domain of nodes that stand for an operation whose file was not loaded: for pictures."""

_DTYPES = {dtype.value: dtype for dtype in DType if dtype is not DType.COMPUTE}
_KINDS = {np.dtype(name).str: dtype for name, dtype in (
    ("float64", DType.F64), ("float32", DType.F32), ("float16", DType.F16), ("int64", DType.I64), ("int32", DType.I32),
    ("int16", DType.I16), ("int8", DType.I8), ("uint8", DType.U8), ("bool", DType.BOOL),
)}  # fmt: skip


class Externs(Protocol):
    """The Python files that were loaded."""

    def onnx(self, op: Extern, graph: Graph, operands: Sequence[Value | None]) -> Any:
        """Call the `onnx` function of an operation's file; raises `Rejected` if it has none (B610) or fails (X904)."""


class NotLoaded:
    """No file was loaded."""

    def onnx(self, op: Extern, graph: Graph, operands: Sequence[Value | None]) -> Any:
        message = f"{op.file} is Python code and was not loaded: `{op.function}` has no nodes without it"
        raise OpError("X901", message, help=f"specc build FILE --trust {op.file}    loads it")


class BuildError(ValueError):
    """A call of the builder that makes no valid node; raised into the user's function, at the line that called."""


class Value:
    """A tensor of the graph under construction, as a user's `onnx` function sees it."""

    __slots__ = ("_dtype", "_ref")

    def __init__(self, ref: Ref, dtype: str) -> None:
        self._ref, self._dtype = ref, dtype

    @property
    def dtype(self) -> str:
        """Its element type, by the spec's name: "f32", "i64", "bool"."""
        return self._dtype

    @property
    def shape(self) -> tuple[int | str, ...] | None:
        """Its sizes, ints or formulas over the model's dims ("T", "2*T"); None where they are not known."""
        if not self._ref.known:
            return None
        return tuple(str(d) if d.value is None else d.value for d in self._ref.type.shape)

    @property
    def rank(self) -> int | None:
        """The number of its axes; None where it is not known."""
        return self._ref.type.rank if self._ref.known else None

    def __repr__(self) -> str:
        return f"Value({self.dtype}{list(self.shape) if self.shape is not None else '[?]'})"


class Graph:
    """The graph under construction, as a user's `onnx` function sees it: the `g` of `def onnx(g, x, beta=1.0)`.

    >>> def onnx(g, x, beta=1.0):
    ...     return g.op("Mul", x, g.op("Sigmoid", g.op("Mul", x, beta)))

    What a wrong call raises is a `ValueError` that names the operator and the argument.
    """

    def __init__(self, emit: GraphEmitter) -> None:
        self._emit = emit
        self._domains: dict[str, int] = {}

    @property
    def opset(self) -> int:
        """The version of the standard operators that the graph is built with."""
        return self._emit.opset

    def domain(self, name: str, version: int = 1) -> None:
        """Announce a domain of operators beside the standard ones, such as "com.microsoft"."""
        if not isinstance(name, str) or not name or not isinstance(version, int) or version < 1:
            raise BuildError(f"domain({name!r}, {version!r}): a name and a version of at least 1")
        self._emit.functions[name] = version
        self._domains[name] = version

    def constant(self, value: Any, dtype: str | None = None, *, like: Value | None = None) -> Value:
        """A number, nested list or numpy array as a constant.

        Its element type is `dtype` ("f32", "i64", "bool"), that of `like`, or for Python numbers f32, i64 or bool.
        """
        array = np.asarray(value)
        if dtype is None and like is not None:
            kind = like._ref.type.dtype
        elif dtype is not None:
            if dtype not in _DTYPES:
                raise BuildError(f"constant: there is no element type {dtype!r}; known: {', '.join(_DTYPES)}")
            kind = _DTYPES[dtype]
        elif isinstance(value, np.ndarray) and array.dtype.str in _KINDS:
            kind = _KINDS[array.dtype.str]
        else:
            kinds = {"b": DType.BOOL, "i": DType.I64, "u": DType.I64, "f": DType.COMPUTE}
            if array.dtype.kind not in kinds:
                raise BuildError(f"constant: {value!r} is no number, nor a list of numbers of one shape")
            kind = kinds[array.dtype.kind]
        return self._value(self._emit.const(array, kind))

    def op(
        self, op_type: str, *inputs: Value | float | None, outputs: int = 1, domain: str = "", **attributes: Any
    ) -> Any:
        """Append a node; returns its output, or a tuple of them if `outputs` is more than one.

        Inputs are values, None for an optional input that is left out, or numbers, which become constants in the
        element type of the first tensor.
        """
        refs = self._inputs(op_type, inputs)
        given = {name: value for name, value in attributes.items() if value is not None}
        given = {k: ELEMENT[_DTYPES[v]] if k in ("to", "dtype") and v in _DTYPES else v for k, v in given.items()}
        schema = self._schema(op_type, len(refs), outputs, domain, given)
        made = self._emit.many(op_type, outputs, *refs, domain=domain, **given)
        if schema is not None:
            for ref, type_ in zip(made, self._types(schema, refs, outputs, given), strict=True):
                self._learn(ref, type_)
        values = tuple(self._value(ref) for ref in made)
        return values if outputs > 1 else values[0]

    def _value(self, ref: Ref) -> Value:
        dtype = self._emit.compute if ref.type.dtype is DType.COMPUTE else ref.type.dtype
        return Value(ref, dtype.value)

    def _inputs(self, op_type: str, inputs: Sequence[Any]) -> list[Ref | None]:
        first = next((i for i in inputs if isinstance(i, Value)), None)
        refs: list[Ref | None] = []
        for i, value in enumerate(inputs):
            if isinstance(value, (bool, int, float)) and first is not None:
                value = self.constant(value, like=first)
            if value is not None and not isinstance(value, Value):
                found = type(value).__name__
                raise BuildError(f"{op_type}: input {i} is a {found}, not a value; g.constant(..) makes one of numbers")
            refs.append(value._ref if value is not None else None)
        return refs

    def _types(
        self, schema: defs.OpSchema, refs: Sequence[Ref | None], outputs: int, attributes: dict[str, Any]
    ) -> list[TypeProto | None]:
        """What ONNX's own inference says of the outputs."""
        names = [f"x{i}" if ref is not None else "" for i, ref in enumerate(refs)]
        given = {name: ref for name, ref in zip(names, refs, strict=True) if ref is not None}
        types = {name: self._type_proto(ref) for name, ref in given.items()}
        data = {name: numpy_helper.from_array(ref.array) for name, ref in given.items() if ref.array is not None}
        results = [f"y{i}" for i in range(outputs)]
        node = helper.make_node(schema.name, names, results, domain=schema.domain, **attributes)
        imports = [helper.make_opsetid("", self.opset)]
        try:
            found = shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=imports)
        except shape_inference.InferenceError as error:
            raise BuildError(f"{schema.name}: {str(error).strip()}") from None
        return [found.get(name) for name in results]

    def _type_proto(self, ref: Ref) -> TypeProto:
        shape = [str(d) if d.value is None else d.value for d in ref.type.shape] if ref.known else None
        return helper.make_tensor_type_proto(self._emit.element(ref.type.dtype), shape)

    def _learn(self, ref: Ref, found: TypeProto | None) -> None:
        """Give a new value the type that was inferred; the emitter's own knowledge of its sizes goes before."""
        if found is None or not found.tensor_type.elem_type:
            return
        element = found.tensor_type.elem_type
        if self._emit.element(ref.type.dtype) == element:
            dtype = ref.type.dtype
        else:
            dtype = next((d for d, number in ELEMENT.items() if number == element), ref.type.dtype)
        sizes = list(found.tensor_type.shape.dim) if found.tensor_type.HasField("shape") else None
        if not ref.known and sizes is not None and all(size.HasField("dim_value") for size in sizes):
            ref.type, ref.known = TensorType(dtype, tuple(Dim.const(size.dim_value) for size in sizes)), True
        else:
            ref.type = ref.type.with_dtype(dtype)

    def _schema(
        self, op_type: str, inputs: int, outputs: int, domain: str, attributes: dict[str, Any]
    ) -> defs.OpSchema | None:
        """The published schema of an operator, against which its node is held; None in a domain that has none."""
        if not isinstance(outputs, int) or isinstance(outputs, bool) or outputs < 1:
            raise BuildError(f"{op_type}: outputs={outputs!r} is no number of outputs")
        for name, value in attributes.items():
            try:
                helper.make_attribute(name, value)
            except (TypeError, ValueError) as error:
                raise BuildError(f"{op_type}: {name}={value!r} cannot be an attribute: {error}") from None
        if domain:
            if domain not in self._domains:
                raise BuildError(f"{op_type}: announce the domain first:  g.domain({domain!r}, 1)")
            return None
        if not defs.has(op_type, self.opset, domain):
            raise BuildError(f"ONNX has no operator {op_type!r} at opset {self.opset}")
        schema = defs.get_schema(op_type, self.opset, domain)
        if not schema.min_input <= inputs <= schema.max_input:
            raise BuildError(f"{op_type} takes {_between(schema.min_input, schema.max_input)} inputs, not {inputs}")
        if not schema.min_output <= outputs <= schema.max_output:
            raise BuildError(f"{op_type} has {_between(schema.min_output, schema.max_output)} outputs, not {outputs}")
        for name, value in attributes.items():
            known = schema.attributes.get(name)
            if known is None:
                available = ", ".join(sorted(schema.attributes)) or "none"
                raise BuildError(f"{op_type} has no attribute {name!r}; known: {available}")
            kind = str(known.type).rpartition(".")[2]
            if kind != AttributeProto.AttributeType.Name(helper.make_attribute(name, value).type):
                raise BuildError(f"{op_type}: {name}={value!r} is not of the attribute's type ({kind.lower()})")
        missing = [a.name for a in schema.attributes.values() if a.required and a.name not in attributes]
        if missing:
            raise BuildError(f"{op_type}: missing attribute {missing[0]!r}")
        return schema


def _between(low: int, high: int) -> str:
    if low == high:
        return str(low)
    return f"at least {low}" if high > 2**20 else f"{low} to {high}"


def lower(emit: GraphEmitter, op: Extern, operands: Sequence[Ref | None]) -> Ref | tuple[Ref, ...]:
    """The nodes of an extern operation; raises `OpError` (X903) where they do not give what its signature declares."""
    if emit.externs is None:
        given = [ref for ref in operands if ref is not None]
        settings = {name: value for name, value in op.arguments().items() if value not in (None, ())}
        return emit.many(op.function, len(op.results), *given, types=op.results, domain=DRAWN, **settings)
    graph = Graph(emit)
    made = emit.externs.onnx(op, graph, [graph._value(ref) if ref is not None else None for ref in operands])
    values = tuple(made) if isinstance(made, (tuple, list)) else (made,)
    if len(values) != len(op.results) or not all(isinstance(v, Value) for v in values):
        kinds = ["a value" if isinstance(v, Value) else "nothing" if v is None else type(v).__name__ for v in values]
        declared_types = ", ".join(map(str, op.results))
        message = f"`onnx` of {op.file} returned {', '.join(kinds) or 'an empty tuple'}, not the {declared_types}"
        raise OpError("X903", f"{message} of the signature of `{op.function}`")
    for value, declared in zip(values, op.results, strict=True):
        _agree(emit, op, value._ref, declared)
    return tuple(v._ref for v in values) if len(values) > 1 else values[0]._ref


def _agree(emit: GraphEmitter, op: Extern, ref: Ref, declared: TensorType) -> None:
    """What is known of a result must be what is declared; the rest is seen when the graph is verified."""
    if not ref.known:
        return
    same = ref.type.rank == declared.rank and emit.element(ref.type.dtype) == emit.element(declared.dtype)
    sizes = zip(ref.type.shape, declared.shape, strict=True) if same else ()
    if not same or any(a.value is not None and b.value is not None and a.value != b.value for a, b in sizes):
        message = f"`onnx` of {op.file} returned {ref.type}, the signature of `{op.function}` declares {declared}"
        raise OpError("X903", message)

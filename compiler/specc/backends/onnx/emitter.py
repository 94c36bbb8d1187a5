"""`GraphEmitter`: the ONNX graph under construction that operators' lowerings write into.

Equal constants and equal nodes exist once; sizes come from the inputs' shapes; casts, transposes and reshapes that
change nothing are not written. Values get their names, and what nobody uses is dropped, when the graph is written
(`proto`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from specc.backends.onnx.externs import Externs, lower
from specc.backends.onnx.sizes import Sizes, may_be_zero
from specc.backends.onnx.values import ELEMENT, Record, Ref, Site, guess_type, stored
from specc.dims import Dim
from specc.ops.extern import Extern
from specc.types import DType, Scalar, TensorType

_NEVER_SHARED = frozenset(
    ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout"]
)
_COPY, _REST = Dim.const(0), Dim.const(-1)  # in the shape of a Reshape: the input's size; what is left


class GraphEmitter:
    """Implements `specc.op.Emitter`.

    >>> emit = GraphEmitter(opset=23)
    >>> x = emit.input("x", TensorType(DType.COMPUTE, (Dim.symbol("B"), Dim.const(4))))
    >>> emit.output("y", emit("Relu", x))
    """

    def __init__(self, opset: int = 23, compute: DType = DType.F32, externs: Externs | None = None) -> None:
        """`externs`: what lowers extern operations; None draws each as a node of its own name."""
        self.opset = opset
        self.externs = externs
        self.compute = compute
        self.inputs: list[Ref] = []
        self.measured: list[Ref] = []  # intermediate values with sizes that no input has
        self.outputs: list[tuple[str, Ref]] = []
        self.parameters: dict[str, Ref] = {}
        self.constants: list[Ref] = []
        self.records: list[Record] = []
        self.sites: list[Site] = []
        self.functions: dict[str, int] = {}  # domain -> version, beside the standard operators
        self.scope = ""
        self.origin = ""
        self._sizes = Sizes(self)
        self._constants: dict[tuple[int, tuple[int, ...], bytes], Ref] = {}
        self._nodes: dict[object, tuple[Ref, ...]] = {}
        self._read: list[Ref | None] = []  # by the nodes there have been: keys are ids, which nothing new may get

    # ---- the graph's surface -----------------------------------------------------------------------------------------

    def input(self, name: str, type_: TensorType) -> Ref:
        ref = Ref(type_, True, name=name)
        self.inputs.append(ref)
        return ref

    def output(self, name: str, ref: Ref, type_: TensorType | None = None) -> None:
        """`type_` is the declared type; without it the value's own."""
        if type_ is not None:
            ref = self.typed(ref, type_)
        self.outputs.append((name, ref))

    def parameter(self, name: str, type_: TensorType) -> Ref:
        """A tensor of the state_dict; its bytes are somebody else's business."""
        if name not in self.parameters:
            self.parameters[name] = Ref(type_, True, name=name)
        return self.parameters[name]

    @contextmanager
    def at(self, scope: str, origin: str) -> Iterator[None]:
        """Nodes made inside belong to `scope` (a module path) and come from `origin` (`file:line`)."""
        before = self.scope, self.origin
        self.scope, self.origin = scope, origin
        try:
            yield
        finally:
            self.scope, self.origin = before

    def typed(self, ref: Ref, type_: TensorType) -> Ref:
        """The value, its type now known to be `type_`."""
        if not ref.known:
            ref.type, ref.known = type_, True
        return ref

    # ---- nodes -------------------------------------------------------------------------------------------------------

    def __call__(
        self, op_type: str, *inputs: Any, type: TensorType | None = None, domain: str = "", **attributes: Any
    ) -> Ref:
        return self.many(op_type, 1, *inputs, types=() if type is None else (type,), domain=domain, **attributes)[0]

    def many(
        self,
        op_type: str,
        count: int,
        *inputs: Any,
        types: Sequence[TensorType] = (),
        domain: str = "",
        overload: str = "",
        **attributes: Any,
    ) -> tuple[Ref, ...]:
        given = list(inputs)
        while given and given[-1] is None:
            given.pop()
        for ref in given:
            if ref is not None and not isinstance(ref, Ref):
                raise TypeError(f"{op_type}: {ref!r} is not a value of this graph; use `const` or `scalar`")
        guessed, known = guess_type(op_type, given, attributes)
        attributes = {k: self._attribute(v) for k, v in attributes.items() if v is not None}
        named = tuple((k, _hashable(v)) for k, v in sorted(attributes.items()))
        key = (op_type, domain, overload, count, tuple(map(id, given)), named)
        if key in self._nodes:
            return self._nodes[key]
        self._read += given
        record = Record(op_type, domain, given, attributes, self.scope, self.origin, overload=overload)
        for i in range(count):
            type_ = types[i] if i < len(types) else guessed
            record.outputs.append(Ref(type_, i < len(types) or (known and count == 1), record))
        self.add(record)
        record.key = key
        outputs = tuple(record.outputs)
        if op_type not in _NEVER_SHARED:
            self._nodes[key] = outputs
        return outputs

    def add(self, record: Record) -> None:
        """Append a finished node."""
        self.records.append(record)

    def owns(self, ref: Ref) -> bool:
        """Whether a node of this graph computes the value."""
        return ref.node is not None

    def adopt(self, made: Ref, target: Ref) -> None:
        """From now on `target`, which some other node computed, is what the node of `made` computes."""
        record = made.node
        assert record is not None
        alone = len(record.outputs) == 1  # then what it computes may go by another name already
        record.outputs = [target] if alone else [target if ref is made else ref for ref in record.outputs]
        target.node = record
        self._nodes[record.key] = tuple(record.outputs)

    def forget(self, record: Record) -> None:
        """An equal node would no longer be equal: this one was changed."""
        self._nodes.pop(record.key, None)

    def _attribute(self, value: Any) -> Any:
        if isinstance(value, DType):
            return self.element(value)
        if isinstance(value, bool):
            return int(value)
        return list(value) if isinstance(value, tuple) else value

    # ---- constants and sizes -----------------------------------------------------------------------------------------

    def element(self, dtype: DType) -> int:
        """TensorProto.DataType of an element type."""
        return ELEMENT[self.compute if dtype is DType.COMPUTE else dtype]

    def const(self, value: Any, dtype: DType) -> Ref:
        array = stored(value, self.compute if dtype is DType.COMPUTE else dtype)
        key = (self.element(dtype), array.shape, array.tobytes())
        if key not in self._constants:
            type_ = TensorType(dtype, tuple(Dim.const(n) for n in array.shape))
            ref = Ref(type_, True, array=array)
            self._constants[key] = ref
            self.constants.append(ref)
        return self._constants[key]

    def scalar(self, value: Scalar | int | float | bool, like: Ref) -> Ref:
        number = value.value if isinstance(value, Scalar) else value
        dtype = like.type.dtype
        if isinstance(number, Dim):
            if number.value is None:
                return self.cast(self.squeeze(self.dim(number), [0]), dtype)
            number = number.value
        return self.const(number, dtype)

    def dim(self, dim: Dim) -> Ref:
        return self._sizes.dim(dim)

    def shape(self, dims: Sequence[Dim]) -> Ref:
        return self._sizes.shape(dims)

    # ---- extern operations -------------------------------------------------------------------------------------------

    def extern(self, op: Extern, *operands: Ref | None) -> Ref | tuple[Ref, ...]:
        return lower(self, op, operands)

    # ---- changes of form that may turn out to be none ----------------------------------------------------------------

    def reshape(self, x: Ref, dims: Sequence[Dim]) -> Ref:
        dims = tuple(dims)
        type_ = TensorType(x.type.dtype, dims)
        old = x.type.shape if x.known else ()
        if x.known and old == dims:
            return x
        doubtful = [axis for axis, dim in enumerate(dims) if may_be_zero(dim)]  # where 0 would be read as "copy"
        target: list[Dim | None] = [dim if dim.value is not None else None for dim in dims]
        for axis, dim in enumerate(dims):
            if target[axis] is None and axis < len(old) and old[axis] == dim:
                target[axis] = _COPY
        left = [axis for axis, size in enumerate(target) if size is None]
        if left and not [axis for axis in doubtful if axis != left[-1]]:
            target[left.pop()] = _REST
        if (left and doubtful) or any(dim.value == 0 for dim in dims):
            return self("Reshape", x, self.shape(dims), type=type_, allowzero=1)
        sizes = [dim if size is None else size for dim, size in zip(dims, target, strict=True)]
        return self("Reshape", x, self.shape(sizes), type=type_)

    def transpose(self, x: Ref, perm: Sequence[int]) -> Ref:
        if list(perm) == list(range(len(perm))):
            return x
        made = self("Transpose", x, perm=list(perm))
        if x.name in self.parameters and made.hint is None:
            made.hint = f"{x.name}.T"
        return made

    def cast(self, x: Ref, dtype: DType) -> Ref:
        if self.element(x.type.dtype) == self.element(dtype):
            return x
        return self("Cast", x, type=x.type.with_dtype(dtype) if x.known else None, to=dtype)

    def unsqueeze(self, x: Ref, axes: Sequence[int]) -> Ref:
        if not axes:
            return x
        if not x.known:
            return self("Unsqueeze", x, self.const(list(axes), DType.I64))
        rank = x.type.rank + len(axes)
        places = sorted(axis % rank for axis in axes)
        shape = list(x.type.shape)
        for place in places:
            shape.insert(place, Dim.const(1))
        type_ = TensorType(x.type.dtype, tuple(shape))
        return self("Unsqueeze", x, self.const(places, DType.I64), type=type_)

    def squeeze(self, x: Ref, axes: Sequence[int]) -> Ref:
        if not axes:
            return x
        if not x.known:
            return self("Squeeze", x, self.const(list(axes), DType.I64))
        places = sorted(axis % x.type.rank for axis in axes)
        shape = [size for axis, size in enumerate(x.type.shape) if axis not in places]
        type_ = TensorType(x.type.dtype, tuple(shape))
        return self("Squeeze", x, self.const(places, DType.I64), type=type_)


def _hashable(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    tobytes = getattr(value, "tobytes", None)
    return (value.shape, str(value.dtype), tobytes()) if tobytes else (type(value), value)

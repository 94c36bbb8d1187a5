"""Functions of one number, element by element, and the choices between two: `maximum`, `minimum`, `where`."""

from __future__ import annotations

import math
from typing import ClassVar

from specc.dims import Dim, Facts
from specc.op import Emitter, Handle, Number, Op, OpError, Saved, Tensor, TorchText
from specc.ops import expect
from specc.ops.arithmetic import require_bool
from specc.ops.broadcasting import Element, arithmetic_dtype, broadcast, common_dtype, handles
from specc.types import DType, Scalar, TensorType


class Pointwise(Op):
    """One floating-point tensor in, the same type out."""

    elementwise = True
    x: ClassVar[Tensor]

    torch_call: ClassVar[str]
    """The call with `{x}` for the operand."""
    onnx_type: ClassVar[str]

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        expect.floating(x, operand=0, what=f"{self.name}'s argument")
        return x

    def torch(self, t: TorchText, x: str) -> str:
        return self.torch_call.format(x=x)

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        return emit(self.onnx_type, x)


class Numeric(Pointwise):
    """The same for tensors of ints too."""

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        arithmetic_dtype((x,), f"take {self.name} of")
        return x


class Exp(Pointwise):
    """e**x.

    example: exp(x: Tensor[B, T]) -> Tensor[B, T]
    example: exp(x: Int[B]) -> error S301
    """

    keeps = Saved(results=(0,))
    name = "exp"
    torch_call = "{x}.exp()"
    onnx_type = "Exp"


class Log(Pointwise):
    """The natural logarithm.

    example: log(x: Tensor[B, T]) -> Tensor[B, T]
    """

    name = "log"
    torch_call = "{x}.log()"
    onnx_type = "Log"


class Log1p(Pointwise):
    """log(1 + x), accurate near 0.

    ONNX has no such operator. With u = 1 + x as rounded, log(u) * x/(u - 1) corrects the rounding of u (Goldberg, "What
    every computer scientist should know about floating-point arithmetic", 1991, theorem 4).

    example: log1p(x: Tensor[B, T]) -> Tensor[B, T]
    """

    name = "log1p"
    torch_call = "{x}.log1p()"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        one = emit.scalar(1.0, x)
        u = emit("Add", x, one)
        corrected = emit("Mul", emit("Log", u), emit("Div", x, emit("Sub", u, one)))
        unchanged = emit("Or", emit("Equal", u, one), emit("Equal", x, emit.scalar(math.inf, x)))
        return emit("Where", unchanged, x, corrected)


class Sqrt(Pointwise):
    """The square root.

    example: sqrt(x: Tensor[B, T]) -> Tensor[B, T]
    """

    keeps = Saved(results=(0,))
    name = "sqrt"
    torch_call = "{x}.sqrt()"
    onnx_type = "Sqrt"


class Rsqrt(Pointwise):
    """1 / sqrt(x).

    example: rsqrt(x: Tensor[B, T]) -> Tensor[B, T]
    """

    keeps = Saved(results=(0,))
    name = "rsqrt"
    torch_call = "{x}.rsqrt()"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        return emit("Reciprocal", emit("Sqrt", x))


class Abs(Numeric):
    """The absolute value.

    example: abs(x: Tensor[B, T]) -> Tensor[B, T]
    example: abs(x: Int[B, T]) -> Int[B, T]
    """

    name = "abs"
    torch_call = "{x}.abs()"
    onnx_type = "Abs"


class Sin(Pointwise):
    """The sine; x in radians.

    example: sin(x: Tensor[B, T]) -> Tensor[B, T]
    """

    name = "sin"
    torch_call = "{x}.sin()"
    onnx_type = "Sin"


class Cos(Pointwise):
    """The cosine; x in radians.

    example: cos(x: Tensor[B, T]) -> Tensor[B, T]
    """

    name = "cos"
    torch_call = "{x}.cos()"
    onnx_type = "Cos"


class Erf(Pointwise):
    """The error function, 2/sqrt(pi) times the integral of exp(-t**2) from 0 to x.

    example: erf(x: Tensor[B, T]) -> Tensor[B, T]
    """

    name = "erf"
    torch_call = "torch.erf({x})"
    onnx_type = "Erf"


class Floor(Pointwise):
    """The largest whole number that is at most x.

    example: floor(x: Tensor[B, T]) -> Tensor[B, T]
    """

    keeps = Saved()
    name = "floor"
    torch_call = "{x}.floor()"
    onnx_type = "Floor"


class Ceil(Pointwise):
    """The smallest whole number that is at least x.

    example: ceil(x: Tensor[B, T]) -> Tensor[B, T]
    """

    keeps = Saved()
    name = "ceil"
    torch_call = "{x}.ceil()"
    onnx_type = "Ceil"


class Sign(Numeric):
    """-1, 0 or 1.

    example: sign(x: Tensor[B, T]) -> Tensor[B, T]
    example: sign(x: Int[B, T]) -> Int[B, T]
    """

    keeps = Saved()
    name = "sign"
    torch_call = "{x}.sign()"
    onnx_type = "Sign"


class Reciprocal(Pointwise):
    """1 / x.

    example: reciprocal(x: Tensor[B, T]) -> Tensor[B, T]
    """

    keeps = Saved(results=(0,))
    name = "reciprocal"
    torch_call = "{x}.reciprocal()"
    onnx_type = "Reciprocal"


class Square(Numeric):
    """x * x.

    example: square(x: Tensor[B, T]) -> Tensor[B, T]
    example: square(x: Int[B, T]) -> Int[B, T]
    """

    name = "square"
    torch_call = "{x}.square()"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        return emit("Mul", x, x)


class Clamp(Op):
    """x limited to min <= x <= max; either bound may be absent. Bounds of an Int tensor are whole.

    example: clamp(x: Tensor[B, T], min = -1.0, max = 0.5) -> Tensor[B, T]
    example: clamp(x: Tensor[B, T], min = 0.0) -> Tensor[B, T]
    example: clamp(x: Int[B, T], max = 3) -> Int[B, T]
    example: clamp(x: Int[B, T], max = 0.5) -> error S302
    """

    name = "clamp"
    elementwise = True
    x: ClassVar[Tensor]
    min: float | None = None
    max: float | None = None

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        dtype = arithmetic_dtype((x,), "clamp")
        expect.setting(self.min is not None or self.max is not None, "min", "clamp needs `min` or `max`")
        for name, bound in (("min", self.min), ("max", self.max)):
            if bound is not None and dtype.is_int and bound != int(bound):
                raise OpError("S302", f"clamp: `{name}` of an Int tensor must be whole, found {bound}", operand=name)
        return x

    def torch(self, t: TorchText, x: str) -> str:
        bounds = [f"{name}={self._bound(t, name)}" for name in ("min", "max") if getattr(self, name) is not None]
        return f"{x}.clamp({', '.join(bounds)})"

    def _bound(self, t: TorchText, name: str) -> str:
        operand = t.operands[0]
        text = t.attr(name)
        if isinstance(operand, TensorType) and operand.dtype.is_int and isinstance(getattr(self, name), float):
            return f"int({text})" if not text.endswith(".0") else text[:-2]  # torch would promote to float
        return text

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        bounds = [
            None if b is None else emit.scalar(int(b) if x.type.dtype.is_int else b, x) for b in (self.min, self.max)
        ]
        return emit("Clip", x, *bounds)


class Extremum(Op):
    """The larger or the smaller of two, with broadcasting."""

    elementwise = True
    x: ClassVar[Tensor | Number]
    y: ClassVar[Tensor | Number]

    bound: ClassVar[str]
    onnx_type: ClassVar[str]

    def infer(self, facts: Facts, x: Element, y: Element) -> TensorType:
        dtype = arithmetic_dtype((x, y), "compare")
        return TensorType(dtype, broadcast(facts, (x, y), "compare"))

    def torch(self, t: TorchText, x: str, y: str) -> str:
        for tensor, number, operand in ((x, y, t.operands[1]), (y, x, t.operands[0])):
            if isinstance(operand, Scalar):
                return f"{tensor}.clamp({self.bound}={number})"
        return f"torch.{self.name}({x}, {y})"

    def onnx(self, emit: Emitter, x: Handle | Scalar, y: Handle | Scalar) -> Handle:
        return emit(self.onnx_type, *handles(emit, x, y))


class Maximum(Extremum):
    """The larger of two.

    example: maximum(x: Tensor[B, T], y: Tensor[T]) -> Tensor[B, T]
    example: maximum(x: Int[B, T], 2) -> Int[B, T]
    """

    name = "maximum"
    bound = "min"
    onnx_type = "Max"


class Minimum(Extremum):
    """The smaller of two.

    example: minimum(x: Tensor[B, T], y: Tensor[B, 1]) -> Tensor[B, T]
    example: minimum(x: Int[B, T], T) -> Int[B, T]
    """

    name = "minimum"
    bound = "max"
    onnx_type = "Min"


class Where(Op):
    """x where the condition holds, else y. Two whole numbers make an Int tensor, otherwise two numbers make a Tensor.

    example: where(cond: Bool[B, T], x: Tensor[B, T], y: Tensor[T]) -> Tensor[B, T]
    example: where(cond: Bool[B, T], x: Tensor[B, T], 0.0) -> Tensor[B, T]
    example: where(cond: Bool[B, T], x: Bool[B, T], y: Bool[T]) -> Bool[B, T]
    example: where(cond: Bool[B, T], 8, 0) -> Int[B, T]
    example: where(cond: Bool[B, T], 0.5, 0) -> Tensor[B, T]
    example: where(cond: Tensor[B], x: Tensor[B], 0) -> error S301
    """

    keeps = Saved((0,))
    name = "where"
    elementwise = True
    cond: ClassVar[Tensor]
    x: ClassVar[Tensor | Number]
    y: ClassVar[Tensor | Number]

    def infer(self, facts: Facts, cond: TensorType, x: Element, y: Element) -> TensorType:
        require_bool(cond, 0, self.name)
        doing = "choose between"
        if isinstance(x, Scalar) and isinstance(y, Scalar):
            return TensorType(_numbers_dtype(x, y), cond.shape)
        return TensorType(common_dtype((x, y), doing), broadcast(facts, (cond, x, y), doing))

    def torch(self, t: TorchText, cond: str, x: str, y: str) -> str:
        chosen = f"torch.where({cond}, {x}, {y})"
        numbers = [o for o in t.operands[1:] if isinstance(o, Scalar)]
        if len(numbers) < 2 or not t.results[0].dtype.is_float:
            return chosen
        return f"{chosen}.to({t.dtype(DType.COMPUTE)})"  # numbers alone take torch's default dtype

    def onnx(self, emit: Emitter, cond: Handle, x: Handle | Scalar, y: Handle | Scalar) -> Handle:
        if isinstance(x, Scalar) and isinstance(y, Scalar):
            like = emit.const(0, _numbers_dtype(x, y))
            return emit("Where", cond, emit.scalar(x, like), emit.scalar(y, like))
        first, second = handles(emit, x, y)
        if first.type.dtype is DType.BOOL:  # onnxruntime has no kernel that chooses between bools
            return emit("Or", emit("And", cond, first), emit("And", emit("Not", cond, type=cond.type), second))
        return emit("Where", cond, first, second)


def _numbers_dtype(x: Scalar, y: Scalar) -> DType:
    """What two numbers become where no tensor decides."""
    kinds = {bool if isinstance(n.value, bool) else int if isinstance(n.value, Dim) else type(n.value) for n in (x, y)}
    if kinds == {bool}:
        return DType.BOOL
    if bool in kinds:
        raise OpError("S301", f"cannot choose between {x} and {y}", operand=2)
    return DType.I64 if kinds == {int} else DType.COMPUTE

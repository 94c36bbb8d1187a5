"""Arithmetic, comparison and logic of tensors, element by element with broadcasting (LANGUAGE 7).

Division and remainder of ints are Python's: rounded down, the remainder with the divisor's sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from specc.dims import Dim, Facts
from specc.op import Emitter, Handle, Number, Op, OpError, Saved, Tensor, TorchText
from specc.ops.broadcasting import Element, arithmetic_dtype, broadcast, common_dtype, handles
from specc.types import DType, Operand, Scalar, TensorType


class Binary(Op):
    """Two operands of one dtype; the result has that dtype."""

    syntax = True
    elementwise = True
    x: ClassVar[Tensor | Number]
    y: ClassVar[Tensor | Number]

    doing: ClassVar[str]
    onnx_type: ClassVar[str]

    def infer(self, facts: Facts, x: Element, y: Element) -> TensorType:
        dtype = arithmetic_dtype((x, y), self.doing)
        return TensorType(dtype, broadcast(facts, (x, y), self.doing))

    def torch(self, t: TorchText, x: str, y: str) -> str:
        return f"{x} {self.name} {y}"

    def onnx(self, emit: Emitter, x: Handle | Scalar, y: Handle | Scalar) -> Handle:
        return emit(self.onnx_type, *handles(emit, x, y))


class Add(Binary):
    """x + y.

    example: (x: Tensor[B, T, 8]) + (y: Tensor[8]) -> Tensor[B, T, 8]
    example: (x: Tensor[B, 1, 8]) + (y: Tensor[T, 1]) -> Tensor[B, T, 8]
    example: (x: Int[B, T]) + 2 -> Int[B, T]
    example: (x: Tensor[B, T]) + B -> Tensor[B, T]
    """

    keeps = Saved()
    name = "+"
    doing = "add"
    onnx_type = "Add"


class Subtract(Binary):
    """x - y.

    example: (x: Tensor[B, T, 8]) - (y: Tensor[]) -> Tensor[B, T, 8]
    example: 1 - (x: Tensor[B]) -> Tensor[B]
    """

    keeps = Saved()
    name = "-"
    doing = "subtract"
    onnx_type = "Sub"


class Multiply(Binary):
    """x * y.

    example: (x: Tensor[B, T, 8]) * (y: Tensor[T, 8]) -> Tensor[B, T, 8]
    example: (x: Tensor[B, T]) * 0.5 -> Tensor[B, T]
    """

    name = "*"
    doing = "multiply"
    onnx_type = "Mul"

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Operand) -> Saved:
        return Saved(operands=tuple(i for i in (0, 1) if needs[1 - i]))


class Divide(Binary):
    """x / y of floating-point tensors; ints have `//`.

    example: (x: Tensor[B, T, 8]) / (y: f32[]) -> error S301
    example: (x: Tensor[B, T, 8]) / (y: Tensor[B, 1, 8]) -> Tensor[B, T, 8]
    example: (x: Tensor[B, T]) / T -> Tensor[B, T]
    example: (x: Int[B]) / 2 -> error S301
    """

    name = "/"
    doing = "divide"
    onnx_type = "Div"

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Operand) -> Saved:
        return Saved(operands=(0, 1) if needs[1] else (1,))

    def infer(self, facts: Facts, x: Element, y: Element) -> TensorType:
        result = super().infer(facts, x, y)
        if not result.dtype.is_float:
            raise OpError(
                "S301",
                f"`/` divides floating-point tensors, found {result.dtype.spec_name}",
                operand=0,
                found=result.dtype.spec_name,
                help="`//` rounds down; or cast(x, f32)",
            )
        return result


class FloorDivide(Binary):
    """x // y: the quotient rounded down, of floats too.

    example: (x: Int[B, T]) // 3 -> Int[B, T]
    example: (x: Int[B, T]) // -3 -> Int[B, T]
    example: (x: Tensor[B, T]) // 0.25 -> Tensor[B, T]
    """

    name = "//"
    smooth = ()
    doing = "divide"
    onnx_type = "Div"

    def onnx(self, emit: Emitter, x: Handle | Scalar, y: Handle | Scalar) -> Handle:
        a, b = handles(emit, x, y)
        if a.type.dtype.is_int:  # ONNX truncates; what is exactly divisible has one quotient
            return emit("Div", emit("Sub", a, emit("Mod", a, b)), b)
        # a / b may round up to the next whole number, (a - a mod b) / b does not; torch computes it so too.
        exact = emit("Round", emit("Div", emit("Sub", a, float_remainder(emit, a, b)), b))
        if isinstance(y, Scalar) and y.value != 0:
            return exact
        return emit("Where", emit("Equal", b, emit.scalar(0, b)), emit("Div", a, b), exact)


class Modulo(Binary):
    """x % y: the remainder, with the sign of y.

    example: (x: Int[B, T]) % 3 -> Int[B, T]
    example: (x: Int[B, T]) % -3 -> Int[B, T]
    example: (x: Tensor[B, T]) % (y: Tensor[T]) -> Tensor[B, T]
    """

    name = "%"
    doing = "divide"
    onnx_type = "Mod"

    def onnx(self, emit: Emitter, x: Handle | Scalar, y: Handle | Scalar) -> Handle:
        a, b = handles(emit, x, y)
        return emit("Mod", a, b) if a.type.dtype.is_int else float_remainder(emit, a, b)


def float_remainder(emit: Emitter, a: Handle, b: Handle) -> Handle:
    """a - b*floor(a/b) without rounding: C's fmod has the sign of a, so b is added where the signs differ."""
    rest = emit("Mod", a, b, fmod=1)
    zero = emit.scalar(0, b)
    differ = emit("Less", emit("Mul", emit("Sign", rest), emit("Sign", b)), zero)
    return emit("Where", differ, emit("Add", rest, b), rest)


class Power(Binary):
    """x ** y. An Int tensor takes no negative number as exponent.

    example: (x: Tensor[B, T, 8]) ** 2 -> Tensor[B, T, 8]
    example: (x: Int[B]) ** 3 -> Int[B]
    example: 2 ** (x: Tensor[B, T]) -> Tensor[B, T]
    example: (x: Int[B]) ** -1 -> error S302
    """

    name = "**"
    doing = "raise to a power"
    onnx_type = "Pow"

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Operand) -> Saved:
        return Saved((0, 1), (0,) if needs[1] else ())

    def infer(self, facts: Facts, x: Element, y: Element) -> TensorType:
        result = super().infer(facts, x, y)
        if isinstance(y, Scalar) and result.dtype.is_int and not isinstance(y.value, Dim) and y.value < 0:
            raise OpError("S302", f"an Int tensor to the power {y} is no Int", operand=1, help="cast(x, f32) first")
        return result


class Negative(Op):
    """-x.

    example: -(x: Tensor[B, T]) -> Tensor[B, T]
    example: -(x: Int[B]) -> Int[B]
    """

    keeps = Saved()
    name = "unary -"
    elementwise = True
    syntax = True
    x: ClassVar[Tensor]

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        return x.with_dtype(arithmetic_dtype((x,), "negate"))

    def torch(self, t: TorchText, x: str) -> str:
        return f"-{x}"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        return emit("Neg", x)


# ---- comparisons and logic: Bool results ----------------------------------------------------------------------------


class Comparison(Binary):
    """Compares operands of one dtype; the result is Bool."""

    doing = "compare"
    negated: ClassVar[bool] = False

    def infer(self, facts: Facts, x: Element, y: Element) -> TensorType:
        if self.onnx_type == "Equal":
            common_dtype((x, y), self.doing)
        else:
            arithmetic_dtype((x, y), self.doing)
        return TensorType(DType.BOOL, broadcast(facts, (x, y), self.doing))

    def onnx(self, emit: Emitter, x: Handle | Scalar, y: Handle | Scalar) -> Handle:
        result = super().onnx(emit, x, y)
        return emit("Not", result) if self.negated else result


class Equal(Comparison):
    """Where x equals y.

    example: (x: Int[B, T]) == 3 -> Bool[B, T]
    example: (x: Bool[B, T]) == (y: Bool[T]) -> Bool[B, T]
    """

    name = "=="
    onnx_type = "Equal"


class NotEqual(Comparison):
    """Where x differs from y.

    example: (x: Int[B, T]) != 3 -> Bool[B, T]
    """

    name = "!="
    onnx_type = "Equal"
    negated = True


class Less(Comparison):
    """Where x is less than y.

    example: (x: Tensor[B, T]) < (y: Tensor[T]) -> Bool[B, T]
    """

    name = "<"
    onnx_type = "Less"


class LessEqual(Comparison):
    """Where x is at most y.

    example: (x: Int[T, 1]) <= (y: Int[B]) -> Bool[T, B]
    """

    name = "<="
    onnx_type = "LessOrEqual"


class Greater(Comparison):
    """Where x is greater than y.

    example: (x: Tensor[B, T]) > 0 -> Bool[B, T]
    example: (x: Int[B, T]) > (y: Tensor[B, T]) -> error S301
    """

    name = ">"
    onnx_type = "Greater"


class GreaterEqual(Comparison):
    """Where x is at least y.

    example: (x: Tensor[B, T]) >= (y: Tensor[B, T]) -> Bool[B, T]
    """

    name = ">="
    onnx_type = "GreaterOrEqual"


class Logic(Binary):
    """Combines Bool tensors."""

    torch_operator: ClassVar[str]

    def infer(self, facts: Facts, x: Element, y: Element) -> TensorType:
        for i, operand in enumerate((x, y)):
            require_bool(operand, i, self.name)
        return TensorType(DType.BOOL, broadcast(facts, (x, y), self.doing))

    def torch(self, t: TorchText, x: str, y: str) -> str:
        return f"{x} {self.torch_operator} {y}"


class And(Logic):
    """Where both are true.

    example: (x: Bool[B, T]) and (y: Bool[T]) -> Bool[B, T]
    example: (x: Tensor[B]) and (y: Bool[B]) -> error S301
    """

    name = "and"
    doing = "combine"
    onnx_type = "And"
    torch_operator = "&"


class Or(Logic):
    """Where either is true.

    example: (x: Bool[B, 1]) or (y: Bool[T]) -> Bool[B, T]
    """

    name = "or"
    doing = "combine"
    onnx_type = "Or"
    torch_operator = "|"


class Not(Op):
    """Where x is false.

    example: not (x: Bool[B, T]) -> Bool[B, T]
    """

    name = "not"
    elementwise = True
    syntax = True
    x: ClassVar[Tensor]

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        require_bool(x, 0, self.name)
        return x

    def torch(self, t: TorchText, x: str) -> str:
        return f"~{x}"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        return emit("Not", x)


def require_bool(operand: Element, index: int, name: str) -> None:
    """S301 unless the operand is a Bool tensor or a truth value."""
    dtype = operand.dtype.spec_name if isinstance(operand, TensorType) else None
    if dtype == "Bool" or (isinstance(operand, Scalar) and isinstance(operand.value, bool)):
        return
    raise OpError(
        "S301",
        f"`{name}` takes Bool tensors, found {operand}",
        operand=index,
        expected="Bool",
        found=str(operand),
        help="compare first:  x != 0",
    )

"""New tensors: constants, ranges, the identity matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from specc.dims import Dim, Facts
from specc.op import Cost, Dims, Emitter, Floats, Handle, Op, OpError, Saved, Step, Tensor, TorchText
from specc.ops import expect
from specc.ops.positions import counted
from specc.types import DType, Operand, TensorType


def filled(emit: Emitter, value: float, type_: TensorType) -> Handle:
    """A tensor of one number."""
    number = emit.const(value, type_.dtype)
    return emit("Expand", number, emit.shape(type_.shape), type=type_) if type_.rank else number


class Creation(Op):
    """Costs no arithmetic."""

    keeps = Saved()
    smooth = ()
    elementwise = True

    def cost(self, results: Sequence[TensorType], *operands: Operand) -> Cost:
        return Cost(Dim.const(0))


class Zeros(Creation):
    """All 0.

    example: zeros([B, 8]) -> Tensor[B, 8]
    example: zeros([2, 3]) -> Tensor[2, 3]
    """

    name = "zeros"
    sizes: Dims

    value: ClassVar[float] = 0.0

    def infer(self, facts: Facts) -> TensorType:
        for size in self.sizes:
            expect.not_negative(facts, size, operand="sizes", what="a size")
        return TensorType(DType.COMPUTE, self.sizes)

    def torch(self, t: TorchText) -> str:
        sizes = t.dims(self.sizes) if self.sizes else "()"
        return f"torch.{self.name}({sizes}, dtype={t.dtype(DType.COMPUTE)}, device={t.device()})"

    def onnx(self, emit: Emitter) -> Handle:
        return filled(emit, self.value, TensorType(DType.COMPUTE, self.sizes))


class Ones(Zeros):
    """All 1.

    example: ones([B, 8]) -> Tensor[B, 8]
    """

    name = "ones"
    value = 1.0


class Full(Zeros):
    """All v.

    example: full([B, T], 0.5) -> Tensor[B, T]
    example: full([], 2) -> Tensor[]
    """

    name = "full"
    v: float

    def torch(self, t: TorchText) -> str:
        sizes = t.dims(self.sizes) + ("," if len(self.sizes) == 1 else "")
        return f"torch.full(({sizes}), {t.attr('v')}, dtype={t.dtype(DType.COMPUTE)}, device={t.device()})"

    def onnx(self, emit: Emitter) -> Handle:
        return filled(emit, self.v, TensorType(DType.COMPUTE, self.sizes))


class ZerosLike(Creation):
    """All 0, in the type of x.

    example: zeros_like(x: Tensor[B, T]) -> Tensor[B, T]
    example: zeros_like(x: Int[B, T]) -> Int[B, T]
    """

    name = "zeros_like"
    x: ClassVar[Tensor]

    value: ClassVar[float] = 0.0

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        return x

    def torch(self, t: TorchText, x: str) -> str:
        return f"torch.{self.name}({x})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        return filled(emit, self.value, x.type)


class OnesLike(ZerosLike):
    """All 1, in the type of x.

    example: ones_like(x: Tensor[B, T]) -> Tensor[B, T]
    """

    name = "ones_like"
    value = 1.0


class Arange(Creation):
    """0, 1, .. D - 1.

    example: arange(T) -> Int[T]
    example: arange(5) -> Int[5]
    """

    name = "arange"
    D: Dim

    def infer(self, facts: Facts) -> TensorType:
        expect.not_negative(facts, self.D, operand="D", what="the size")
        return TensorType(DType.I64, (self.D,))

    def torch(self, t: TorchText) -> str:
        return f"torch.arange({t.dim(self.D)}, device={t.device()})"

    def onnx(self, emit: Emitter) -> Handle:
        return counted(emit, self.D)

    def stepwise(self, step: Step) -> None:
        if step.varies(self.D) and not step.is_wide(self.D):
            shown = self.D.label or self.D
            raise OpError(
                "D401",
                f"`arange({shown})` restarts at 0 in every decoding step",
                operand="D",
                help=f"positions({shown})",
            )


class FromList(Creation):
    """The numbers of a list, a constant f32[n].

    example: tensor([0.5, 1.0, 2.0]) -> f32[3]
    example: tensor([4, 1]) -> f32[2]
    """

    name = "tensor"
    values: Floats

    def infer(self, facts: Facts) -> TensorType:
        expect.setting(len(self.values) >= 1, "values", "a tensor of no numbers has no size")
        return TensorType(DType.F32, (Dim.const(len(self.values)),))

    def torch(self, t: TorchText) -> str:
        return f"torch.tensor({t.attr('values')}, dtype=torch.float32, device={t.device()})"

    def onnx(self, emit: Emitter) -> Handle:
        return emit.const(self.values, DType.F32)


class Eye(Creation):
    """The identity matrix.

    example: eye(3) -> Tensor[3, 3]
    example: eye(T) -> Tensor[T, T]
    """

    name = "eye"
    n: Dim

    def infer(self, facts: Facts) -> TensorType:
        expect.not_negative(facts, self.n, operand="n", what="the size")
        return TensorType(DType.COMPUTE, (self.n, self.n))

    def torch(self, t: TorchText) -> str:
        return f"torch.eye({t.dim(self.n)}, dtype={t.dtype(DType.COMPUTE)}, device={t.device()})"

    def onnx(self, emit: Emitter) -> Handle:
        return emit("EyeLike", filled(emit, 0.0, TensorType(DType.COMPUTE, (self.n, self.n))))

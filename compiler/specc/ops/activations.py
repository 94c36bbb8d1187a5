"""Activation functions (LANGUAGE 11): element by element, of floating-point tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from specc.dims import Dim, Facts
from specc.op import Axis, Emitter, Handle, Op, OpError, Saved, Tensor, TorchText, axis_index
from specc.ops import expect
from specc.ops.pointwise import Pointwise
from specc.types import Operand, TensorType


class Activation(Pointwise):
    """An activation that `torch.nn` also has as a module."""

    torch_module: ClassVar[str] = ""

    def module(self, t: TorchText) -> str | None:
        return self.torch_module or None


class Relu(Activation):
    """max(x, 0).

    example: relu(x: Tensor[B, T, 8]) -> Tensor[B, T, 8]
    """

    keeps = Saved(results=(0,))
    name = "relu"
    torch_call = "F.relu({x})"
    torch_module = "nn.ReLU()"
    onnx_type = "Relu"


class Gelu(Activation):
    """x/2 * (1 + erf(x/sqrt(2))) (Hendrycks and Gimpel, 2016).

    example: gelu(x: Tensor[B, T, 8]) -> Tensor[B, T, 8]
    """

    name = "gelu"
    torch_call = "F.gelu({x})"
    torch_module = "nn.GELU()"

    in_onnx = (("Gelu", 20),)

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        if emit.opset >= 20:
            return emit("Gelu", x)
        erf = emit("Erf", emit("Div", x, emit.scalar(math.sqrt(2.0), x)))
        return _gated_half(emit, x, erf)


class GeluTanh(Activation):
    """x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x**3))), the approximation that GPT-2 calls gelu.

    example: gelu_tanh(x: Tensor[B, T, 8]) -> Tensor[B, T, 8]
    """

    name = "gelu_tanh"
    torch_call = 'F.gelu({x}, approximate="tanh")'
    torch_module = 'nn.GELU(approximate="tanh")'

    in_onnx = (("Gelu", 20),)

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        if emit.opset >= 20:
            return emit("Gelu", x, approximate="tanh")
        cube = emit("Mul", emit("Mul", emit("Mul", x, x), x), emit.scalar(0.044715, x))
        inner = emit("Mul", emit("Add", x, cube), emit.scalar(math.sqrt(2.0 / math.pi), x))
        return _gated_half(emit, x, emit("Tanh", inner))


def _gated_half(emit: Emitter, x: Handle, gate: Handle) -> Handle:
    """x * (gate + 1) / 2, in the order of operations that onnxruntime recognises as GELU."""
    return emit("Mul", emit("Mul", x, emit("Add", gate, emit.scalar(1.0, x))), emit.scalar(0.5, x))


class QuickGelu(Activation):
    """x * sigmoid(1.702 x), the form of CLIP.

    example: quick_gelu(x: Tensor[B, T, 8]) -> Tensor[B, T, 8]
    """

    name = "quick_gelu"
    torch_call = "{x} * torch.sigmoid(1.702 * {x})"

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Operand) -> Saved:
        return Saved((0,), own=tuple(results))

    def torch(self, t: TorchText, x: str) -> str:
        x = x if x.isidentifier() else t.bind("x", x)
        return super().torch(t, x)

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        return emit("Mul", x, emit("Sigmoid", emit("Mul", x, emit.scalar(1.702, x))))


class Silu(Activation):
    """x * sigmoid(x), also called swish (Ramachandran et al., 2017).

    ONNX's `Swish` has no kernel in onnxruntime at opset 25 and above; it fuses these two nodes itself.

    example: silu(x: Tensor[B, T, 8]) -> Tensor[B, T, 8]
    """

    name = "silu"
    torch_call = "F.silu({x})"
    torch_module = "nn.SiLU()"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        return emit("Mul", x, emit("Sigmoid", x))


class Sigmoid(Activation):
    """1 / (1 + exp(-x)).

    example: sigmoid(x: Tensor[B, T, 8]) -> Tensor[B, T, 8]
    """

    keeps = Saved(results=(0,))
    name = "sigmoid"
    torch_call = "torch.sigmoid({x})"
    torch_module = "nn.Sigmoid()"
    onnx_type = "Sigmoid"


class Tanh(Activation):
    """The hyperbolic tangent.

    example: tanh(x: Tensor[B, T, 8]) -> Tensor[B, T, 8]
    """

    keeps = Saved(results=(0,))
    name = "tanh"
    torch_call = "torch.tanh({x})"
    torch_module = "nn.Tanh()"
    onnx_type = "Tanh"


class Softplus(Activation):
    """log(1 + exp(x)).

    example: softplus(x: Tensor[B, T, 8]) -> Tensor[B, T, 8]
    """

    name = "softplus"
    torch_call = "F.softplus({x})"
    torch_module = "nn.Softplus()"
    onnx_type = "Softplus"


class Mish(Activation):
    """x * tanh(softplus(x)) (Misra, 2019).

    example: mish(x: Tensor[B, T, 8]) -> Tensor[B, T, 8]
    """

    name = "mish"
    torch_call = "F.mish({x})"
    torch_module = "nn.Mish()"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        return emit("Mul", x, emit("Tanh", emit("Softplus", x)))


class HardSigmoid(Activation):
    """min(max(x/6 + 1/2, 0), 1).

    example: hardsigmoid(x: Tensor[B, T, 8]) -> Tensor[B, T, 8]
    """

    name = "hardsigmoid"
    torch_call = "F.hardsigmoid({x})"
    torch_module = "nn.Hardsigmoid()"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        return emit("HardSigmoid", x, alpha=1.0 / 6.0, beta=0.5)


class HardSwish(Activation):
    """x * hardsigmoid(x) (Howard et al., 2019).

    example: hardswish(x: Tensor[B, T, 8]) -> Tensor[B, T, 8]
    """

    name = "hardswish"
    torch_call = "F.hardswish({x})"
    torch_module = "nn.Hardswish()"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        return emit("Mul", x, emit("HardSigmoid", x, alpha=1.0 / 6.0, beta=0.5))


class Softsign(Activation):
    """x / (1 + |x|).

    example: softsign(x: Tensor[B, T, 8]) -> Tensor[B, T, 8]
    """

    name = "softsign"
    torch_call = "F.softsign({x})"
    torch_module = "nn.Softsign()"
    onnx_type = "Softsign"

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Operand) -> Saved:
        return Saved((0,), own=tuple(results))


class Identity(Activation):
    """x; of any type.

    example: identity(x: Tensor[B, T, 8]) -> Tensor[B, T, 8]
    example: identity(x: Int[B, T]) -> Int[B, T]
    """

    keeps = Saved()
    name = "identity"
    torch_call = "{x}"
    torch_module = "nn.Identity()"

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        return x

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        return x


class LeakyRelu(Activation):
    """x where x > 0, else slope * x.

    example: leaky_relu(x: Tensor[B, T, 8], slope = 0.2) -> Tensor[B, T, 8]
    """

    name = "leaky_relu"
    slope: float = 0.01

    def torch(self, t: TorchText, x: str) -> str:
        return f"F.leaky_relu({x}, {t.attr('slope')})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        return emit("LeakyRelu", x, alpha=float(self.slope))

    def module(self, t: TorchText) -> str | None:
        return f"nn.LeakyReLU({t.attr('slope')})"


class Elu(Activation):
    """x where x > 0, else alpha * (exp(x) - 1) (Clevert et al., 2015).

    example: elu(x: Tensor[B, T, 8], alpha = 0.5) -> Tensor[B, T, 8]
    """

    name = "elu"
    alpha: float = 1.0

    def torch(self, t: TorchText, x: str) -> str:
        return f"F.elu({x}, {t.attr('alpha')})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        return emit("Elu", x, alpha=float(self.alpha))

    def module(self, t: TorchText) -> str | None:
        return f"nn.ELU({t.attr('alpha')})"


class Prelu(Op):
    """x where x > 0, else w * x (He et al., 2015). w is one slope, or one for each size of axis 1.

    example: prelu(x: Tensor[B, 8, T], w: Tensor[8]) -> Tensor[B, 8, T]
    example: prelu(x: Tensor[B, T], w: Tensor[1]) -> Tensor[B, T]
    example: prelu(x: Tensor[B, 8, T], w: Tensor[7]) -> error S201
    """

    name = "prelu"
    elementwise = True
    x: ClassVar[Tensor]
    w: ClassVar[Tensor]

    def infer(self, facts: Facts, x: TensorType, w: TensorType) -> TensorType:
        expect.floating(x, operand=0, what="x")
        expect.same_dtype(w, x.dtype, operand=1, what="w")
        expect.rank(w, ["C"], operand=1, what="w")
        if w.shape[0] != 1:
            if x.rank < 2:
                raise OpError("S202", "x must have an axis 1, which w has its slopes for", operand=0, found=str(x))
            expect.size(facts, w.shape[0], x.shape[1], operand=1, what="axis 0 of w")
        return x

    def torch(self, t: TorchText, x: str, w: str) -> str:
        return f"F.prelu({x}, {w})"

    def onnx(self, emit: Emitter, x: Handle, w: Handle) -> Handle:
        if w.type.shape[0] != 1:
            w = emit.unsqueeze(w, range(1, x.type.rank - 1))
        return emit("PRelu", x, w)


class Softcap(Pointwise):
    """cap * tanh(x / cap): close to x for small x, never beyond +-cap (Gemma 2, 2024).

    example: softcap(x: Tensor[B, T, 8], cap = 3.0) -> Tensor[B, T, 8]
    """

    name = "softcap"
    cap: float

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Operand) -> Saved:
        return Saved(own=tuple(results))

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        expect.setting(self.cap > 0, "cap", f"softcap: `cap` must be positive, found {self.cap}")
        return super().infer(facts, x)

    def torch(self, t: TorchText, x: str) -> str:
        cap = t.attr("cap")
        return f"{cap} * torch.tanh({x} / {cap})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        cap = emit.scalar(self.cap, x)
        return emit("Mul", emit("Tanh", emit("Div", x, cap)), cap)


class Glu(Pointwise):
    """a * sigmoid(b), a and b being the two halves of x along an axis (Dauphin et al., 2016).

    example: glu(x: Tensor[B, T, 8]) -> Tensor[B, T, 4]
    example: glu(x: Tensor[B, 6, T], axis = 1) -> Tensor[B, 3, T]
    example: glu(x: Tensor[B, 7]) -> error S201
    """

    name = "glu"
    elementwise = False
    axis: Axis = -1

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        super().infer(facts, x)
        axis = axis_index(self.axis, x.rank)
        expect.multiple(facts, x.shape[axis], 2, operand=0, what=f"axis {axis} of x")
        return x.with_shape((*x.shape[:axis], x.shape[axis] // 2, *x.shape[axis + 1 :]))

    def torch(self, t: TorchText, x: str) -> str:
        return f"F.glu({x}, dim={t.attr('axis')})" if self.axis != -1 else f"F.glu({x})"

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        axis = axis_index(self.axis, x.type.rank)
        half: Dim = x.type.shape[axis] // 2
        type_ = x.type.with_shape((*x.type.shape[:axis], half, *x.type.shape[axis + 1 :]))
        sizes = emit.shape((half, half))  # an input, because `num_outputs` is an attribute from opset 18 on only
        a, b = emit.many("Split", 2, x, sizes, types=(type_, type_), axis=axis)
        return emit("Mul", a, emit("Sigmoid", b))

    def module(self, t: TorchText) -> str | None:
        return f"nn.GLU({t.attr('axis')})"

"""Randomness: what acts in training only, and draws for `when train`."""

from __future__ import annotations

from typing import ClassVar

from specc.dims import Facts
from specc.op import Dims, Emitter, Handle, Op, OpError, Tensor, TorchText
from specc.ops import expect
from specc.types import DType, TensorType


class TrainingNoise(Op):
    """The identity outside training."""

    elementwise = True
    train_only = True
    x: ClassVar[Tensor]
    p: float

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        expect.floating(x, operand=0, what="x")
        expect.setting(0 <= self.p < 1, "p", f"{self.name}: `p` must be at least 0 and below 1, found {self.p}")
        return x

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        return x


class Dropout(TrainingNoise):
    """Zeroes elements with probability p and scales the others by 1/(1 - p) (Srivastava et al., 2014).

    example: dropout(x: Tensor[B, T, 8], p = 0.1) -> Tensor[B, T, 8]
    example: dropout(x: Tensor[B, T, 8], p = 1.0) -> error E125
    """

    name = "dropout"

    def torch(self, t: TorchText, x: str) -> str:
        return f"F.dropout({x}, {t.attr('p')}, self.training)"

    def module(self, t: TorchText) -> str | None:
        return f"nn.Dropout({t.attr('p')})"


class DropPath(TrainingNoise):
    """Zeroes whole samples (axis 0) with probability p and scales the others by 1/(1 - p) (Huang et al., 2016).

    example: drop_path(x: Tensor[B, T, 8], p = 0.1) -> Tensor[B, T, 8]
    """

    name = "drop_path"

    def torch(self, t: TorchText, x: str) -> str:
        return f"{t.helper('drop_path', _DROP_PATH)}({x}, {t.attr('p')}, self.training)"


_DROP_PATH = '''\
def drop_path(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """Zero whole samples with probability p, scale the others by 1 / (1 - p)."""
    if not training or p == 0.0:
        return x
    kept = torch.full((x.shape[0],) + (1,) * (x.dim() - 1), 1.0 - p, dtype=x.dtype, device=x.device)
    return x * torch.bernoulli(kept) / (1.0 - p)
'''


class Draw(Op):
    """A random tensor: in `when train` and train sections only, hence never in a graph."""

    random = True
    for_training = True

    def onnx(self, emit: Emitter, *operands: Handle) -> Handle:
        raise OpError("B601", f"`{self.name}` draws random numbers, which a graph for inference has none of")


class RandLike(Draw):
    """Uniform in 0 .. 1, in the shape of x.

    example: rand_like(x: Tensor[B, T]) -> Tensor[B, T]
    """

    name = "rand_like"
    x: ClassVar[Tensor]

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        expect.floating(x, operand=0, what="x")
        return x

    def torch(self, t: TorchText, x: str) -> str:
        return f"torch.{self.name}({x})"


class RandnLike(RandLike):
    """Standard normal, in the shape of x.

    example: randn_like(x: Tensor[B, T]) -> Tensor[B, T]
    """

    name = "randn_like"


class Randint(Draw):
    """Whole numbers of low .. high - 1, all alike.

    example: randint(0, 5, [B, 3]) -> Int[B, 3]
    example: randint(5, 5, [B]) -> error E125
    """

    name = "randint"
    low: int
    high: int
    sizes: Dims

    def infer(self, facts: Facts) -> TensorType:
        expect.setting(self.low < self.high, "high", f"randint: no number is at least {self.low} and below {self.high}")
        return TensorType(DType.I64, self.sizes)

    def torch(self, t: TorchText) -> str:
        sizes = t.dims(self.sizes) + ("," if len(self.sizes) == 1 else "")
        return f"torch.randint({t.attr('low')}, {t.attr('high')}, ({sizes}), device={t.device()})"


class Bernoulli(Draw):
    """1 with probability p, else 0.

    example: bernoulli(0.5, [B, 3]) -> Tensor[B, 3]
    """

    name = "bernoulli"
    p: float
    sizes: Dims

    def infer(self, facts: Facts) -> TensorType:
        expect.setting(0 <= self.p <= 1, "p", f"bernoulli: `p` must be in 0 .. 1, found {self.p}")
        return TensorType(DType.COMPUTE, self.sizes)

    def torch(self, t: TorchText) -> str:
        sizes = t.dims(self.sizes) + ("," if len(self.sizes) == 1 else "")
        like = f"dtype={t.dtype(DType.COMPUTE)}, device={t.device()}"
        return f"torch.bernoulli(torch.full(({sizes}), {t.attr('p')}, {like}))"


class CosineAlphaBar(Op):
    """What is left of an image after step t of `steps` steps of noise: the cosine schedule (Nichol & Dhariwal, 2021).

    f((t + 1)/steps)/f(0) with f(u) = cos((u + 0.008)/1.008 * pi/2)**2, t = 0 .. steps - 1; at least 0.

    example: cosine_alpha_bar(t: Int[B], steps = 10) -> Tensor[B]
    example: cosine_alpha_bar(t: Tensor[B], steps = 10) -> error S301
    """

    name = "cosine_alpha_bar"
    for_training = True
    t: ClassVar[Tensor]
    steps: int

    def infer(self, facts: Facts, t: TensorType) -> TensorType:
        expect.indices(t, operand=0, what="t")
        expect.setting(self.steps > 0, "steps", f"cosine_alpha_bar: `steps` must be above 0, found {self.steps}")
        return TensorType(DType.COMPUTE, t.shape)

    def torch(self, t: TorchText, x: str) -> str:
        function = t.helper("cosine_alpha_bar", _COSINE_ALPHA_BAR)
        return f"{function}({x}, {t.attr('steps')}).to({t.dtype(DType.COMPUTE)})"

    def onnx(self, emit: Emitter, t: Handle) -> Handle:
        raise OpError("B601", f"`{self.name}` is of training, which a graph for inference has none of")


_COSINE_ALPHA_BAR = '''\
def cosine_alpha_bar(t: torch.Tensor, steps: int) -> torch.Tensor:
    """What the cosine schedule leaves of an image after step t."""
    angle = ((t + 1) / steps + 0.008) / 1.008 * (math.pi / 2)
    return ((angle.cos() / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2).clamp(min=0.0)
'''

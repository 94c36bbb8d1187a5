"""State between decoding steps: the identity in a plain entry (LANGUAGE 13)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from specc.dims import Dim, Facts
from specc.op import Cost, Emitter, Handle, Op, OpError, Saved, Step, Tensor, TorchText
from specc.types import Operand, TensorType


def past(dim: Dim) -> Dim:
    """The number of positions along `dim` that are already cached; 0 in a plain entry."""
    return Dim.symbol(f"past({dim})")


class Kept(Op):
    """Gives back its operands."""

    keeps = Saved()
    elementwise = True

    def infer(self, facts: Facts, *xs: TensorType) -> TensorType | tuple[TensorType, ...]:
        return xs if len(xs) > 1 else xs[0]

    def views(self, order: Sequence[int] | None, *operands: Operand) -> bool:
        return True

    def torch(self, t: TorchText, *xs: str) -> str:
        return ", ".join(xs)

    def onnx(self, emit: Emitter, *xs: Handle) -> Handle | tuple[Handle, ...]:
        return xs if len(xs) > 1 else xs[0]

    def cost(self, results: Sequence[TensorType], *operands: Operand) -> Cost:
        return Cost(Dim.const(0))


class Cached(Kept):
    """The values of all earlier steps and then these, along the axis of size `along`: it becomes past(along) + along.

    In a plain entry past(along) is 0 and nothing happens.

    example: cached(k: Tensor[B, 2, T, 8], v: Tensor[B, 2, T, 6], along = T) -> Tensor[B, 2, K, 8], Tensor[B, 2, K, 6]
    example: cached(k: Tensor[B, T, 8], along = T) -> Tensor[B, K, 8]
    example: cached(k: Tensor[B, S, 8], along = T) -> error S230
    """

    name = "cached"
    xs: ClassVar[list[Tensor]]
    along: Dim

    def infer(self, facts: Facts, *xs: TensorType) -> TensorType | tuple[TensorType, ...]:
        grown = tuple(self._grown(i, x) for i, x in enumerate(xs))
        return grown if len(grown) > 1 else grown[0]

    def _grown(self, index: int, x: TensorType) -> TensorType:
        axes = [i for i, size in enumerate(x.shape) if size == self.along]
        if len(axes) != 1:
            have = "has no axis of that size" if not axes else f"has {self.along} {len(axes)} times"
            raise OpError("S230", f"`along = {self.along}`: the tensor {have}", operand=index, found=str(x))
        size = past(self.along) + self.along if self.along.is_symbol() else self.along
        return x.with_shape((*x.shape[: axes[0]], size, *x.shape[axes[0] + 1 :]))

    def axis(self, x: TensorType) -> int:
        """The axis of an operand that grows."""
        return next(i for i, size in enumerate(x.shape) if size == self.along)

    def stepwise(self, step: Step, *xs: TensorType) -> None:
        if self.along != step.size:
            shown = self.along.label or str(self.along)
            raise OpError(
                "D407",
                f"`cached` along {shown}: only the {step.size} new positions of a step can be appended",
                operand="along",
                help=f"along = {step.size}",
            )

    def torch_step(self, t: TorchText, step: Step, *xs: str) -> str:
        axes = [self.axis(x) for x in t.operands if isinstance(x, TensorType)]
        apart = len(set(axes)) > 1  # a latent [B, T, r] beside its key [B, 1, T, d]
        along = f"dims=({', '.join(map(str, axes))})" if apart else f"dim={axes[0]}"
        grown = f"cache.extend{'_each' if apart else ''}({', '.join(xs)}, {along})"
        return grown if len(xs) > 1 else f"{grown}[0]"


class Once(Kept):
    """Values that an incremental entry computes once a sequence, in an entry of their own.

    example: once(k: Tensor[B, 2, N, 8], v: Tensor[B, 2, N, 6]) -> Tensor[B, 2, N, 8], Tensor[B, 2, N, 6]
    example: once(k: Tensor[B, N, 8]) -> Tensor[B, N, 8]
    """

    name = "once"
    xs: ClassVar[list[Tensor]]


class Carried(Kept):
    """A recurrent state: `x` is its value before the first step.

    example: carried(x: Tensor[B, 8]) -> Tensor[B, 8]
    """

    name = "carried"
    x: ClassVar[Tensor]

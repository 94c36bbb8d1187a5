"""What one evaluation of an operator takes: arithmetic, and the memory that its gradient needs later."""

from __future__ import annotations

from dataclasses import dataclass

from specc.dims import Dim
from specc.types import TensorType

NOTHING = Dim.const(0)


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of one evaluation as a formula over the runtime dims; a multiply-add counts as two.

    `products`: how many of `flops` are of matrix products and convolutions, which is all that hardware peaks and
    torch's `FlopCounterMode` speak of.
    """

    flops: Dim
    products: Dim = NOTHING


@dataclass(frozen=True)
class Saved:
    """What torch keeps from the forward pass for the gradient: these operands, these results, and tensors of its own.

    `own` are of an element type and a shape each; parameters among the operands take nothing more. Of operands
    `in_order` a copy is kept where they do not lie in memory as they are counted.
    """

    operands: tuple[int, ...] = ()
    results: tuple[int, ...] = ()
    own: tuple[TensorType, ...] = ()
    in_order: tuple[int, ...] = ()

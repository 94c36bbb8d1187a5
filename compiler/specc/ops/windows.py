"""Windows that slide over the spatial axes of [B, C, ...]: what convolution and pooling share."""

from __future__ import annotations

from specc.dims import Dim, Facts
from specc.op import Ints, OpError
from specc.ops import expect
from specc.types import TensorType

SPATIAL = {1: ("T",), 2: ("Y", "X"), 3: ("Z", "Y", "X")}
"""Names of the spatial axes, for messages."""


def per_axis(value: int | Ints, axes: int, name: str, *, least: int) -> tuple[int, ...]:
    """One number per spatial axis, from an int or one per axis; E125 for another count or a value < `least`."""
    given = (value,) if isinstance(value, int) else tuple(value)
    if len(given) not in (1, axes):
        raise OpError("E125", f"{name} must be an int or {axes} ints, found {len(given)}", operand=name)
    expect.setting(min(given) >= least, name, f"{name} must be at least {least}, found {min(given)}")
    return given if len(given) == axes else given * axes


def is_default(value: int | Ints, default: int) -> bool:
    """Whether an option has its default on every axis, however it was written."""
    return all(v == default for v in ((value,) if isinstance(value, int) else value))


def both_sides(padding: tuple[int, ...]) -> list[int]:
    """ONNX `pads`: all begins, then all ends."""
    return [*padding, *padding]


def spatial_input(x: TensorType, axes: int) -> None:
    """A floating tensor [B, C, spatial..]; S202, S301."""
    expect.rank(x, ("B", "C", *SPATIAL[axes]), operand=0, what="x")
    expect.floating(x, operand=0, what="x")


def slide(
    facts: Facts,
    sizes: tuple[Dim, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...] | None = None,
) -> tuple[Dim, ...]:
    """(n + 2p - d(k - 1) - 1)//s + 1 per spatial axis; S222 where that may be negative.

    An axis that keeps its size keeps its label.
    """
    result = []
    for axis, n in enumerate(sizes):
        reach = (dilation[axis] if dilation else 1) * (kernel[axis] - 1) + 1
        out = (n + 2 * padding[axis] - reach) // stride[axis] + 1
        expect.not_negative(facts, out, operand=0, what=f"the result's size along {SPATIAL[len(sizes)][axis]}")
        result.append(n if out == n else out)
    return tuple(result)

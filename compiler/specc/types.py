"""Types of tensor values: an element type and one symbolic size per axis."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from specc.dims import Dim


class DType(Enum):
    """Element types. `COMPUTE` is what `Tensor` means: the build's compute dtype, a type of its own (LANGUAGE 8)."""

    COMPUTE = "Tensor"
    F64 = "f64"
    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    I64 = "i64"
    I32 = "i32"
    I16 = "i16"
    I8 = "i8"
    U8 = "u8"
    BOOL = "bool"

    @property
    def is_float(self) -> bool:
        return self in _FLOATS

    @property
    def is_int(self) -> bool:
        return self in _INTS

    @property
    def spec_name(self) -> str:
        """How a spec writes it: `Tensor`, `Int`, `Bool`, `f32` ..."""
        return _SPEC_NAMES.get(self, self.value)


_FLOATS = frozenset({DType.COMPUTE, DType.F64, DType.F32, DType.F16, DType.BF16})
_INTS = frozenset({DType.I64, DType.I32, DType.I16, DType.I8, DType.U8})
_SPEC_NAMES = {DType.I64: "Int", DType.BOOL: "Bool"}
TYPE_NAMES = {d.spec_name: d for d in DType} | {"i64": DType.I64}
"""Names of tensor types in a spec -> element type."""


@dataclass(frozen=True)
class TensorType:
    """An element type and a shape.

    A `Dim` may be a unit axis (`.unit`) and may know how the spec wrote it (`.label`).
    """

    dtype: DType
    shape: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    def with_shape(self, shape: tuple[Dim, ...]) -> TensorType:
        return TensorType(self.dtype, shape)

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def plain(self) -> TensorType:
        """The same type, of which nothing is known but sizes: no unit axes, no labels."""
        return TensorType(self.dtype, tuple(size.plain() for size in self.shape))

    def __str__(self) -> str:
        return f"{self.dtype.spec_name}[{', '.join(show_axes(self.shape))}]"


@dataclass(frozen=True)
class Scalar:
    """A compile-time number where an operator also takes a tensor: it adopts the dtype of the tensor it meets.

    A `Dim` is a runtime size used as a number (`x / T`).
    """

    value: int | float | bool | Dim
    label: str | None = None  # how the spec wrote it, if over hyper-parameters

    def __str__(self) -> str:
        return str(self.value)


Operand = TensorType | Scalar | None
"""What an operator sees of an argument before anything runs; None is an absent optional one."""

ELLIPSIS = "..."


def show_axes(shape: tuple[Dim, ...]) -> list[str]:
    """The sizes as a spec would write them.

    The axes a signature calls `...` are symbols `...0`, `...1`; they print as one `...`.
    """
    shown: list[str] = []
    for dim in shape:
        text = dim.label or str(dim)
        if text.startswith(ELLIPSIS):
            if not shown or shown[-1] != ELLIPSIS:
                shown.append(ELLIPSIS)
            continue
        shown.append(text)
    return shown

"""What an operator's lowerings may ask of the targets that they write for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from specc.dims import Dim
from specc.types import DType, Operand, Scalar, TensorType

if TYPE_CHECKING:
    from specc.op import Op

OPSETS = range(17, 27)
"""The versions of ONNX's operators that graphs are written in."""


class TorchText(Protocol):
    """What a torch lowering may ask of the emitter.

    Operands reach it as Python expressions that are safe to use anywhere.
    """

    operands: Sequence[Operand]
    results: Sequence[TensorType]

    def attr(self, name: str) -> str:
        """The attribute as Python: `self.dropout` where the spec used a hyper-parameter, else the literal."""

    def dim(self, dim: Dim) -> str:
        """A size as Python: a local like `T`, `self.heads`, or an int."""

    def dims(self, dims: Sequence[Dim]) -> str:
        """Sizes joined by commas (no parentheses)."""

    def dtype(self, dtype: DType) -> str:
        """`torch.float32`, or for the compute dtype the dtype of a floating tensor in scope (`x.dtype`)."""

    def device(self) -> str:
        """`x.device` of a tensor in scope."""

    def bind(self, hint: str, expression: str) -> str:
        """Assign `expression` to a local variable before this statement; returns its name."""

    def helper(self, name: str, source: str) -> str:
        """Put a module-level function (its complete source) into the emitted file once; returns its name."""

    def extern(self, file: str) -> str:
        """Import the Python file of an extern function; returns the name of the module."""


class Handle(Protocol):
    """A value of the ONNX graph under construction."""

    name: str
    type: TensorType  # exact for operands; inside one lowering the emitter may not know a shape


class Emitter(Protocol):
    """What an ONNX lowering may ask of the emitter."""

    opset: int

    def __call__(
        self, op_type: str, *inputs: Handle | None, type: TensorType | None = None, domain: str = "", **attributes: Any
    ) -> Handle:
        """Add a node with one output.

        `type` is the output's type if it is neither the operator's result nor the first input's.
        """

    def many(
        self,
        op_type: str,
        count: int,
        *inputs: Handle | None,
        types: Sequence[TensorType] = (),
        domain: str = "",
        **attributes: Any,
    ) -> tuple[Handle, ...]:
        """Add a node with several outputs."""

    def const(self, value: Any, dtype: DType) -> Handle:
        """A small constant (number, nested list or numpy array) as an initializer; equal ones are shared."""

    def scalar(self, value: Scalar | int | float | bool, like: Handle) -> Handle:
        """A number in the dtype of `like`; also a runtime size used as a number."""

    def dim(self, dim: Dim) -> Handle:
        """A size as int64[1]: a constant, or computed from the inputs' shapes (once per graph)."""

    def shape(self, dims: Sequence[Dim]) -> Handle:
        """Sizes as int64[n]."""

    def reshape(self, x: Handle, dims: Sequence[Dim]) -> Handle:
        """The cheapest reshape: nothing if the sizes are equal; 0 and -1 instead of computed shapes where they can say
        it.
        """

    def transpose(self, x: Handle, perm: Sequence[int]) -> Handle:
        """Transpose, or nothing for the identity."""

    def cast(self, x: Handle, dtype: DType) -> Handle:
        """Cast, or nothing if it is that dtype already."""

    def extern(self, op: Op, *operands: Handle | None) -> Handle | tuple[Handle, ...]:
        """What the `onnx` function of an extern operation's file builds."""

    def unsqueeze(self, x: Handle, axes: Sequence[int]) -> Handle: ...

    def squeeze(self, x: Handle, axes: Sequence[int]) -> Handle: ...


class Packed(Protocol):
    """A matrix [rows, width] that is stored in few bits."""

    def product(self, x: Handle, added: Handle | None = None) -> Handle:
        """x @ w^T + added: [.., width] gives [.., rows]; `added` is [rows]."""

    def look_up(self, ids: Handle) -> Handle:
        """Rows ids[..]: [.., width]."""


@dataclass(frozen=True)
class Buffer:
    """Keys and values in buffers with room for more, row by row as long as the row's text (onnxruntime-genai).

    `mask`: the Bool[B, S] of the entry that says which positions are text, if it has one; `last`: i32[B], the number
    of positions of each row, less 1; `total`: i32[], the largest of them.
    """

    mask: Handle | None
    last: Handle
    total: Handle


@dataclass(frozen=True)
class Step:
    """The axis that an incremental entry (LANGUAGE 13) grows along: `size` new positions after `past` earlier ones.

    Sizes are those of whoever asks: the entry's, or a block's own. `start` is `past` as an ONNX value where it is no
    size of the graph (a static cache). `buffer`: attention itself writes keys and values into buffers.
    """

    size: Dim
    past: Dim
    start: Handle | None = None
    buffer: Buffer | None = None

    def varies(self, dim: Dim) -> bool:
        """Whether a size depends on how many positions a step has, or had before it."""
        return any(symbol in dim.symbols for symbol in (*self.size.symbols, *self.past.symbols))

    def is_wide(self, dim: Dim) -> bool:
        """Whether a size counts all positions so far."""
        return any(symbol in dim.symbols for symbol in self.past.symbols)

"""An `extern fn`: an operation whose lowerings are Python functions in a file beside the spec (LANGUAGE 19).

The signature in the spec decides shapes and dtypes; this operator carries it to the backends. Nothing here opens the
file: emitted torch source imports the copy that lies beside it, and the ONNX emitter is handed what was loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from keyword import iskeyword
from typing import Any

from specc.dims import Dim, Facts
from specc.op import Emitter, Handle, Op, TorchText
from specc.types import Operand, TensorType


class Extern(Op):
    """One call of an extern function.

    `file` is relative to the project's root; `tensors` are the names of the operands and `settings` the compile-time
    arguments, each in the order of the signature; `results` are the types that the signature declares. `free` tells, by
    operand, how many axes come before and after a `...` in its type; None where there is none.
    """

    function: str
    file: str
    tensors: tuple[str, ...]
    settings: tuple[tuple[str, Any], ...]
    results: tuple[TensorType, ...]
    free: tuple[tuple[int, int] | None, ...]

    def infer(self, facts: Facts, *operands: Operand) -> TensorType | tuple[TensorType, ...]:
        return self.results if len(self.results) > 1 else self.results[0]

    def substitute(self, env: Mapping[str, Dim | int]) -> Op:
        results = tuple(r.with_shape(tuple(d.substitute(env) for d in r.shape)) for r in self.results)
        return self if results == self.results else self.replace(results=results)

    def mixes(self, *operands: Operand) -> tuple[tuple[int, ...], ...]:
        """Every axis that the signature names: nothing is known of what the function does along it."""
        mixed: list[tuple[int, ...]] = []
        for operand, free in zip(operands, self.free, strict=True):
            rank = operand.rank if isinstance(operand, TensorType) else 0
            before, after = free if free is not None else (rank, 0)
            mixed.append((*range(min(before, rank)), *range(max(rank - after, before), rank)))
        return tuple(mixed)

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of a call that are no tensors; a name that Python reserves gets an underscore."""
        return {argument_name(name): value for name, value in self.settings}

    def torch(self, t: TorchText, *operands: str | None) -> str:
        given = list(zip(self.tensors, operands, strict=True))
        positional = next((i for i, (_, text) in enumerate(given) if text is None), len(given))
        words = [text for _, text in given[:positional] if text is not None]
        words += [f"{argument_name(name)}={text}" for name, text in given[positional:]]
        words += [f"{name}={value!r}" for name, value in self.arguments().items()]
        return f"{t.extern(self.file)}.torch({', '.join(words)})"

    def onnx(self, emit: Emitter, *operands: Any) -> Handle | tuple[Handle, ...]:
        return emit.extern(self, *operands)


def argument_name(name: str) -> str:
    """A parameter of the signature as the Python functions call it."""
    return f"{name}_" if iskeyword(name) else name


Extern.name = "extern"  # set here: a class that states its name is a built-in function of every spec

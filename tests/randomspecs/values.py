"""Values in scope, arguments, and what the bodies of one spec share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from specc.dims import Dim
from specc.types import DType, TensorType

from .bounds import Bound

FLOATS = (DType.COMPUTE, DType.F32)
PRIMES = {"B": 2, "T": 3, "N": 5}
"""About the sizes at which the programs run."""
ELEMENTS = 4_000
RANK = 6
TEXT = 24
"""Longest text of one size: deeper quotients are another test's subject (tests/test_dims.py)."""


class Unfit(Exception):
    """The step cannot be written here; another one is."""


Choose = Callable[[int], int]
"""n -> a number in 0 .. n-1; 0 is the simplest choice."""


@dataclass(eq=False)
class Value:
    """A tensor in scope. `text` is a name, or the expression itself, which then stands where it is used (once)."""

    text: str
    type: TensorType
    bound: Bound
    used: int = 0

    @property
    def named(self) -> bool:
        return self.text.isidentifier()

    @property
    def atom(self) -> str:
        return self.text if self.named else f"({self.text})"

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS


@dataclass(frozen=True)
class Argument:
    name: str
    type: TensorType
    bound: Bound
    optional: bool = False


@dataclass
class File:
    """What the bodies of one spec share: imports, file-level declarations, names."""

    choose: Choose
    imports: dict[str, set[str]] = field(default_factory=dict)
    declarations: list[str] = field(default_factory=list)
    dims: list[str] = field(default_factory=lambda: ["B", "T", "N", "X", "M", "K", "P", "Q", "R", "U"])
    count: int = 0
    budget: int = 40

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def std(self, module: str, name: str) -> str:
        self.imports.setdefault(module, set()).add(name)
        return name


Number = int | float | Dim

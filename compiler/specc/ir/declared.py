"""What a block says of itself beside its parts: its hyper-parameters, and how its parameters begin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from specc.source import Span


@dataclass(frozen=True)
class Hyper:
    """A hyper-parameter or `let` of a module: its value, and for a let or a derived default how it was written."""

    name: str
    value: Any  # int float bool str None, tuple of those, DType; a fn or block value appears as its text
    label: str | None
    is_let: bool
    kind: str  # int | float | bool | str | list | fn | block | dtype, with "?" if optional
    origin: str  # "default of GPT2 (gpt2.spec:36)", 'preset "mine" (mine.spec:4)', "--set heads=7", ...


@dataclass(frozen=True)
class Initializer:
    """`normal(0.02)`: name and arguments as numbers; `labels` as in Apply."""

    name: str
    args: Mapping[str, Any]
    labels: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v}' for k, v in self.args.items())})"


@dataclass(frozen=True)
class InitRule:
    """`block`.`parameter` of every instance of that block below here, or a `pattern` of paths below the module."""

    block: str | None
    parameter: str | None
    pattern: str | None
    init: Initializer
    span: Span

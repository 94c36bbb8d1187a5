"""What a method must know of its class and file."""

from __future__ import annotations

from typing import Protocol

from specc.backends.torch.labels import Scope
from specc.ir.graph import Graph, Path, Value


class Surroundings(Protocol):
    """`optional`: arguments that calls may leave out; `reserved`: names that locals may not take."""

    scope: Scope
    optional: frozenset[str]
    reserved: frozenset[str]

    def is_sequential(self, path: Path) -> bool: ...

    def list_length(self, path: Path) -> int | None: ...

    def constant(self, value: Value) -> str | None: ...

    def method_name(self, graph: Graph) -> str: ...

    def trains(self, function: str) -> bool: ...

    def helper(self, name: str, source: str) -> str: ...

    def extern(self, file: str) -> str: ...

    def floating_source(self) -> str | None: ...

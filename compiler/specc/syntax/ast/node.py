"""What every node of the syntax tree is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

from specc.source import Span

_T = TypeVar("_T")


@dataclass_transform(eq_default=False)
def node(cls: type[_T]) -> type[_T]:
    """Nodes compare by identity: two places of a text are two nodes. `eq=False` also keeps class creation cheap."""
    return dataclass(eq=False, repr=False)(cls)


@node
class Node:
    span: Span

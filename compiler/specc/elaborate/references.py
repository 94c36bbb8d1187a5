"""What names in bodies stand for besides tensors and numbers: parts, methods, and values that were already reported."""

from __future__ import annotations

from dataclasses import dataclass

from specc.elaborate.blocks import Instance
from specc.ir.graph import Member, Path
from specc.syntax import ast


@dataclass(frozen=True, eq=False)
class PartRef:
    """A part, list or group of the block at hand (or of a part of it). `owner`: the instance whose text declares it."""

    path: Path
    member: Member
    owner: Instance


@dataclass(frozen=True, eq=False)
class ListRef:
    """A compile-time list that holds parts: a slice or `reversed` of a list of parts."""

    items: tuple[PartRef, ...]


@dataclass(frozen=True, eq=False)
class MethodRef:
    """`part.method` or a method of this block (`path` is ())."""

    path: Path
    instance: Instance
    method: ast.Method


class Poison:
    """The value of a name whose statement was reported: whatever uses it is not checked further."""


POISON = Poison()

"""What names in bodies stand for besides tensors and numbers: parts, methods, and values that were already reported."""

from __future__ import annotations

from dataclasses import dataclass

from specc.elaborate.instances import Instance
from specc.ir.graph import Absent, Member, Path
from specc.syntax import ast


@dataclass(frozen=True, eq=False)
class PartRef:
    """A part, list or group of the block at hand (or of a part of it). `owner`: the instance whose text declares it."""

    path: Path
    member: Member
    owner: Instance
    local: Path  # the path as seen by the owner


@dataclass(frozen=True)
class AbsentRef(Absent):
    """A member that this configuration does not have: `none` as a value, S140 when called."""

    owner: Instance | None = None
    key: str = ""


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

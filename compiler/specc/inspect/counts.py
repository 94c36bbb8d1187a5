"""How many parameters a module has, and how many bytes they take: counted once per distinct module.

A model of 80 equal layers has one `Module` for all of them, so nothing here walks the 80.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from specc.ir.graph import Function, Member, Module, Parameter, PartGroup, PartList, Path, Submodule
from specc.ir.members import element_count
from specc.types import DType

BYTES = {
    DType.COMPUTE: 4, DType.F64: 8, DType.F32: 4, DType.F16: 2, DType.BF16: 2,
    DType.I64: 8, DType.I32: 4, DType.I16: 2, DType.I8: 1, DType.U8: 1, DType.BOOL: 1,
}  # fmt: skip
"""Bytes of one element, the compute dtype being f32."""
WIDTHS = {"f32": 4, "f16": 2, "bf16": 2}
"""Bytes of an element of the compute dtype, by the names that builds have for it."""


@dataclass(frozen=True)
class Count:
    """`parameters`: trainable elements. `bytes`: of those and the buffers. Tied ones are counted once."""

    parameters: int = 0
    bytes: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.parameters + other.parameters, self.bytes + other.bytes)

    def __sub__(self, other: Count) -> Count:
        return Count(self.parameters - other.parameters, self.bytes - other.bytes)


class Counts:
    """Counts of modules, each computed once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Module, Count]] = {}  # keeps the module, so that its id stays its own
        self._with_ties: dict[int, bool] = {}

    def of(self, module: Module, tied: Iterable[Path] = ()) -> Count:
        """The count of a module in which `tied` parameters (and those of its own ties) are aliases of others."""
        if id(module) not in self._known:
            total = sum((self._member(member) for member in module.members.values()), Count())
            for tie in module.ties:
                total -= self._alias(module, tie.left)
            self._known[id(module)] = module, total
        count = self._known[id(module)][1]
        for path in tied:
            if all(tie.left != path for tie in module.ties):
                count -= self._alias(module, path)
        return count

    def aliases(self, module: Module, prefix: Path = ()) -> Iterator[tuple[Path, Path]]:
        """Every tie of a tree as (alias, what it stands for); only parts that contain ties are walked."""
        for tie in module.ties:
            yield (*prefix, *tie.left), (*prefix, *tie.right)
        for name, member in module.members.items():
            yield from self._aliases(member, (*prefix, name))

    def _aliases(self, member: Member, path: Path) -> Iterator[tuple[Path, Path]]:
        if isinstance(member, Submodule):
            if self._has_ties(member.module):
                yield from self.aliases(member.module, path)
        elif isinstance(member, PartList):
            for i, item in enumerate(member.items):
                yield from self._aliases(item, (*path, i))
        elif isinstance(member, PartGroup):
            for name, item in member.members.items():
                yield from self._aliases(item, (*path, name))

    def _has_ties(self, module: Module) -> bool:
        if id(module) not in self._with_ties:
            parts = {id(part): part for member in module.members.values() for part in _parts(member)}
            self._with_ties[id(module)] = bool(module.ties) or any(self._has_ties(part) for part in parts.values())
        return self._with_ties[id(module)]

    def _member(self, member: Member) -> Count:
        if isinstance(member, Parameter):
            elements = element_count(member.type)
            return Count(0 if member.buffer else elements, elements * BYTES[member.type.dtype])
        if isinstance(member, Submodule):
            return self.of(member.module)
        if isinstance(member, Function):
            return Count()
        items = member.items if isinstance(member, PartList) else member.members.values()
        return sum((self._member(item) for item in items), Count())

    def _alias(self, module: Module, path: Path) -> Count:
        """What one alias saves: nothing if a block on the way to it has tied it already."""
        member: Member | None = None
        members = module.members
        for at, segment in enumerate(path):
            if isinstance(member, PartList):
                assert isinstance(segment, int)
                member = member.items[segment]
            else:
                member = members[str(segment)]
            if isinstance(member, Submodule):
                if any(tie.left == path[at + 1 :] for tie in member.module.ties):
                    return Count()
                members = member.module.members
            elif isinstance(member, PartGroup):
                members = member.members
        return self._member(member) if member is not None else Count()


def _parts(member: Member) -> Iterator[Module]:
    if isinstance(member, Submodule):
        yield member.module
    elif isinstance(member, (PartList, PartGroup)):
        for item in member.items if isinstance(member, PartList) else member.members.values():
            yield from _parts(item)

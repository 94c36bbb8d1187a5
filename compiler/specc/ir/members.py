"""Walking a tree of modules: its members by path, its parameters by state_dict name, what is tied to what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from specc.ir.graph import Member, Module, Parameter, PartGroup, PartList, Path, Submodule, dotted
from specc.types import TensorType


def walk_members(module: Module, prefix: Path = ()) -> Iterator[tuple[Path, Member, Module]]:
    """Every member below a module with its full path, in declaration order; parts before what they contain."""
    waiting = _inside(module.members, prefix, module)
    while waiting:
        path, member, owner = found = waiting.pop()
        yield found
        if isinstance(member, Submodule):
            waiting += _inside(member.module.members, path, member.module)
        elif isinstance(member, PartList):
            waiting += [((*path, i), item, owner) for i, item in enumerate(member.items)][::-1]
        elif isinstance(member, PartGroup):
            waiting += _inside(member.members, path, owner)


def _inside(members: Mapping[str, Member], path: Path, owner: Module) -> list[tuple[Path, Member, Module]]:
    """The last one first."""
    return [((*path, name), member, owner) for name, member in members.items()][::-1]


def distinct_modules(module: Module) -> list[Module]:
    """A module and every module below it, each once, without going through instances one by one."""
    found: dict[int, Module] = {id(module): module}
    stack: list[Member] = list(module.members.values())
    seen: set[int] = set()
    while stack:
        member = stack.pop()
        if id(member) in seen:
            continue
        seen.add(id(member))
        if isinstance(member, Submodule):
            if id(member.module) not in found:
                found[id(member.module)] = member.module
                stack += member.module.members.values()
        elif isinstance(member, PartList):
            stack += member.items
        elif isinstance(member, PartGroup):
            stack += member.members.values()
    return list(found.values())


def parameters(module: Module) -> dict[str, Parameter]:
    """State_dict name -> parameter or buffer, ties included, in torch's order of registration."""
    return {dotted(path): member for path, member, _ in walk_members(module) if isinstance(member, Parameter)}


def aliases(module: Module) -> dict[str, str]:
    """Tied name -> the name it stands for (fully resolved), over the whole tree."""
    direct: dict[str, str] = {}
    if not any(owner.ties for owner in distinct_modules(module)):
        return direct
    stack: list[tuple[Path, Module]] = [((), module)]
    stack += [(path, member.module) for path, member, _ in walk_members(module) if isinstance(member, Submodule)]
    for prefix, owner in stack:
        for tie in owner.ties:
            direct[dotted((*prefix, *tie.left))] = dotted((*prefix, *tie.right))
    return {left: _follow(direct, right) for left, right in direct.items()}


def _follow(direct: Mapping[str, str], name: str) -> str:
    seen = set()
    while name in direct and name not in seen:
        seen.add(name)
        name = direct[name]
    return name


def element_count(type_: TensorType) -> int:
    """Elements of a static type."""
    count = 1
    for dim in type_.shape:
        assert dim.value is not None, f"{type_} is not static"
        count *= dim.value
    return count


def parameter_count(module: Module) -> int:
    """Trainable elements, tied ones counted once: what `sum(p.numel() for p in m.parameters())` gives."""
    tied = aliases(module)
    return sum(element_count(p.type) for name, p in parameters(module).items() if not p.buffer and name not in tied)


def member_at(module: Module, path: Path) -> Member | None:
    """The member a path names, through lists, groups and parts."""
    found: Member | None = None
    members: Mapping[str, Member] = module.members
    for segment in path:
        if isinstance(segment, int):
            assert isinstance(found, PartList)
            found = found.items[segment]
        else:
            found = members[segment]
        if isinstance(found, Submodule):
            members = found.module.members
        elif isinstance(found, PartGroup):
            members = found.members
    return found

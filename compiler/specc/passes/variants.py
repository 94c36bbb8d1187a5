"""Names for blocks that are built in several ways: the plainest is `Attention`, others say how they differ from it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from specc.ir.graph import Member, Module, Parameter, PartGroup, PartList, Submodule
from specc.ir.members import walk_members

Names = dict[Module, str]
Blocks = Mapping[str, Sequence[Sequence[Module]]]
"""Block -> its variants, each with the modules that are to have one name."""

_ROUNDS = 8  # a name may follow from those of parts; deeper nesting than this keeps the names found so far


def named(model: Module) -> Names:
    """A name for every module: its block's, where all modules of the block have the same switches and parts."""
    blocks: dict[str, dict[str, list[Module]]] = {}
    kinds: Names = {}  # blocks of the model's own, numbered: what contains different ones differs
    for module in children_first(model):
        alike = repr((_switches(module), _parts(module, kinds), _given(module)))
        variants = blocks.setdefault(module.name, {})
        variants.setdefault(alike, []).append(module)
        if module.torch_class is None:
            kinds[module] = f"{module.name} {list(variants).index(alike)}"
    return variant_names({block: list(variants.values()) for block, variants in blocks.items()})


def variant_names(blocks: Blocks) -> Names:
    """A name for each variant. The plainest has the block's, the others say in what they differ.

    Said are switches (`Causal`, `NoBias`, `Window` for a window where the plainest has none), else parts, else optional
    arguments, else numbers (`Stride2`), as few as tell a variant from all others. Where nothing of this tells two apart
    they have one name.
    """
    names: Names = {}
    for _ in range(_ROUNDS):
        before = dict(names)
        for block, variants in blocks.items():
            looks = [_Look.of(modules, before) for modules in variants]
            for modules, mark in zip(variants, _marks(looks), strict=True):
                names.update(dict.fromkeys(modules, mark + block))
        if names == before:
            break
    return names


@dataclass(frozen=True)
class _Look:
    """What a variant shows. `settings`: hyper-parameters that all its modules agree on; `parts`: path -> name."""

    settings: Mapping[str, object]
    parts: Mapping[str, str]
    given: tuple[str, ...]

    @classmethod
    def of(cls, modules: Sequence[Module], names: Names) -> _Look:
        first, *rest = [{h.name: h.value for h in m.hypers if not h.kind.startswith("block")} for m in modules]
        settings = {n: v for n, v in first.items() if all(repr(other.get(n, ...)) == repr(v) for other in rest)}
        given = dict.fromkeys(name for module in modules for name in _given(module))
        return cls(settings, _parts(modules[0], names), tuple(given))


def _marks(looks: Sequence[_Look]) -> list[str]:
    """The words before the block's name, for each variant."""
    known = [n for n in looks[0].settings if all(n in look.settings for look in looks)]
    differing = [n for n in known if len({repr(look.settings[n]) for look in looks}) > 1]
    switches = [n for n in differing if any(_is_switch(look.settings[n]) for look in looks)]

    def plainness(i: int) -> tuple[int, ...]:
        look = looks[i]
        longest = sum(map(len, look.parts.values()))  # a part's plainest variant has the shortest name
        return sum(bool(look.settings[n]) for n in switches), len(look.parts), longest, len(look.given), i

    base = looks[min(range(len(looks)), key=plainness)]
    kinds: list[list[list[str]]] = [[], [], [], []]
    for look in looks:
        ours, plain = look.settings, base.settings
        kinds[0].append([m for n in switches if ours[n] != plain[n] and (m := _switch_mark(n, ours[n], plain[n]))])
        kinds[1].append(_part_marks(look.parts, base.parts))
        kinds[2].append([_words(name) for name in look.given if name not in base.given])
        kinds[3].append([_words(f"{n}_{ours[n]}") for n in differing if n not in switches and ours[n] != plain[n]])
    stages = [
        [[mark for kind in kinds[:k] for mark in kind[i]] for i in range(len(looks))] for k in range(1, len(kinds) + 1)
    ]
    return ["" if look is base else _chosen(i, stages) for i, look in enumerate(looks)]


def _chosen(i: int, stages: Sequence[Sequence[list[str]]]) -> str:
    """The fewest words of one variant that no other has all of; or all it has, where no other has the same."""
    for marks in stages:
        others = [set(theirs) for k, theirs in enumerate(marks) if k != i]
        for count in range(1, len(marks[i]) + 1):
            for some in combinations(dict.fromkeys(marks[i]), count):
                if not any(theirs.issuperset(some) for theirs in others):
                    return "".join(some)
        if marks[i] and set(marks[i]) not in others:
            return "".join(dict.fromkeys(marks[i]))
    return ""


def _is_switch(value: object) -> bool:
    """Whether a hyper-parameter of this value turns something on or off: a flag, a choice, nothing at all, a zero."""
    return isinstance(value, (bool, str)) or value is None or value == 0


def _switches(module: Module) -> dict[str, object]:
    """Switches by their values, of other hyper-parameters that there is one."""
    values = {h.name: h.value for h in module.hypers if not h.kind.startswith("block")}
    return {name: value if _is_switch(value) else ... for name, value in values.items()}


def _switch_mark(name: str, value: object, plain: object) -> str:
    """A word for how a variant differs from the plainest: `Causal`, `NoBias`, `Window`, `Gelu`."""
    if isinstance(value, str):
        return "".join(part.capitalize() for part in re.findall(r"[A-Za-z0-9]+", value)[:2])
    if not value:
        return f"No{_words(name)}"
    return _words(name) if value is True or not plain else ""


def _words(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in re.findall(r"[A-Za-z0-9]+", name))


def _given(module: Module) -> tuple[str, ...]:
    """Optional arguments that some call gives, in the order of the signature."""
    given = (a.name for graph in module.graphs.values() for a in graph.inputs if a.optional and a.value is not None)
    return tuple(dict.fromkeys(given))


def _parts(module: Module, names: Names) -> dict[str, str]:
    """Path -> the name of what stands there, without what does nothing."""
    found: dict[str, str] = {}

    def visit(path: str, member: Member) -> None:
        if isinstance(member, PartGroup):
            for name, item in member.members.items():
                visit(f"{path}.{name}", item)
        elif isinstance(member, PartList):
            found[path] = "list"
        elif isinstance(member, Parameter):
            found[path] = "parameter"
        elif isinstance(member, Submodule) and member.module.name != "Identity":
            found[path] = names.get(member.module, member.module.name)

    for name, member in module.members.items():
        visit(name, member)
    return found


def _part_marks(parts: Mapping[str, str], plain: Mapping[str, str]) -> list[str]:
    """`Skip` for a part or group that the plainest lacks, `NoSkip`; the word of a part that differs: `CausalLayer` of
    one.
    """

    def word(path: str, others: Mapping[str, str]) -> str:
        whole, _, _ = path.partition(".")
        lone = any(other.partition(".")[0] == whole for other in others)
        return _words(path.split(".")[-1] if lone else whole)

    marks = []
    for path, kind in parts.items():
        theirs = plain.get(path, "")
        if kind != theirs:
            variant = kind.removesuffix(theirs) if theirs else kind
            marks.append(variant if variant != kind and variant else word(path, plain))
    marks += [f"No{word(path, parts)}" for path in plain if path not in parts]
    return list(dict.fromkeys(marks))


def children_first(top: Module) -> Iterator[Module]:
    """Every distinct module below and with `top`, parts before what contains them."""
    seen: set[Module] = set()

    def visit(module: Module) -> Iterator[Module]:
        if module in seen:
            return
        seen.add(module)
        for _, member, owner in walk_members(module):
            if owner is module and isinstance(member, Submodule):
                yield from visit(member.module)
        yield module

    return visit(top)

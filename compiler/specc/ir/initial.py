"""Which initialiser each parameter gets (LANGUAGE 5): its declaration, then inner blocks' `init`, then outer; the last
match wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from specc.ir.declared import Initializer, InitRule
from specc.ir.graph import Member, Module, Parameter, PartGroup, PartList, Path, Submodule, dotted
from specc.ir.members import aliases, distinct_modules, walk_members


def initializers(module: Module) -> dict[str, Initializer | None]:
    """State_dict name -> initialiser of every parameter and buffer that is no alias."""
    tied = aliases(module)
    chosen = {name: init for name, (_, init, _) in _resolved(module).items()}
    return {name: init for name, init in chosen.items() if name not in tied}


def missing_initializers(module: Module) -> Iterator[tuple[str, Parameter]]:
    """Parameters that nothing initialises, one finding per declaration."""
    if all(one.init is not None for owner in distinct_modules(module) for one in _own_parameters(owner)):
        return  # the usual case, told without walking over every instance
    tied = aliases(module)
    seen: set[int] = set()
    for name, (parameter, init, _) in _resolved(module).items():
        if init is None and name not in tied and id(parameter) not in seen:
            seen.add(id(parameter))
            yield name, parameter


def unused_patterns(module: Module) -> list[InitRule]:
    """Rules of `init` sections whose path pattern matches no parameter."""
    stated = {id(rule): rule for owner in distinct_modules(module) for rule in owner.inits if rule.pattern is not None}
    if not stated:
        return []
    used = {id(rule) for _, _, rules in _resolved(module).values() for rule in rules}
    return [rule for key, rule in stated.items() if key not in used]


def _own_parameters(module: Module) -> Iterator[Parameter]:
    """The parameters that a module itself declares, in groups too."""
    stack: list[Member] = list(module.members.values())
    while stack:
        member = stack.pop()
        if isinstance(member, Parameter):
            yield member
        elif isinstance(member, PartGroup):
            stack += member.members.values()
        elif isinstance(member, PartList):
            stack += member.items


Resolved = dict[str, tuple[Parameter, Initializer | None, list[InitRule]]]


def _resolved(module: Module) -> Resolved:
    """Per parameter: its declaration, the initialiser in force, every rule that matched."""
    found: Resolved = {}
    chain: dict[Path, tuple[tuple[Path, Module], ...]] = {(): (((), module),)}
    for path, member, owner in walk_members(module):
        parents = _chain_of(chain, path)
        if isinstance(member, Submodule):
            chain[path] = (*parents, (path, member.module))
        elif isinstance(member, Parameter):
            init, rules = member.init, []
            for prefix, holder in reversed(parents):
                for rule in holder.inits:
                    if _matches(rule, path[len(prefix) :], owner.name, member.name):
                        init = rule.init
                        rules.append(rule)
            found[dotted(path)] = (member, init, rules)
    return found


def _chain_of(chain: dict[Path, tuple[tuple[Path, Module], ...]], path: Path) -> tuple[tuple[Path, Module], ...]:
    for end in range(len(path) - 1, -1, -1):
        if path[:end] in chain:
            return chain[path[:end]]
    raise AssertionError("the root is in the chain")


def _matches(rule: InitRule, path: Path, block: str, parameter: str) -> bool:
    if rule.pattern is None:
        return rule.block == block and rule.parameter == parameter
    return path_pattern(rule.pattern).fullmatch(dotted(path)) is not None


@lru_cache(maxsize=1024)
def path_pattern(pattern: str) -> re.Pattern[str]:
    """`*` any rest, `{i}` one integer; no nested repetition, so matching is linear."""
    pieces = re.split(r"(\*|\{\w+\})", pattern)
    return re.compile("".join(".*" if p == "*" else r"\d+" if p.startswith("{") else re.escape(p) for p in pieces))

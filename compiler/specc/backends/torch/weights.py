"""Initial values: of a module's own parameters, and the `init` sections that override those of its parts.

Emitted constructors make parts first, so that an outer section overrides an inner one and both override declarations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from specc import initializers
from specc.backends.torch.labels import Scope
from specc.backends.torch.leaves import leaf_of
from specc.backends.torch.printer import constant, literal, tidy
from specc.backends.torch.statements import Block, Line, Statement, assign
from specc.ir.declared import Initializer, InitRule
from specc.ir.graph import Module, Parameter, Submodule, dotted
from specc.ir.members import aliases, parameters, walk_members


def initial(
    init: Initializer | None, arguments: Mapping[str, str], sizes: Sequence[str], option: str, target: str
) -> tuple[str, list[str]]:
    """The tensor that a parameter starts as, and statements that fill it where no creating function does."""
    shape = ", ".join(sizes) or "()"
    name = init.name if init is not None else None
    if name in ("zeros", "ones"):
        return _call(f"torch.{name}", shape, option), []
    if name == "constant":
        return _call("torch.full", f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})", arguments["v"], option), []
    empty = _call("torch.empty", shape, option)
    return empty, [] if init is None else initializers.torch(init.name, arguments, target).splitlines()


def _call(function: str, *arguments: str) -> str:
    return f"{function}({', '.join(a for a in arguments if a)})"


class InitSection:
    """The `init` rules of one module as statements of its `__init__`, before its ties."""

    def __init__(
        self, module: Module, scope: Scope, class_of: Callable[[Module], str], helper: Callable[[str, str], str]
    ) -> None:
        self.module, self.scope, self.class_of, self.helper = module, scope, class_of, helper
        self.names = {name: p for name, p in parameters(module).items() if not p.buffer}
        inner = dict(aliases(module))
        for tie in module.ties:
            inner.pop(dotted(tie.left), None)
        self.shared = frozenset(inner)

    def statements(self) -> list[Statement]:
        done: list[Statement] = []
        by_class: dict[str, list[Statement]] = {}
        for rule in self.module.inits:
            matched = self._matched(rule)
            if self.shared & set(matched):
                done += self._flush(by_class)
                done += [
                    line for name in matched if name not in self.shared for line in self._fill(rule, _access(name))
                ]
            elif rule.pattern is None:
                for condition, lines in self._of_blocks(rule).items():
                    by_class.setdefault(condition, []).extend(lines)
            else:
                done += self._flush(by_class)
                done += self._of_pattern(rule, rule.pattern, matched)
        return done + self._flush(by_class)

    def _flush(self, by_class: dict[str, list[Statement]]) -> list[Statement]:
        """One loop over the modules for the block rules so far."""
        chain: tuple[Statement, ...] = ()
        for condition, lines in reversed(by_class.items()):
            chain = (Block(f"if {condition}", tuple(lines), chain),)
        by_class.clear()
        return [Block("for module in self.modules()", chain)] if chain else []

    def _fill(self, rule: InitRule, target: str) -> list[Statement]:
        if rule.init.name in initializers.HELPERS:
            self.helper(rule.init.name, initializers.HELPERS[rule.init.name])
        labels = rule.init.labels
        arguments = {k: self.scope.init(labels.get(k), v) or literal(v) for k, v in rule.init.args.items()}
        return [Line("", (), tidy(line)) for line in initializers.torch(rule.init.name, arguments, target).splitlines()]

    # ---- block rules ---------------------------------------------------------------------------------------------

    def _instances(self, rule: InitRule) -> list[Module]:
        found = [
            m.module
            for _, m, _ in walk_members(self.module)
            if isinstance(m, Submodule) and m.module.name == rule.block
        ]
        return list(dict.fromkeys(found))

    def _of_blocks(self, rule: InitRule) -> dict[str, list[Statement]]:
        """`isinstance` condition -> statements."""
        modules = self._instances(rule)
        having = [m for m in modules if isinstance(m.members.get(rule.parameter or ""), Parameter)]
        classes = list(dict.fromkeys(self._class(m) for m in having))
        if not classes:
            return {}
        lines = self._fill(rule, f"module.{rule.parameter}")
        if any(leaf_of(m) is not None and m not in having for m in modules):
            lines = [Block(f"if module.{rule.parameter} is not None", tuple(lines))]
        kinds = classes[0] if len(classes) == 1 else f"({', '.join(classes)})"
        return {f"isinstance(module, {kinds})": lines}

    def _class(self, module: Module) -> str:
        leaf = leaf_of(module)
        return f"nn.{leaf.name}" if leaf is not None else self.class_of(module)

    # ---- patterns ------------------------------------------------------------------------------------------------

    def _matched(self, rule: InitRule) -> list[str]:
        if rule.pattern is not None:
            pattern = _regex(rule.pattern)
            return [name for name in self.names if pattern.fullmatch(name)]
        owners: list[str] = []
        for path, member, _ in walk_members(self.module):
            if isinstance(member, Submodule) and member.module.name == rule.block:
                name = dotted((*path, rule.parameter or ""))
                owners += [name] if name in self.names else []
        return owners

    def _of_pattern(self, rule: InitRule, pattern: str, matched: list[str]) -> list[Statement]:
        if not matched:
            return []
        if len(matched) == 1:
            return self._fill(rule, _access(matched[0]))
        lines, test = tuple(self._fill(rule, "parameter")), self._test(pattern, matched)
        names: list[Statement] = []
        if test is None:
            names, test = [assign("names", f"({', '.join(map(constant, matched))})")], "name in names"
        return [*names, Block("for name, parameter in self.named_parameters()", (Block(f"if {test}", lines),))]

    def _test(self, pattern: str, matched: list[str]) -> str | None:
        """The plainest test that picks the same names as the pattern, if the pattern's ends say it."""
        head, star, tail = pattern.partition("*")
        tests: list[tuple[str, Callable[[str], bool]]] = []
        if star and not head:
            tests.append((f"name.endswith({constant(tail)})", lambda n: n.endswith(tail)))
        elif star and not tail:
            tests.append((f"name.startswith({constant(head)})", lambda n: n.startswith(head)))
        elif star:
            both = f"name.startswith({constant(head)}) and name.endswith({constant(tail)})"
            tests.append((both, lambda n: n.startswith(head) and n.endswith(tail)))
        last = re.sub(r"^.*[*}]", "", pattern)
        tests.append((f"name.endswith({constant(last)})", lambda n: n.endswith(last)))
        for text, test in tests:
            if [n for n in self.names if test(n)] == matched:
                return text
        return None


def _regex(pattern: str) -> re.Pattern[str]:
    """`{i}` is one integer, `*` any rest (LANGUAGE 15)."""
    parts = re.split(r"(\{[^}]*\}|\*)", pattern)
    return re.compile("".join(r"\d+" if p.startswith("{") else ".*" if p == "*" else re.escape(p) for p in parts))


def _access(name: str) -> str:
    """`self.h[0].attn.c_proj.weight` for a state_dict name."""
    return "self" + "".join(f"[{s}]" if s.isdigit() else f".{s}" for s in name.split("."))

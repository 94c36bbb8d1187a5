"""LALR tables of `grammar.lark`: built by Lark, stored as JSON, read without importing Lark.

Lark compiles the grammar (0.15 s and an import); what a parse needs of the result are plain numbers and
patterns, so they
are kept as JSON: reading them is fast and, unlike Lark's own cache, executes nothing. Looked for next to the grammar
(written when a wheel is built), then in the user's own cache folder, else built. A file that is damaged or not
the user's
own is never used.
"""

from __future__ import annotations

import json
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

FORMAT = 2
GRAMMAR = Path(__file__).with_name("grammar.lark")
PACKAGED = Path(__file__).with_name("grammar.tables.json")

Match = Callable[[str, int], "re.Match[str] | None"]
Candidates = tuple[tuple[str, Match, bool], ...]
"""Terminals to try at a place, in order: name, matcher, whether a value is kept of it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A production. `keep` says how the values of its symbols become children: position, and whether to splice
    that child.

    A spliced child is a list. A position of -1 is an optional symbol that was left out (None).
    """

    origin: str
    size: int
    action: str | None  # name of the node; None: the children themselves, spliced into the parent
    expand_single: bool  # a single child takes the place of the node
    keep: tuple[tuple[int, bool], ...]

    @property
    def is_single(self) -> bool:
        """Always gives its only child, never a node."""
        return self.expand_single and len(self.keep) == 1 and not self.keep[0][1]

    @property
    def is_unit(self) -> bool:
        """The value of the only symbol is the value of the rule."""
        return self.size == 1 and self.keep == ((0, False),) and self.expand_single


@dataclass
class Tables:
    """What the parser runs on. States and rows are numbers; equal rows are shared."""

    start: int
    end: int  # the state behind a whole file
    fresh: frozenset[int]  # states in which a new statement, member or item may start
    rules: list[Rule]
    actions: list[dict[str, int]]  # per state: terminal -> next state, or ~rule to reduce
    gotos: list[dict[str, int]]  # per state: nonterminal -> next state
    symbols: list[str]  # per state: the symbol that leads to it
    terminals: dict[str, tuple[str, str]]  # in lexing order: name -> pattern, characters it can start with
    _matchers: dict[str, Match] = field(default_factory=dict)
    _candidates: dict[tuple[int, str], Candidates] = field(default_factory=dict)

    def candidates(self, state: int, char: str) -> Candidates:
        """The terminals that are legal in a state and can start with `char`. A pattern is compiled when first
        needed."""
        row = self.actions[state]
        key = (id(row), char)  # equal rows are one object, and live as long as the tables
        found = self._candidates.get(key)
        if found is None:
            found = tuple(
                (name, self._matcher(name), name[0] != "_")
                for name, (_, first) in self.terminals.items()
                if char in first and name in row
            )
            self._candidates[key] = found
        return found

    def _matcher(self, name: str) -> Match:
        matcher = self._matchers.get(name)
        if matcher is None:
            matcher = self._matchers[name] = re.compile(self.terminals[name][0]).match
        return matcher


@cache
def load() -> Tables:
    """The tables of the installed grammar."""
    grammar = GRAMMAR.read_text(encoding="utf-8")
    for path in (PACKAGED, _cache_file(grammar)):
        tables = path and _read(path, grammar)
        if tables:
            return tables
    data = build(grammar)
    _store(_cache_file(grammar), data)
    return _decode(json.loads(data))


def build(grammar: str) -> bytes:
    """The tables of a grammar, as the bytes of a JSON file."""
    from lark import Lark

    lark = Lark(grammar, parser="lalr", maybe_placeholders=True)
    front: Any = lark.parser
    table = front.parser._parse_table
    numbers = {rule: number for number, rule in enumerate(lark.rules)}
    rows: list[list[dict[str, int]]] = []
    row_numbers: dict[str, int] = {}
    states: list[int] = []
    order = _visited(table)  # Lark's own numbers follow its sets; the same grammar gives the same bytes
    renumbered = {state: number for number, state in enumerate(order)}
    symbols = [""] * len(order)
    # Helper rules of `(member _NL)*`: behind one, as behind `{` and a newline, the next statement starts.
    repeated = {rule.origin.name for rule in lark.rules if rule.expansion and rule.expansion[-1].name == "_NL"}
    starters = {"_NL", "LBRACE", *(name for name in repeated if name.startswith("__"))}
    terminal_names = {t.name for t in lark.terminals} | {"$END"}
    for state in order:
        actions: dict[str, int] = {}
        gotos: dict[str, int] = {}
        for symbol, (kind, target) in sorted(table.states[state].items()):
            if kind.name != "Shift":
                actions[symbol] = ~numbers[target]
                continue
            (actions if symbol in terminal_names else gotos)[symbol] = renumbered[target]
            symbols[renumbered[target]] = symbol
        row = json.dumps([actions, gotos])
        if row not in row_numbers:
            row_numbers[row] = len(rows)
            rows.append([actions, gotos])
        states.append(row_numbers[row])
    # The order in which Lark's own lexer tries terminals.
    terminals = sorted(lark.terminals, key=lambda t: (-t.priority, -t.pattern.max_width, -len(t.pattern.value), t.name))
    content = {
        "format": FORMAT,
        "grammar": grammar,  # whole: tables of another grammar are never taken for these
        "start": 0,
        "end": renumbered[table.end_states["start"]],
        "fresh": [n for n, symbol in enumerate(symbols) if symbol in starters or n == 0],
        "rules": [_rule(rule) for rule in lark.rules],
        "rows": rows,
        "states": states,
        "symbols": symbols,
        "terminals": [
            [t.name, t.pattern.to_regexp(), "".join(sorted(first_characters(t.pattern.to_regexp())))]
            for t in terminals
            if t.name not in lark.ignore_tokens
        ],
    }
    return json.dumps(content, separators=(",", ":")).encode()


def _visited(table: Any) -> list[int]:
    """Lark's states in the order in which a walk from the start meets them, symbols in alphabetical order."""
    order = [table.start_states["start"]]
    met = set(order)
    for state in order:
        for _, (kind, target) in sorted(table.states[state].items(), key=lambda item: item[0]):
            if kind.name == "Shift" and target not in met:
                met.add(target)
                order.append(target)
    return order


def _rule(rule: Any) -> list[Any]:
    """What the parser needs of one of Lark's productions; see `Rule`."""
    keep: list[tuple[int, bool]] = []
    empty = rule.options.empty_indices or (False,) * len(rule.expansion)
    taken = iter(range(len(rule.expansion)))
    for absent in empty:
        if absent:
            keep.append((-1, False))
            continue
        at = next(taken)
        symbol = rule.expansion[at]
        if not symbol.is_term:
            keep.append((at, symbol.name.startswith("_")))
        elif not symbol.filter_out:
            keep.append((at, False))
    origin = rule.origin.name
    spliced = origin.startswith("_") and not rule.alias
    action = None if spliced else rule.alias or origin
    return [origin, len(rule.expansion), action, bool(rule.options.expand1 and not rule.alias), keep]


def first_characters(pattern: str) -> set[str]:
    """The characters that a terminal can start with, for patterns made of literals, classes and alternatives."""
    found: set[str] = set()
    for branch in _alternatives(pattern):
        while branch.startswith(("(?!", "(?=")):
            branch = branch[_group_end(branch) :]
        if branch.startswith("(?:"):
            found |= first_characters(branch[3 : _group_end(branch) - 1])
        elif branch.startswith("["):
            members = re.compile(branch[: branch.index("]") + 1])
            found |= {c for c in map(chr, range(128)) if members.match(c)}
        else:
            found.add(branch[1] if branch.startswith("\\") else branch[0])
    return found


def _alternatives(pattern: str) -> list[str]:
    bars = [at for at, char, depth in _signs(pattern) if char == "|" and depth == 0]
    return [pattern[start + 1 : end] for start, end in pairwise([-1, *bars, len(pattern)])]


def _group_end(pattern: str) -> int:
    """The offset behind the group that a pattern starts with."""
    return next(at for at, char, depth in _signs(pattern) if char == ")" and depth == 0) + 1


def _signs(pattern: str) -> Iterator[tuple[int, str, int]]:
    """Offset and character of what may be a sign, for it is neither escaped nor in a class; how deep in groups it is.

    A group's own parentheses are as deep as what stands around it.
    """
    depth = at = 0
    while at < len(pattern):
        char = pattern[at]
        depth -= char == ")"
        if char == "\\":
            at += 1
        elif char == "[":
            at = pattern.index("]", at)
        else:
            yield at, char, depth
        depth += char == "("
        at += 1


def _decode(content: dict[str, Any]) -> Tables:
    rows = content["rows"]
    return Tables(
        start=content["start"],
        end=content["end"],
        fresh=frozenset(content["fresh"]),
        rules=[
            Rule(origin, size, action, single, tuple((at, splice) for at, splice in keep))
            for origin, size, action, single, keep in content["rules"]
        ],
        actions=[rows[number][0] for number in content["states"]],
        gotos=[rows[number][1] for number in content["states"]],
        symbols=content["symbols"],
        terminals={name: (pattern, first) for name, pattern, first in content["terminals"]},
    )


def _read(path: Path, grammar: str) -> Tables | None:
    """The tables in a file, or None if it is absent, damaged, of another grammar or not to be trusted."""
    try:
        with path.open("rb") as file:
            foreign = hasattr(os, "getuid") and os.fstat(file.fileno()).st_uid != os.getuid()
            if foreign and path != PACKAGED:  # the packaged file is as trustworthy as the code beside it
                return None
            content = json.loads(file.read())
        return _decode(content) if content["format"] == FORMAT and content["grammar"] == grammar else None
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _cache_file(grammar: str) -> Path | None:
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    except RuntimeError:  # no home folder
        return None
    return folder / "specc" / f"grammar-{FORMAT}-{zlib.crc32(grammar.encode()):08x}.json"


def _store(path: Path | None, data: bytes) -> None:
    """Write atomically with private permissions. Without a writable cache the tables are built again the next time."""
    if path is None:
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with os.fdopen(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
            os.replace(name, path)
        except OSError:
            name.unlink(missing_ok=True)
    except OSError:
        return


if __name__ == "__main__":
    sys.stdout.buffer.write(build(GRAMMAR.read_text(encoding="utf-8")))

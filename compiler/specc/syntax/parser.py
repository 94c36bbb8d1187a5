"""LALR parsing: tables of `grammar.lark`, a lexer that tries only what a state accepts, recovery at statement ends."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, cast

from specc.diagnostics import Collector, Diagnostic
from specc.source import Source, Span
from specc.syntax import ast, mistakes
from specc.syntax.build import Builder
from specc.syntax.layout import Layout, scan
from specc.syntax.place import Place
from specc.syntax.tables import Rule, Tables, load

MAX_DEPTH = 256  # of an expression
MAX_ERRORS = 100  # of one file; beyond, the rest is not looked at

_BLANK = re.compile(r"[ \t\ufeff]*").match
# Patterns for what follows an error are compiled then.
_TOKEN = r'[A-Za-z_]\w*|\d[\w.]*|"(?:\\.|[^"\\\n])*"|\|>|->|\.\.\.|\*\*|//|[-+*/<>=!~]=|\S'
_OPENING = {"LPAR": "(", "LSQB": "[", "LBRACE": "{"}
_ARGUMENTS = r'"(?:\\.|[^"\\\n])*"|[(){}\[\],]'
_NEWLINES = r"[\n; \t]*"
_CLOSING = frozenset({"RPAR", "RSQB", "RBRACE"})
_STRUCTURE = r'"(?:\\.|[^"\\\n])*"|[(){}\[\]\n;]'


@dataclass(slots=True)
class _Stack:
    """The parser's stacks, one entry per symbol (the first is the start state's)."""

    states: list[int]
    values: list[Any] = field(default_factory=lambda: [None])
    starts: list[int] = field(default_factory=lambda: [0])
    depths: list[int] = field(default_factory=lambda: [0])

    def cut(self, size: int) -> None:
        del self.states[size:], self.values[size:], self.starts[size:], self.depths[size:]


class _TooDeep(Exception):
    """An expression is nested beyond the limit; the offset where it starts."""


def parse(source: Source, collector: Collector) -> ast.File | None:
    """The tree of a text. None after an error; every independent error of the text is reported to the collector."""
    layout = scan(source, collector)
    if layout is None:
        return None
    before = len(collector.errors)
    try:
        file = _Parser(source, layout, collector).run()
    except _TooDeep as deep:
        start = int(deep.args[0])
        collector.add(
            Diagnostic(
                "P092",
                f"an expression is nested more than {MAX_DEPTH} deep",
                Span(source, start, start + 1).head(),
                help="name inner parts with `let` or a local",
            )
        )
        return None
    return file if len(collector.errors) == before else None


class _Parser:
    def __init__(self, source: Source, layout: Layout, collector: Collector) -> None:
        self.source = source
        self.layout = layout
        self.collector = collector
        self.tables: Tables = load()
        self.builder = Builder(source, layout, collector)
        nodes = {rule.action for rule in self.tables.rules if rule.action and not rule.is_single}
        self.actions = {name: self.builder.action(name) for name in nodes}
        self.stack = _Stack([self.tables.start])
        self.end = 0  # where the last token ended

    def run(self) -> ast.File | None:
        """Parse to the end, recovering after each error."""
        at, errors = 0, 0
        while True:
            failed = self.drive(at)
            if failed is None:
                return cast(ast.File, self.stack.values[-1])
            resume = mistakes.report(self.place(failed), self.collector)
            errors += 1
            if errors >= MAX_ERRORS:
                return None
            at = self.recover(failed, resume)

    def drive(self, at: int) -> int | None:
        """Parse from an offset to the end (None), or to a token that does not fit (its offset)."""
        text, tables, stack = self.layout.text, self.tables, self.stack
        actions, candidates, token = tables.actions, tables.candidates, self.builder.token
        size, last = len(text), tables.end
        state = stack.states[-1]
        while True:
            at = _BLANK(text, at).end()  # type: ignore[union-attr]
            if at >= size:
                kind, end, keep = "$END", size, False
                if kind not in actions[state]:
                    return size
            else:
                for kind, match, keep in candidates(state, text[at]):  # noqa: B007
                    found = match(text, at)
                    if found:
                        end = found.end()
                        break
                else:
                    return at
            while True:
                action = actions[state].get(kind)
                if action is None:
                    return at
                if action >= 0:
                    break
                state = self.reduce(~action, at)
                if state == last and kind == "$END":
                    return None
            state = action
            stack.states.append(state)
            stack.values.append(token(kind, text[at:end], at) if keep else None)
            stack.starts.append(at)
            stack.depths.append(0)
            if kind != "_NL":
                self.end = end
            at = end

    def reduce(self, number: int, at: int) -> int:
        """Replace the symbols of a rule on the stack by its node; the state that follows."""
        rule = self.tables.rules[number]
        stack = self.stack
        states = stack.states
        if rule.is_unit:
            states[-1] = state = self.tables.gotos[states[-2]][rule.origin]
            return state
        bottom = len(states) - rule.size
        start = stack.starts[bottom] if rule.size else at
        depth = max(stack.depths[bottom:], default=0)
        kids = self.children(rule, bottom)
        value: Any = kids
        if rule.action is not None:
            if rule.is_single or (rule.expand_single and len(kids) == 1):
                value = kids[0]
            else:
                if rule.action in Builder.NESTING:
                    depth += 1
                    if depth > MAX_DEPTH:
                        raise _TooDeep(start)
                value = self.actions[rule.action](Span(self.source, start, max(start, self.end)), kids)
        stack.cut(bottom)
        state = self.tables.gotos[states[-1]][rule.origin]
        states.append(state)
        stack.values.append(value)
        stack.starts.append(start)
        stack.depths.append(depth)
        return state

    def children(self, rule: Rule, bottom: int) -> list[Any]:
        values = self.stack.values
        kids: list[Any] = []
        for position, splice in rule.keep:
            if position < 0:
                kids.append(None)
            elif splice:
                kids += values[bottom + position]
            else:
                kids.append(values[bottom + position])
        return kids

    # ---- recovery ----------------------------------------------------------------------------------------------------

    def container(self) -> int:
        """The topmost stack entry behind which a statement, member or item may start."""
        states, fresh = self.stack.states, self.tables.fresh
        return next(at for at in range(len(states) - 1, -1, -1) if states[at] in fresh)

    def place(self, at: int) -> Place:
        """What a message may say about a token that does not fit."""
        entry = self.container()
        stack = self.stack
        first = entry == len(stack.states) - 1
        brackets = self.open_brackets(0)
        return Place(
            source=self.source,
            text=self.layout.text,
            at=at,
            end=self.token_end(at),
            before=len(self.layout.text[:at].rstrip("\n; \t")),
            start=at if first else stack.starts[entry + 1],
            within=frozenset(self.tables.gotos[stack.states[entry]]),
            innermost=brackets[-1] if brackets else "",
        )

    def open_brackets(self, entry: int) -> list[str]:
        """The brackets opened and not closed from a stack entry on."""
        brackets: list[str] = []
        for state in self.stack.states[entry:]:
            symbol = self.tables.symbols[state]
            if symbol in _OPENING:
                brackets.append(_OPENING[symbol])
            elif symbol in _CLOSING and brackets:
                brackets.pop()
        return brackets

    def token_end(self, at: int) -> int:
        found = re.compile(_TOKEN).match(self.layout.text, at)
        return found.end() if found else min(at + 1, len(self.layout.text))

    def recover(self, failed: int, resume: int | None) -> int:
        """Forget the argument or statement with the error; the offset at which the next one starts."""
        if resume is None:
            after = self.next_argument(failed)
            if after is not None:
                return after
        entry = self.container()
        depth = len(self.open_brackets(entry + 1))
        stuck = entry == len(self.stack.states) - 1
        self.stack.cut(entry + 1)
        text = self.layout.text
        for found in re.compile(_STRUCTURE).finditer(text, failed):
            char = found.group()
            if char in "([{":
                depth += 1
            elif char in ")]}":
                if depth == 0:
                    return found.end() if stuck and found.start() == failed else found.start()
                depth -= 1
            elif char in "\n;" and depth == 0 and (resume is None or found.start() >= resume):
                return re.compile(_NEWLINES).match(text, found.end()).end()  # type: ignore[union-attr]
        return len(text)

    def next_argument(self, failed: int) -> int | None:
        """Inside `( )`: forget the argument or parameter alone. None if the list would not parse without it."""
        states, symbols = self.stack.states, self.tables.symbols
        if self.open_brackets(0)[-1:] != ["("]:
            return None
        entry, depth = len(states) - 1, 0
        while symbols[states[entry]] not in ("LPAR", "COMMA") or depth:
            depth += (symbols[states[entry]] in _CLOSING) - (symbols[states[entry]] in _OPENING)
            entry -= 1
        for found in re.compile(_ARGUMENTS).finditer(self.layout.text, failed):
            char = found.group()
            if char in "([{":
                depth += 1
            elif char in ")]}" and depth:
                depth -= 1
            elif char in ",)" and depth == 0:
                if char == ")" and "RPAR" not in self.tables.actions[states[entry]]:
                    return None
                self.stack.cut(entry + 1)
                return found.end() if char == "," else found.start()
        return None

"""Long statements become several: a part of the expression gets a name, if possible that of the value it grew from."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

from specc.backends.torch.layout import WIDTH, lay_out, one_line
from specc.backends.torch.printer import parse, show, tidy
from specc.backends.torch.statements import Block, Line, Statement, all_names, assign, captured, live_before

_SPARE = ("y", "h", "z", "u", "v", "w")
_MODULES = frozenset({"self", "torch", "F", "nn", "math"})


def fit(
    statements: Sequence[Statement],
    indent: int,
    *,
    taken: frozenset[str],
    fixed: frozenset[str],
    arguments: frozenset[str],
) -> tuple[Statement, ...]:
    """The statements of a function, every expression short enough for its line where naming a part can do that.

    `taken`: names that must not be introduced; `fixed`: names that must not be re-bound (optional inputs, sizes, loop
    variables); `arguments`: names that are re-bound only if there is no other.
    """
    taken = taken | arguments | frozenset(all_names(statements))
    return _Fitter(taken, fixed, arguments).body(statements, indent, frozenset())


class _Fitter:
    def __init__(self, taken: frozenset[str], fixed: frozenset[str], arguments: frozenset[str]) -> None:
        self.arguments = arguments
        self.taken, self.fixed = taken, fixed | _MODULES
        self.made: set[str] = set()

    def body(self, statements: Sequence[Statement], indent: int, live: frozenset[str]) -> tuple[Statement, ...]:
        done: list[Statement] = []
        for i, statement in enumerate(statements):
            after = live_before(statements[i + 1 :], live)
            if isinstance(statement, Block) and statement.header.startswith("def "):
                inner = _Fitter(self.taken, self.fixed | captured(statement), self.arguments)
                done.append(Block(statement.header, inner.body(statement.body, indent + 4, frozenset())))
            elif isinstance(statement, Block):
                inside = after
                if statement.header.startswith("for "):
                    inside = after | live_before(statement.body, after)
                body = self.body(statement.body, indent + 4, inside)
                done.append(Block(statement.header, body, self.body(statement.orelse, indent + 4, after)))
            elif isinstance(statement, Line) and statement.keyword:
                done += self.line(statement, indent, after)
            else:
                done.append(statement)
        return tuple(done)

    def line(self, line: Line, indent: int, live: frozenset[str]) -> list[Line]:
        if indent + len(one_line(line)) <= WIDTH:
            return [line]
        part = self._part(line, indent)
        if part is None:
            return [line]
        name = self._name(part, line, live)
        rest = replace(line, expr=tidy(show(_replaced(parse(line.expr), part, name), -1)))
        before = self.line(assign(name, show(part)), indent, live_before([rest], live))
        return [*before, *self.line(rest, indent, live)]

    def _part(self, line: Line, indent: int) -> ast.expr | None:
        """The largest part that fits on a line of its own, preferably one that leaves a statement that fits."""
        whole = len(one_line(line))
        room = WIDTH - indent
        fitting = [p for p in _parts(parse(line.expr)) if len(show(p)) + len(self._root(p) or "y") + len(" = ") <= room]
        enough = [p for p in fitting if whole - len(show(p)) + 1 <= room]
        if not fitting and not _fits(line, indent):  # brackets do not help: a long receiver of `.flatten(2)`
            fitting = [p for p in _parts(parse(line.expr)) if _fits(assign("y", show(p)), indent)]
        return max(enough or fitting, key=lambda p: len(show(p)), default=None)

    def _name(self, part: ast.expr, line: Line, live: frozenset[str]) -> str:
        root = self._root(part)
        others = _reads(Line("", (), tidy(show(_replaced(parse(line.expr), part, "_"), -1))))
        target = line.targets[0] if len(line.targets) == 1 else ""
        wishes = [name for name in (root, target) if name and name.isidentifier() and name not in others | self.fixed]
        wishes = [name for name in wishes if name == target or name not in live]
        if wishes:
            return next((name for name in wishes if name not in self.arguments), wishes[0])
        spare = (*_SPARE, *(f"y{i}" for i in range(2, 100)))
        name = next(n for n in spare if n not in (live | others if n in self.made else self.taken))
        self.made.add(name)
        return name

    def _root(self, node: ast.expr) -> str | None:
        """The local that an expression grew from, if it may be re-bound."""
        if isinstance(node, ast.Name):
            return None if node.id in self.fixed else node.id
        if isinstance(node, ast.Call):
            base = self._root(node.func.value) if isinstance(node.func, ast.Attribute) else None
            several = len([a for a in node.args if isinstance(a, ast.Name)]) > 1  # attention is no form of its query
            return base or (self._root(node.args[0]) if node.args and not several else None)
        if isinstance(node, ast.BinOp):
            return self._root(node.left)
        if isinstance(node, (ast.Attribute, ast.Subscript)):
            return self._root(node.value)
        return self._root(node.operand) if isinstance(node, ast.UnaryOp) else None


def _fits(line: Line, indent: int) -> bool:
    """Whether the statement can be laid out in lines of the width, on as many as it takes."""
    return all(len(text) <= WIDTH for text in lay_out([replace(line, comment="")], indent))


def _reads(line: Line) -> frozenset[str]:
    return live_before([line], frozenset())


def _parts(node: ast.expr) -> Iterator[ast.expr]:
    """Sub-expressions that can be named: calls and arithmetic, not inside comprehensions; not the expression itself."""
    for child in _children(node):
        if isinstance(child, (ast.Call, ast.BinOp)):
            yield child
        yield from _parts(child)


def _children(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute):
            yield node.func.value
        yield from node.args
        yield from (k.value for k in node.keywords)
    elif isinstance(node, ast.BinOp):
        yield node.left
        yield node.right
    elif isinstance(node, (ast.Attribute, ast.Subscript)):
        yield node.value
        yield from [node.slice] if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Slice) else []
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, (ast.Tuple, ast.List)):
        yield from node.elts
    elif isinstance(node, ast.Compare):
        yield node.left
        yield from node.comparators


def _replaced(node: ast.expr, part: ast.expr, name: str) -> ast.expr:
    """The expression with one part replaced by a name."""

    class Swap(ast.NodeTransformer):
        def visit(self, child: ast.AST) -> ast.AST:
            if child is part:
                return ast.Name(name, ast.Load())
            return self.generic_visit(copy.copy(child))

        def generic_visit(self, child: ast.AST) -> ast.AST:
            for field, value in ast.iter_fields(child):
                if isinstance(value, list):
                    setattr(child, field, [self.visit(v) if isinstance(v, ast.AST) else v for v in value])
                elif isinstance(value, ast.AST):
                    setattr(child, field, self.visit(value))
            return child

    swapped = Swap().visit(node)
    assert isinstance(swapped, ast.expr)
    return swapped

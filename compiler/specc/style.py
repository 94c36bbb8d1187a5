"""`specc check --notes`: names as LANGUAGE 1 and 3 like them, and names that nothing reads (N203, N204, N205)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from specc.diagnostics import Diagnostic
from specc.op import operators
from specc.source import Span
from specc.syntax import ast

_CAMEL = re.compile(r"[A-Z][A-Za-z0-9]*")
_SNAKE = re.compile(r"[a-z_][a-z0-9_]*")
_DIM = re.compile(r"[A-Z][0-9]*")


def notes(tree: ast.File) -> Iterator[Diagnostic]:
    """What may be said of a file's names."""
    yield from _file(tree)
    mapped = any(isinstance(item, ast.Weights) for item in tree.items)
    for item in tree.items:
        if isinstance(item, ast.BlockDef):
            yield from _block(item, free=not mapped)
        elif isinstance(item, ast.Method):
            yield from _locals(item)


def _file(tree: ast.File) -> Iterator[Diagnostic]:
    """Imports and dims of the file; blocks, fns and lets may be there for other files."""
    read = Counter(_reads([item for item in tree.items if not isinstance(item, ast.Import)]))
    for item in tree.items:
        if isinstance(item, ast.Import):
            for name in item.names:
                shown = name.alias or name.name
                if not read[shown.id]:
                    yield _unused(f"`{shown.id}` is imported and never used", shown.span)
        elif isinstance(item, ast.Dims):
            yield from _dims(item, read)


def _dims(item: ast.Dims, read: Counter[str]) -> Iterator[Diagnostic]:
    for one in item.items:
        name = one if isinstance(one, ast.Name) else one.name if isinstance(one, ast.DimDef) else None
        if name is None:
            continue
        if not _DIM.fullmatch(name.id):
            yield _styled(f"dimension `{name.id}`: one capital letter, and digits", name.span)
        if read[name.id] <= (1 if isinstance(one, ast.Name) else 0):  # a bare declaration is itself a name
            yield _unused(f"dimension `{name.id}` is declared and never used", name.span)


def _block(block: ast.BlockDef, *, free: bool) -> Iterator[Diagnostic]:
    """`free`: no checkpoint dictates the names of parts."""
    kind = "model" if block.is_model else "block"
    if not _CAMEL.fullmatch(block.name.id):
        yield _styled(f"{kind} `{block.name.id}`: names of blocks are CamelCase", block.name.span)
    read = Counter(_reads([*(p.default for p in block.params), *(p.type for p in block.params), *block.members]))
    passes_on = any(isinstance(node, ast.StarArg) for node in _nodes(block.members))
    for param in block.params:
        if not _SNAKE.fullmatch(param.name.id):
            yield _styled(f"hyper-parameter `{param.name.id}`: names of values are snake_case", param.name.span)
        if not read[param.name.id] and not passes_on:
            yield _unused(f"hyper-parameter `{param.name.id}` of {block.name.id} is never used", param.name.span)
    for member in block.members:
        if isinstance(member, ast.Let) and not read[member.name.id] and not passes_on:
            yield _unused(f"`{member.name.id}` is never used", member.name.span)
        elif isinstance(member, ast.Method):
            yield from _locals(member)
        elif isinstance(member, ast.Part | ast.ParamDecl):
            yield from _part(member, free=free)


def _part(member: ast.Part | ast.ParamDecl, *, free: bool) -> Iterator[Diagnostic]:
    name = member.name.id
    if isinstance(member, ast.Part) and name in operators() and not operators()[name].syntax:
        message = f"part `{name}` hides the function `{name}` in this block"
        yield Diagnostic("N203", message, member.name.span, severity="note")
    if free and isinstance(member, ast.Part) and not _SNAKE.fullmatch(name):
        yield _styled(f"part `{name}`: names of parts are snake_case, unless a checkpoint has others", member.name.span)


def _locals(method: ast.Method) -> Iterator[Diagnostic]:
    """Names that a body binds and nothing reads; `_` says that nobody wants a value."""
    read = set(_reads([method.body]))
    told = set()
    for node in _nodes(method.body):
        targets = (
            node.targets
            if isinstance(node, ast.Assign)
            else (node.target,)
            if isinstance(node, ast.TypedAssign)
            else ()
        )
        for target in targets:
            if target.id not in read and target.id != "_" and target.id not in told:
                told.add(target.id)
                yield _unused(f"`{target.id}` is bound and never used", target.span, "`_` discards a value")


def _nodes(value: Any) -> Iterator[ast.Node]:
    if isinstance(value, ast.Node):
        yield value
        for key, child in vars(value).items():
            if key != "span":
                yield from _nodes(child)
    elif isinstance(value, tuple | list):
        for child in value:
            yield from _nodes(child)


def _reads(value: Any) -> Iterator[str]:
    """Every name that is read. `x += 1` reads x; what stands left of `=` is none."""
    for node in _nodes(value):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.AugAssign):
            yield node.target.id
        elif isinstance(node, ast.Scan):
            yield node.along.id
        elif isinstance(node, ast.Preset):
            if isinstance(node.base, ast.Ident):
                yield node.base.id
        elif isinstance(node, ast.Weights | ast.Train | ast.Test):
            yield node.model.id


def _unused(message: str, span: Span, help: str = "") -> Diagnostic:
    return Diagnostic("N205", message, span, help=help, severity="note")


def _styled(message: str, span: Span) -> Diagnostic:
    return Diagnostic("N204", message, span, severity="note")

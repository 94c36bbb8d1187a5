"""Blocks that no model of the file reaches, checked by themselves: a library of blocks is no less wrong for it.

Hyper-parameters without a default get made-up values. What a body says about sizes may then fail for the values'
sake; so only findings that every set of values gives are told, and of those none about sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from specc.diagnostics import Diagnostic
from specc.elaborate.elaborator import Elaborator
from specc.elaborate.entries import check_initializers
from specc.elaborate.evaluate import Evaluator
from specc.elaborate.files import FileScope
from specc.elaborate.lists import list_lengths
from specc.elaborate.scopes import Scope
from specc.elaborate.signatures import is_tensor, opaque_axes
from specc.elaborate.values import Binding, BlockDecl, Fail, Poisoned
from specc.syntax import ast

ABOUT_VALUES = ("E105", "E11", "E19", "S2")
"""Codes, or beginnings of codes, of findings that other hyper-parameters may not give."""

Found = dict[tuple[str, str, int], Diagnostic]


class Unknown(Exception):
    """A hyper-parameter for which no value can be made up: a block, a list."""


def check_alone(decl: BlockDecl, elaborators: Iterator[Elaborator]) -> list[Diagnostic]:
    """The findings about a block; `elaborators` are as many fresh ones as are asked for."""
    open_ = [p for p in decl.node.params if p.default is None and not p.type.optional]
    if not open_:
        return list(_found(next(elaborators), decl, {}).values())
    common: Found | None = None
    for ints, truth in (((64, 32, 16, 8), False), ((64, 32, 16, 8), True), ((4,), False), ((4,), True)):
        elab = next(elaborators)
        try:
            values = dict(_made_up(elab, decl.file, open_, ints, truth))
        except Unknown:
            return []
        found = _found(elab, decl, values)
        common = found if common is None else {key: d for key, d in common.items() if key in found}
        if not common:
            return []
    assert common is not None
    return [d for d in common.values() if not d.code.startswith(ABOUT_VALUES)]


def _made_up(
    elab: Elaborator, file: FileScope, params: Sequence[ast.Param], ints: Sequence[int], truth: bool
) -> Iterator[tuple[str, Binding]]:
    """Values by name. Ints go down by halves, as sizes mostly divide the ones declared before them."""
    count = 0
    for param in params:
        kind = param.type.name if isinstance(param.type, ast.NamedType) else ""
        value: Any
        if isinstance(param.type, ast.EnumType):
            value = param.type.options[0]
        elif kind == "int":
            value = ints[min(count, len(ints) - 1)]
            count += 1
        elif kind in ("fn", "dtype"):
            value = Evaluator(elab, Scope(file)).value(ast.Name(param.span, "gelu" if kind == "fn" else "f32"))
        elif kind in ("float", "bool", "str"):
            value = {"float": 0.5, "bool": truth, "str": ""}[kind]
        else:
            raise Unknown
        yield param.name.id, Binding(value, param.span, "made up to check the block by itself")


def _found(elab: Elaborator, decl: BlockDecl, values: dict[str, Binding]) -> Found:
    scope = Scope(decl.file)
    caller = Evaluator(elab, Scope(decl.file))
    with elab.inside(decl.name), elab.collecting():
        for param in decl.node.params:
            name = param.name.id
            binding = values.get(name) or elab.blocks.default(decl, param, scope, caller, param.span)
            scope.names[name] = elab.blocks.typed(decl, param, binding, caller)
        instance = elab.blocks.instance(decl, scope.names, decl.node.name.span, None)
        elab.bodies.root = instance
        for method in instance.methods.values():
            if not all(is_tensor(param.type) for param in method.params):
                continue
            optional = frozenset(p.name.id for p in method.params if p.type.optional)
            for present in dict.fromkeys((optional, frozenset[str]())):
                try:
                    lengths = list_lengths(Evaluator(elab, instance.scope), method, len(opaque_axes(2)))
                    elab.bodies.method(instance, method, present, opaque_axes(2), lengths)
                except Fail as fail:
                    elab.collector.add(fail.diagnostic)
                except Poisoned:
                    pass
        if not elab.collector.errors:
            check_initializers(elab, instance)
    return {_place(d): d for d in elab.collector.found}


def _place(finding: Diagnostic) -> tuple[str, str, int]:
    span = finding.span
    return finding.code, span.source.name if span else "", span.start if span else 0

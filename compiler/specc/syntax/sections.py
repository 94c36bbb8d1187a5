"""Reductions of the sections of a file: presets, weights, training, tests."""

from __future__ import annotations

from typing import Any

from specc.source import Span
from specc.syntax import ast

Kids = list[Any]
"""What a rule or alias keeps of what it matched."""


class Sections:
    """The part of `build.Builder` that needs nothing but the children of a rule."""

    def preset(self, span: Span, kids: Kids) -> ast.Preset:
        return ast.Preset(span, kids[0], kids[1], kids[2] or (), kids[3])

    def weights(self, span: Span, kids: Kids) -> ast.Weights:
        model, *rest = kids
        sources = tuple(kid for kid in rest if isinstance(kid, ast.Str))
        return ast.Weights(span, model, sources, tuple(rest[len(sources) :]))

    def wkey(self, span: Span, kids: Kids) -> tuple[ast.Str, ...]:
        return tuple(kids)

    def w_map(self, span: Span, kids: Kids) -> ast.WMap:
        return ast.WMap(span, *kids)

    def w_config(self, span: Span, kids: Kids) -> ast.WConfig:
        return ast.WConfig(span, tuple(kids))

    def config_keys(self, span: Span, kids: Kids) -> ast.ConfigKeys:
        return ast.ConfigKeys(span, tuple(kids))

    def w_strip(self, span: Span, kids: Kids) -> ast.WPrefix:
        return ast.WPrefix(span, False, kids[0], tuple(kid for kid in kids[1:] if kid is not None))

    def w_add(self, span: Span, kids: Kids) -> ast.WPrefix:
        return ast.WPrefix(span, True, kids[0], tuple(kid for kid in kids[1:] if kid is not None))

    def w_rename(self, span: Span, kids: Kids) -> ast.WRename:
        return ast.WRename(span, *kids)

    def w_ignore(self, span: Span, kids: Kids) -> ast.WIgnore:
        return ast.WIgnore(span, tuple(kids))

    def w_fresh(self, span: Span, kids: Kids) -> ast.WFresh:
        return ast.WFresh(span, tuple(kids))

    def train(self, span: Span, kids: Kids) -> ast.Train:
        model, name, *items = kids
        return ast.Train(span, model, name, tuple(items))

    def setting(self, span: Span, kids: Kids) -> ast.Setting:
        return ast.Setting(span, *kids)

    def test(self, span: Span, kids: Kids) -> ast.Test:
        model, name, *rest = kids
        dims = tuple(kid for kid in rest if isinstance(kid, ast.Bind))
        items = tuple(kid for kid in rest if isinstance(kid, (ast.Setting, ast.Expect)))
        return ast.Test(span, model, name, dims, items)

    def expect(self, span: Span, kids: Kids) -> ast.Expect:
        return ast.Expect(span, kids[0], kids[1] or ())

"""Files: what stands in them beside blocks, and their sections."""

from __future__ import annotations

from specc.source import Span
from specc.syntax.ast.blocks import BlockDef, Dims, Let, Method, Require, Result
from specc.syntax.ast.expressions import Arg, Bind, Expr, Ident, Param, StarArg, Str
from specc.syntax.ast.node import Node, node


@node
class Imported(Node):
    name: Ident
    alias: Ident | None


@node
class Import(Node):
    origin: str  # "std.nn" or a relative path
    origin_span: Span
    is_path: bool  # written as a string
    names: tuple[Imported, ...]


@node
class ExternFn(Node):
    name: Ident
    params: tuple[Param, ...]
    results: tuple[Result, ...]
    file: Str
    doc: str


@node
class Preset(Node):
    name: Str
    base: Ident | Str  # a model, or another preset
    args: tuple[Arg | StarArg, ...]
    expect: Expr | None  # what a test of that name says (`preset_tests`)


@node
class Setting(Node):
    name: Ident
    value: Expr


@node
class WMap(Node):
    left: tuple[Str, ...]  # one pattern, or several for `[..] = split(..)`
    right: Expr


@node
class ConfigKeys(Node):
    """`ignore key, outer.key` of a config section."""

    keys: tuple[Expr, ...]


@node
class WConfig(Node):
    items: tuple[Setting | Let | Require | ConfigKeys, ...]

    @property
    def settings(self) -> tuple[Setting, ...]:
        return tuple(item for item in self.items if isinstance(item, Setting))


@node
class WPrefix(Node):
    """`strip` or `add` a prefix."""

    add: bool
    prefix: Str
    exceptions: tuple[Str, ...]


@node
class WRename(Node):
    old: Str
    new: Str


@node
class WIgnore(Node):
    patterns: tuple[Str, ...]


@node
class WFresh(Node):
    patterns: tuple[Str, ...]


@node
class Weights(Node):
    model: Ident
    sources: tuple[Str, ...]
    rules: tuple[WMap | WConfig | WPrefix | WRename | WIgnore | WFresh, ...]


@node
class Train(Node):
    model: Ident
    name: Str | None
    items: tuple[Setting | Let, ...]


@node
class Expect(Node):
    cond: Expr
    within: tuple[Arg | StarArg, ...]


@node
class Test(Node):
    model: Ident
    name: Str
    dims: tuple[Bind, ...]
    items: tuple[Setting | Expect, ...]


Item = Import | Dims | Let | BlockDef | Method | ExternFn | Preset | Weights | Train | Test


@node
class File(Node):
    items: tuple[Item, ...]

"""Blocks and models, and their members."""

from __future__ import annotations

from specc.syntax.ast.expressions import Arg, Expr, Ident, Param, StarArg, Str, TypeExpr
from specc.syntax.ast.node import Node, node
from specc.syntax.ast.statements import Body


@node
class Member(Node):
    pass


@node
class Part(Member):
    name: Ident
    value: Expr | Group


@node
class Group(Node):
    """`{ members } [if cond]`: a namespace. Also an element of a list or comprehension."""

    members: tuple[Part | ParamDecl, ...]
    cond: Expr | None


@node
class ParamDecl(Member):
    """`param` (or `buffer`) `name: type = init`; the initialiser may be a Ternary without else (declared only then)."""

    buffer: bool
    name: Ident
    type: TypeExpr
    init: Expr | None


@node
class Let(Member):
    """Also a file-level item, and in `train` and `config` sections."""

    name: Ident
    value: Expr
    doc: str


@node
class DimDef(Node):
    """`S = past(T) + T`"""

    name: Ident
    value: Expr


@node
class Dims(Member):
    """`dim` items: a bare Name declares (in a block: re-declares locally), a DimDef defines, a Compare states
    a fact."""

    items: tuple[Expr | DimDef, ...]


@node
class Require(Member):
    cond: Expr
    message: str | None


@node
class Tie(Member):
    left: Expr  # Name, Attr or Index chain
    right: Expr
    cond: Expr | None


@node
class Moved(Member):
    old: Str
    new: Str


@node
class InitRule(Node):
    key: Str | Expr  # a path pattern, or Block.parameter
    value: Expr


@node
class Init(Member):
    rules: tuple[InitRule, ...]


@node
class Result(Node):
    """One result of a method: its name, if given, and type."""

    name: Ident | None
    type: TypeExpr


@node
class Method(Member):
    """`forward` or `fn name`; also a file-level `fn`."""

    name: Ident  # "forward" for forward
    params: tuple[Param, ...]
    results: tuple[Result, ...]
    body: Body
    doc: str


# ---- blocks ----------------------------------------------------------------------------------------------------------


@node
class Decorator(Node):
    path: str
    args: tuple[Arg | StarArg, ...]


@node
class BlockDef(Node):
    is_model: bool
    name: Ident
    params: tuple[Param, ...]
    members: tuple[Member, ...]
    decorators: tuple[Decorator, ...]
    doc: str

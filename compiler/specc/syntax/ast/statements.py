"""Bodies of methods and functions."""

from __future__ import annotations

from specc.syntax.ast.expressions import Expr, Ident, TypeExpr
from specc.syntax.ast.node import Node, node


@node
class Stmt(Node):
    pass


@node
class Body(Node):
    """`{ ... }`, or `= expr` (then `statements` is one Return and `is_expr` is true)."""

    statements: tuple[Stmt, ...]
    is_expr: bool


@node
class Assign(Stmt):
    targets: tuple[Ident, ...]
    value: Expr


@node
class TypedAssign(Stmt):
    target: Ident
    type: TypeExpr
    value: Expr


@node
class AugAssign(Stmt):
    target: Ident
    op: str  # + - * /
    value: Expr


@node
class Return(Stmt):
    values: tuple[Expr, ...]


@node
class If(Stmt):
    cond: Expr
    then: Body
    other: Body | If | None


@node
class For(Stmt):
    names: tuple[Ident, ...]
    iterable: Expr
    body: Body


@node
class When(Stmt):
    mode: Ident  # train | infer
    body: Body


@node
class Emit(Stmt):
    values: tuple[Expr, ...]


@node
class Aux(Stmt):
    name: Ident
    value: Expr

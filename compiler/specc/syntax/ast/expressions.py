"""Expressions, and the types of values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specc.source import Span
from specc.syntax.ast.node import Node, node

if TYPE_CHECKING:
    from specc.syntax.ast.blocks import Group
    from specc.syntax.ast.statements import Body


@node
class Expr(Node):
    pass


@node
class StandIn(Expr):
    """What is evaluated in the place of `original`, as which it is shown; made by the elaborator, never parsed."""

    original: Expr | None


@node
class Name(Expr):
    id: str


@node
class Int(Expr):
    value: int


@node
class Float(Expr):
    value: float


@node
class Str(Expr):
    value: str


@node
class Bool(Expr):
    value: bool


@node
class NoneLit(Expr):
    pass


@node
class EllipsisLit(Expr):
    """`...` as an axis, an index, or a list element."""


@node
class Paren(Expr):
    """A parenthesised expression; in an axis pattern it makes one factor of a product."""

    inner: Expr


@node
class ListExpr(Expr):
    elements: tuple[Expr | Group, ...]


@node
class TupleExpr(Expr):
    elements: tuple[Expr, ...]


@node
class Comprehension(Expr):
    """`[element for names in iterable]`. `[e for a in x for b in y]` has `[e for b in y]` as its element and is `flat`:
    the elements of its elements.
    """

    element: Expr | Group
    names: tuple[Ident, ...]
    iterable: Expr
    flat: bool = False


@node
class Unary(Expr):
    op: str  # "-" | "not"
    operand: Expr


@node
class Binary(Expr):
    op: str  # + - * / // % @ ** and or
    op_span: Span
    left: Expr
    right: Expr


@node
class Compare(Expr):
    """`first ops[0] rest[0] ops[1] rest[1] ...`: a chain, as in Python. Operators: == != <= >= < > ~= in `not in`."""

    first: Expr
    ops: tuple[str, ...]
    rest: tuple[Expr, ...]


@node
class Ternary(Expr):
    """`then if cond else other`; `other` is None when `else` was left out."""

    then: Expr
    cond: Expr
    other: Expr | None


@node
class Pipe(Expr):
    """`value |> target`, where target is a name, a path or a call of one."""

    value: Expr
    target: Expr


@node
class Arg(Node):
    """A positional (`name` None) or keyword argument."""

    name: Ident | None
    value: Expr


@node
class StarArg(Node):
    """`*` in an argument list: pass every same-named hyper-parameter on."""


@node
class Axes(Expr):
    """An axis pattern `[..] -> [..]` (or, in `weights`, nothing else); both sides are lists."""

    left: Expr
    right: Expr


@node
class Call(Expr):
    func: Expr
    args: tuple[Arg | StarArg, ...]


@node
class Slice(Node):
    start: Expr | None
    stop: Expr | None
    step: Expr | None


@node
class Index(Expr):
    base: Expr
    items: tuple[Expr | Slice, ...]  # EllipsisLit and NoneLit are expressions


@node
class Attr(Expr):
    base: Expr
    name: Ident


@node
class Scan(Expr):
    names: tuple[Ident, ...]
    over: tuple[Expr, ...]
    along: Ident
    binds: tuple[Bind, ...]
    body: Body


@node
class Bind(Node):
    name: Ident
    value: Expr


@node
class Ident(Node):
    """A name being declared, or a keyword of an argument."""

    id: str


# ---- types -----------------------------------------------------------------------------------------------------------


@node
class TypeExpr(Node):
    optional: bool


@node
class NamedType(TypeExpr):
    """int float bool str fn block dtype"""

    name: str


@node
class TensorTypeExpr(TypeExpr):
    """`Tensor[B, T, dim]`: the element type's name and the sizes (EllipsisLit for `...`)."""

    name: str
    dims: tuple[Expr, ...]


@node
class ListType(TypeExpr):
    """`[int]`, `[Tensor[B, dim]]`; with `iterable`, `[Tensor[B, w] for w in widths]`: each element has a type of its
    own.
    """

    element: TypeExpr
    names: tuple[Ident, ...] = ()
    iterable: Expr | None = None


@node
class EnumType(TypeExpr):
    options: tuple[str, ...]


@node
class Param(Node):
    """A hyper-parameter, or an argument of a method."""

    name: Ident
    type: TypeExpr
    default: Expr | None

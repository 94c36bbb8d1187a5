"""The syntax tree: one class per construct of `grammar.lark`. Every node knows its span; nothing is evaluated here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

from specc.source import Span

_T = TypeVar("_T")


@dataclass_transform(eq_default=False)
def _node(cls: type[_T]) -> type[_T]:
    """Nodes compare by identity: two places of a text are two nodes. `eq=False` also keeps class creation cheap."""
    return dataclass(eq=False, repr=False)(cls)


@_node
class Node:
    span: Span


# ---- expressions -----------------------------------------------------------------------------------------------------


@_node
class Expr(Node):
    pass


@_node
class StandIn(Expr):
    """What is evaluated in the place of `original`, as which it is shown; made by the elaborator, never parsed."""

    original: Expr | None


@_node
class Name(Expr):
    id: str


@_node
class Int(Expr):
    value: int


@_node
class Float(Expr):
    value: float


@_node
class Str(Expr):
    value: str


@_node
class Bool(Expr):
    value: bool


@_node
class NoneLit(Expr):
    pass


@_node
class EllipsisLit(Expr):
    """`...` as an axis, an index, or a list element."""


@_node
class Paren(Expr):
    """A parenthesised expression; in an axis pattern it makes one factor of a product."""

    inner: Expr


@_node
class ListExpr(Expr):
    elements: tuple[Expr | Group, ...]


@_node
class TupleExpr(Expr):
    elements: tuple[Expr, ...]


@_node
class Comprehension(Expr):
    element: Expr | Group
    names: tuple[Ident, ...]
    iterable: Expr


@_node
class Unary(Expr):
    op: str  # "-" | "not"
    operand: Expr


@_node
class Binary(Expr):
    op: str  # + - * / // % @ ** and or
    op_span: Span
    left: Expr
    right: Expr


@_node
class Compare(Expr):
    """`first ops[0] rest[0] ops[1] rest[1] ...`: a chain, as in Python. Operators: == != <= >= < > ~= in `not in`."""

    first: Expr
    ops: tuple[str, ...]
    rest: tuple[Expr, ...]


@_node
class Ternary(Expr):
    """`then if cond else other`; `other` is None when `else` was left out."""

    then: Expr
    cond: Expr
    other: Expr | None


@_node
class Pipe(Expr):
    """`value |> target`, where target is a name, a path or a call of one."""

    value: Expr
    target: Expr


@_node
class Arg(Node):
    """A positional (`name` None) or keyword argument."""

    name: Ident | None
    value: Expr


@_node
class StarArg(Node):
    """`*` in an argument list: pass every same-named hyper-parameter on."""


@_node
class Axes(Expr):
    """An axis pattern `[..] -> [..]` (or, in `weights`, nothing else); both sides are lists."""

    left: Expr
    right: Expr


@_node
class Call(Expr):
    func: Expr
    args: tuple[Arg | StarArg, ...]


@_node
class Slice(Node):
    start: Expr | None
    stop: Expr | None
    step: Expr | None


@_node
class Index(Expr):
    base: Expr
    items: tuple[Expr | Slice, ...]  # EllipsisLit and NoneLit are expressions


@_node
class Attr(Expr):
    base: Expr
    name: Ident


@_node
class Scan(Expr):
    names: tuple[Ident, ...]
    over: tuple[Expr, ...]
    along: Ident
    binds: tuple[Bind, ...]
    body: Body


@_node
class Bind(Node):
    name: Ident
    value: Expr


@_node
class Ident(Node):
    """A name being declared, or a keyword of an argument."""

    id: str


# ---- types -----------------------------------------------------------------------------------------------------------


@_node
class TypeExpr(Node):
    optional: bool


@_node
class NamedType(TypeExpr):
    """int float bool str fn block dtype"""

    name: str


@_node
class TensorTypeExpr(TypeExpr):
    """`Tensor[B, T, dim]`: the element type's name and the sizes (EllipsisLit for `...`)."""

    name: str
    dims: tuple[Expr, ...]


@_node
class ListType(TypeExpr):
    """`[int]`, `[Tensor[B, dim]]`; with `iterable`, `[Tensor[B, w] for w in widths]`: each element has a type of its
    own.
    """

    element: TypeExpr
    names: tuple[Ident, ...] = ()
    iterable: Expr | None = None


@_node
class EnumType(TypeExpr):
    options: tuple[str, ...]


@_node
class Param(Node):
    """A hyper-parameter, or an argument of a method."""

    name: Ident
    type: TypeExpr
    default: Expr | None


# ---- statements ------------------------------------------------------------------------------------------------------


@_node
class Stmt(Node):
    pass


@_node
class Body(Node):
    """`{ ... }`, or `= expr` (then `statements` is one Return and `is_expr` is true)."""

    statements: tuple[Stmt, ...]
    is_expr: bool


@_node
class Assign(Stmt):
    targets: tuple[Ident, ...]
    value: Expr


@_node
class TypedAssign(Stmt):
    target: Ident
    type: TypeExpr
    value: Expr


@_node
class AugAssign(Stmt):
    target: Ident
    op: str  # + - * /
    value: Expr


@_node
class Return(Stmt):
    values: tuple[Expr, ...]


@_node
class If(Stmt):
    cond: Expr
    then: Body
    other: Body | If | None


@_node
class For(Stmt):
    names: tuple[Ident, ...]
    iterable: Expr
    body: Body


@_node
class When(Stmt):
    mode: Ident  # train | infer
    body: Body


@_node
class Emit(Stmt):
    values: tuple[Expr, ...]


@_node
class Aux(Stmt):
    name: Ident
    value: Expr


# ---- members of blocks -----------------------------------------------------------------------------------------------


@_node
class Member(Node):
    pass


@_node
class Part(Member):
    name: Ident
    value: Expr | Group


@_node
class Group(Node):
    """`{ members } [if cond]`: a namespace. Also an element of a list or comprehension."""

    members: tuple[Part | ParamDecl, ...]
    cond: Expr | None


@_node
class ParamDecl(Member):
    """`param` (or `buffer`) `name: type = init`; the initialiser may be a Ternary without else (declared only then)."""

    buffer: bool
    name: Ident
    type: TypeExpr
    init: Expr | None


@_node
class Let(Member):
    """Also a file-level item, and in `train` and `config` sections."""

    name: Ident
    value: Expr
    doc: str


@_node
class DimDef(Node):
    """`S = past(T) + T`"""

    name: Ident
    value: Expr


@_node
class Dims(Member):
    """`dim` items: a bare Name declares (in a block: re-declares locally), a DimDef defines, a Compare states
    a fact."""

    items: tuple[Expr | DimDef, ...]


@_node
class Require(Member):
    cond: Expr
    message: str | None


@_node
class Tie(Member):
    left: Expr  # Name, Attr or Index chain
    right: Expr
    cond: Expr | None


@_node
class Moved(Member):
    old: Str
    new: Str


@_node
class InitRule(Node):
    key: Str | Expr  # a path pattern, or Block.parameter
    value: Expr


@_node
class Init(Member):
    rules: tuple[InitRule, ...]


@_node
class Result(Node):
    """One result of a method: its name, if given, and type."""

    name: Ident | None
    type: TypeExpr


@_node
class Method(Member):
    """`forward` or `fn name`; also a file-level `fn`."""

    name: Ident  # "forward" for forward
    params: tuple[Param, ...]
    results: tuple[Result, ...]
    body: Body
    doc: str


# ---- items of files --------------------------------------------------------------------------------------------------


@_node
class Decorator(Node):
    path: str
    args: tuple[Arg | StarArg, ...]


@_node
class BlockDef(Node):
    is_model: bool
    name: Ident
    params: tuple[Param, ...]
    members: tuple[Member, ...]
    decorators: tuple[Decorator, ...]
    doc: str


@_node
class Imported(Node):
    name: Ident
    alias: Ident | None


@_node
class Import(Node):
    origin: str  # "std.nn" or a relative path
    origin_span: Span
    is_path: bool  # written as a string
    names: tuple[Imported, ...]


@_node
class ExternFn(Node):
    name: Ident
    params: tuple[Param, ...]
    results: tuple[Result, ...]
    file: Str
    doc: str


@_node
class Preset(Node):
    name: Str
    base: Ident | Str  # a model, or another preset
    args: tuple[Arg | StarArg, ...]
    expect: Expr | None  # what a test of that name says (`preset_tests`)


@_node
class Setting(Node):
    name: Ident
    value: Expr


@_node
class WMap(Node):
    left: tuple[Str, ...]  # one pattern, or several for `[..] = split(..)`
    right: Expr


@_node
class ConfigKeys(Node):
    """`ignore key, outer.key` of a config section."""

    keys: tuple[Expr, ...]


@_node
class WConfig(Node):
    items: tuple[Setting | Let | Require | ConfigKeys, ...]

    @property
    def settings(self) -> tuple[Setting, ...]:
        return tuple(item for item in self.items if isinstance(item, Setting))


@_node
class WPrefix(Node):
    """`strip` or `add` a prefix."""

    add: bool
    prefix: Str
    exceptions: tuple[Str, ...]


@_node
class WRename(Node):
    old: Str
    new: Str


@_node
class WIgnore(Node):
    patterns: tuple[Str, ...]


@_node
class WFresh(Node):
    patterns: tuple[Str, ...]


@_node
class Weights(Node):
    model: Ident
    sources: tuple[Str, ...]
    rules: tuple[WMap | WConfig | WPrefix | WRename | WIgnore | WFresh, ...]


@_node
class Train(Node):
    model: Ident
    name: Str | None
    items: tuple[Setting | Let, ...]


@_node
class Expect(Node):
    cond: Expr
    within: tuple[Arg | StarArg, ...]


@_node
class Test(Node):
    model: Ident
    name: Str
    dims: tuple[Bind, ...]
    items: tuple[Setting | Expect, ...]


Item = Import | Dims | Let | BlockDef | Method | ExternFn | Preset | Weights | Train | Test


@_node
class File(Node):
    items: tuple[Item, ...]

"""Reductions of `grammar.lark` to nodes of `ast`: one method per rule or alias, given the children that it keeps."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from specc.diagnostics import Collector
from specc.source import Source, Span
from specc.syntax import ast, habits, literals
from specc.syntax.layout import Layout
from specc.syntax.sections import Kids, Sections

Action = Callable[[Span, Kids], Any]


class Token(NamedTuple):
    """A named terminal other than NAME and STRING, which become `Ident` and `Str` at once."""

    kind: str
    text: str
    span: Span


_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "t": "\t"}
_SCALES = {"k": 3, "M": 6, "G": 9, "T": 12}


class Builder(Sections):
    """Makes nodes. Spans are into the original text: layout keeps offsets."""

    # Rules that nest without brackets or add a level inside them: what the limit on expression depth counts.
    NESTING = frozenset(
        "ternary pipe or_ and_ not_ compare binary neg power call index attr list comp tuple group_expr if_stmt".split()
    )

    def __init__(self, source: Source, layout: Layout, collector: Collector) -> None:
        self.source = source
        self.layout = layout
        self.collector = collector

    def action(self, name: str) -> Action:
        """What to do for a rule or alias. A method whose name would hide a built-in type ends with `_`."""
        found: Action | None = getattr(self, name, None) or getattr(self, f"{name}_", None)
        assert found is not None, f"grammar.lark has `{name}`, build.py does not"
        return found

    def token(self, kind: str, text: str, start: int) -> Any:
        """The value of a terminal that is kept."""
        span = Span(self.source, start, start + len(text))
        if kind == "NAME":
            return ast.Ident(span, text)
        if kind == "STRING":
            inner = text[1:-1]
            return ast.Str(span, _ESCAPE.sub(lambda m: _ESCAPED.get(m[1], m[1]), inner) if "\\" in inner else inner)
        return Token(kind, text, span)

    def _doc(self, span: Span) -> str:
        return self.layout.docs.get(span.start, "")

    def _op_span(self, left: ast.Expr, right: ast.Expr) -> Span:
        """The operator between two operands; comments are blank in the layout's text."""
        between = self.layout.text[left.span.end : right.span.start]
        start = left.span.end + len(between) - len(between.lstrip())
        return Span(self.source, start, start + len(between.strip()))

    # ---- files, imports, dims ----------------------------------------------------------------------------------------

    def start(self, span: Span, kids: Kids) -> ast.File:
        return ast.File(Span(self.source, 0, len(self.source.text)), tuple(kids))

    def import_stmt(self, span: Span, kids: Kids) -> ast.Import:
        origin, *names = kids
        if isinstance(origin, ast.Str):
            return ast.Import(span, origin.value, origin.span, True, tuple(names))
        return ast.Import(span, _dotted(origin), origin.span, False, tuple(names))

    def import_name(self, span: Span, kids: Kids) -> ast.Imported:
        return ast.Imported(span, kids[0], kids[1])

    def path(self, span: Span, kids: Kids) -> ast.Expr:
        first: ast.Ident = kids[0]
        node: ast.Expr = ast.Name(first.span, first.id)
        for kid in kids[1:]:
            here = node.span.to(kid.span)
            if isinstance(kid, Token):
                node = ast.Index(here, node, (self.int_(kid.span, [kid]),))
            else:
                node = ast.Attr(here, node, kid)
        return node

    def dims(self, span: Span, kids: Kids) -> ast.Dims:
        return ast.Dims(span, tuple(kids))

    def dim_def(self, span: Span, kids: Kids) -> ast.DimDef:
        return ast.DimDef(span, kids[0], kids[1])

    def let_stmt(self, span: Span, kids: Kids) -> ast.Let:
        return ast.Let(span, kids[0], kids[1], self._doc(span))

    # ---- blocks and members ------------------------------------------------------------------------------------------

    def definition(self, span: Span, kids: Kids) -> ast.BlockDef:
        decorators = [kid for kid in kids if isinstance(kid, ast.Decorator)]
        kind, name, params, *members = kids[len(decorators) :]
        return ast.BlockDef(
            span, kind.text == "model", name, params or (), tuple(members), tuple(decorators), self._doc(span)
        )

    def deco(self, span: Span, kids: Kids) -> ast.Decorator:
        return ast.Decorator(span, _dotted(kids[0]), kids[1] or ())

    def params(self, span: Span, kids: Kids) -> tuple[ast.Param, ...]:
        return tuple(kid for kid in kids if kid is not None)

    def param(self, span: Span, kids: Kids) -> ast.Param:
        return ast.Param(span, kids[0], kids[1], kids[2])

    def type_(self, span: Span, kids: Kids) -> ast.TypeExpr:
        node: ast.TypeExpr = kids[0]
        if kids[1] is not None:
            node.optional, node.span = True, span
        return node

    def t_name(self, span: Span, kids: Kids) -> ast.NamedType:
        return ast.NamedType(span, False, kids[0].id)

    def t_tensor(self, span: Span, kids: Kids) -> ast.TensorTypeExpr:
        return ast.TensorTypeExpr(span, False, kids[0].id, tuple(kid for kid in kids[1:] if kid is not None))

    def t_list(self, span: Span, kids: Kids) -> ast.ListType:
        names = tuple(kid for kid in kids[1:-1] if kid is not None)
        return ast.ListType(span, False, kids[0], names, kids[-1] if len(kids) > 1 else None)

    def t_enum(self, span: Span, kids: Kids) -> ast.EnumType:
        return ast.EnumType(span, False, tuple(kid.value for kid in kids))

    def ellipsis(self, span: Span, kids: Kids) -> ast.EllipsisLit:
        return ast.EllipsisLit(span)

    def part(self, span: Span, kids: Kids) -> ast.Part:
        return ast.Part(span, kids[0], kids[1])

    def group(self, span: Span, kids: Kids) -> ast.Group:
        return ast.Group(span, tuple(kids[:-1]), kids[-1])

    def param_decl(self, span: Span, kids: Kids) -> ast.ParamDecl:
        return ast.ParamDecl(span, False, *kids)

    def buffer_decl(self, span: Span, kids: Kids) -> ast.ParamDecl:
        return ast.ParamDecl(span, True, *kids)

    def require(self, span: Span, kids: Kids) -> ast.Require:
        return ast.Require(span, kids[0], kids[1] and kids[1].value)

    def tie(self, span: Span, kids: Kids) -> ast.Tie:
        return ast.Tie(span, *kids)

    def moved(self, span: Span, kids: Kids) -> ast.Moved:
        return ast.Moved(span, *kids)

    def init(self, span: Span, kids: Kids) -> ast.Init:
        return ast.Init(span, tuple(kids))

    def init_rule(self, span: Span, kids: Kids) -> ast.InitRule:
        return ast.InitRule(span, *kids)

    def method(self, span: Span, kids: Kids) -> ast.Method:
        head, (params, results), body = kids
        name = ast.Ident(head.span, head.text) if isinstance(head, Token) else head
        return ast.Method(span, name, params, results, _body(body), self._doc(span))

    fn_def = method

    def extern_fn(self, span: Span, kids: Kids) -> ast.ExternFn:
        name, (params, results), file = kids
        return ast.ExternFn(span, name, params, results, file, self._doc(span))

    def sig(self, span: Span, kids: Kids) -> tuple[tuple[ast.Param, ...], tuple[ast.Result, ...]]:
        return tuple(kid for kid in kids[:-1] if kid is not None), kids[-1]

    def ret(self, span: Span, kids: Kids) -> tuple[ast.Result, ...]:
        return tuple(kids)

    def out(self, span: Span, kids: Kids) -> ast.Result:
        return ast.Result(span, *kids)

    # ---- statements --------------------------------------------------------------------------------------------------

    def body(self, span: Span, kids: Kids) -> ast.Body:
        return ast.Body(span, tuple(kids), False)

    def assign(self, span: Span, kids: Kids) -> ast.Assign:
        return ast.Assign(span, tuple(kids[:-1]), kids[-1])

    def typed_assign(self, span: Span, kids: Kids) -> ast.TypedAssign:
        return ast.TypedAssign(span, *kids)

    def aug(self, span: Span, kids: Kids) -> ast.AugAssign:
        return ast.AugAssign(span, kids[0], kids[1].text[0], kids[2])

    def return_stmt(self, span: Span, kids: Kids) -> ast.Return:
        return ast.Return(span, tuple(kids))

    def if_stmt(self, span: Span, kids: Kids) -> ast.If:
        return ast.If(span, *kids)

    def for_stmt(self, span: Span, kids: Kids) -> ast.For:
        return ast.For(span, tuple(kids[:-2]), kids[-2], kids[-1])

    def when_stmt(self, span: Span, kids: Kids) -> ast.When:
        return ast.When(span, *kids)

    def emit(self, span: Span, kids: Kids) -> ast.Emit:
        return ast.Emit(span, tuple(kids))

    def aux(self, span: Span, kids: Kids) -> ast.Aux:
        return ast.Aux(span, *kids)

    # ---- expressions -------------------------------------------------------------------------------------------------

    def ternary(self, span: Span, kids: Kids) -> ast.Ternary:
        return ast.Ternary(span, *kids)

    def pipe(self, span: Span, kids: Kids) -> ast.Pipe:
        return ast.Pipe(span, *kids)

    def or_(self, span: Span, kids: Kids) -> ast.Binary:
        return ast.Binary(span, "or", self._op_span(*kids), *kids)

    def and_(self, span: Span, kids: Kids) -> ast.Binary:
        return ast.Binary(span, "and", self._op_span(*kids), *kids)

    def not_(self, span: Span, kids: Kids) -> ast.Unary:
        return ast.Unary(span, "not", kids[0])

    def compare(self, span: Span, kids: Kids) -> ast.Compare:
        return ast.Compare(span, kids[0], tuple(" ".join(op.text.split()) for op in kids[1::2]), tuple(kids[2::2]))

    def binary(self, span: Span, kids: Kids) -> ast.Binary:
        left, op, right = kids
        return ast.Binary(span, op.text, op.span, left, right)

    def neg(self, span: Span, kids: Kids) -> ast.Unary:
        return ast.Unary(span, "-", kids[0])

    def power(self, span: Span, kids: Kids) -> ast.Binary:
        return ast.Binary(span, "**", self._op_span(*kids), *kids)

    def call(self, span: Span, kids: Kids) -> ast.Call:
        return ast.Call(span, kids[0], kids[1] or ())

    def index(self, span: Span, kids: Kids) -> ast.Index:
        return ast.Index(span, kids[0], tuple(kids[1:]))

    def attr(self, span: Span, kids: Kids) -> ast.Attr:
        return ast.Attr(span, *kids)

    def args(self, span: Span, kids: Kids) -> tuple[ast.Arg | ast.StarArg, ...]:
        return tuple(
            kid if isinstance(kid, (ast.Arg, ast.StarArg)) else ast.Arg(kid.span, None, kid)
            for kid in kids
            if kid is not None
        )

    def kwarg(self, span: Span, kids: Kids) -> ast.Arg:
        return ast.Arg(span, *kids)

    def axes(self, span: Span, kids: Kids) -> ast.Axes:
        return ast.Axes(span, *kids)

    def star(self, span: Span, kids: Kids) -> ast.StarArg:
        return ast.StarArg(span)

    def slice_(self, span: Span, kids: Kids) -> ast.Slice:
        return ast.Slice(span, *kids)

    def name(self, span: Span, kids: Kids) -> ast.Name:
        found: ast.Ident = kids[0]
        if found.id in literals.LITERALS:
            self.collector.add(literals.literal(found))
        return ast.Name(span, found.id)

    def int_(self, span: Span, kids: Kids) -> ast.Int:
        digits = kids[0].text.replace("_", "")
        # Python limits the digits of an int that it reads; beyond 64 bits a number is refused later, whatever
        # its value.
        return ast.Int(span, int(digits) if len(digits) <= 1000 else 10**1000)

    def scaled(self, span: Span, kids: Kids) -> ast.Int | ast.Float:
        """`130M` and `1.5G` are integers, `1.2345k` is none."""
        text = kids[0].text.replace("_", "")
        whole, _, fraction = text[:-1].partition(".")
        if len(text) > 1000:
            return ast.Int(span, 10**1000)
        value, rest = divmod(int(whole + fraction) * 10 ** _SCALES[text[-1]], 10 ** len(fraction))
        return ast.Int(span, value) if not rest else ast.Float(span, value + rest / 10 ** len(fraction))

    def float_(self, span: Span, kids: Kids) -> ast.Float:
        return ast.Float(span, float(kids[0].text.replace("_", "")))

    def str_(self, span: Span, kids: Kids) -> ast.Str:
        return cast(ast.Str, kids[0])

    def true(self, span: Span, kids: Kids) -> ast.Bool:
        return ast.Bool(span, True)

    def false(self, span: Span, kids: Kids) -> ast.Bool:
        return ast.Bool(span, False)

    def none(self, span: Span, kids: Kids) -> ast.NoneLit:
        return ast.NoneLit(span)

    def group_expr(self, span: Span, kids: Kids) -> ast.Paren:
        return ast.Paren(span, kids[0])

    def tuple_(self, span: Span, kids: Kids) -> ast.TupleExpr:
        return ast.TupleExpr(span, tuple(kids))

    def list_(self, span: Span, kids: Kids) -> ast.ListExpr:
        return ast.ListExpr(span, tuple(kid for kid in kids if kid is not None))

    def generator(self, span: Span, kids: Kids) -> tuple[tuple[ast.Ident, ...], ast.Expr]:
        if isinstance(kids[-1], ast.Ternary) and kids[-1].other is None:
            self.collector.add(habits.comprehension_filter(kids[-1]))
        return tuple(kids[:-1]), kids[-1]

    def comp(self, span: Span, kids: Kids) -> ast.Comprehension:
        element, *generators = kids
        made = ast.Comprehension(span, element, *generators[-1])
        for names, iterable in reversed(generators[:-1]):
            made = ast.Comprehension(span, made, names, iterable, flat=True)
        return made

    def scan(self, span: Span, kids: Kids) -> ast.Scan:
        body = kids.pop()
        binds = tuple(kid for kid in kids if isinstance(kid, ast.Bind))
        *head, along = kids[: len(kids) - len(binds)]
        names = tuple(kid for kid in head if isinstance(kid, ast.Ident))
        return ast.Scan(span, names, tuple(head[len(names) :]), along, binds, body)

    def bind(self, span: Span, kids: Kids) -> ast.Bind:
        return ast.Bind(span, *kids)


def _dotted(path: ast.Expr) -> str:
    if isinstance(path, ast.Attr):
        return f"{_dotted(path.base)}.{path.name.id}"
    if isinstance(path, ast.Index):
        step = path.items[0]
        return f"{_dotted(path.base)}.{step.value if isinstance(step, ast.Int) else ''}"
    return path.id if isinstance(path, ast.Name) else ""


def _body(node: Any) -> ast.Body:
    if isinstance(node, ast.Body):
        return node
    return ast.Body(node.span, (ast.Return(node.span, (node,)),), True)

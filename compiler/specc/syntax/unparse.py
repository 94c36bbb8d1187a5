"""Expressions back to text, in the style of the std files: what messages call a size (`3*dim`, `dim / heads`)."""

from __future__ import annotations

from functools import singledispatch

from specc.syntax import ast

# Loosest to tightest, as in LANGUAGE 9.
_TERNARY, _PIPE, _OR, _AND, _NOT, _COMPARE, _SUM, _TERM, _NEG, _POWER, _POSTFIX = range(11)
_BINDING = {
    "or": _OR,
    "and": _AND,
    "+": _SUM,
    "-": _SUM,
    "*": _TERM,
    "/": _TERM,
    "//": _TERM,
    "%": _TERM,
    "@": _TERM,
    "**": _POWER,
}


def unparse(expr: ast.Expr | ast.Group) -> str:
    """Canonical text: minimal parentheses, one spacing. Parses back to the same tree, `Paren` nodes aside."""
    return _expr.dispatch(type(expr))(expr)[0]


def _within(expr: ast.Node, binding: int) -> str:
    """The text of an operand, in parentheses if it binds looser than its place."""
    text, own = _expr.dispatch(type(expr))(expr)  # one frame less for each level than a call
    return text if own >= binding else f"({text})"


@singledispatch
def _expr(node: ast.Node) -> tuple[str, int]:
    """Text of a node and how tightly it binds."""
    raise AssertionError(f"no text for {type(node).__name__}")


@_expr.register
def _(node: ast.StandIn) -> tuple[str, int]:
    return _expr(node.original) if node.original is not None else (node.span.text.strip(), _POSTFIX)


@_expr.register
def _(node: ast.Name) -> tuple[str, int]:
    return node.id, _POSTFIX


@_expr.register(ast.Int)
@_expr.register(ast.Float)
def _(node: ast.Int | ast.Float) -> tuple[str, int]:
    return node.span.text if node.span.text[:1].isdigit() else repr(node.value), _POSTFIX


@_expr.register
def _(node: ast.Str) -> tuple[str, int]:
    return string(node.value), _POSTFIX


@_expr.register
def _(node: ast.Bool) -> tuple[str, int]:
    return "true" if node.value else "false", _POSTFIX


@_expr.register
def _(node: ast.NoneLit) -> tuple[str, int]:
    return "none", _POSTFIX


@_expr.register
def _(node: ast.EllipsisLit) -> tuple[str, int]:
    return "...", _POSTFIX


@_expr.register
def _(node: ast.Paren) -> tuple[str, int]:
    return _expr(node.inner)


@_expr.register
def _(node: ast.ListExpr) -> tuple[str, int]:
    return f"[{', '.join(unparse(e) for e in node.elements)}]", _POSTFIX


@_expr.register
def _(node: ast.TupleExpr) -> tuple[str, int]:
    return f"({', '.join(unparse(e) for e in node.elements)})", _POSTFIX


@_expr.register
def _(node: ast.Comprehension) -> tuple[str, int]:
    generators = []
    while True:
        names = ", ".join(name.id for name in node.names)
        generators.append(f"for {names} in {unparse(node.iterable)}")
        if not (node.flat and isinstance(node.element, ast.Comprehension)):
            return f"[{unparse(node.element)} {' '.join(generators)}]", _POSTFIX
        node = node.element


@_expr.register
def _(node: ast.Unary) -> tuple[str, int]:
    if node.op == "not":
        return f"not {_within(node.operand, _NOT)}", _NOT
    return f"-{_within(node.operand, _NEG)}", _NEG


@_expr.register
def _(node: ast.Binary) -> tuple[str, int]:
    own = _BINDING[node.op]
    if node.op == "**":
        left, right = _within(node.left, _POSTFIX), _within(node.right, _NEG)
    else:
        left, right = _within(node.left, own), _within(node.right, own + 1)
    tight = node.op == "**" or (node.op == "*" and _short(node.left) and _short(node.right))
    return f"{left}{node.op}{right}" if tight else f"{left} {node.op} {right}", own


def _short(node: ast.Expr) -> bool:
    """A factor that stands next to `*` without blanks: `3*dim`, `dilation*(kernel_size - 1)`, `2*heads*head_dim`."""
    while isinstance(node, ast.Paren):
        node = node.inner
    if isinstance(node, ast.Binary):
        if node.op == "*":
            return _short(node.left) and _short(node.right)
        return node.op in ("+", "-", "**")
    return isinstance(node, (ast.Name, ast.Int, ast.Float, ast.Unary, ast.Attr))


@_expr.register
def _(node: ast.Compare) -> tuple[str, int]:
    parts = [_within(node.first, _SUM)]
    for op, operand in zip(node.ops, node.rest, strict=True):
        parts += [op, _within(operand, _SUM)]
    return " ".join(parts), _COMPARE


@_expr.register
def _(node: ast.Ternary) -> tuple[str, int]:
    text = f"{_within(node.then, _PIPE)} if {_within(node.cond, _PIPE)}"
    return (text if node.other is None else f"{text} else {_within(node.other, _TERNARY)}"), _TERNARY


@_expr.register
def _(node: ast.Pipe) -> tuple[str, int]:
    return f"{_within(node.value, _PIPE)} |> {_within(node.target, _POSTFIX)}", _PIPE


@_expr.register
def _(node: ast.Axes) -> tuple[str, int]:
    return f"{unparse(node.left)} -> {unparse(node.right)}", _TERNARY


@_expr.register
def _(node: ast.Call) -> tuple[str, int]:
    return f"{_within(node.func, _POSTFIX)}({', '.join(_arg(arg) for arg in node.args)})", _POSTFIX


def _arg(arg: ast.Arg | ast.StarArg) -> str:
    if isinstance(arg, ast.StarArg):
        return "*"
    return unparse(arg.value) if arg.name is None else f"{arg.name.id} = {unparse(arg.value)}"


@_expr.register
def _(node: ast.Index) -> tuple[str, int]:
    return f"{_within(node.base, _POSTFIX)}[{', '.join(_item(item) for item in node.items)}]", _POSTFIX


def _item(item: ast.Expr | ast.Slice) -> str:
    if not isinstance(item, ast.Slice):
        return unparse(item)
    start, stop, step = (part and unparse(part) for part in (item.start, item.stop, item.step))
    return f"{start or ''}:{stop or ''}" + (f":{step}" if step else "")


@_expr.register
def _(node: ast.Attr) -> tuple[str, int]:
    return f"{_within(node.base, _POSTFIX)}.{node.name.id}", _POSTFIX


@_expr.register
def _(node: ast.Scan) -> tuple[str, int]:
    names = ", ".join(name.id for name in node.names)
    over = ", ".join(_within(value, _PIPE) for value in node.over)
    binds = ", ".join(f"{bind.name.id} = {_within(bind.value, _PIPE)}" for bind in node.binds)
    return f"scan {names} in {over} along {node.along.id} with {binds} {{ .. }}", _POSTFIX


@_expr.register
def _(node: ast.Group) -> tuple[str, int]:
    members = "; ".join(member.span.text for member in node.members)
    cond = f" if {unparse(node.cond)}" if node.cond is not None else ""
    return f"{{ {members} }}{cond}" if members else f"{{ }}{cond}", _TERNARY


def string(value: str) -> str:
    """A string literal of specc."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'

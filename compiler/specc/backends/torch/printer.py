"""Python expressions as `ruff format` writes them on one line: minimal parentheses, double quotes, its spacing."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from functools import lru_cache

_BINARY: dict[type[ast.operator], tuple[str, int]] = {
    ast.BitOr: ("|", 5),
    ast.BitXor: ("^", 6),
    ast.BitAnd: ("&", 7),
    ast.LShift: ("<<", 8),
    ast.RShift: (">>", 8),
    ast.Add: ("+", 9),
    ast.Sub: ("-", 9),
    ast.Mult: ("*", 10),
    ast.Div: ("/", 10),
    ast.FloorDiv: ("//", 10),
    ast.Mod: ("%", 10),
    ast.MatMult: ("@", 10),
    ast.Pow: ("**", 12),
}
_COMPARE: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
}
_UNARY: dict[type[ast.unaryop], tuple[str, int]] = {
    ast.USub: ("-", 11),
    ast.UAdd: ("+", 11),
    ast.Invert: ("~", 11),
    ast.Not: ("not ", 3),
}
_ATOM = 14


def precedence(node: ast.expr) -> int:
    """How tightly the expression's outermost operator binds; atoms bind tightest."""
    if isinstance(node, ast.BinOp):
        return _BINARY[type(node.op)][1]
    if isinstance(node, ast.UnaryOp):
        return _UNARY[type(node.op)][1]
    if isinstance(node, ast.BoolOp):
        return 1 if isinstance(node.op, ast.Or) else 2
    if isinstance(node, ast.Compare):
        return 4
    if isinstance(node, (ast.IfExp, ast.Lambda)):
        return 0
    if isinstance(node, ast.Tuple):
        return -1 if len(node.elts) > 1 else _ATOM
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return 11 if node.value < 0 else _ATOM
    return _ATOM


def show(node: ast.expr, least: int = 0) -> str:
    """The expression on one line, in parentheses if it binds less tightly than `least`."""
    text = _show(node)
    return f"({text})" if precedence(node) < least else text


def _show(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Constant):
        return constant(node.value)
    if isinstance(node, ast.Attribute):
        base = show(node.value, _ATOM)
        return f"({base}).{node.attr}" if base.isdigit() else f"{base}.{node.attr}"
    if isinstance(node, ast.Call):
        return f"{show(node.func, _ATOM)}({', '.join(arguments(node))})"
    if isinstance(node, ast.BinOp):
        return _binary(node)
    if isinstance(node, ast.UnaryOp):
        sign, level = _UNARY[type(node.op)]
        power = isinstance(node.operand, ast.BinOp) and isinstance(node.operand.op, ast.Pow)
        return sign + show(node.operand, _ATOM if power else level)
    if isinstance(node, ast.BoolOp):
        word, level = (" or ", 1) if isinstance(node.op, ast.Or) else (" and ", 2)
        return word.join(show(value, level + 1) for value in node.values)
    if isinstance(node, ast.Compare):
        parts = [show(node.left, 5)]
        parts += [
            f"{_COMPARE[type(op)]} {show(right, 5)}" for op, right in zip(node.ops, node.comparators, strict=True)
        ]
        return " ".join(parts)
    if isinstance(node, ast.IfExp):
        return f"{show(node.body, 1)} if {show(node.test, 1)} else {show(node.orelse)}"
    if isinstance(node, ast.Subscript):
        return f"{show(node.value, _ATOM)}[{_index(node.slice)}]"
    if isinstance(node, ast.Starred):
        return f"*{show(node.value, 5)}"
    if isinstance(node, ast.Tuple):
        items = ", ".join(show(e, 0) for e in node.elts)
        return f"({items},)" if len(node.elts) == 1 else items or "()"
    if isinstance(node, ast.List):
        return f"[{', '.join(show(e, 0) for e in node.elts)}]"
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return "{" + ", ".join(f"{show(k, 0)}: {show(v, 0)}" if k else f"**{show(v, 5)}" for k, v in pairs) + "}"
    if isinstance(node, (ast.ListComp, ast.GeneratorExp)):
        text = f"{show(node.elt, 0)} {' '.join(generator(g) for g in node.generators)}"
        return f"[{text}]" if isinstance(node, ast.ListComp) else f"({text})"
    if isinstance(node, (ast.JoinedStr, ast.Lambda)):
        return _double_quoted(ast.unparse(node))
    raise TypeError(f"{type(node).__name__} does not occur in emitted code")


def arguments(call: ast.Call) -> list[str]:
    """The arguments of a call, each on one line."""
    if len(call.args) == 1 and not call.keywords and isinstance(call.args[0], ast.GeneratorExp):
        return [show(call.args[0])[1:-1]]
    shown = [show(a, 0) for a in call.args]
    return shown + [f"{k.arg}={show(k.value, 0)}" if k.arg else f"**{show(k.value, 5)}" for k in call.keywords]


def generator(node: ast.comprehension) -> str:
    target = show(node.target)
    return " ".join([f"for {target} in {show(node.iter, 1)}", *(f"if {show(c, 1)}" for c in node.ifs)])


def constant(value: object) -> str:
    """A literal: strings in double quotes, floats with short exponents."""
    if isinstance(value, str):
        return _double_quoted(repr(value))
    if isinstance(value, float):
        return re.sub(r"e([+-])0*(\d)", lambda m: f"e{m[1].replace('+', '')}{m[2]}", repr(value))
    return "..." if value is ... else repr(value)


def _double_quoted(text: str) -> str:
    if text.startswith("f'") and '"' not in text:
        return f'f"{text[2:-1]}"'
    if text.startswith("'") and '"' not in text:
        return f'"{text[1:-1]}"'.replace("\\'", "'")
    return text


def _binary(node: ast.BinOp) -> str:
    sign, level = _BINARY[type(node.op)]
    if isinstance(node.op, ast.Pow):
        gap = "" if _simple_power(node.left) and _simple_power(node.right) else " "
        return f"{show(node.left, level + 1)}{gap}**{gap}{show(node.right, 11)}"
    return f"{show(node.left, level)} {sign} {show(node.right, level + 1)}"


def _simple_power(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.Not):
        return isinstance(node.operand, ast.Constant)
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, (ast.Name, ast.Constant))


def _index(node: ast.expr) -> str:
    if isinstance(node, ast.Tuple) and node.elts:
        return ", ".join(_index(e) for e in node.elts) + ("," if len(node.elts) == 1 else "")
    if not isinstance(node, ast.Slice):
        return show(node, 0)
    parts = [node.lower, node.upper, *([node.step] if node.step else [])]
    gap = "" if all(part is None or _simple_bound(part) for part in parts) else " "
    text = show(node.lower, 1) + gap if node.lower else ""
    text += ":" + (gap + show(node.upper, 1) if node.upper else "")
    return text + ((gap if node.upper else "") + ":" + gap + show(node.step, 1) if node.step else "")


def _simple_bound(node: ast.expr) -> bool:
    while isinstance(node, ast.UnaryOp):
        node = node.operand
    return isinstance(node, (ast.Name, ast.Constant))


@lru_cache(maxsize=8_192)
def parse(text: str) -> ast.expr:
    """An expression's tree; shared, so never changed in place."""
    return ast.parse(text.strip(), mode="eval").body


@lru_cache(maxsize=8_192)
def tidy(text: str) -> str:
    """The expression in its canonical form."""
    return show(parse(text), -1)


@lru_cache(maxsize=8_192)
def protected(text: str) -> str:
    """The expression, in parentheses unless it is safe as an operand of anything."""
    return text if precedence(parse(text)) == _ATOM else f"({text})"


@lru_cache(maxsize=8_192)
def names_in(text: str) -> frozenset[str]:
    """The names an expression reads; `self` apart, attributes are none."""
    return frozenset(node.id for node in ast.walk(parse(text)) if isinstance(node, ast.Name))


def literal(value: object) -> str:
    """A compile-time value as Python."""
    if isinstance(value, (tuple, list)):
        period = _period(value)
        items = ", ".join(literal(v) for v in value[:period])
        text = f"({items},)" if period == 1 else f"({items})"
        return text if period == len(value) else f"{text} * {len(value) // period}"
    return constant(value)


def _period(values: Sequence[object]) -> int:
    """After how many elements a long tuple repeats, to be written as `(a, b) * 16`; its length if it does not."""
    count = len(values)
    if count > 4:
        for period in range(1, count // 2 + 1):
            if count % period == 0 and all(values[i] == values[i % period] for i in range(count)):
                return period
    return count


def joined(parts: Sequence[str]) -> str:
    return ", ".join(parts)

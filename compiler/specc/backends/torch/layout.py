"""Statements laid out in lines of at most `WIDTH` characters, the way `ruff format` lays them out.

What does not fit is taken apart at the outermost brackets: the contents on a line of their own, else one item per line
with a trailing comma, which `ruff format` keeps as it is.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from specc.backends.torch.printer import generator, parse, precedence, show
from specc.backends.torch.statements import Block, Line, Remark, Statement

WIDTH = 100
_STEP = 4


def lay_out(statements: Sequence[Statement], indent: int) -> list[str]:
    """The lines of a body."""
    lines: list[str] = []
    said = ""  # the comment above; it goes for the statements after it too
    for statement in statements:
        if isinstance(statement, Remark):
            lines.append(f"{' ' * indent}# {statement.text}" if statement.text else "")
        elif isinstance(statement, Line):
            lines += _line(statement, indent, said)
            said = statement.comment
        elif statement.header.startswith("def "):
            lines += [*([""] if lines and lines[-1] else []), *_function(statement, indent), ""]
        else:
            lines += _block(statement, indent)
    return lines


def prefix_of(line: Line) -> str:
    if line.keyword == "=":
        return f"{', '.join(line.targets)} = "
    return f"{line.keyword} " if line.keyword else ""


def one_line(line: Line) -> str:
    """The statement on one line, without indentation or comment."""
    return prefix_of(line) + line.expr


def _line(line: Line, indent: int, said: str) -> list[str]:
    lines = break_up(
        prefix_of(line), parse(line.expr), "", indent, bare=line.keyword == "return" or len(line.targets) > 1
    )
    if not line.comment:
        return lines
    if len(lines) == 1 and len(lines[0]) + len(line.comment) + 4 <= WIDTH:
        return [f"{lines[0]}  # {line.comment}"]
    if line.comment == said:
        return lines
    return [f"{' ' * indent}# {line.comment}", *lines]


def _block(block: Block, indent: int) -> list[str]:
    pad = " " * indent
    lines = [f"{pad}{block.header}:", *lay_out(block.body, indent + _STEP)]
    orelse = block.orelse
    while len(orelse) == 1 and isinstance(orelse[0], Block) and orelse[0].header.startswith("if "):
        nested = orelse[0]
        lines += [f"{pad}el{nested.header}:", *lay_out(nested.body, indent + _STEP)]
        orelse = nested.orelse
    if orelse:
        lines += [f"{pad}else:", *lay_out(orelse, indent + _STEP)]
    return lines


def _function(block: Block, indent: int) -> list[str]:
    """A function inside another one: tensors in, tensors out."""
    call = parse(block.header.removeprefix("def "))
    assert isinstance(call, ast.Call)
    params = [f"{show(argument)}: torch.Tensor" for argument in call.args]
    lines = signature(show(call.func), params, "tuple[torch.Tensor, ...]", indent)
    return [*lines, *lay_out(block.body, indent + _STEP)]


def break_up(prefix: str, node: ast.expr, suffix: str, indent: int, *, bare: bool = False) -> list[str]:
    """`prefix node suffix`, on one line if it fits."""
    pad = " " * indent
    line = pad + prefix + show(node, -1 if bare else 0) + suffix
    if len(line) <= WIDTH:
        return [line]
    if isinstance(node, ast.Call) and prefix and not suffix and _reaches_deep(node.func):
        whole = " " * (indent + _STEP) + show(node)
        if len(whole) <= WIDTH:
            return [f"{pad}{prefix}(", whole, f"{pad})"]
    if isinstance(node, ast.Call):
        items: list[tuple[str, ast.expr]] = [("", a) for a in node.args]
        items += [(f"{k.arg}=" if k.arg else "**", k.value) for k in node.keywords]
        return _bracketed(f"{prefix}{show(node.func, 14)}(", items, f"){suffix}", indent)
    if isinstance(node, (ast.List, ast.Tuple)):
        opening, closing = ("[", "]") if isinstance(node, ast.List) else ("(", ")")
        return _bracketed(prefix + opening, [("", e) for e in node.elts], closing + suffix, indent)
    if isinstance(node, ast.Dict):
        pairs = [(f"{show(k)}: " if k else "**", v) for k, v in zip(node.keys, node.values, strict=True)]
        return _bracketed(prefix + "{", pairs, "}" + suffix, indent)
    if isinstance(node, ast.ListComp):
        inner = break_up("", node.elt, "", indent + _STEP)
        inner += [" " * (indent + _STEP) + generator(g) for g in node.generators]
        return [f"{pad}{prefix}[", *inner, f"{pad}]{suffix}"]
    if isinstance(node, ast.Starred):
        return break_up(f"{prefix}*", node.value, suffix, indent)
    return [f"{pad}{prefix}(", *_operands(node, indent + _STEP), f"{pad}){suffix}"]


def _reaches_deep(function: ast.expr) -> bool:
    """Whether a name goes through two elements: `self.block[0].layer[0].attend`, which is kept together."""
    elements = 0
    while isinstance(function, (ast.Attribute, ast.Subscript)):
        elements += isinstance(function, ast.Attribute) and isinstance(function.value, ast.Subscript)
        function = function.value
    return elements > 1 and isinstance(function, ast.Name)


def _bracketed(opening: str, items: list[tuple[str, ast.expr]], closing: str, indent: int) -> list[str]:
    pad, inner = " " * indent, " " * (indent + _STEP)
    together = inner + ", ".join(prefix + show(item, 0) for prefix, item in items)
    if len(together) <= WIDTH:
        return [pad + opening, together, pad + closing]
    lines = []
    comma = "," if len(items) > 1 else ""
    for prefix, item in items:
        lines += break_up(prefix, item, comma, indent + _STEP)
    return [pad + opening, *lines, pad + closing]


def _operands(node: ast.expr, indent: int) -> list[str]:
    """A long expression inside parentheses: whole if it fits, else split before its loosest operators."""
    whole = " " * indent + show(node)
    if len(whole) <= WIDTH or not isinstance(node, ast.BinOp):
        return [whole]
    level = precedence(node)
    if isinstance(node.op, ast.Pow):  # binds to the right: a power as the base keeps its parentheses
        base = " " * indent + show(node.left, level + 1)
        lines = [base] if len(base) <= WIDTH else break_up("", node.left, "", indent)
        return [*lines, f"{' ' * indent}** {show(node.right, 11)}"]
    parts: list[tuple[str, ast.expr]] = []
    left: ast.expr = node
    while isinstance(left, ast.BinOp) and precedence(left) == level:
        sign = show(ast.BinOp(ast.Name("a"), left.op, ast.Name("b")))[1:-1].strip()
        parts.append((f"{sign} ", left.right))
        left = left.left
    lines = [" " * indent + show(left, level)]
    return lines + [" " * indent + sign + show(right, level + 1) for sign, right in reversed(parts)]


def signature(name: str, params: Sequence[str], returns: str, indent: int) -> list[str]:
    """`def name(params) -> returns:`, one parameter per line if it is long."""
    pad = " " * indent
    line = f"{pad}def {name}({', '.join(params)}) -> {returns}:"
    if len(line) <= WIDTH:
        return [line]
    lines = [line for p in params for line in _parameter(f"{pad}    {p},")]
    return [f"{pad}def {name}(", *lines, f"{pad}) -> {returns}:"]


def _parameter(line: str) -> list[str]:
    """One parameter's lines: a long tuple as its default gets one line per element."""
    head, found, rest = line.partition(" = (")
    if len(line) <= WIDTH or not found or not rest.endswith("),"):
        return [line]
    pad = " " * (len(line) - len(line.lstrip()))
    items = parse(f"({rest[:-1]}")
    if not isinstance(items, ast.Tuple):
        return [line]
    return [f"{head} = (", *(f"{pad}    {show(item)}," for item in items.elts), f"{pad}),"]

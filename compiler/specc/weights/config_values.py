"""Expressions of a `config { }` section: those of declarations, over the keys of a JSON file (LANGUAGE 15).

A bare name is a JSON key, missing keys and null are none, arithmetic on none is none, and `a or b` is b if a is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from specc.diagnostics import Diagnostic
from specc.elaborate.arithmetic import INT64
from specc.elaborate.builtins import COMPILE_TIME, BadArgument
from specc.elaborate.names import available, closest
from specc.elaborate.values import Fail, describe, number, show
from specc.source import Span
from specc.syntax import ast
from specc.syntax.unparse import unparse
from specc.weights.activations import ACTIVATIONS
from specc.weights.rules import section_path

MAX_STEPS = 1_000_000

Globals = Callable[[str], Any]
"""The function or block value that a name stands for in the section's file, None if it is none."""


@dataclass
class ConfigEvaluator:
    """Evaluates one setting of the section `node` over `config`. `takes_names`: it may give a function or a block."""

    node: ast.Weights
    config: Mapping[str, Any]
    names: Globals
    path: str
    takes_names: bool
    used: dict[str, None] = field(default_factory=dict)  # keys read, in order
    locals: dict[str, Any] = field(default_factory=dict)  # comprehension variables
    steps: int = 0

    def fail(self, code: str, message: str, span: Span, label: str = "", help: str = "", **notes: str) -> Fail:
        path = section_path(self.node, self.path)
        lines = tuple((key, text) for key, text in notes.items() if text)
        return Fail(Diagnostic(code, message, span, label, path=path, notes=lines, help=help))

    def look_up(self, keys: Sequence[str]) -> Any:
        at: Any = self.config
        for key in keys:
            at = at.get(key) if isinstance(at, Mapping) else None
        return at

    # ---- expressions -------------------------------------------------------------------------------------------------

    def value(self, expr: ast.Expr, *, tail: bool = False) -> Any:
        """The value of an expression; `tail`: it is what the setting gets, so it may name a function or a block."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise self.fail("E192", f"evaluation takes more than {MAX_STEPS:,} steps", expr.span)
        if isinstance(expr, ast.Paren):
            return self.value(expr.inner, tail=tail)
        if isinstance(expr, (ast.Int, ast.Float, ast.Str, ast.Bool)):
            return expr.value
        if isinstance(expr, ast.NoneLit):
            return None
        if isinstance(expr, (ast.Name, ast.Attr)):
            return self.key(expr, tail)
        if isinstance(expr, ast.Ternary):
            return self.ternary(expr, tail)
        if isinstance(expr, ast.Binary):
            return self.binary(expr, tail)
        if isinstance(expr, ast.Unary):
            return self.unary(expr)
        if isinstance(expr, ast.Compare):
            return self.compare(expr)
        if isinstance(expr, (ast.ListExpr, ast.TupleExpr)):
            return tuple(self.value(e) for e in expr.elements if isinstance(e, ast.Expr))
        if isinstance(expr, ast.Comprehension):
            return self.comprehension(expr)
        if isinstance(expr, ast.Call):
            return self.call(expr)
        if isinstance(expr, ast.Index):
            return self.index(expr)
        raise self.fail("E100", "this is not allowed in `config`", expr.span)

    def key(self, expr: ast.Name | ast.Attr, tail: bool) -> Any:
        """A JSON key, `a.b` a nested one; missing and null are none."""
        keys = dotted(expr)
        if keys is None:
            raise self.fail("E107", f"`{unparse(expr)}` is not a key of the file", expr.span)
        if len(keys) == 1 and keys[0] in self.locals:
            return self.locals[keys[0]]
        found = self.look_up(keys)
        if found is None:
            if tail and self.takes_names and len(keys) == 1:
                return self.names(keys[0])
            return None
        self.used[".".join(keys)] = None
        return self.checked(json_value(found), expr)

    def checked(self, value: Any, expr: ast.Expr) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            raise self.fail("E191", f"`{unparse(expr)}` is not a finite number", expr.span)
        if isinstance(value, int) and not -INT64 <= value < INT64:
            raise self.fail("E191", f"`{unparse(expr)}` does not fit in 64 bits", expr.span)
        return value

    def condition(self, expr: ast.Expr) -> bool | None:
        value = self.value(expr)
        if value is None or isinstance(value, bool):
            return value
        raise self.fail("E106", f"a condition must be true or false, `{unparse(expr)}` is {describe(value)}", expr.span)

    def ternary(self, expr: ast.Ternary, tail: bool) -> Any:
        if self.condition(expr.cond):  # a key that is missing is not true
            return self.value(expr.then, tail=tail)
        return self.value(expr.other, tail=tail) if expr.other is not None else None

    def binary(self, expr: ast.Binary, tail: bool) -> Any:
        if expr.op == "or":
            left = self.value(expr.left, tail=tail)
            return self.value(expr.right, tail=tail) if left is None else left
        if expr.op == "and":
            left = self.condition(expr.left)
            return self.condition(expr.right) if left else left
        left, right = self.value(expr.left), self.value(expr.right)
        if left is None or right is None:
            return None
        if isinstance(left, tuple) and isinstance(right, tuple) and expr.op == "+":
            return left + right
        for side, value in ((expr.left, left), (expr.right, right)):
            if not number(value):
                raise self.fail("E125", f"`{expr.op}` takes numbers, `{unparse(side)}` is {describe(value)}", side.span)
        return self.checked(self.calculate(expr, left, right), expr)

    def calculate(self, expr: ast.Binary, left: Any, right: Any) -> Any:
        whole = isinstance(left, int) and isinstance(right, int)
        shown = f"{show(left)} {expr.op} {show(right)}"
        if expr.op in ("/", "//", "%") and right == 0:
            raise self.fail("E110", f"division by zero: {shown}", expr.span)
        if expr.op == "/" and whole:
            if left % right:
                raise self.fail("E110", f"{shown} is not a whole number", expr.span, note="`//` rounds down")
            return left // right
        if expr.op == "**":
            if whole and right >= 0 and abs(left) > 1 and right * math.log2(abs(left)) > 64:
                raise self.fail("E191", f"{shown} does not fit in 64 bits", expr.span)
            if left == 0 and right < 0:
                raise self.fail("E110", f"division by zero: {shown}", expr.span)
        operation = _ARITHMETIC.get(expr.op)
        if operation is None:
            raise self.fail("E100", f"`{expr.op}` is for tensors", expr.span)
        try:
            result = operation(left, right)
        except OverflowError:
            result = math.inf
        if isinstance(result, complex):
            raise self.fail("E191", f"{shown} is not a real number", expr.span)
        return result

    def unary(self, expr: ast.Unary) -> Any:
        if expr.op == "not":
            condition = self.condition(expr.operand)
            return None if condition is None else not condition
        value = self.value(expr.operand)
        if value is None:
            return None
        if not number(value):
            raise self.fail("E125", f"`-` takes a number, found {describe(value)}", expr.operand.span)
        return -value

    def compare(self, expr: ast.Compare) -> Any:
        """Comparisons for order with none are none, as arithmetic is; `==` and `!=` compare with none."""
        before = dict(self.used)
        left = self.value(expr.first)
        if isinstance(expr.rest[0], ast.NoneLit):
            self.used = before  # whether a key is there is not what it says
        result = True
        for op, right_expr in zip(expr.ops, expr.rest, strict=True):
            right = self.value(right_expr)
            if op in ("==", "!="):
                same = left == right and isinstance(left, bool) == isinstance(right, bool)
                result = result and same == (op == "==")
            elif op in ("in", "not in"):
                if right is None:
                    return None
                if not isinstance(right, tuple):
                    raise self.fail(
                        "E125", f"`{op}` takes a list on its right, found {describe(right)}", right_expr.span
                    )
                result = result and (left in right) == (op == "in")
            elif left is None or right is None:
                return None
            elif op in _ORDER and number(left) and number(right):
                result = result and _ORDER[op](left, right)
            else:
                raise self.fail("E125", f"`{op}` does not compare {describe(left)} with {describe(right)}", expr.span)
            left = right
        return result

    def comprehension(self, expr: ast.Comprehension) -> Any:
        items = self.value(expr.iterable)
        if items is None:
            return None
        if not isinstance(items, tuple) or isinstance(expr.element, ast.Group):
            raise self.fail("E125", f"a comprehension runs over a list, found {describe(items)}", expr.iterable.span)
        outer, values = self.locals, []
        for item in items:
            parts = (item,) if len(expr.names) == 1 else item
            if not isinstance(parts, tuple) or len(parts) != len(expr.names):
                raise self.fail("S151", f"{len(expr.names)} names for {describe(item)}", expr.names[0].span)
            self.locals = outer | {n.id: part for n, part in zip(expr.names, parts, strict=True)}
            values.append(self.value(expr.element))
        self.locals = outer
        return tuple(part for value in values for part in value) if expr.flat else tuple(values)

    def call(self, expr: ast.Call) -> Any:
        name = expr.func.id if isinstance(expr.func, ast.Name) else unparse(expr.func)
        args = [a.value for a in expr.args if isinstance(a, ast.Arg) and a.name is None]
        if len(args) != len(expr.args):
            raise self.fail("E120", f"{name} takes positional arguments only", expr.span)
        if name == "activation":
            return self.activation(expr, args)
        if name == "has":
            return self.has(expr, args)
        function = COMPILE_TIME.get(name)
        if function is None:
            known = available(["activation", "has", *COMPILE_TIME], 30)
            raise self.fail("E103", f"unknown function `{name}`", expr.func.span, available=known)
        values = [self.value(a) for a in args]
        if any(v is None for v in values):
            return None
        try:
            return self.checked(function(*values), expr)
        except BadArgument as bad:
            raise self.fail(bad.code, str(bad), expr.span) from None
        except TypeError:
            raise self.fail("E122", f"{name} does not take {len(values)} arguments", expr.span) from None
        except OverflowError:
            raise self.fail("E191", "the number is too large", expr.span) from None

    def activation(self, expr: ast.Call, args: Sequence[ast.Expr]) -> Any:
        """`activation(hidden_act)`: the function of that name in config.json files (W330)."""
        if len(args) != 1:
            raise self.fail("E122", f"activation takes one name, found {len(args)} arguments", expr.span)
        wanted = self.value(args[0])
        key = next(reversed(self.used), "")
        if wanted is None:
            return None
        if not isinstance(wanted, str):
            raise self.fail("E125", f"activation takes a name, found {describe(wanted)}", args[0].span)
        function = self.names(ACTIVATIONS[wanted]) if wanted in ACTIVATIONS else None
        if function is None:
            guess = closest(wanted, ACTIVATIONS)
            raise self.fail(
                "W330",
                f'unknown activation "{wanted}"',
                args[0].span,
                f'{key} = "{wanted}" in {self.path}' if key else "",
                help=f'did the file mean "{guess}"?' if guess else "set the hyper-parameter with --set, or in a preset",
                available=available(ACTIVATIONS, 20),
            )
        return function

    def has(self, expr: ast.Call, args: Sequence[ast.Expr]) -> bool:
        """`has(sliding_window)`: whether the file has the key, be it null."""
        if len(args) != 1:
            raise self.fail("E122", f"has takes one key, found {len(args)} arguments", expr.span)
        return self.present(args[0])

    def present(self, expr: ast.Expr) -> bool:
        """Whether the file has a key; of a choice of keys, the one that is chosen."""
        if isinstance(expr, ast.Paren):
            return self.present(expr.inner)
        if isinstance(expr, ast.Ternary):
            chosen = expr.then if self.condition(expr.cond) else expr.other
            return chosen is not None and self.present(chosen)
        if isinstance(expr, ast.Binary) and expr.op == "or":
            return self.present(expr.left) or self.present(expr.right)
        keys = dotted(expr)
        if keys is None:
            raise self.fail("E125", f"`{unparse(expr)}` is not a key of the file", expr.span, help="has(a.b)")
        outer = self.look_up(keys[:-1])
        return isinstance(outer, Mapping) and keys[-1] in outer

    def index(self, expr: ast.Index) -> Any:
        base = self.value(expr.base)
        if base is None:
            return None
        item = expr.items[0]
        at = self.value(item) if len(expr.items) == 1 and isinstance(item, ast.Expr) else None
        if not isinstance(base, tuple) or not isinstance(at, int) or isinstance(at, bool):
            raise self.fail("E105", f"`{unparse(expr)}`: a list is indexed with an int", expr.span)
        if not -len(base) <= at < len(base):
            raise self.fail("E105", f"index {at} is outside a list of {len(base)}", item.span)
        return base[at]


def dotted(expr: ast.Expr) -> list[str] | None:
    """`a.b.c` as its keys, None if the expression is something else."""
    if isinstance(expr, ast.Name):
        return [expr.id]
    if isinstance(expr, ast.Attr):
        base = dotted(expr.base)
        return None if base is None else [*base, expr.name.id]
    return None


def json_value(found: Any) -> Any:
    """A JSON value as a compile-time one: lists and the keys of objects become tuples."""
    if isinstance(found, (list, Mapping)):
        return tuple(json_value(v) for v in found)
    return found


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "**": lambda a, b: a**b,
}
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}

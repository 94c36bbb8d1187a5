"""Arithmetic and comparison of compile-time numbers, sizes and lists (LANGUAGE 4)."""

from __future__ import annotations

import math
from typing import Any

from specc.diagnostics import Edit
from specc.dims import Dim
from specc.elaborate.labels import Labels
from specc.elaborate.values import describe, number, show
from specc.syntax import ast
from specc.syntax.unparse import unparse

INT64 = 2**63


class Arithmetic(Labels):
    """The part of an evaluator that calculates: exactly, within 64 bits, or not at all."""

    def checked(self, value: Any, expr: ast.Expr) -> Any:
        """Ints fit in 64 bits, floats are finite (E191)."""
        if isinstance(value, float) and not math.isfinite(value):
            raise self.fail("E191", "the number is not finite", expr.span, names=expr)
        if isinstance(value, int) and not -INT64 <= value < INT64:
            raise self.fail("E191", "the number does not fit in 64 bits", expr.span, names=expr)
        return value

    def arithmetic(self, expr: ast.Binary, left: Any, right: Any) -> Any:
        """`left op right` on numbers, sizes and lists."""
        op = expr.op
        if isinstance(left, tuple) and isinstance(right, tuple) and op == "+":
            return self.made(left + right, expr)
        if op == "*" and (isinstance(left, tuple) or isinstance(right, tuple)):
            items, times = (expr.left, expr.right) if isinstance(left, tuple) else (expr.right, expr.left)
            first = items.elements[0] if isinstance(items, ast.ListExpr) and len(items.elements) == 1 else None
            fix = f"[{unparse(first)} for i in range({unparse(times)})]" if isinstance(first, ast.Expr) else ""
            raise self.fail(
                "E101",
                "`*` does not repeat a list",
                expr.span,
                help=fix or "[part for i in range(n)]",
                edits=(Edit(expr.span, fix),) if fix else (),
                note="`[Layer(dim)] * 12` would read as twelve uses of one layer's weights",
            )
        for side, value in ((expr.left, left), (expr.right, right)):
            if not number(value) and not isinstance(value, Dim):
                raise self.fail("E125", f"`{op}` takes numbers, found {describe(value)}", side.span, names=expr)
        if (isinstance(left, Dim) and isinstance(right, float)) or (isinstance(right, Dim) and isinstance(left, float)):
            raise self.fail("E125", f"`{op}` of a runtime size and a float has no value at compile time", expr.span)
        try:
            return self.checked(self._calculate(expr, op, left, right), expr)
        except OverflowError:
            raise self.fail("E191", "the number is too large", expr.span, names=expr) from None

    def _calculate(self, expr: ast.Binary, op: str, left: Any, right: Any) -> Any:
        if op == "+":
            return left + right
        if op == "-":
            return left - right
        if op == "*":
            return left * right
        if op in ("/", "//", "%") and right == 0:
            raise self.fail("E110", f"division by zero: {show(left)} {op} 0", expr.span, names=expr)
        whole = not isinstance(left, float) and not isinstance(right, float)
        if op == "/":
            return self._exact(expr, left, right) if whole else left / right
        if op in ("//", "%"):
            if isinstance(right, Dim) or (isinstance(right, int) and right > 0) or not isinstance(left, Dim):
                return left // right if op == "//" else left % right
            raise self.fail("E110", f"a size is divided by {show(right)}", expr.span, names=expr)
        if op == "**":
            return self._power(expr, left, right)
        raise self.fail("E100", f"`{op}` is for tensors", expr.span)

    def _exact(self, expr: ast.Binary, left: Any, right: Any) -> Any:
        quotient = left // right
        if quotient * right == left:
            return quotient
        help = "pass a size that divides, or round down with `//`"
        if isinstance(left, int) and isinstance(right, int) and right > 0:
            smaller = next((d for d in range(right, max(0, right - 4096), -1) if left % d == 0), None)
            larger = next((d for d in range(right, min(left, right + 4096) + 1) if left % d == 0), None)
            near = [d for d in (smaller, larger) if d is not None]
            name = unparse(expr.right)
            if near:
                help = f"nearest {name} that divide {left}: {', '.join(map(str, near))}"
        raise self.fail(
            "E110",
            f"{show(left)} / {show(right)} is not a whole number",
            expr.span,
            names=expr,
            help=help,
            note="`//` rounds down",
        )

    def _power(self, expr: ast.Binary, left: Any, right: Any) -> Any:
        if isinstance(left, Dim) or isinstance(right, Dim):
            if isinstance(left, Dim) and isinstance(right, int) and 0 <= right <= 8:
                return left**right
            raise self.fail("E100", "a size can be raised to 0 .. 8 only", expr.span, names=expr)
        if isinstance(left, int) and isinstance(right, int) and right >= 0:
            if abs(left) > 1 and right * math.log2(abs(left)) > 64:  # bounded before it is computed
                raise self.fail("E191", f"{left}**{right} does not fit in 64 bits", expr.span, names=expr)
            return left**right
        if left == 0 and right < 0:
            raise self.fail("E110", f"division by zero: 0**{show(right)}", expr.span, names=expr)
        result = float(left) ** right
        if isinstance(result, complex):
            raise self.fail("E191", f"{show(left)}**{show(right)} is not a real number", expr.span, names=expr)
        return result

    def compare(self, expr: ast.Compare, op: str, left: Any, right: Any, at: ast.Expr) -> bool:
        if op in ("==", "!="):
            same = left == right and isinstance(left, bool) == isinstance(right, bool)
            if isinstance(left, Dim) or isinstance(right, Dim):
                return self.same_size(expr, left, right) == (op == "==")
            return bool(same) == (op == "==")
        if op in ("in", "not in"):
            if not isinstance(right, tuple):
                raise self.fail("E125", f"`{op}` takes a list on its right, found {describe(right)}", at.span)
            return (left in right) == (op == "in")
        if op == "~=":
            raise self.fail("E100", "`~=` belongs in `expect`", expr.span)
        if not number(left) or not number(right):
            bad = left if not number(left) else right
            hint = "a runtime size has no value at compile time" if isinstance(bad, Dim) else ""
            raise self.fail("E125", f"`{op}` compares numbers, found {describe(bad)}", expr.span, names=expr, why=hint)
        return bool({"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[op])

    def same_size(self, expr: ast.Compare, left: Any, right: Any) -> bool:
        if left is None or right is None:
            return False
        if isinstance(left, (Dim, int)) and isinstance(right, (Dim, int)) and Dim.of(left) == Dim.of(right):
            return True
        raise self.fail("E125", "a runtime size has no value at compile time", expr.span, names=expr)

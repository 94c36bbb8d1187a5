"""Labels: how the spec wrote a number, as Python over the module's hyper-parameters (see `specc.ir.graph`)."""

from __future__ import annotations

from typing import Any

from specc.dims import Dim
from specc.elaborate.builtins import COMPILE_TIME
from specc.elaborate.scopes import Place
from specc.elaborate.values import BlockValue, Fail, FnValue, Poisoned, number
from specc.syntax import ast


class Labels(Place):
    """The part of an evaluator that writes expressions for the emitted code."""

    def value(self, expr: ast.Expr) -> Any:
        raise NotImplementedError

    def made(self, values: Any, expr: ast.Expr) -> Any:
        raise NotImplementedError

    def label(self, expr: ast.Expr) -> str | None:
        """How to write the expression's value in Python over the module's hyper-parameters, or None (see
        `specc.ir.graph`).
        """
        try:
            return self._label(expr)
        except (Fail, Poisoned):
            return None

    def _label(self, expr: ast.Expr) -> str | None:
        if isinstance(expr, (ast.Int, ast.Float, ast.Bool)):
            return repr(expr.value)
        if isinstance(expr, ast.Str):
            return repr(expr.value)
        if isinstance(expr, ast.NoneLit):
            return "None"
        if isinstance(expr, ast.Paren):
            inner = self._label(expr.inner)
            return None if inner is None else f"({inner})"
        if isinstance(expr, ast.Name):
            return self._name_label(expr)
        if isinstance(expr, ast.Unary):
            return self._join(("not {}" if expr.op == "not" else "-{}"), expr.operand, nested=True)
        if isinstance(expr, ast.Binary) and expr.op != "@":
            op = expr.op
            if op == "/" and not isinstance(self.value(expr), float):
                op = "//"
            spaced = op if op in ("*", "**") else f" {op} "
            return self._join(f"{{}}{spaced}{{}}", expr.left, expr.right, nested=op != "+")
        if isinstance(expr, ast.Ternary) and expr.other is not None:
            return self._join("{} if {} else {}", expr.then, expr.cond, expr.other, nested=True)
        if isinstance(expr, ast.Compare):
            form = "{}" + "".join(f" {op} {{}}" for op in expr.ops)
            return self._join(form, expr.first, *expr.rest, nested=True)
        if isinstance(expr, ast.Index) and len(expr.items) == 1 and isinstance(expr.items[0], ast.Expr):
            return self._join("{}[{}]", expr.base, expr.items[0])
        if isinstance(expr, ast.ListExpr) and all(isinstance(e, ast.Expr) for e in expr.elements):
            return self._join(
                f"[{', '.join('{}' for _ in expr.elements)}]", *[e for e in expr.elements if isinstance(e, ast.Expr)]
            )
        if isinstance(expr, ast.Call) and isinstance(expr.func, ast.Name) and expr.func.id in COMPILE_TIME:
            args = [a.value for a in expr.args if isinstance(a, ast.Arg) and a.name is None]
            if len(args) == len(expr.args):
                return self._join(f"{expr.func.id}({', '.join('{}' for _ in args)})", *args)
        return None

    def _join(self, form: str, *exprs: ast.Expr, nested: bool = False) -> str | None:
        """The form filled with the labels of the operands; `nested`: compound operands in parentheses."""
        texts = []
        for expr in exprs:
            text = self._label(expr)
            if text is None:
                return None
            compound = isinstance(expr, (ast.Binary, ast.Ternary, ast.Compare, ast.Unary))
            texts.append(f"({text})" if nested and compound else text)
        return form.format(*texts)

    def _name_label(self, expr: ast.Name) -> str | None:
        binding = self.scope.find(expr.id)
        if binding is None:
            value = self.value(expr)
            return repr(value) if number(value) or isinstance(value, (bool, str)) else None
        if isinstance(binding.value, (FnValue, BlockValue, Dim)):
            return None
        return expr.id if binding.labelled else binding.label

"""Weights sections in a few words, and the plans that are made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specc import report
from specc.diagnostics import Collector, Diagnostic
from specc.source import Source
from specc.syntax import ast
from specc.syntax.parser import parse
from specc.weights.layout import TensorInfo
from specc.weights.mapping import Plan, plan_import


def evaluate(expr: ast.Expr) -> Any:
    """Sizes of the tests' rules: ints and lists of ints."""
    if isinstance(expr, ast.ListExpr):
        return tuple(evaluate(e) for e in expr.elements if isinstance(e, ast.Expr))
    assert isinstance(expr, ast.Int)
    return expr.value


def section(rules: str, source: str = "hf:m") -> ast.Weights:
    collector = Collector()
    tree = parse(Source("m.spec", f'weights M from "{source}" {{\n{rules}\n}}\n'), collector)
    assert tree is not None, report.full(collector.found)
    [node] = tree.items
    assert isinstance(node, ast.Weights)
    return node


def infos(**shapes: tuple[int, ...]) -> dict[str, TensorInfo]:
    return {name.replace("__", "."): TensorInfo(shape, "F32") for name, shape in shapes.items()}


def imported(
    node: ast.Weights, model: Mapping[str, TensorInfo], file: Mapping[str, TensorInfo], **tied: str
) -> tuple[Plan | None, list[Diagnostic]]:
    collector = Collector()
    ties = {name.replace("__", "."): target for name, target in tied.items()}
    plan = plan_import(node, model, ties, file, evaluate, collector, file_name="model.safetensors")
    return plan, collector.found

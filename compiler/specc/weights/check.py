"""What can be said of `weights` sections without a checkpoint: names, patterns, operations, sizes."""

from __future__ import annotations

from collections.abc import Callable

from specc.diagnostics import Collector, Diagnostic
from specc.elaborate.elaborator import Elaborator
from specc.elaborate.evaluate import Evaluator
from specc.elaborate.files import FileScope
from specc.elaborate.models import Options
from specc.elaborate.names import available, closest
from specc.ir.graph import Model
from specc.syntax import ast
from specc.weights.config import file_functions, read_config
from specc.weights.findings import Findings, Mismatch
from specc.weights.layout import Expr, LayoutError, Read
from specc.weights.mapping import bindings
from specc.weights.operations import OneWay
from specc.weights.rules import read_section
from specc.weights.sections import model_tensors

Checked = Callable[[Options], tuple[Model, Elaborator] | None]
"""A configuration of the file, elaborated; None if it has errors, which are reported elsewhere."""


def check_weights(file: FileScope, collector: Collector, checked: Checked) -> None:
    """Add the findings about the file's `weights` sections; rules are tried on the models' defaults."""
    models = {decl.name: decl for decl in file.models()}
    for node in file.tree.items:
        if not isinstance(node, ast.Weights):
            continue
        decl = models.get(node.model.id)
        if decl is None:
            guess = closest(node.model.id, models)
            collector.add(
                Diagnostic(
                    "E010",
                    f"no model `{node.model.id}` in {file.source.name}",
                    node.model.span,
                    notes=(("available", available(models) or "none"),),
                    help=f"did you mean `{guess}`?" if guess else "",
                )
            )
            continue
        params = decl.node.params
        read_config(node, params, {}, collector, names=file_functions(file), given={p.name.id for p in params})
        result = checked(Options(model=decl.name))
        if result is not None:
            _check_rules(node, *result, collector)


def _check_rules(node: ast.Weights, model: Model, elaborator: Elaborator, collector: Collector) -> None:
    evaluate = Evaluator(elaborator, elaborator.instance_of(model.module).scope).value
    before = len(collector.errors)
    section = read_section(node, evaluate, collector)
    if len(collector.errors) > before:
        return
    tensors = model_tensors(model.module)
    mismatches = []
    for binding in bindings(section, tensors, collector):
        infos = [tensors[name] for name in binding.names if name in tensors]
        values: list[Expr] = [
            Read(name, info.shape, info.dtype) for name, info in zip(binding.names, infos, strict=False)
        ]
        if len(values) < len(binding.names):
            continue
        try:
            list(binding.backward(values))
        except LayoutError as error:
            mismatches.append(Mismatch(binding.names, binding.rule, infos[0], str(error)))
        except OneWay:
            pass  # good for reading; writing says so
    Findings(section, collector).wrong_shape(mismatches)

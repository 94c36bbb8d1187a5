"""What can be said of `weights` sections without a checkpoint: names, patterns, operations, sizes."""

from __future__ import annotations

from collections.abc import Callable

from specc.diagnostics import Collector, Diagnostic, Edit
from specc.elaborate.declared import member_names
from specc.elaborate.elaborator import Elaborator
from specc.elaborate.evaluate import Evaluator
from specc.elaborate.files import FileScope
from specc.elaborate.models import Options
from specc.elaborate.names import available, closest, did_you_mean
from specc.ir.graph import Model
from specc.syntax import ast
from specc.weights.config import file_functions, read_config
from specc.weights.findings import Findings, Mismatch
from specc.weights.layout import Expr, LayoutError, Read
from specc.weights.mapping import bindings
from specc.weights.moved import check_moves
from specc.weights.operations import OneWay
from specc.weights.rules import read_section, section_path
from specc.weights.sections import model_tensors

Checked = Callable[[Options], tuple[Model, Elaborator] | None]
"""A configuration of the file, elaborated; None if it has errors, which are reported elsewhere."""


def check_weights(file: FileScope, collector: Collector, checked: Checked) -> None:
    """Add the findings about `weights` sections and `moved` lines; both are tried on the models' defaults."""
    models = {decl.name: decl for decl in file.models()}
    for name in models if _has_moved(file) else ():
        result = checked(Options(model=name))
        if result is not None:
            check_moves(*result, collector)
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
                    help=did_you_mean(guess),
                )
            )
            continue
        params = decl.node.params
        read_config(node, params, {}, collector, names=file_functions(file), given={p.name.id for p in params})
        result = checked(Options(model=decl.name))
        if result is not None:
            _check_names(node, *result, collector)
            _check_rules(node, *result, collector)


def _has_moved(file: FileScope) -> bool:
    """Whether a block of the file, or of one that it imports, states a `moved` line."""
    own = any(isinstance(m, ast.Moved) for block in file.blocks() for m in block.node.members)
    return own or any(_has_moved(other) for other in {id(f): f for f, _ in file.imported.values()}.values())


def _check_names(node: ast.Weights, model: Model, elaborator: Elaborator, collector: Collector) -> None:
    """A rule for what no block declares can never match (W313).

    What this configuration leaves out may still be in another: only names that are nowhere are findings.
    """
    names = member_names(elaborator.files.by_key.values())
    section = read_section(node, Evaluator(elaborator, elaborator.instance_of(model.module).scope).value, Collector())
    written = [(p, text) for rule in section.rules for p, text in zip(rule.left, rule.node.left, strict=True)]
    written += [
        (p, t)
        for one in node.rules
        if isinstance(one, ast.WFresh)
        for t in one.patterns
        for p in section.fresh
        if p.text == t.value
    ]
    for pattern, text in written:
        unheard = pattern.unheard(names)
        if unheard is None or any(map(pattern.match, model_tensors(model.module))):
            continue
        guess = closest(unheard, sorted(names))
        fix = text.value.replace(unheard, guess) if guess else ""
        collector.add(
            Diagnostic(
                "W313",
                f'"{text.value}" matches no tensor of {model.module.name}: nothing is called `{unheard}`',
                text.span,
                path=section_path(node),
                notes=(("expected", "a path of the model on the left, of the file on the right"),),
                help=f'"{fix}"' if fix else "",
                edits=(Edit(text.span, f'"{fix}"'),) if fix else (),
            )
        )


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

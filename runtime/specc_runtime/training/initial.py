"""What a run begins with: the weights that `--weights` or the section names, and the configuration they are of."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from specc import driver
from specc.diagnostics import Diagnostic, Rejected
from specc.elaborate.models import Options
from specc.elaborate.values import show
from specc.ir.graph import Module
from specc.syntax import ast
from specc_runtime.build import Request
from specc_runtime.trained import trained
from specc_runtime.weights import open_source


def weights_of(folder: Path, settings: Mapping[str, ast.Expr], given: str | None) -> str | None:
    """The path of the first weights: `given` on the command line, or that of the section, relative to its folder.

    Raises `Rejected` (E125) where the section names none.
    """
    expr = settings.get("weights")
    if given is not None or expr is None:
        return given
    if not isinstance(expr, ast.Str):
        raise Rejected([Diagnostic("E125", "`weights` is a path, a string", expr.span)])
    place = folder / expr.value.removeprefix("hf:")
    # with `hf:`, what is not there is told to be a repository that has to be downloaded
    return str(place) if place.exists() or not expr.value.startswith("hf:") else expr.value


def configured(
    project: driver.Project, options: Options, weights: str | None, sets: Mapping[str, str]
) -> tuple[Options, dict[str, str]]:
    """The options with what the weights say of the configuration, below the preset and `--set`.

    A checkpoint says it in its config.json, an earlier run by its preset and its hyper-parameters, which are returned,
    too. `sets` are the texts of `--set`. Raises `Rejected`.
    """
    run = trained(weights)
    if run is not None and run.model == options.model and options.preset in (None, run.preset):
        return replace(options, preset=run.preset, sets={**driver.parse_sets(run.sets), **options.sets}), run.sets
    if run is not None or weights is None:
        return options, {}
    request = Request(str(project.path), preset=options.preset, model=options.model, sets=dict(sets), weights=weights)
    source = open_source(weights, None, project, request)
    assert source is not None
    source.close()
    return replace(options, config=source.config), {}


def texts_of(module: Module, names: Container[str]) -> dict[str, str]:
    """Hyper-parameters of a model as `--set` takes them."""
    return {h.name: _text(h.kind, h.value) for h in module.hypers if not h.is_let and h.name in names}


def _text(kind: str, value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_text('', item) for item in value)}]"
    return value if kind.startswith(("fn", "block")) and isinstance(value, str) else show(value)

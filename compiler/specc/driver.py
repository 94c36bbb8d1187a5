"""The pipeline on one screen: text -> syntax -> elaboration -> checked IR; backends take it from there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from specc import style
from specc.diagnostics import Collector, Diagnostic, Rejected
from specc.elaborate.alone import check_alone
from specc.elaborate.elaborator import Elaborator
from specc.elaborate.entries import elaborate
from specc.elaborate.files import FileScope
from specc.elaborate.models import Given, Options, choose_model, configurations, presets
from specc.elaborate.sections import check_sections
from specc.elaborate.values import Fail
from specc.ir import graph as ir
from specc.passes.incremental import findings as steps
from specc.passes.positions import positions_left
from specc.reading import Loader, locate, project_root, read_text, shown_path, std_home
from specc.source import Source, Span
from specc.strict import coincidences
from specc.syntax import ast
from specc.syntax.parser import parse
from specc.weights.check import check_weights

# Elaboration recurses over the nesting of expressions (limit 256) and blocks (limit 100).
RECURSION = 20_000


@dataclass(frozen=True, eq=False)
class Checked:
    """A checked model with the file it came from and the warnings found on the way."""

    model: ir.Model
    file: FileScope
    warnings: tuple[Diagnostic, ...]
    elaborator: Elaborator


@dataclass(frozen=True, eq=False)
class Project:
    """A parsed file with its imports: models and presets to choose from."""

    path: Path
    file: FileScope
    collector: Collector
    elaborator: Elaborator

    @property
    def presets(self) -> Mapping[str, ast.Preset]:
        return presets(self.file)

    def check(self, options: Options) -> Checked:
        """Elaborate one configuration; raises `Rejected`."""
        elaborator = next(elaborators(self))
        collector = elaborator.collector
        with deep_recursion():
            model = elaborate(elaborator, self.file, options)
        left = positions_left(model) if options.position_ids else None
        if left is not None:
            raise Rejected([left])
        warnings = tuple(d for d in (*self.collector.found, *collector.found) if d.severity != "error")
        return Checked(model, self.file, warnings, elaborator)


def open_project(target: str | Path, *, strict: bool = True) -> Project:
    """Read and parse a spec (a path, or the name of a model of the zoo) and everything it imports; raises `Rejected`.

    Not `strict`: an import that fails is a finding of the project's collector, and what it would have brought is not
    spoken of again; only a file without a syntax tree raises.
    """
    path = locate(target)
    collector = Collector()
    root = project_root(path)
    with deep_recursion():
        text = read_text(path, str(target))
        source = Source(os.path.relpath(path, root), text, shown_path(target, path))
        tree = parse(source, collector)
        elaborator = Elaborator(collector, Loader(root, source.display, collector), std_home)
        if tree is None:
            raise Rejected(collector.found)
        file = elaborator.files.add(str(path), source, tree)
        if strict:
            collector.stop_on_errors()
    return Project(path, file, collector, elaborator)


def load(
    target: str | Path,
    *,
    preset: str | None = None,
    model: str | None = None,
    sets: Mapping[str, str] | None = None,
    position_ids: bool = False,
) -> Checked:
    """Read, parse and check one configuration of a spec; raises `Rejected`. `sets` are the texts of `--set K=V`."""
    project = open_project(target)
    given = parse_sets(sets or {})
    return project.check(Options(model=model, preset=preset, sets=given, position_ids=position_ids))


def check(
    target: str | Path,
    *,
    all_presets: bool = False,
    sets: Mapping[str, str] | None = None,
    model: str | None = None,
    preset: str | None = None,
    strict: bool = False,
    notes: bool = False,
    incremental: bool = False,
) -> list[Diagnostic]:
    """Everything there is to say about a spec, in the order of its text; nothing raises.

    Checked are every model (or the one named) with its defaults (or the preset named) and, with `all_presets`, each
    preset; the arguments of presets and the train and test sections always. `strict`: sizes that agree by the values
    of a configuration alone are findings too (S290); `notes`: style and unused names (N203 to N205); `incremental`:
    what keeps entries from being built to continue their earlier calls (D401 to D408).
    """
    try:
        project = open_project(target, strict=False)
        given = parse_sets(sets or {})
    except Rejected as rejected:
        return in_order(rejected.diagnostics)
    with deep_recursion():
        options = Options(model=model, preset=preset, sets=given)
        found = findings(project, options, all_presets=all_presets, strict=strict, incremental=incremental)
        return in_order([*found, *(style.notes(project.file.tree) if notes else ())])


def findings(
    project: Project, options: Options, *, all_presets: bool, strict: bool = False, incremental: bool = False
) -> list[Diagnostic]:
    """The findings of every stage, each cause once."""
    collector = project.collector
    known: dict[tuple[object, ...], Checked | None] = {}
    told: set[tuple[object, ...]] = set()  # findings about the defaults: presets would only repeat them

    def checked(wanted: Options) -> tuple[ir.Model, Elaborator] | None:
        """A configuration, elaborated once; None if it has errors, which are then findings."""
        key = (wanted.model, wanted.preset, *((name, given.origin) for name, given in wanted.sets.items()))
        if key not in known:
            known[key], found = attempt(project, wanted)
            for diagnostic in found:
                place = (diagnostic.code, diagnostic.span and (diagnostic.span.source.name, diagnostic.span.start))
                if place not in told:
                    collector.add(diagnostic)
                    if wanted.preset is None:
                        told.add(place)
        whole = not any(file.broken for file in project.elaborator.files.by_key.values())
        result = known[key] if whole else None
        return (result.model, result.elaborator) if result is not None else None

    for configuration in configurations(project.elaborator, project.file, options, all_presets=all_presets):
        result = checked(configuration)
        if strict and result is not None:
            for finding in coincidences(result[0], partial(errors_with, project, configuration)):
                collector.add(finding)
        for finding in steps(result[0]) if incremental and result is not None else ():
            collector.add(finding)
    if not collector.errors:
        used = {id(decl.node) for one in known.values() if one is not None for decl in one.elaborator.blocks.decls()}
        for decl in project.file.blocks():
            if decl.file is project.file and id(decl.node) not in used and not decl.node.is_model:
                for finding in check_alone(decl, elaborators(project)):
                    collector.add(finding)
    check_sections(project.file, project.elaborator, checked)
    check_weights(project.file, collector, checked)
    return collector.found


def elaborators(project: Project) -> Iterator[Elaborator]:
    """Fresh ones over the project's files, without end."""
    while True:
        elaborator = Elaborator(Collector(), project.elaborator.files.loader, std_home)
        elaborator.files.by_key = project.elaborator.files.by_key
        yield elaborator


def attempt(project: Project, wanted: Options) -> tuple[Checked | None, tuple[Diagnostic, ...]]:
    """A configuration, if it is right, and what there is to say about it."""
    try:
        found = project.check(wanted)
    except Rejected as rejected:
        return None, rejected.diagnostics
    return found, found.warnings


def errors_with(project: Project, wanted: Options, sets: Mapping[str, str]) -> tuple[Diagnostic, ...]:
    """The errors of a configuration with further hyper-parameters set."""
    result, found = attempt(project, replace(wanted, sets={**wanted.sets, **parse_sets(sets)}))
    return () if result is not None else tuple(d for d in found if d.severity == "error")


def in_order(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    """File by file in the order met, in the order of the text; what has no place first."""
    found = list(diagnostics)
    files: dict[str, int] = {"": -1}
    for d in found:
        files.setdefault(d.span.source.name if d.span else "", len(files))
    return sorted(found, key=lambda d: (files[d.span.source.name], d.span.start) if d.span else (-1, 0))


def model_of(project: Project, options: Options) -> str:
    """The name of the model that these options choose."""
    try:
        return choose_model(project.file, options).name
    except Fail as fail:
        raise Rejected([fail.diagnostic]) from None


def parse_sets(sets: Mapping[str, str]) -> dict[str, Given]:
    """`--set K=V` texts as expressions; what is no expression may still be a string."""
    given: dict[str, Given] = {}
    for name, text in sets.items():
        shown = f"--set {name}={text}"
        # Parsed as a `let` of the same length, so that places in it are places in what the user typed.
        source = Source("command line", f"let {'x' * (len(name) + 2)}={text}")
        tree = parse(source, Collector())
        source.text = shown
        item = tree.items[0] if tree is not None and len(tree.items) == 1 else None
        span = Span(source, 0, len(shown))
        expr = item.value if isinstance(item, ast.Let) else ast.Str(span, text)
        given[name] = Given(expr, None, f"--set {name}={text}", text)
    return given


@contextmanager
def deep_recursion() -> Iterator[None]:
    """Room for inputs at the limits of nesting."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, RECURSION))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)

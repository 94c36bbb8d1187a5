"""The whole pipeline on one screen: text -> syntax -> elaboration -> checked IR -> backends.

Specs are read here, and only here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from specc.diagnostics import Collector, Diagnostic, Rejected
from specc.elaborate.elaborator import Elaborator
from specc.elaborate.files import FileScope
from specc.elaborate.models import Given, Options, choose_model, elaborate, presets
from specc.elaborate.values import Fail
from specc.ir import graph as ir
from specc.source import Source, Span
from specc.syntax import ast
from specc.syntax.parser import parse

PACKAGE = Path(__file__).parent
MAX_BYTES = 1 << 20
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
        collector = Collector()
        elaborator = Elaborator(collector, self.elaborator.files.loader, std_home)
        elaborator.files.by_key = self.elaborator.files.by_key
        with deep_recursion():
            model = elaborate(elaborator, self.file, options)
        warnings = tuple(d for d in (*self.collector.found, *collector.found) if d.severity != "error")
        return Checked(model, self.file, warnings, elaborator)


def open_project(target: str | Path) -> Project:
    """Read and parse a spec (a path, or the name of a model of the zoo) and everything it imports; raises `Rejected`.
    """
    path = locate(target)
    collector = Collector()
    root = project_root(path)
    with deep_recursion():
        text = read_text(path, str(target))
        source = Source(os.path.relpath(path, root), text, _display(target, path))
        tree = parse(source, collector)
        loader = _Loader(root, path, source.display, collector)
        elaborator = Elaborator(collector, loader, std_home)
        if tree is None:
            collector.stop_on_errors()
            raise Rejected(collector.found)
        file = elaborator.files.add(str(path), source, tree)
        collector.stop_on_errors()
    return Project(path, file, collector, elaborator)


def load(
    target: str | Path, *, preset: str | None = None, model: str | None = None, sets: Mapping[str, str] | None = None
) -> Checked:
    """Read, parse and check one configuration of a spec; raises `Rejected`. `sets` are the texts of `--set K=V`."""
    project = open_project(target)
    return project.check(Options(model=model, preset=preset, sets=parse_sets(sets or {})))


def model_of(project: Project, options: Options) -> str:
    """The name of the model that these options choose."""
    try:
        return choose_model(project.file, options).name
    except Fail as fail:
        raise Rejected([fail.diagnostic]) from None


# ---- reading ---------------------------------------------------------------------------------------------------------


def locate(target: str | Path) -> Path:
    """The file that a command line names: a path, else a model of the zoo (`gpt2`)."""
    path = Path(target)
    if not path.exists() and path.suffix == "" and len(path.parts) == 1:
        for zoo in zoo_folders():
            if (zoo / f"{target}.spec").is_file():
                return (zoo / f"{target}.spec").resolve()
    return path.resolve() if path.exists() else path


@cache
def zoo_folders() -> tuple[Path, ...]:
    """Where the zoo is: inside an installed package, or `specs/` of a checkout."""
    candidates = (PACKAGE / "zoo", PACKAGE.parent.parent / "specs")
    return tuple(c for c in candidates if c.is_dir())


def zoo() -> list[str]:
    """Names of the models that come with specc."""
    return sorted({p.stem for folder in zoo_folders() for p in folder.glob("*.spec")})


def read_text(path: Path, shown: str) -> str:
    """The text of a spec; raises `Rejected` with E006 or P090 for anything that is none."""
    if path.is_dir():
        raise _unreadable(f"`{shown}` is a directory", help=f"name a file in it:  {shown.rstrip('/')}/model.spec")
    if not path.exists():
        known = zoo()
        help = f"models of the zoo: {', '.join(known)}" if path.suffix == "" else ""
        raise _unreadable(f"`{shown}` does not exist", help=help)
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else None
    except OSError as error:
        raise _unreadable(f"cannot read `{shown}`: {error.strerror}") from None
    if data is None:
        raise Rejected([Diagnostic("P090", f"`{shown}` is larger than 1 MiB ({path.stat().st_size:,} bytes)")])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unreadable(f"`{shown}` is not UTF-8 text (byte {error.start})") from None


def _unreadable(message: str, *, help: str = "") -> Rejected:
    return Rejected([Diagnostic("E006", message, help=help)])


def project_root(path: Path) -> Path:
    """The directory that holds `specc.toml`, else that of the file."""
    return next((folder for folder in path.parents if (folder / "specc.toml").is_file()), path.parent)


def _display(target: str | Path, path: Path) -> str:
    return str(target) if Path(target).exists() else os.path.relpath(path)


@dataclass
class _Loader:
    """Resolves imports: `std.*` from the package, strings relative to the importing file and inside the root."""

    root: Path
    main: Path
    display: str
    collector: Collector
    paths: dict[str, Path] = field(default_factory=dict)

    def __call__(self, importer: FileScope, item: ast.Import) -> tuple[str, ast.File | None, Source]:
        return self._path(importer, item) if item.is_path else self._std(item)

    def _std(self, item: ast.Import) -> tuple[str, ast.File | None, Source]:
        head, _, name = item.origin.partition(".")
        path = PACKAGE / "std" / f"{name}.spec"
        if head != "std" or not name.isidentifier() or not path.is_file():
            known = ", ".join(f"std.{n}" for n in std_names())
            raise Fail(
                Diagnostic(
                    "E006",
                    f"no module `{item.origin}`",
                    item.origin_span,
                    notes=(("available", known),),
                    help='a file is imported by its path: from "./other.spec" import Name',
                )
            )
        source, tree = std_module(name)
        return source.name, tree, source

    def _path(self, importer: FileScope, item: ast.Import) -> tuple[str, ast.File | None, Source]:
        span = item.origin_span
        if Path(item.origin).is_absolute() or not item.origin.endswith(".spec"):
            raise Fail(
                Diagnostic(
                    "E003",
                    "an import is a relative path that ends in .spec",
                    span,
                    help='from "./other.spec" import Name',
                )
            )
        if importer.is_std:
            raise Fail(Diagnostic("E003", "the standard library imports only itself", span))
        base = Path(importer.key).parent
        path = (base / item.origin).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise Fail(
                Diagnostic(
                    "E003",
                    f"`{item.origin}` is outside the project",
                    span,
                    notes=(("why", f"the root is the folder of {self.display}, or of specc.toml"),),
                )
            )
        try:
            text = read_text(path, item.origin)
        except Rejected as rejected:
            found = rejected.diagnostics[0]
            raise Fail(Diagnostic(found.code, found.message, span)) from None
        source = Source(os.path.relpath(path, self.root), text, os.path.relpath(path))
        return str(path), parse(source, self.collector), source


@cache
def std_names() -> tuple[str, ...]:
    return tuple(sorted(p.stem for p in (PACKAGE / "std").glob("*.spec")))


@cache
def std_module(name: str) -> tuple[Source, ast.File | None]:
    """A module of the standard library, parsed once per process."""
    source = Source(f"std/{name}.spec", (PACKAGE / "std" / f"{name}.spec").read_text(encoding="utf-8"))
    return source, parse(source, Collector())


@cache
def std_home(name: str) -> str | None:
    """The std module that exports a name, for import hints."""
    for module in std_names():
        _, tree = std_module(module)
        if tree is not None and any(
            isinstance(i, (ast.BlockDef, ast.Method)) and i.name.id == name for i in tree.items
        ):
            return f"std.{module}"
    return None


def parse_sets(sets: Mapping[str, str]) -> dict[str, Given]:
    """`--set K=V` texts as expressions; what is no expression may still be a string."""
    given: dict[str, Given] = {}
    for name, text in sets.items():
        source = Source(f"--set {name}={text}", f"let value = {text}")
        tree = parse(source, Collector())
        item = tree.items[0] if tree is not None and len(tree.items) == 1 else None
        span = Span(source, 0, len(source.text))
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

"""Files and their top-level names: imports are resolved here, through a loader that the driver hands in (no file is
read here).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from specc.diagnostics import Collector, Diagnostic, Edit
from specc.elaborate.names import available, closest, did_you_mean, replaced
from specc.elaborate.values import BlockDecl, ExternDecl, Fail, FnDecl
from specc.source import Source, Span
from specc.syntax import ast
from specc.types import TYPE_NAMES

MAX_FILES = 64
MAX_DEPTH = 16


class Loader(Protocol):
    """Finds what a file names outside itself; raises `Fail` if there is none."""

    def __call__(self, importer: FileScope, item: ast.Import, /) -> tuple[str, ast.File | None, Source]:
        """(canonical key, syntax tree or None if it has syntax errors, source) of an import."""

    def extern(self, importer: FileScope, item: ast.ExternFn, /) -> str:
        """The Python file of an `extern fn`, relative to the project's root. It is not read."""


Decl = BlockDecl | FnDecl | ast.Let


@dataclass(eq=False)
class FileScope:
    """One parsed file: its declarations, its imports, its runtime dims. Values of `let`s are evaluated on first use."""

    key: str
    source: Source
    tree: ast.File
    is_std: bool
    names: dict[str, Decl] = field(default_factory=dict)
    imported: dict[str, tuple[FileScope, str]] = field(default_factory=dict)
    dim_items: list[ast.Expr | ast.DimDef] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)  # names whose import failed: already reported

    def find(self, name: str) -> tuple[FileScope, Decl] | None:
        """What a name means at file level: (the file that declares it, the declaration)."""
        if name in self.names:
            return self, self.names[name]
        if name in self.imported:
            file, original = self.imported[name]
            return file.find(original)
        return None

    def visible(self) -> list[str]:
        return [*self.names, *self.imported]

    def blocks(self) -> list[BlockDecl]:
        return [d for d in self.names.values() if isinstance(d, BlockDecl)]

    def models(self) -> list[BlockDecl]:
        return [d for d in self.blocks() if d.node.is_model]


def name_span(decl: Decl) -> Span:
    return decl.name.span if isinstance(decl, ast.Let) else decl.node.name.span


class Files:
    """All files of a build."""

    def __init__(self, loader: Loader, collector: Collector) -> None:
        self.loader, self.collector = loader, collector
        self.by_key: dict[str, FileScope] = {}
        self.loading: list[str] = []

    def add(self, key: str, source: Source, tree: ast.File, *, is_std: bool = False) -> FileScope:
        """Enter a parsed file and everything it imports."""
        if key in self.by_key:
            return self.by_key[key]
        scope = FileScope(key, source, tree, is_std)
        self.by_key[key] = scope
        self.loading.append(key)
        for item in tree.items:
            self._declare(scope, item)
        for item in tree.items:
            if isinstance(item, ast.Import):
                self._import(scope, item)
        self.loading.pop()
        return scope

    def _declare(self, scope: FileScope, item: ast.Item) -> None:
        decl: Decl
        if isinstance(item, ast.BlockDef):
            decl = BlockDecl(scope, item)
            if item.decorators and not scope.is_std:
                span = item.decorators[0].span
                message = "decorators belong to the standard library"
                self._report("E100", message, span, help="delete it", edits=(Edit(span, ""),))
        elif isinstance(item, ast.Method):
            decl = FnDecl(scope, item)
        elif isinstance(item, ast.ExternFn):
            extern = self._extern(scope, item)
            if extern is None:
                return
            decl = extern
        elif isinstance(item, ast.Let):
            decl = item
        elif isinstance(item, ast.Dims):
            scope.dim_items.extend(item.items)
            return
        else:
            return
        span = name_span(decl)
        name = span.text
        if name in scope.names:
            first = name_span(scope.names[name])
            self._report("E104", f"`{name}` is declared twice", span, why=f"first declared at {first.where}")
        elif name in TYPE_NAMES:
            self._report("N202", f"`{name}` is the name of a type", span)
        else:
            scope.names[name] = decl

    def _extern(self, scope: FileScope, item: ast.ExternFn) -> ExternDecl | None:
        """An extern function as a `fn` without a text of its own; None if its file is not where it may be."""
        try:
            path = self.loader.extern(scope, item)
        except Fail as fail:
            self.collector.add(fail.diagnostic)
            scope.broken.add(item.name.id)
            return None
        body = ast.Body(item.file.span, (), False)
        method = ast.Method(item.span, item.name, item.params, item.results, body, item.doc)
        return ExternDecl(scope, method, path, item.file.span)

    def _import(self, scope: FileScope, item: ast.Import) -> None:
        try:
            key, tree, source = self.loader(scope, item)
        except Fail as fail:
            self.collector.add(fail.diagnostic)
            self._poison(scope, item)
            return
        if key in self.loading:
            cycle = [*self.loading[self.loading.index(key) :], key]
            chain = " -> ".join(self.by_key[one].source.name for one in cycle)
            self._report(
                "E005", f"import cycle: {chain}", item.origin_span, help="move what both need into a third file"
            )
            self._poison(scope, item)
            return
        if len(self.by_key) >= MAX_FILES or len(self.loading) >= MAX_DEPTH:
            limit = f"{MAX_FILES} files" if len(self.by_key) >= MAX_FILES else f"depth {MAX_DEPTH}"
            self._report("E002", f"too many imports (limit: {limit})", item.origin_span)
            self._poison(scope, item)
            return
        if tree is None:
            self._poison(scope, item)
            return
        target = self.add(key, source, tree, is_std=key.startswith("std/"))
        for one in item.names:
            name = (one.alias or one.name).id
            if one.name.id in target.broken:
                scope.broken.add(name)
            elif one.name.id not in target.names:
                guess = closest(one.name.id, target.names)
                self._report(
                    "E004",
                    f"{target.source.name} has no `{one.name.id}`",
                    one.name.span,
                    help=did_you_mean(guess),
                    edits=replaced(one.name.span, guess),
                    available=available(target.names),
                )
                scope.broken.add(name)
            elif name in scope.names or name in scope.imported:
                self._report("E104", f"`{name}` is declared twice", (one.alias or one.name).span)
            else:
                scope.imported[name] = (target, one.name.id)

    def _poison(self, scope: FileScope, item: ast.Import) -> None:
        """Names of an import that failed exist, but nothing more is said of them."""
        scope.broken.update((one.alias or one.name).id for one in item.names)

    def _report(
        self, code: str, message: str, span: Span, *, help: str = "", edits: tuple[Edit, ...] = (), **notes: str
    ) -> None:
        lines = tuple((key, text) for key, text in notes.items() if text)
        self.collector.add(Diagnostic(code, message, span, help=help, edits=edits, notes=lines))

"""Names in scope, and the findings that cite where their values come from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Edit, Label, Size
from specc.dims import Dim
from specc.elaborate.files import FileScope
from specc.elaborate.names import available, closest, did_you_mean, replaced
from specc.elaborate.values import Binding, BlockValue, Fail, FnValue, Poison, show
from specc.source import Span
from specc.syntax import ast

if TYPE_CHECKING:
    from specc.elaborate.elaborator import Elaborator


@dataclass
class Scope:
    """Names to bindings, innermost first; the file is the outermost."""

    file: FileScope
    names: dict[str, Binding] = field(default_factory=dict)
    parent: Scope | None = None
    dims: Mapping[str, Dim] = field(default_factory=dict)  # runtime sizes that may be named here

    def find(self, name: str) -> Binding | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return None

    def child(self, names: dict[str, Binding] | None = None) -> Scope:
        return Scope(self.file, names if names is not None else {}, self, self.dims)

    def visible(self) -> list[str]:
        own = [*self.names]
        return own + (self.parent.visible() if self.parent else [])


_SILENT = (BlockValue, FnValue, Poison)  # values that are no sizes


class Place:
    """A place of the instance tree with the names that are in scope there."""

    def __init__(self, elab: Elaborator, scope: Scope) -> None:
        self.elab = elab
        self.scope = scope

    @property
    def file(self) -> FileScope:
        return self.scope.file

    def fail(
        self,
        code: str,
        message: str,
        span: Span,
        label: str = "",
        *,
        names: ast.Expr | None = None,
        others: tuple[Label, ...] = (),
        sizes: tuple[Size, ...] = (),
        help: str = "",
        note: str = "",
        edits: tuple[Edit, ...] = (),
        cause: str = "",
        **notes: str,
    ) -> Fail:
        """A finding at this place of the instance tree; `names`: print the origins of the names in that expression."""
        rows = sizes + (tuple(self.origins(names)) if names is not None else ())
        lines = tuple((key.replace("_", "-"), text) for key, text in notes.items() if text)
        site = self.elab.site() if span.source.name.startswith("std/") else None
        if site is not None:  # nobody wants to read about the inside of `Linear`: the place is where it is used
            others = (*others, Label(span.head(), label or span.head().text.strip()))
            span, label, edits = site.head(), "", ()
        where = self.elab.where()
        return Fail(
            Diagnostic(code, message, span, label, others, where, rows, lines, help, tuple(edits), note, cause=cause)
        )

    def no_such(
        self, code: str, message: str, span: Span, name: str, known: Collection[str], *, meant: str | None = None
    ) -> Fail:
        """The finding of a name that is none of `known`, with the one that was `meant`, else the closest."""
        guess = meant or closest(name, known)
        return self.fail(
            code,
            message,
            span,
            help=did_you_mean(guess),
            edits=replaced(span, guess),
            available=available(known, 20) or "none",
        )

    def origins(self, expr: ast.Expr) -> Iterator[Size]:
        """`dim = 4096   default of Llama (llama.spec:41)` for each name of an expression."""
        seen = set()
        for node in names_in(expr):
            binding = self.scope.find(node.id)
            if binding is not None and node.id not in seen and not isinstance(binding.value, _SILENT):
                seen.add(node.id)
                yield Size(node.id, show(binding.value), binding.origin)


def names_in(expr: Any) -> Iterator[ast.Name]:
    """Every name an expression reads, in order."""
    if isinstance(expr, ast.Name):
        yield expr
    elif isinstance(expr, ast.Node):
        for key, child in vars(expr).items():
            if key != "span":
                yield from names_in(child)
    elif isinstance(expr, tuple):
        for child in expr:
            yield from names_in(child)

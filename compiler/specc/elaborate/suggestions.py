"""Unknown names: what was probably meant, and the edit that writes it."""

from __future__ import annotations

from specc.diagnostics import Edit
from specc.elaborate.arithmetic import Arithmetic
from specc.elaborate.builtins import COMPILE_TIME
from specc.elaborate.names import available, closest, did_you_mean, replaced
from specc.elaborate.values import (
    Fail,
)
from specc.op import operators
from specc.source import Span
from specc.syntax import ast


class Suggestions(Arithmetic):
    """The part of an evaluator that explains unknown names (E103)."""

    def nearby(self) -> list[str]:
        """The names of values at this place, the nearest first."""
        return [*self.scope.visible(), *self.scope.dims, *self.file.visible()]

    def unknown(self, expr: ast.Name) -> Fail:
        candidates = self.nearby()
        builtin = [n for n, op in operators().items() if not op.syntax] + list(COMPILE_TIME)
        guess = closest(expr.id, candidates) or closest(expr.id, builtin)
        home = self.elab.std_home(expr.id)
        help = did_you_mean(guess)
        edits = replaced(expr.span, guess)
        if home:
            help, edits = f"from {home} import {expr.id}", self.imported(home, expr.id)
        return self.fail(
            "E103",
            f"unknown name `{expr.id}`",
            expr.span,
            help=help,
            edits=edits,
            cause=expr.id,
            available=available(candidates),
        )

    def imported(self, home: str, name: str) -> tuple[Edit, ...]:
        """The edit that imports a name of the standard library: to a line that imports from there, else a new one."""
        source = self.file.source
        for item in self.file.tree.items:
            if isinstance(item, ast.Import) and item.origin == home:
                end = item.names[-1].span.end
                return (Edit(Span(source, end, end), f", {name}"),)
        start = self.file.tree.items[0].span.start if self.file.tree.items else 0
        start = source.line_starts[source.position(start)[0] - 1]
        while start and source.line(source.position(start)[0] - 1).startswith(
            "#"
        ):  # not between a declaration and its text
            start = source.line_starts[source.position(start)[0] - 2]
        return (Edit(Span(source, start, start), f"from {home} import {name}\n"),)

    def qualified(self, func: ast.Attr) -> Fail | None:
        """`nn.Linear(..)`, as in Python (E103)."""
        base = func.base
        while isinstance(base, ast.Attr):
            base = base.base
        if not isinstance(base, ast.Name) or base.id not in ("nn", "torch", "F"):
            return None
        home = self.elab.std_home(func.name.id)
        if home is None:
            if func.name.id not in operators():
                return None
            help, edits = func.name.id, replaced(func.span, func.name.id)
        else:
            known = self.file.find(func.name.id) is not None
            help = func.name.id if known else f"from {home} import {func.name.id}       then  {func.name.id}(..)"
            edits = (Edit(func.span, func.name.id), *(() if known else self.imported(home, func.name.id)))
        return self.fail("E103", f"unknown name `{base.id}`", base.span, help=help, edits=edits)

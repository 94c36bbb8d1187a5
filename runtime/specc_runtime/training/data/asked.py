"""A data source as a section asks for it: its path, its options, the expressions of its fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specc.elaborate.names import available, closest, did_you_mean
from specc.elaborate.settings import NOT_FIELDS
from specc.source import Span
from specc.syntax import ast
from specc_runtime.training.data.columns import Data, bad
from specc_runtime.training.section import Section, evaluated, failed

TOKENS = ("tokenizer", "length", "truncate", "pad")
"""Options of a source whose fields are text."""


@dataclass(frozen=True)
class Asked:
    """A call such as `csv("points.csv", x = ["x", "y"])`.

    `like` is the data that is trained on, for data to validate on: it has the tokenizer and the classes. `split`
    overrides the option of that name.
    """

    section: Section
    setting: str
    call: ast.Call
    like: Data | None = None
    split: str | None = None

    @property
    def kind(self) -> str:
        assert isinstance(self.call.func, ast.Name)
        return self.call.func.id

    @property
    def span(self) -> Span:
        return self.call.span

    @property
    def path(self) -> tuple[str, Path]:
        """The first argument, a path relative to the spec: as it is written, and where that is."""
        first = self.call.args[0] if self.call.args else None
        if not isinstance(first, ast.Arg) or first.name is not None or not isinstance(first.value, ast.Str):
            raise failed("E125", "the first argument of a data source is its path, a string", self.span)
        return first.value.value, self.section.folder / first.value.value

    def files(self) -> list[Path]:
        """The files that the first argument names, a file or a pattern, sorted; T531 if there are none."""
        name, path = self.path
        if path.is_file() or not any(sign in name for sign in "*?["):
            return [path]
        base = Path(path.anchor)
        try:
            found = sorted(file for file in base.glob(str(path.relative_to(base))) if file.is_file())
        except ValueError as error:
            raise bad(f"{name} is no pattern of files: {error}", self.span) from None
        if not found:
            raise bad(f"no file matches {name}", self.span, f"paths are relative to the spec: {self.section.folder}")
        return found

    def positional(self, most: int) -> tuple[ast.Expr, ...]:
        """The arguments without names after the path; E120 for more of them than `most`."""
        found = [a for a in self.call.args[1:] if not isinstance(a, ast.Arg) or a.name is None]
        for arg in [a for a in found if not isinstance(a, ast.Arg)] + found[most:]:
            raise failed("E120", "a data source has one path, and fields by name", arg.span, 'x = "column"')
        return tuple(a.value for a in found if isinstance(a, ast.Arg))

    def named(self) -> dict[str, ast.Expr]:
        return {a.name.id: a.value for a in self.call.args[1:] if isinstance(a, ast.Arg) and a.name is not None}

    def fields(self, options: tuple[str, ...]) -> dict[str, ast.Expr]:
        """The fields by name; E120 for an option that is none of this source's."""
        found = self.named()
        for name, expr in found.items():
            if name in NOT_FIELDS and name not in options:
                takes = f"it takes {available(options)}" if options else "it takes fields alone"
                raise failed("E120", f"{self.kind} has no option `{name}`: {takes}", expr.span)
        return {name: expr for name, expr in found.items() if name not in NOT_FIELDS}

    def option(self, name: str, default: Any, kind: type[Any], what: str) -> Any:
        """The value of an option; E125 if it is not `what` it should be."""
        expr = self.named().get(name)
        if expr is None:
            return default
        value: Any = evaluated(self.section, expr)
        if type(value) is not kind or (name == "length" and value < 1):
            raise failed("E125", f"`{name}` is {what}", expr.span)
        return value

    @property
    def chosen_split(self) -> str | None:
        """`split = "train"`, or the split that `val = split("validation")` names."""
        found: str | None = self.split or self.option("split", None, str, 'the name of a split: "train"')
        return found

    def missing(self, name: str, column: str, known: list[str], span: Span) -> Exception:
        """T531 of a column that is not there."""
        guess = closest(column, known)
        help = did_you_mean(guess)
        return bad(f"{name} has no column `{column}`", span, help, available=available(known) or "none")


def arguments(section: Section, call: ast.Call, names: tuple[str, ...]) -> tuple[ast.Expr | None, Mapping[str, Any]]:
    """Of a field function: its column, if it names one, and the values of `names`; E120 for others."""
    column: ast.Expr | None = None
    found: dict[str, Any] = {}
    function = call.func.id if isinstance(call.func, ast.Name) else "this"
    for arg in call.args:
        if isinstance(arg, ast.Arg) and arg.name is None and column is None:
            column = arg.value
        elif isinstance(arg, ast.Arg) and arg.name is not None and arg.name.id in names:
            found[arg.name.id] = evaluated(section, arg.value)
        else:
            takes = f"a column, {available(names)}" if names else "a column"
            raise failed("E120", f"{function} takes {takes}", arg.span)
    return column, found

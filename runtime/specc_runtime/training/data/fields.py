"""Fields of a table: columns, arithmetic of them, images, sounds and names of classes as arrays."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from specc.diagnostics import Rejected
from specc.elaborate.evaluate import Evaluator
from specc.elaborate.names import available, closest
from specc.elaborate.values import Fail, number
from specc.op import operators
from specc.source import Span
from specc.syntax import ast
from specc.syntax.unparse import unparse
from specc_runtime.training.data.asked import Asked, arguments
from specc_runtime.training.data.blobs import Blobs, Files
from specc_runtime.training.data.columns import Array, Column, Data, Whole, bad, combined, settled
from specc_runtime.training.data.images import image_column, pixels
from specc_runtime.training.data.sounds import log_mel, waves
from specc_runtime.training.section import failed, unsupported

ARITHMETIC: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
}  # fmt: skip
OF_COLUMNS = ("column", "classes", "flatten", "pixels", "log_mel")
"""Functions that a field is computed by."""


class Table(ABC):
    """Columns by name. Each method raises `Rejected` (T531) for a column that is missing or of another kind."""

    name: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def place(self, row: int) -> str:
        """Where a row stands: `points.csv, line 7`."""

    @abstractmethod
    def numbers(self, column: str, span: Span) -> Array:
        """A number, or an array of one shape throughout, per row."""

    @abstractmethod
    def texts(self, column: str, span: Span) -> Sequence[str]:
        """A text per row."""

    def blobs(self, column: str, span: Span) -> Blobs | None:
        """The images or sounds of a column; None if it holds none."""
        return None

    def ids(self, column: str, span: Span) -> tuple[Array, Array] | None:
        """The ids of all rows of a column of lists of ids, and how many each row has; None if it holds none."""
        return None

    def given(self) -> Mapping[str, ast.Expr]:
        """Fields that the source has without being told."""
        return {}

    def classes(self, column: str) -> Sequence[str]:
        """Names of the numbers of a column, if they are known."""
        return ()


class Fields(Evaluator):
    """Evaluates the fields of a table: `"column"`, `["x", "y"]`, `flatten(column("image") / 255)`."""

    def __init__(self, asked: Asked, table: Table) -> None:
        place = asked.section.checker.place
        super().__init__(place.elab, place.scope)
        self.asked, self.table = asked, table
        self.used = ""
        self.found: Sequence[str] = ()  # names of the classes of the field at hand

    def column(self, key: str, expr: ast.Expr) -> Column:
        """One field."""
        self.used, self.found, self.key = "", (), key
        try:
            found = self._field(expr)
        except Fail as fail:
            raise Rejected([fail.diagnostic]) from None
        if not isinstance(expr, ast.Str | ast.ListExpr):
            self._check_finite(key, found, expr)
        return settled(found)

    def _check_finite(self, key: str, column: Column, expr: ast.Expr) -> None:
        """T531 for the first row where arithmetic gave no number; columns themselves were looked at when read."""
        for start, values in () if column.decoded or column.dtype.kind != "f" else column.parts():
            wrong = np.argwhere(~np.isfinite(values))
            if len(wrong):
                place = self.table.place(start + int(wrong[0][0]))
                raise bad(f"{place}: `{key}` is {values[tuple(wrong[0])]}, not a finite number", expr.span)

    def _field(self, expr: ast.Expr) -> Column:
        if isinstance(expr, ast.Str):
            return self._read(expr.value, expr.span)
        if isinstance(expr, ast.ListExpr):
            return self._side_by_side(expr)
        value = self.value(expr)
        if not isinstance(value, Column):
            raise failed("E125", 'a field is a column: "name", or column("name")', expr.span)
        return value

    def _side_by_side(self, expr: ast.ListExpr) -> Column:
        parts = [e.value for e in expr.elements if isinstance(e, ast.Str)]
        if len(parts) != len(expr.elements) or not parts:
            raise failed("E125", "a list of columns is a list of strings", expr.span)
        columns = [self._read(name, expr.span).array() for name in parts]
        if len({c.shape for c in columns}) > 1 or columns[0].ndim != 1:
            raise bad("columns of a list have one number per row each", expr.span)
        return Whole(np.stack(columns, axis=1))

    def _read(self, name: str, span: Span) -> Column:
        self.used = self.used or name
        blobs = self.table.blobs(name, span)
        if blobs is not None:
            return waves(blobs, self._like(), span) if blobs.sounds else image_column(blobs, span)
        self.found = self.table.classes(name)
        return Whole(self.table.numbers(name, span))

    def _like(self) -> Column | None:
        """The same field of the data to train on."""
        return self.asked.like.fields.get(self.key) if self.asked.like is not None else None

    def _blobs(self, column: ast.Expr | None, default: str, call: ast.Call, *, sounds: bool) -> Blobs:
        """What `pixels` and `log_mel` decode."""
        name = column.value if isinstance(column, ast.Str) else default if column is None else ""
        if not name:
            raise failed("E125", "a column is named by a string", call.span)
        self.used = self.used or name
        span = column.span if column is not None else call.span
        return self.table.blobs(name, span) or self._named(name, span, sounds)

    def _named(self, column: str, span: Span, sounds: bool) -> Blobs:
        """The files that a column of texts names, by their paths from where the table lies; T531 for one not there."""
        path = self.asked.path[1]
        folder = path if path.is_dir() else path.parent
        names = list(self.table.texts(column, span))
        for row, name in enumerate(names):
            if not (folder / name).is_file():
                message = f"{self.table.place(row)}, column `{column}`: there is no file {name or 'named'}"
                raise bad(message, span, f"paths of a column are relative to {folder}")
        return Files(folder, names, sounds)

    def _Call(self, expr: ast.Call) -> Any:
        name = expr.func.id if isinstance(expr.func, ast.Name) else ""
        section = self.asked.section
        if name == "pixels":
            column, given = arguments(section, expr, ("size", "range", "channels"))
            return pixels(self._blobs(column, "image", expr, sounds=False), given, expr.span)
        if name == "log_mel":
            column, given = arguments(section, expr, ("mels", "sample_rate", "window", "hop", "seconds"))
            return log_mel(self._blobs(column, "audio", expr, sounds=True), given, self._like(), expr.span)
        args = [a.value for a in expr.args if isinstance(a, ast.Arg) and a.name is None]
        if len(args) == len(expr.args) == 1:
            if name == "column" and isinstance(args[0], ast.Str):
                return self._read(args[0].value, args[0].span)
            if name == "classes" and isinstance(args[0], ast.Str):
                return self._classes(args[0])
            if name == "flatten" and isinstance(found := self.value(args[0]), Column):
                return combined(flat, found)
        if name == "tokens":
            raise failed("E125", "`tokens(..)` is a field by itself", expr.span, 'input_ids = tokens("text")')
        if name in operators():
            raise unsupported(f"`{name}(..)` in a field", expr.span)
        guess = closest(name, OF_COLUMNS)
        help = f"did you mean `{guess}`?" if guess else f"available: {available(OF_COLUMNS)}"
        raise failed("E103", f"`{name or unparse(expr)}` is no function of fields", expr.span, help)

    def _classes(self, column: ast.Str) -> Column:
        """Texts as numbers: by their place among the texts that there are, sorted."""
        self.used = column.value
        texts = self.table.texts(column.value, column.span)
        known = self.asked.like.classes.get(self.key) if self.asked.like is not None else None
        self.found = known if known is not None else sorted(set(texts))
        number_of = {text: i for i, text in enumerate(self.found)}
        for row, text in enumerate(texts):
            if text not in number_of:
                message = (
                    f'{self.table.place(row)}, `{column.value}`: the class "{text}" is not in the data to train on'
                )
                raise bad(message, column.span)
        return Whole(np.array([number_of[text] for text in texts], np.int64))

    def arithmetic(self, expr: ast.Binary, left: Any, right: Any) -> Any:
        if not isinstance(left, Column) and not isinstance(right, Column):
            return super().arithmetic(expr, left, right)
        for side in (left, right):
            if not isinstance(side, Column) and not number(side):
                raise failed("E125", f"`{expr.op}` takes columns and numbers", expr.span)
        if expr.op not in ARITHMETIC:
            raise unsupported(f"`{expr.op}` of columns", expr.span)
        return combined(ARITHMETIC[expr.op], left, right)


def flat(values: Array) -> Array:
    return values.reshape(len(values), -1)


def gathered(asked: Asked, table: Table, fields: Mapping[str, ast.Expr]) -> Data:
    """The fields of a table, as they are asked for."""
    columns: dict[str, Column] = {}
    used: dict[str, str] = {}
    classes: dict[str, Sequence[str]] = {}
    reader = Fields(asked, table)
    if not len(table):
        raise bad(f"{table.name} has no rows", asked.span)
    for key, expr in fields.items():
        columns[key] = reader.column(key, expr)
        used[key] = reader.used
        if reader.found:
            classes[key] = reader.found
    lengths = {key: len(column) for key, column in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{key}: {n}" for key, n in lengths.items())
        raise bad(f"fields of {table.name} have different numbers of rows: {shown}", asked.span)
    empty = next((key for key, n in lengths.items() if not n), None)
    if empty is not None:
        raise bad(f"the field `{empty}` of {table.name} has no rows", fields[empty].span)
    return Data(table.name, columns, table.place, used, classes=classes, span=asked.span)

"""Tables of text files and numpy archives: csv, jsonl, json, npz. Mistakes are told by line and column."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from specc.source import Span
from specc_runtime.training.data.asked import Asked
from specc_runtime.training.data.columns import Array, bad
from specc_runtime.training.data.fields import Table

MAX_INTEGER = 2**63 - 1
LARGEST = float(np.finfo(np.float32).max)


def text_of(name: str, path: Path, span: Span) -> str:
    """A file's text; T531 if it cannot be read or is not UTF-8."""
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise bad(f"{name}, line {line}: the text is not UTF-8", span) from None
    except OSError as error:
        raise unreadable(name, path, error, span) from None


def unreadable(name: str, path: Path, error: OSError, span: Span) -> Exception:
    help = f"paths are relative to the spec: {path.parent}" if not path.exists() else ""
    reason = error.strerror or (str(error) if path.exists() else "No such file or directory")
    return bad(f"cannot read {name}: {reason}", span, help)


# ---- csv -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Csv(Table):
    """A table with a header line; columns are of finite numbers, of integers if all are such, or of text."""

    asked: Asked
    name: str
    header: list[str]
    rows: list[list[str]]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, row: int) -> str:
        return f"{self.name}, line {self.lines[row]}"

    def texts(self, column: str, span: Span) -> Sequence[str]:
        if column not in self.header:
            spaced = next((c for c in self.header if c.strip() == column.strip()), None)
            if spaced is not None:
                message = f"{self.name} has no column `{column}`, but one with spaces around it: {json.dumps(spaced)}"
                raise bad(message, span, "write the header without them, or the name with them")
            raise self.asked.missing(self.name, column, self.header, span)
        at = self.header.index(column)
        return [row[at] for row in self.rows]

    def numbers(self, column: str, span: Span) -> Array:
        values = [
            _number(text.strip(), f"{self.place(i)}, column `{column}`", column, span)
            for i, text in enumerate(self.texts(column, span))
        ]
        return np.array(values, np.int64 if all(isinstance(v, int) for v in values) else np.float32)


def read_csv(asked: Asked) -> Table:
    name, path = asked.path
    reader = csv.reader(text_of(name, path, asked.span).splitlines(keepends=True), strict=True)
    header: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        header = next(reader, [])
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                message = f"{name}, line {reader.line_num}: {len(row)} columns, the header has {len(header)}"
                raise bad(message, asked.span)
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise bad(f"{name}, line {reader.line_num}: {error}", asked.span) from None
    other = next((sign for sign in (";", "\t", "|") if len(header) == 1 and sign in header[0]), None)
    if other is not None:
        message = f"{name} has one column, `{header[0]}`: it is divided by {json.dumps(other)}"
        raise bad(message, asked.span, "a csv is divided by commas: save it so")
    repeated = next((c for i, c in enumerate(header) if c in header[:i]), None)
    if repeated is not None:
        raise bad(f"{name} has two columns `{repeated}`", asked.span)
    return Csv(asked, name, header, rows, lines)


def _number(text: str, where: str, column: str, span: Span) -> int | float:
    """A number of a cell; `1_000` is none, though Python takes it for one."""
    try:
        value = int(text.replace("_", "?"))
        if abs(value) <= MAX_INTEGER:
            return value
        found = float(value)
    except ValueError:
        try:
            found = float(text.replace("_", "?"))
        except ValueError:
            shown = json.dumps(text[:40], ensure_ascii=False) if text else "nothing"
            help = f'classes("{column}")  numbers texts' if text else ""
            raise bad(f"{where}: expected a number, found {shown}", span, help) from None
    if found - found != 0:
        raise bad(f"{where}: {text} is not a finite number", span)
    if abs(found) > LARGEST:
        raise bad(f"{where}: {text} is more than single precision holds", span)
    return found


# ---- jsonl, json -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Objects(Table):
    """JSON objects; a value is a text, a number, or a list (of lists) of numbers of one shape throughout."""

    asked: Asked
    name: str
    rows: list[Mapping[str, Any]]
    places: list[str]

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, row: int) -> str:
        return f"{self.name}, {self.places[row]}"

    def _values(self, column: str, span: Span) -> list[Any]:
        for i, row in enumerate(self.rows):
            if column not in row:
                raise self.asked.missing(self.place(i), column, list(row), span)
        return [row[column] for row in self.rows]

    def texts(self, column: str, span: Span) -> Sequence[str]:
        found = self._values(column, span)
        for i, value in enumerate(found):
            if not isinstance(value, str):
                raise bad(f"{self.place(i)}, `{column}`: expected a text, found {json.dumps(value)[:40]}", span)
        return found

    def ids(self, column: str, span: Span) -> tuple[Array, Array] | None:
        found = self._values(column, span)
        if not all(isinstance(v, list) and all(type(i) is int for i in v) for v in found):
            return None
        return np.array([i for v in found for i in v], np.int64), np.array([len(v) for v in found])

    def numbers(self, column: str, span: Span) -> Array:
        shape: tuple[int, ...] | None = None
        values = []
        for i, given in enumerate(self._values(column, span)):
            where = f"{self.place(i)}, `{column}`"
            try:
                value = np.array(given)
            except (ValueError, OverflowError):
                raise bad(f"{where}: the lists have different lengths", span) from None
            if value.dtype.kind not in "biuf" or value.dtype == np.uint64 or not np.isfinite(value).all():
                raise bad(f"{where}: expected finite numbers, found {json.dumps(given)[:40]}", span)
            if value.dtype.kind == "f" and (np.abs(value) > LARGEST).any():
                raise bad(f"{where}: {json.dumps(given)[:40]} is more than single precision holds", span)
            if shape is not None and value.shape != shape:
                help = f'tokens("{column}")  takes rows of different lengths' if value.ndim == 1 else ""
                message = f"{where}: the shape is {list(value.shape)}, before it was {list(shape)}"
                raise bad(message, span, help)
            shape = value.shape
            values.append(value)
        whole = all(v.dtype.kind in "biu" for v in values)
        return np.array(values, np.int64 if whole else np.float32)


def read_jsonl(asked: Asked) -> Table:
    """One object per line."""
    name, path = asked.path
    rows: list[Mapping[str, Any]] = []
    places: list[str] = []
    for line, text in enumerate(text_of(name, path, asked.span).split("\n"), 1):
        if text.strip():
            rows.append(_object(_parsed(text, f"{name}, line {line}", asked.span), f"{name}, line {line}", asked.span))
            places.append(f"line {line}")
    return Objects(asked, name, rows, places)


def read_json(asked: Asked) -> Table:
    """A list of objects."""
    name, path = asked.path
    found = _parsed(text_of(name, path, asked.span), name, asked.span)
    if not isinstance(found, list):
        raise bad(f"{name}: expected a list of objects", asked.span, "jsonl(..)  reads one object per line")
    rows = [_object(row, f"{name}, row {i}", asked.span) for i, row in enumerate(found)]
    return Objects(asked, name, rows, [f"row {i}" for i in range(len(rows))])


def _parsed(text: str, where: str, span: Span) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where += f", line {error.lineno}" if error.lineno > 1 else ""
        raise bad(f"{where}: {error.msg}", span) from None
    except (ValueError, RecursionError) as error:
        raise bad(f"{where}: {error}", span) from None


def _object(found: Any, where: str, span: Span) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        raise bad(f"{where}: expected an object", span)
    return found


# ---- npz -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Arrays(Table):
    """Arrays of a numpy archive; their first axis is the rows."""

    asked: Asked
    name: str
    arrays: Mapping[str, Array]

    def __len__(self) -> int:
        return max((len(a) for a in self.arrays.values() if a.ndim), default=0)

    def place(self, row: int) -> str:
        return f"{self.name}, row {row}"

    def _array(self, column: str, kinds: str, what: str, span: Span) -> Array:
        if column not in self.arrays:
            raise self.asked.missing(self.name, column, list(self.arrays), span)
        found = self.arrays[column]
        if found.ndim == 0 or found.dtype.kind not in kinds:
            text = found.dtype.kind == "U" and found.ndim == 1
            help = f'classes("{column}")  numbers texts' if text else ""
            shape = "" if found.ndim else " without axes"
            raise bad(f"{self.name}, `{column}`: expected {what}, a row each, found {found.dtype}{shape}", span, help)
        return found

    def texts(self, column: str, span: Span) -> Sequence[str]:
        return [str(text) for text in self._array(column, "U", "texts", span)]

    def numbers(self, column: str, span: Span) -> Array:
        found = self._array(column, "biuf", "numbers", span)
        return finite(found, f"{self.name}, `{column}`", span)


def finite(values: Array, where: str, span: Span) -> Array:
    """Numbers as int64, single precision or the bytes they are; T531 if one is not finite."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise bad(f"{where}{np.argwhere(~np.isfinite(values))[0].tolist()}: not a finite number", span)
    if values.dtype == np.float64 and np.abs(values).max(initial=0) > LARGEST:
        at = np.argwhere(np.abs(values) > LARGEST)[0].tolist()
        raise bad(f"{where}{at}: more than single precision holds", span)
    if values.dtype == np.uint64 and values.max(initial=0) > MAX_INTEGER:
        raise bad(f"{where}{np.argwhere(values > MAX_INTEGER)[0].tolist()}: a number of more than 63 bits", span)
    if values.dtype == np.uint8:
        return values
    return values.astype(np.float32 if values.dtype.kind == "f" else np.int64, copy=False)


def read_npz(asked: Asked) -> Table:
    name, path = asked.path
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            help = 'numpy.savez("data.npz", x = array)  gives arrays names'
            raise bad(f"{name} is one array without a name (numpy.save)", asked.span, help)
        with archive:
            arrays = {key: archive[key] for key in archive.files}
    except OSError as error:
        raise unreadable(name, path, error, asked.span) from None
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError):
        raise bad(f"{name} is not an archive of plain arrays (numpy.savez)", asked.span) from None
    return Arrays(asked, name, arrays)

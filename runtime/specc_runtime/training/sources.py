"""Data of `train` sections: what a file holds, as one array per field; mistakes are told by file, row and column."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Rejected
from specc.elaborate.evaluate import Evaluator
from specc.elaborate.names import available, closest
from specc.elaborate.settings import NOT_FIELDS
from specc.elaborate.values import Fail, number
from specc.source import Span
from specc.syntax import ast
from specc.syntax.unparse import unparse
from specc_runtime.training.section import Section, evaluated, failed, unsupported

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

MAX_INTEGER = 2**63 - 1


@dataclass(frozen=True)
class Data:
    """Fields of one length. `place` says where a row stands (`points.csv, line 7`), `columns` what a field is of."""

    name: str
    fields: Mapping[str, Array]
    place: Callable[[int], str]
    columns: Mapping[str, str] = field(default_factory=dict)
    tokenizer: str | None = None  # tokenizer.json of the one that was trained on it

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def chosen(self, rows: Array) -> Data:
        """Some of the rows."""
        fields = {name: values[rows] for name, values in self.fields.items()}
        return Data(self.name, fields, lambda i: self.place(int(rows[i])), self.columns, self.tokenizer)


def read(section: Section, setting: str) -> Data:
    """The data of `data` or `val`; raises `Rejected` (T531, B650)."""
    call = section.settings[setting]
    assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    readers = {"csv": _csv, "jsonl": _jsonl, "npz": _npz, "text": _text}
    kind = call.func.id
    if kind not in readers:
        known = ", ".join(readers)
        raise unsupported(f"`{setting} = {kind}(..)`", call.func.span, f"one of {known}")
    data = readers[kind](section, call)
    if not len(data):
        raise failed("T531", f"{data.name} has no rows", call.span)
    return data


def bad(message: str, span: Span | None, help: str = "", **notes: str) -> Rejected:
    return Rejected([Diagnostic("T531", message, span, help=help, notes=tuple(notes.items()))])


# ---- files and arguments ---------------------------------------------------------------------------------------------


def _path(section: Section, call: ast.Call) -> tuple[str, Path]:
    """The file that the first argument names, relative to the spec."""
    first = call.args[0] if call.args else None
    if not isinstance(first, ast.Arg) or first.name is not None or not isinstance(first.value, ast.Str):
        raise failed("E125", "the first argument of a data source is its path, a string", call.span)
    return first.value.value, section.folder / first.value.value


def _text_of(name: str, path: Path, span: Span) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise bad(f"{name}, line {line}: the text is not UTF-8", span) from None
    except OSError as error:
        help = f"paths are relative to the spec: {path.parent}"
        raise bad(f"cannot read {name}: {error.strerror}", span, help if not path.exists() else "") from None


def _fields(call: ast.Call) -> Iterator[tuple[str, ast.Expr]]:
    """`field = ..` arguments."""
    for arg in call.args[1:]:
        if isinstance(arg, ast.StarArg) or arg.name is None:
            raise failed("E120", "a data source has one path, and fields by name", arg.span, 'x = "column"')
        if arg.name.id in NOT_FIELDS:
            raise unsupported(f"`{arg.name.id}` of this data source", arg.span)
        yield arg.name.id, arg.value


class Columns(Evaluator):
    """Evaluates a field: `"column"`, `["x", "y"]`, `column("x") / 255`."""

    def __init__(self, section: Section, column: Callable[[str, Span], Array]) -> None:
        super().__init__(section.checker.place.elab, section.checker.place.scope)
        self.column, self.used = column, ""

    def array(self, expr: ast.Expr) -> Array:
        import numpy as np

        if isinstance(expr, ast.Str):
            return self._read(expr.value, expr.span)
        if isinstance(expr, ast.ListExpr):
            parts = [e.value for e in expr.elements if isinstance(e, ast.Str)]
            if len(parts) != len(expr.elements) or not parts:
                raise failed("E125", "a list of columns is a list of strings", expr.span)
            columns = [self._read(name, expr.span) for name in parts]
            if len({c.shape for c in columns}) > 1 or columns[0].ndim != 1:
                raise bad("columns of a list have one number per row each", expr.span)
            return np.stack(columns, axis=1)
        value = self.value(expr)
        if not isinstance(value, np.ndarray):
            raise failed("E125", 'a field is a column: "name", or column("name")', expr.span)
        return value

    def _read(self, name: str, span: Span) -> Array:
        self.used = self.used or name
        return self.column(name, span)

    def _Call(self, expr: ast.Call) -> Any:
        import numpy as np

        name = expr.func.id if isinstance(expr.func, ast.Name) else ""
        args = [a.value for a in expr.args if isinstance(a, ast.Arg) and a.name is None]
        if name == "column" and len(args) == len(expr.args) == 1 and isinstance(args[0], ast.Str):
            return self._read(args[0].value, args[0].span)
        if name == "flatten" and len(args) == len(expr.args) == 1:
            found = self.value(args[0])
            if isinstance(found, np.ndarray):
                return found.reshape(len(found), -1)
        raise unsupported(f"`{name}(..)` in a field", expr.span)

    def arithmetic(self, expr: ast.Binary, left: Any, right: Any) -> Any:
        import operator

        import numpy as np

        operations = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
        if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
            for side in (left, right):
                if not isinstance(side, np.ndarray) and not number(side):
                    raise failed("E125", f"`{expr.op}` takes columns and numbers", expr.span)
            if expr.op not in operations:
                raise unsupported(f"`{expr.op}` of columns", expr.span)
            return operations[expr.op](left, right)
        return super().arithmetic(expr, left, right)


def _gathered(
    section: Section, call: ast.Call, name: str, column: Callable[[str, Span], Array], place: Callable[[int], str]
) -> Data:
    """The fields of a source whose columns are read one by one."""
    fields: dict[str, Array] = {}
    columns: dict[str, str] = {}
    for key, expr in _fields(call):
        reader = Columns(section, column)
        try:
            fields[key] = reader.array(expr)
        except Fail as fail:
            raise Rejected([fail.diagnostic]) from None
        columns[key] = reader.used
    if not fields:
        raise failed("E124", "the data source has no fields", call.span, 'x = ["column"]')
    lengths = {key: len(values) for key, values in fields.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{key}: {n}" for key, n in lengths.items())
        raise bad(f"fields of {name} have different numbers of rows: {shown}", call.span)
    return Data(name, fields, place, columns)


def _missing(name: str, column: str, known: list[str], span: Span) -> Rejected:
    guess = closest(column, known)
    help = f"did you mean `{guess}`?" if guess else ""
    return bad(f"{name} has no column `{column}`", span, help, available=available(known) or "none")


# ---- csv, jsonl ------------------------------------------------------------------------------------------------------


def _csv(section: Section, call: ast.Call) -> Data:
    """A table with a header line; fields are columns of finite numbers, of integers if all are such."""
    import numpy as np

    name, path = _path(section, call)
    reader = csv.reader(_text_of(name, path, call.span).splitlines(keepends=True), strict=True)
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
                raise bad(message, call.span)
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise bad(f"{name}, line {reader.line_num}: {error}", call.span) from None
    repeated = next((c for i, c in enumerate(header) if c in header[:i]), None)
    if repeated is not None:
        raise bad(f"{name} has two columns `{repeated}`", call.span)

    def place(i: int) -> str:
        return f"{name}, line {lines[i]}"

    def column(wanted: str, span: Span) -> Array:
        if wanted not in header:
            raise _missing(name, wanted, header, span)
        at = header.index(wanted)
        values = [_number(row[at].strip(), f"{place(i)}, column `{wanted}`", span) for i, row in enumerate(rows)]
        return np.array(values, np.int64 if all(isinstance(v, int) for v in values) else np.float32)

    return _gathered(section, call, name, column, place)


def _number(text: str, where: str, span: Span) -> int | float:
    """A number of a cell."""
    try:
        value = int(text)
        if abs(value) <= MAX_INTEGER:
            return value
        found = float(value)
    except ValueError:
        try:
            found = float(text)
        except ValueError:
            shown = f'"{text[:40]}"' if text else "nothing"
            raise bad(f"{where}: expected a number, found {shown}", span) from None
    if found - found != 0:
        raise bad(f"{where}: {text} is not a finite number", span)
    return found


def _jsonl(section: Section, call: ast.Call) -> Data:
    """One JSON object per line; a value is a number, or a list (of lists) of numbers of one shape throughout."""
    import numpy as np

    name, path = _path(section, call)
    rows: list[Mapping[str, Any]] = []
    lines: list[int] = []
    for line, text in enumerate(_text_of(name, path, call.span).split("\n"), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise bad(f"{name}, line {line}: {str(error).partition(': line')[0]}", call.span) from None
        if not isinstance(row, dict):
            raise bad(f"{name}, line {line}: expected an object", call.span)
        rows.append(row)
        lines.append(line)

    def place(i: int) -> str:
        return f"{name}, line {lines[i]}"

    def column(wanted: str, span: Span) -> Array:
        shape: tuple[int, ...] | None = None
        values = []
        for i, row in enumerate(rows):
            if wanted not in row:
                raise _missing(place(i), wanted, list(row), span)
            where = f"{place(i)}, `{wanted}`"
            try:
                value = np.array(row[wanted])
            except (ValueError, OverflowError):
                raise bad(f"{where}: the lists have different lengths", span) from None
            if value.dtype.kind not in "biuf" or value.dtype == np.uint64 or not np.isfinite(value).all():
                raise bad(f"{where}: expected finite numbers, found {json.dumps(row[wanted])[:40]}", span)
            if shape is not None and value.shape != shape:
                raise bad(f"{where}: the shape is {list(value.shape)}, before it was {list(shape)}", span)
            shape = value.shape
            values.append(value)
        whole = all(v.dtype.kind in "biu" for v in values)
        return np.array(values, np.int64 if whole else np.float32)

    return _gathered(section, call, name, column, place)


# ---- npz, text -------------------------------------------------------------------------------------------------------


def _npz(section: Section, call: ast.Call) -> Data:
    """Arrays of a numpy archive; their first axis is the rows."""
    import zipfile

    import numpy as np

    name, path = _path(section, call)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files} if hasattr(archive, "files") else {}
    except OSError as error:
        raise bad(f"cannot read {name}: {error.strerror or error}", call.span) from None
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError):
        raise bad(f"{name} is not an archive of plain arrays (numpy.savez)", call.span) from None

    def column(wanted: str, span: Span) -> Array:
        if wanted not in arrays:
            raise _missing(name, wanted, list(arrays), span)
        found = arrays[wanted]
        if found.ndim == 0 or found.dtype.kind not in "biuf":
            raise bad(f"{name}, `{wanted}`: expected numbers with an axis of rows, found {found.dtype}", span)
        wrong = np.argwhere(~np.isfinite(found))
        if len(wrong):
            raise bad(f"{name}, `{wanted}`{wrong[0].tolist()}: not a finite number", span)
        whole: Array = found.astype(np.float32 if found.dtype.kind == "f" else np.int64)
        return whole

    return _gathered(section, call, name, column, lambda i: f"{name}, row {i}")


def _text(section: Section, call: ast.Call) -> Data:
    """Files of a pattern as rows of `length` ids: bytes, or those of a byte-level BPE that is trained on them."""
    import numpy as np

    name, path = _path(section, call)
    given: dict[str, ast.Expr] = {}
    for arg in call.args[1:]:
        key = arg.name.id if isinstance(arg, ast.Arg) and arg.name is not None else ""
        if not isinstance(arg, ast.Arg) or key not in ("tokenizer", "length"):
            raise failed("E120", "text takes a path, a `tokenizer` and a `length`", arg.span)
        given[key] = arg.value
    length = evaluated(section, given["length"]) if "length" in given else None
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise failed("E125", "`length` is the number of ids of a row, at least 1", call.span)
    files = sorted(path.parent.glob(path.name)) if path.name else []
    if not files:
        raise bad(f"no file matches {name}", call.span, f"paths are relative to the spec: {section.folder}")
    text = "\n".join(_text_of(f.name, f, call.span) for f in files)
    size = _vocabulary(section, call, given.get("tokenizer"))
    if size is None:
        tokenizer, found = None, np.frombuffer(text.encode(), np.uint8)
    else:
        tokenizer, ids = _bpe(text, size)
        found = np.array(ids)
    count = len(found) // length
    if not count:
        raise bad(f"{name} has {len(found)} ids, fewer than one row of {length}", call.span)
    rows = found[: count * length].reshape(count, length).astype(np.int64)

    def place(i: int) -> str:
        return f"{name}, ids {i * length} to {(i + 1) * length - 1}"

    return Data(name, {"input_ids": rows}, place, tokenizer=tokenizer)


def _vocabulary(section: Section, call: ast.Call, expr: ast.Expr | None) -> int | None:
    """The size of `tokenizer = bpe(size)`; None for bytes."""
    if expr is None or (isinstance(expr, ast.Str) and expr.value == "bytes"):
        return None
    named = isinstance(expr, ast.Call) and isinstance(expr.func, ast.Name) and expr.func.id == "bpe"
    help = 'tokenizer = "bytes", or bpe(1000)'
    if not named or not isinstance(expr, ast.Call) or section.settings.get("val") is call:
        where = " of `val`" if section.settings.get("val") is call else ""
        raise unsupported(f"`tokenizer = {unparse(expr)}`{where}", expr.span, help)
    args = [evaluated(section, a.value) for a in expr.args if isinstance(a, ast.Arg) and a.name is None]
    size = args[0] if len(args) == len(expr.args) == 1 else None
    if not isinstance(size, int) or isinstance(size, bool) or size < 256:
        raise failed("E125", "bpe takes the number of its ids, at least the 256 of single bytes", expr.span)
    return size


def _bpe(text: str, size: int) -> tuple[str, list[int]]:
    """A byte-level BPE of at most `size` ids, as tokenizer.json, and the ids of the text it was trained on."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, initial_alphabet=alphabet)
    pieces = text.splitlines(keepends=True)
    made.train_from_iterator(pieces, trainer)
    return made.to_str(), [i for found in made.encode_batch(pieces) for i in found.ids]

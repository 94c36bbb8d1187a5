"""Tables of Arrow: parquet files, and data sets of the `datasets` library, from a folder or the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from specc.elaborate.names import available, closest, did_you_mean
from specc.source import Span
from specc.syntax import ast
from specc_runtime.training.data.asked import Asked
from specc_runtime.training.data.blobs import Blobs, Stored
from specc_runtime.training.data.columns import Array, bad
from specc_runtime.training.data.fields import Table
from specc_runtime.training.data.tables import finite, unreadable
from specc_runtime.training.section import failed

DATA_ENDINGS = (".parquet", ".csv", ".tsv", ".json", ".jsonl", ".arrow", ".txt", ".zip", ".gz", ".tar", ".zst")
"""Of files that the library reads in a folder that it did not write."""
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, eq=False)
class Arrow(Table):
    """Columns of Arrow, mapped from their files where these allow."""

    asked: Asked
    name: str
    table: pa.Table
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    sounds: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return self.table.num_rows  # type: ignore[no-any-return]

    def place(self, row: int) -> str:
        return f"{self.name}, row {row}"

    def _column(self, column: str, span: Span) -> pa.ChunkedArray:
        if column not in self.table.column_names:
            raise self.asked.missing(self.name, column, self.table.column_names, span)
        found = self.table.column(column)
        if found.null_count:
            row = pc.index(pc.is_null(found), True).as_py()
            raise bad(f"{self.place(row)}, `{column}`: there is no value", span)
        return found

    def texts(self, column: str, span: Span) -> Sequence[str]:
        found = self._column(column, span)
        kind = found.type.value_type if pa.types.is_dictionary(found.type) else found.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise bad(f"{self.name}, `{column}`: expected texts, found {found.type}", span)
        return _Texts(found)

    def ids(self, column: str, span: Span) -> tuple[Array, Array] | None:
        found = self._column(column, span)
        if not (_is_list(found.type) and pa.types.is_integer(found.type.value_type)):
            return None
        joined = _joined(found)
        return joined.flatten().to_numpy(), pc.list_value_length(joined).to_numpy().astype(np.int64)

    def blobs(self, column: str, span: Span) -> Blobs | None:
        found = self._column(column, span)
        if pa.types.is_struct(found.type) and {"bytes", "path"} <= {f.name for f in found.type}:
            return Stored(self.name, found, column in self.sounds)
        return None

    def classes(self, column: str) -> Sequence[str]:
        return self.names.get(column, ())

    def numbers(self, column: str, span: Span) -> Array:
        found = self._array(_joined(self._column(column, span)), column, span)
        return finite(found, f"{self.name}, `{column}`", span)

    def _array(self, values: pa.Array, column: str, span: Span, inside: int = 1) -> Array:
        """`inside`: how many values of this depth a row has."""
        if isinstance(values, pa.ExtensionArray):
            values = values.storage
        if values.null_count:
            row = pc.index(pc.is_null(values), True).as_py() // inside
            raise bad(f"{self.place(row)}, `{column}`: a value is missing", span)
        if _is_list(values.type):
            sizes = pc.list_value_length(values).to_numpy()
            wrong = np.flatnonzero(sizes != sizes[0])
            if len(wrong):
                where = f"{self.place(int(wrong[0]) // inside)}, `{column}`"
                help = f'tokens("{column}")  takes rows of different lengths'
                raise bad(f"{where}: {sizes[wrong[0]]} values, before there were {sizes[0]}", span, help)
            inner = self._array(values.flatten(), column, span, inside * max(int(sizes[0]), 1))
            return inner.reshape(len(values), int(sizes[0]), *inner.shape[1:])
        kind = values.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
            help = f'classes("{column}")  numbers texts' if text else ""
            raise bad(f"{self.name}, `{column}`: expected numbers, found {kind}", span, help)
        found: Array = values.to_numpy(zero_copy_only=False)
        return found


@dataclass(frozen=True, eq=False)
class _Texts(Sequence[str]):
    """Texts that are made Python's a part at a time."""

    column: pa.ChunkedArray

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return self.column[at].to_pylist()
        return self.column[at].as_py()


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _joined(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    return found.chunk(0) if isinstance(found, pa.ChunkedArray) else found


# ---- files -----------------------------------------------------------------------------------------------------------


def read_parquet(asked: Asked) -> Table:
    """A parquet file, or those of a pattern, one after the other."""
    name = asked.path[0]
    files = asked.files()
    parts = []
    for file in files:
        try:
            parts.append(pq.read_table(file, memory_map=True))
        except OSError as error:
            raise unreadable(name, file, error, asked.span) from None
        except pa.ArrowException as error:
            raise bad(f"{file.name} is not a parquet file: {_first_line(error)}", asked.span) from None
        if parts[-1].schema.names != parts[0].schema.names:
            raise bad(f"{file.name} has other columns than {files[0].name}", asked.span)
    try:
        table = pa.concat_tables(parts, promote_options="permissive")
    except pa.ArrowException as error:
        raise bad(f"the files of {name} do not fit together: {_first_line(error)}", asked.span) from None
    return Arrow(asked, name, table)


def read_hf_dataset(asked: Asked) -> Table:
    """`hf_dataset(path, config, split = "train")`: a folder, or else a name on the hub."""
    import datasets

    name, path = asked.path
    config = _config(asked)
    split = asked.chosen_split or "train"
    if path.is_file():
        raise bad(f"{name} is a file", asked.span, "csv(..), json(..), jsonl(..) and parquet(..) read files")
    datasets.disable_progress_bars()
    try:
        if any((path / file).is_file() for file in ("state.json", "dataset_dict.json")):
            found = datasets.load_from_disk(str(path))
        elif path.exists() or not HUB_NAME.fullmatch(name):
            if not path.exists():
                help = f"paths are relative to the spec: {asked.section.folder}"
                raise bad(f"cannot read {name}: there is no such folder", asked.span, help)
            if not any(f.suffix in DATA_ENDINGS for f in path.rglob("*")):
                raise bad(f"{name} has no file of data in it", asked.span, f"endings: {', '.join(DATA_ENDINGS)}")
            found = datasets.load_dataset(str(path), config)
        else:
            found = datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, IndexError, datasets.exceptions.DatasetsError) as error:  # IndexError: the path `/`
        raise _not_loaded(asked, name, config, split, error) from None
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            guess = closest(split, list(found))
            help = did_you_mean(guess)
            raise bad(f"{name} has no split `{split}`", asked.span, help, available=available(list(found)))
        found = found[split]
    elif asked.chosen_split is not None and str(found.split) != split:
        whole = "it has none" if found.split is None else f"it is the split `{found.split}`"
        raise bad(f"{name} has no split `{split}`: {whole}", asked.span, "val = split(0.1),  or another data set")
    named = {key: list(kind.names) for key, kind in found.features.items() if isinstance(kind, datasets.ClassLabel)}
    sounds = frozenset(key for key, kind in found.features.items() if isinstance(kind, datasets.Audio))
    plain = found.with_format("arrow")
    return Arrow(asked, name, plain[:] if len(plain) else found.data.table, named, sounds)


def _config(asked: Asked) -> str | None:
    """The second argument, or `name = ..`."""
    given = asked.positional(1)
    expr = given[0] if given else asked.named().get("name")
    if expr is not None and not isinstance(expr, ast.Str):
        raise failed("E125", "the configuration of a data set is a string", expr.span)
    return expr.value if expr is not None else None


def _not_loaded(asked: Asked, name: str, config: str | None, split: str, error: Exception) -> Exception:
    text = _first_line(error.__cause__ or error)
    if isinstance(error, ConnectionError) or "offline" in text.lower():
        more = f', "{config}"' if config is not None else ""
        load = f'datasets.load_dataset("{name}"{more}).save_to_disk("{name.rpartition("/")[2]}")'
        help = f"where there is a network, run  {load}  in Python and give the path of that folder"
        return bad(f"cannot reach the data set {name} on the hub: {text}", asked.span, help)
    return bad(f"cannot load the data set {name}, split {split}: {text}", asked.span)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]

"""Columns of training data: arrays, ids of different lengths, files that are decoded when a batch asks for them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from specc.diagnostics import Diagnostic, Rejected
from specc.source import Span

Array = np.ndarray[Any, Any]
Sizes = tuple[int | None, ...]

IN_MEMORY = 2**30
"""Bytes up to which decoded images and sounds are kept; beyond, each batch decodes its own."""
AT_ONCE = 1024
"""Rows that are looked at together where a column is read from end to end."""


class Column(ABC):
    """One field of all rows. `dtype` and `row`, the sizes of a row's axes (None: they differ), are those of `take`."""

    if TYPE_CHECKING:  # attributes of some columns, computed by others

        @property
        def dtype(self) -> np.dtype[Any]: ...

        @property
        def row(self) -> Sizes: ...

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, rows: Array) -> Array:
        """These rows as one array [len(rows), *row]; shorter ones are padded to the longest of them."""

    @property
    def ndim(self) -> int:
        return 1 + len(self.row)

    @property
    def decoded(self) -> bool:
        """Whether a batch costs so much that worker processes should make it."""
        return False

    def lengths(self) -> Array | None:
        """How many ids each row has, where that differs."""
        return None

    def chosen(self, rows: Array) -> Column:
        """Some of the rows."""
        return Chosen(self, rows)

    def cast(self, dtype: np.dtype[Any]) -> Column:
        return self if dtype == self.dtype else Cast(self, dtype)

    def parts(self) -> Iterator[tuple[int, Array]]:
        """All rows, a part at a time, each with the number of its first row."""
        for start in range(0, len(self), AT_ONCE):
            yield start, self.take(np.arange(start, min(start + AT_ONCE, len(self))))

    def array(self) -> Array:
        """All rows."""
        return self.take(np.arange(len(self)))


@dataclass(frozen=True, eq=False)
class Whole(Column):
    """An array, in memory or mapped from a file."""

    values: Array

    @property
    def dtype(self) -> np.dtype[Any]:
        found: np.dtype[Any] = self.values.dtype
        return found

    @property
    def row(self) -> Sizes:
        found: Sizes = self.values.shape[1:]
        return found

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: Array) -> Array:
        found: Array = self.values[rows]
        return found

    def chosen(self, rows: Array) -> Column:
        return super().chosen(rows) if isinstance(self.values, np.memmap) else Whole(self.values[rows])

    def cast(self, dtype: np.dtype[Any]) -> Column:
        in_memory = not isinstance(self.values, np.memmap)
        return Whole(self.values.astype(dtype, copy=False)) if in_memory else super().cast(dtype)

    def array(self) -> Array:
        return self.values


class Wrapper(Column):
    """A column made of another one."""

    if TYPE_CHECKING:

        @property
        def of(self) -> Column: ...

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.of.dtype

    @property
    def row(self) -> Sizes:
        return self.of.row

    @property
    def decoded(self) -> bool:
        return self.of.decoded

    def __len__(self) -> int:
        return len(self.of)

    def lengths(self) -> Array | None:
        return self.of.lengths()


@dataclass(frozen=True, eq=False)
class Chosen(Wrapper):
    """Some rows of a column that is not copied."""

    of: Column
    rows: Array

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Array) -> Array:
        return self.of.take(self.rows[rows])

    def lengths(self) -> Array | None:
        found = self.of.lengths()
        return found[self.rows] if found is not None else None


@dataclass(frozen=True, eq=False)
class Cast(Wrapper):
    """A column in another element type."""

    of: Column
    to: np.dtype[Any]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.to

    def take(self, rows: Array) -> Array:
        return self.of.take(rows).astype(self.to, copy=False)


# ---- ids of different lengths ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ragged(Column):
    """Ids one row after the other; row i is `ids[starts[i]:starts[i] + sizes[i]]`. A batch is filled up with `pad`."""

    ids: Array
    starts: Array
    sizes: Array
    pad: int
    dtype: np.dtype[Any] = field(default=np.dtype(np.int64))
    row: Sizes = (None,)

    @classmethod
    def of(cls, ids: Array, sizes: Array, pad: int) -> Ragged:
        return cls(ids, np.cumsum(sizes) - sizes, sizes, pad)

    def __len__(self) -> int:
        return len(self.sizes)

    def lengths(self) -> Array:
        return self.sizes

    def cut(self, length: int) -> Ragged:
        """No row longer than `length`."""
        return replace(self, sizes=np.minimum(self.sizes, length))

    def chosen(self, rows: Array) -> Ragged:
        return replace(self, starts=self.starts[rows], sizes=self.sizes[rows])

    def take(self, rows: Array) -> Array:
        inside = self.inside(rows)
        found = np.full(inside.shape, self.pad, self.dtype)
        at = self.starts[rows][:, None] + np.arange(inside.shape[1])
        found[inside] = self.ids[at[inside]]
        return found

    def inside(self, rows: Array) -> Array:
        """[len(rows), longest]: true where there is an id, false where there is padding."""
        sizes = self.sizes[rows]
        found: Array = np.arange(sizes.max(initial=1)) < sizes[:, None]
        return found

    @property
    def same(self) -> bool:
        """No row is ever padded."""
        return bool((self.sizes == self.sizes[:1]).all())


@dataclass(frozen=True, eq=False)
class Mask(Wrapper):
    """Where a row of ids has ids: the attention mask that goes with them."""

    of: Ragged
    dtype: np.dtype[Any] = field(default=np.dtype(bool))

    def take(self, rows: Array) -> Array:
        return self.of.inside(rows)

    def chosen(self, rows: Array) -> Mask:
        return Mask(self.of.chosen(rows))


# ---- what is computed ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Decoded(Column):
    """Rows that `decode` makes, each of one shape. Both are plain objects that a worker process can be sent."""

    decode: Callable[[int], Array]
    count: int
    first: Array = field(repr=False)

    @property
    def dtype(self) -> np.dtype[Any]:
        found: np.dtype[Any] = self.first.dtype
        return found

    @property
    def row(self) -> Sizes:
        found: Sizes = self.first.shape
        return found

    @property
    def decoded(self) -> bool:
        return True

    def __len__(self) -> int:
        return self.count

    def take(self, rows: Array) -> Array:
        return np.stack([self.decode(int(i)) for i in rows]) if len(rows) else np.zeros((0, *self.first.shape))


@dataclass(frozen=True, eq=False)
class Mapped(Column):
    """A function of columns and numbers, row by row."""

    function: Callable[..., Array]
    operands: tuple[Column | int | float, ...]
    dtype: np.dtype[Any]
    row: Sizes

    @property
    def decoded(self) -> bool:
        return any(o.decoded for o in self.operands if isinstance(o, Column))

    def __len__(self) -> int:
        return next(len(o) for o in self.operands if isinstance(o, Column))

    def take(self, rows: Array) -> Array:
        return narrow(self.function(*(o.take(rows) if isinstance(o, Column) else o for o in self.operands)))


def combined(function: Callable[..., Array], *operands: Column | int | float) -> Column:
    """A function of columns and numbers: of all rows now if they are at hand, else of those that a batch asks for."""
    if all(isinstance(o, Whole) or not isinstance(o, Column) for o in operands):
        with np.errstate(all="ignore"):  # whoever asks looks at what came out
            return Whole(narrow(function(*(o.values if isinstance(o, Whole) else o for o in operands))))
    first = narrow(function(*(o.take(np.arange(1)) if isinstance(o, Column) else o for o in operands)))
    return Mapped(function, operands, first.dtype, first.shape[1:])


def narrow(values: Array) -> Array:
    """Fractions in single precision."""
    return values.astype(np.float32) if values.dtype == np.float64 else values


def settled(column: Column) -> Column:
    """What is decoded, decoded once and kept, if all of it takes no more than `IN_MEMORY` bytes."""
    if not column.decoded or None in column.row:
        return column
    sizes = [n for n in column.row if n is not None]
    if len(column) * int(np.prod(sizes)) * column.dtype.itemsize > IN_MEMORY:
        return column
    found = np.empty((len(column), *sizes), column.dtype)
    parts = [np.arange(start, min(start + 32, len(column))) for start in range(0, len(column), 32)]
    with ThreadPoolExecutor() as pool:
        for rows, values in zip(parts, pool.map(column.take, parts), strict=True):
            found[rows] = values
    return Whole(found)


# ---- a data set ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """Fields of one length. `place` says where a row stands (`points.csv, line 7`), `columns` what a field is of.

    `tokenizer` is the tokenizer.json that the ids are of, `vocabulary` how many ids it has; `classes` are the names of
    the ids of a field; `ids` the fields that are of the tokenizer, `padded` what short rows of a field are filled up
    with.
    """

    name: str
    fields: Mapping[str, Column]
    place: Callable[[int], str]
    columns: Mapping[str, str] = field(default_factory=dict)
    tokenizer: str | None = None
    vocabulary: int = 0
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ids: tuple[str, ...] = ()
    padded: Mapping[str, int] = field(default_factory=dict)
    span: Span | None = None
    """Where the section names it."""

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def chosen(self, rows: Array) -> Data:
        """Some of the rows."""
        fields = {name: column.chosen(rows) for name, column in self.fields.items()}
        return replace(self, fields=fields, place=lambda i: self.place(int(rows[i])))

    def digest(self) -> str:
        """SHA-256 of every field, with its name; of what is not kept decoded, of the first row."""
        found = hashlib.sha256()
        for name, column in sorted(self.fields.items()):
            found.update(f"{name} {column.dtype} {len(column)} {column.row}\n".encode())
            for _, values in [(0, column.take(np.arange(1)))] if column.decoded else column.parts():
                found.update(values.tobytes())
        return found.hexdigest()

    def lengths(self) -> Array | None:
        """Ids of each row, of the longest of its fields; None if no field has ids of different lengths."""
        found = [sizes for column in self.fields.values() if (sizes := column.lengths()) is not None]
        return np.max(found, axis=0) if found else None


def bad(message: str, span: Span | None, help: str = "", **notes: str) -> Rejected:
    """T531: data that cannot be trained on."""
    return Rejected([Diagnostic("T531", message, span, help=help, notes=tuple(notes.items()))])

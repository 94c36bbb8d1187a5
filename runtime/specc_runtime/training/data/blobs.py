"""Images and sounds that are not decoded yet: files, or the bytes of a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from specc_runtime.training.data.columns import bad

if TYPE_CHECKING:
    import pyarrow as pa


class Blobs(Protocol):
    """A file per row: images, or sounds."""

    @property
    def sounds(self) -> bool: ...

    def __len__(self) -> int: ...

    def place(self, row: int) -> str: ...

    def open(self, row: int) -> IO[bytes]:
        """Raises OSError."""


@dataclass(frozen=True)
class Files:
    """Files of a folder; `names` are their paths inside of it."""

    folder: Path
    names: Sequence[str]
    sounds: bool

    def __len__(self) -> int:
        return len(self.names)

    def place(self, row: int) -> str:
        return self.names[row]

    def open(self, row: int) -> IO[bytes]:
        return (self.folder / self.names[row]).open("rb")


@dataclass(frozen=True, eq=False)
class Stored:
    """A column of `datasets`: for each row its bytes, or the path of its file."""

    name: str
    column: pa.ChunkedArray
    sounds: bool

    def __len__(self) -> int:
        return len(self.column)

    def place(self, row: int) -> str:
        return f"{self.name}, row {row}"

    def open(self, row: int) -> IO[bytes]:
        item = self.column[row].as_py() or {}
        if item.get("bytes") is not None:
            return BytesIO(item["bytes"])
        if item.get("path"):
            return Path(item["path"]).open("rb")
        raise bad(f"{self.place(row)}: there is no file", None)

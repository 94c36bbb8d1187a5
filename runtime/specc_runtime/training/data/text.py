"""Running text as rows of ids. It may be larger than memory: it is read by blocks, its ids are mapped from a file.

The ids are kept in the user's cache folder by what they are made of (the text, the tokenizer), so that a run that is
resumed, a second process of it and the next run read them instead of making them again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from specc.source import Span
from specc_runtime.training.data.asked import Asked
from specc_runtime.training.data.columns import Array, Cast, Data, Whole, bad
from specc_runtime.training.data.tables import unreadable
from specc_runtime.training.data.vocabulary import Vocabulary, vocabulary
from specc_runtime.training.section import failed

BLOCK = 2**16
"""Bytes that are tokenised as one text; it goes on to the end of a line."""
AT_ONCE = 16
"""Blocks that are tokenised together."""
FORMAT = 1
"""Of the files in the cache folder."""


def read_text(asked: Asked) -> Data:
    """`text(pattern, tokenizer, length)`: files one after the other, cut into rows of `length` ids."""
    asked.fields(("tokenizer", "length"))
    name = asked.path[0]
    for key, expr in asked.named().items():
        if key not in ("tokenizer", "length"):
            raise failed("E120", "text takes a path, a `tokenizer` and a `length`", expr.span)
    if "length" not in asked.named():
        raise failed("E125", "`length` is the number of ids of a row, at least 1", asked.span)
    length = asked.option("length", None, int, "the number of ids of a row, at least 1")
    text = Text(tuple(asked.files()), asked.span)
    tokenizer, ids = _ids(asked, text)
    count = len(ids) // length
    if not count:
        raise bad(f"{name} has {len(ids)} ids, fewer than one row of {length}", asked.span)
    rows = Cast(Whole(ids[: count * length].reshape(count, length)), np.dtype(np.int64))

    def place(i: int) -> str:
        return f"{name}, ids {i * length} to {(i + 1) * length - 1}"

    found = {"input_ids": rows}
    return Data(
        name, found, place, tokenizer=tokenizer.json, vocabulary=tokenizer.size, ids=("input_ids",), span=asked.span
    )


@dataclass(frozen=True)
class Text:
    """Files as one text, a line's end between them."""

    files: tuple[Path, ...]
    span: Span

    def pieces(self) -> Iterator[bytes]:
        """Pieces of at most a block; T531 where a file cannot be read."""
        for number, file in enumerate(self.files):
            if number:
                yield b"\n"
            try:
                with file.open("rb") as opened:
                    start = opened.read(3)
                    yield b"" if start == b"\xef\xbb\xbf" else start
                    while piece := opened.read(BLOCK):
                        yield piece
            except OSError as error:
                raise unreadable(file.name, file, error, self.span) from None

    def blocks(self) -> Iterator[str]:
        """Texts of about `BLOCK` bytes. One ends with a line where it can, and before no further white space, so that
        tokenizers that look at words see each whole.
        """
        held = b""
        for piece in self.pieces():
            held += piece
            if len(held) >= BLOCK:
                end = _line_end(held) or _character_end(held)
                yield self._decoded(held[:end])
                held = held[end:]
        if held:
            yield self._decoded(held)

    def lines(self) -> Iterator[str]:
        """What a tokenizer is trained on: it takes many texts at once, so that blocks would be too large."""
        for block in self.blocks():
            yield from block.splitlines(keepends=True)

    def _decoded(self, block: bytes) -> str:
        try:
            return block.decode()
        except UnicodeDecodeError:
            raise self._not_utf8() from None

    def _not_utf8(self) -> Exception:
        """Where the first byte is that does not belong."""
        for file in self.files:
            with file.open("rb") as opened:
                for number, line in enumerate(opened, 1):
                    try:
                        line.decode()
                    except UnicodeDecodeError:
                        return bad(f"{file.name}, line {number}: the text is not UTF-8", self.span)
        return bad(f"{self.files[0].name}: the text is not UTF-8", self.span)

    def digest(self) -> str:
        found = hashlib.sha256()
        for piece in self.pieces():
            found.update(piece)
        return found.hexdigest()


def _line_end(held: bytes) -> int:
    """After the last end of a line that no white space follows; 0 if there is none."""
    end = len(held) - 1
    while (end := held.rfind(b"\n", 0, end)) > 0:
        if not held[end + 1 : end + 2].isspace() and not held[end - 1 : end].isspace():
            return end + 1
    return 0


def _character_end(held: bytes) -> int:
    """After the last whole character."""
    end = len(held)
    while end > len(held) - 4 and held[end - 1] & 0xC0 == 0x80:
        end -= 1
    return end - 1 if held[end - 1] >= 0xC0 else len(held)


# ---- ids -------------------------------------------------------------------------------------------------------------


def _ids(asked: Asked, text: Text) -> tuple[Vocabulary, Array]:
    """The tokenizer, and the ids of the text, mapped from a file."""
    folder, digest = cache_folder(), text.digest()

    def kept(name: str, make: Callable[[], str]) -> str:
        """A tokenizer that was trained on this text before."""
        if folder is None:
            return make()
        place = folder / f"{_key(digest, name)}.json"
        if not place.exists():
            _placed(iter([make().encode()]), place)
        return place.read_text("utf-8")

    made = vocabulary(asked, text.lines(), rows=False, kept=kept)
    kind = np.uint8 if made.bytes else np.uint16 if made.size <= 2**16 else np.uint32
    key = _key(digest, "bytes" if made.bytes else made.json)
    path = folder / f"{key}.ids" if folder is not None else None
    if path is None or not path.exists():
        path = _placed((ids.tobytes() for ids in _encoded(text, made, kind)), path)
    ids = np.memmap(path, kind, "r") if path.stat().st_size else np.zeros(0, kind)
    if folder is None:
        with suppress(OSError):
            path.unlink()  # what is mapped stays
    return made, ids


def _key(*parts: str) -> str:
    return hashlib.sha256(json.dumps([FORMAT, *parts]).encode()).hexdigest()[:32]


def _placed(content: Iterator[bytes], path: Path | None) -> Path:
    """A file: at its place once it is whole; without a place one that is not kept. B640 if it cannot be written."""
    folder = path.parent if path is not None else None
    try:
        with tempfile.NamedTemporaryFile("wb", dir=folder, suffix=".part", delete=False) as file:
            part = Path(file.name)
            try:
                for piece in content:
                    file.write(piece)
            except BaseException:
                part.unlink()
                raise
        if path is not None:
            os.replace(part, path)
    except OSError as error:
        where = folder if folder is not None else tempfile.gettempdir()
        help = "XDG_CACHE_HOME says where else there is room"
        raise failed(
            "B640", f"cannot write the ids of a text: {error.strerror or error} ({where})", None, help
        ) from None
    return path if path is not None else part


def _encoded(text: Text, made: Vocabulary, kind: type) -> Iterator[Array]:
    blocks = text.blocks()
    while some := list(islice(blocks, AT_ONCE)):
        if made.bytes:
            yield np.frombuffer("".join(some).encode(), np.uint8)
        else:
            for found in made.tokenizer.encode_batch_fast(some, add_special_tokens=False):
                yield np.array(found.ids, kind)


def cache_folder() -> Path | None:
    """Where ids are kept, `$XDG_CACHE_HOME/specc/tokens`; None if nothing can be written there."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "specc" / "tokens"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    return None

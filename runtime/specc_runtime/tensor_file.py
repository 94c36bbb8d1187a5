"""Headers of safetensors files, read with suspicion: a name, an offset or a size may be a lie, and a lie is refused
(W352).

The format: eight bytes that tell the length of a JSON header (little-endian), the header, and the data, which its
tensors cover without gaps or overlaps. https://huggingface.co/docs/safetensors describes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from specc.diagnostics import Diagnostic, Rejected

MAX_HEADER = 100_000_000  # bytes, as in the safetensors library
ITEM_SIZES: Mapping[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
    "C64": 8,
}
"""Element type as files spell it -> bytes of an element."""

_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies: `nbytes` bytes from byte `offset` of `file`, in row-major order."""

    file: Path
    offset: int
    nbytes: int
    dtype: str
    shape: tuple[int, ...]


class _Damaged(Exception):
    """What is wrong with the file."""


def read_header(path: Path) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """The tensors of a file, in the order of its header, and its metadata; raises `Rejected` (E006, W351, W352)."""
    try:
        with path.open("rb") as file:
            return _read(path, file)
    except OSError as error:
        raise unreadable(path, error) from None
    except _Damaged as damage:
        raise damaged(path, str(damage)) from None


def unreadable(path: Path, error: OSError) -> Rejected:
    """E006 for a file or folder the system does not give."""
    return Rejected([Diagnostic("E006", f"cannot read {path}: {(error.strerror or str(error)).lower()}")])


def damaged(
    path: Path, problem: str, help: str = "get the file again: it was cut short or changed on its way"
) -> Rejected:
    """W352"""
    return Rejected([Diagnostic("W352", f"{path} is damaged: {problem}", help=help)])


def pickle_refused(path: Path, folder: Path | None = None) -> Rejected:
    """W351, with the way to a file that is only data."""
    source = str(folder or path.parent)
    save = f'AutoModel.from_pretrained("{source}").save_pretrained("{source}", safe_serialization=True)'
    return Rejected(
        [
            Diagnostic(
                "W351",
                f"{path} is a pickle, which is code: it is not read",
                notes=(("why", "loading it runs whatever program its author put in"),),
                help=f"if you trust it, write it as safetensors once:  from transformers import AutoModel; {save}",
                note="without transformers:  safetensors.torch.save_file(torch.load(FILE, weights_only=True), OUT)",
            )
        ]
    )


def _read(path: Path, file: BinaryIO) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(8)
    first = file.read(1)
    # The length of a header may begin with the bytes of a pickle (640 is 80 02): only "{" after it tells.
    if first != b"{" and any(start.startswith(magic) for magic in _PICKLES):
        raise pickle_refused(path)
    if len(start) < 8:
        raise _Damaged(f"{size} bytes are no safetensors file")
    length = int.from_bytes(start, "little")
    if first != b"{" and not (first == b"" and length):
        raise _Damaged("it is not a safetensors file")
    if length > size - 8:
        raise _Damaged(f"its header has {length:,} bytes, the whole file {size:,}")
    if length > MAX_HEADER:
        raise _Damaged(f"its header has {length:,} bytes (limit {MAX_HEADER:,})")
    header = _json(first + file.read(length - 1))
    metadata = header.pop("__metadata__", {})
    data = 8 + length
    entries = {name: _entry(path, data, size, name, value) for name, value in header.items()}
    _check_cover(entries, data, size)
    known = metadata if isinstance(metadata, dict) else {}
    return entries, {key: value for key, value in known.items() if isinstance(value, str)}


def _json(text: bytes) -> dict[str, Any]:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            names = [name for name, _ in items]
            twice = next(name for name in names if names.count(name) > 1)
            raise _Damaged(f"its header names {twice!r} twice")
        return found

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=pairs)
    except UnicodeDecodeError:
        raise _Damaged("its header is not UTF-8") from None
    except (ValueError, RecursionError):
        raise _Damaged("its header is not JSON") from None
    if not isinstance(header, dict):
        raise _Damaged("its header is not a JSON object")
    return header


def _entry(path: Path, data: int, size: int, name: str, value: Any) -> TensorEntry:
    """One tensor of the header, checked against the file's size."""
    if not isinstance(value, dict):
        raise _Damaged(f"its header says nothing of {name!r}")
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        raise _Damaged(f"{name!r} has the unknown element type {dtype!r}")
    if not _naturals(shape):
        raise _Damaged(f"{name!r} has no proper shape")
    if not _naturals(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1]:
        raise _Damaged(f"{name!r} has no proper place")
    begin, end = offsets
    if data + end > size:
        raise _Damaged(f"{name!r} ends at byte {data + end:,}, the file at {size:,}")
    needed = prod(shape) * ITEM_SIZES[dtype]
    if needed != end - begin:
        raise _Damaged(f"{name!r} has {end - begin:,} bytes, its shape {shape} in {dtype} needs {needed:,}")
    return TensorEntry(path, data + begin, end - begin, dtype, tuple(shape))


def _naturals(value: Any) -> TypeGuard[list[int]]:
    """A list of ints >= 0 that a tensor can have (their number is bounded before they are multiplied)."""
    return isinstance(value, list) and len(value) <= 64 and all(type(v) is int and 0 <= v < 2**63 for v in value)


def _check_cover(entries: Mapping[str, TensorEntry], data: int, size: int) -> None:
    at, last = data, ""
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if entry.offset < at:
            raise _Damaged(f"{name!r} and {last!r} overlap")
        if entry.offset > at:
            raise _Damaged(f"{entry.offset - at:,} bytes before {name!r} belong to no tensor")
        at, last = entry.offset + entry.nbytes, name
    if at != size:
        raise _Damaged(f"{size - at:,} bytes at its end belong to no tensor")

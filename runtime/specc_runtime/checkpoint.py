"""Checkpoints: a safetensors file, or a folder as Hugging Face writes it, with config.json and one file or several
shards.

Opening reads headers alone. Tensors are mapped into memory and read as they are used; nothing a file says is believed
unchecked.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Rejected
from specc.weights.layout import TensorInfo
from specc_runtime.tensor_file import TensorEntry, damaged, pickle_refused, read_header, unreadable

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
MAX_JSON = 64 * 2**20  # bytes of config.json or an index

NUMPY = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
}
"""Element type of a file -> numpy's. bf16, which numpy does not have, is read as its 16 bits."""


@dataclass(eq=False)
class Checkpoint:
    """Headers of a checkpoint's files, and its config. `path` is what the user named."""

    path: Path
    tensors: Mapping[str, TensorEntry]
    config: Mapping[str, Any] | None
    _files: dict[Path, int] = field(default_factory=dict)
    _maps: dict[Path, mmap.mmap] = field(default_factory=dict)

    @staticmethod
    def open(path: str | Path) -> Checkpoint:
        """Open a file or folder; `hf:DIR` is a folder too. Raises `Rejected`: E006 W351 W352."""
        place = Path(str(path).removeprefix("hf:"))
        if not place.exists():
            hub = "a repository has to be downloaded first:  hf download REPO --local-dir DIR"
            raise Rejected(
                [Diagnostic("E006", f"there is no checkpoint {place}", help=hub if "hf:" in str(path) else "")]
            )
        folder = place if place.is_dir() else place.parent
        tensors = _folder(place) if place.is_dir() else _file(place)
        config = folder / CONFIG
        return Checkpoint(place, tensors, read_json(config) if config.exists() else None)

    @property
    def model_type(self) -> str | None:
        """What config.json calls the architecture."""
        found = (self.config or {}).get("model_type")
        return found if isinstance(found, str) else None

    @property
    def name(self) -> str:
        """What messages call it: the one file there is, else the folder."""
        files = self.files
        return files[0].name if len(files) == 1 else self.path.resolve().name

    @property
    def files(self) -> list[Path]:
        """The files that hold the tensors, each once."""
        return list(dict.fromkeys(entry.file for entry in self.tensors.values()))

    def header(self) -> dict[str, TensorInfo]:
        """What `specc.weights` plans with."""
        return {name: TensorInfo(entry.shape, entry.dtype) for name, entry in self.tensors.items()}

    def descriptor(self, file: Path) -> int:
        """A descriptor to read one of the files from; stays open until `close`."""
        if file not in self._files:
            try:
                self._files[file] = os.open(
                    file, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
                )
            except OSError as error:
                raise unreadable(file, error) from None
        return self._files[file]

    def array(self, name: str) -> Array:
        """A tensor as a read-only view of the mapped file, bf16 as uint16; nothing is read before it is used."""
        import numpy as np

        entry = self.tensors[name]
        dtype = np.dtype(NUMPY[entry.dtype])
        if not entry.nbytes:
            return np.empty(entry.shape, dtype)
        flat = np.frombuffer(self._map(entry.file), dtype, entry.nbytes // dtype.itemsize, entry.offset)
        return flat.reshape(entry.shape)

    def read(self, name: str, start: int, count: int) -> Array:
        """`count` elements of a tensor from element `start` on, bf16 as uint16, copied: no mapped pages stay resident.

        Raises `Rejected` (W352) if the file became shorter after its header was read.
        """
        import numpy as np

        entry = self.tensors[name]
        found: Array = np.empty(count, NUMPY[entry.dtype])
        data: memoryview = found.view(np.uint8).data
        at = entry.offset + start * found.itemsize
        while len(data):
            done = os.preadv(self.descriptor(entry.file), [data], at)
            if not done:
                raise damaged(entry.file, "it became shorter while it was read")
            at, data = at + done, data[done:]
        return found

    def release(self, name: str) -> None:
        """Give back the pages of a tensor that was read: they count as resident memory until then."""
        entry = self.tensors[name]
        mapped = self._maps.get(entry.file)
        if mapped is not None and entry.nbytes and hasattr(mmap, "MADV_DONTNEED"):
            start = entry.offset // mmap.PAGESIZE * mmap.PAGESIZE
            mapped.madvise(mmap.MADV_DONTNEED, start, entry.offset + entry.nbytes - start)

    def close(self) -> None:
        """Close the files. Views of mapped tensors stay valid as long as they are held."""
        self._maps.clear()
        while self._files:
            os.close(self._files.popitem()[1])

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _map(self, file: Path) -> mmap.mmap:
        if file not in self._maps:
            descriptor = self.descriptor(file)
            end = max(e.offset + e.nbytes for e in self.tensors.values() if e.file == file)
            if os.fstat(descriptor).st_size < end:
                raise damaged(file, "it became shorter after its header was read")
            self._maps[file] = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        return self._maps[file]


def _file(path: Path) -> Mapping[str, TensorEntry]:
    if path.name.endswith(".index.json"):
        return _shards(path)
    if path.suffix in PICKLES:
        raise pickle_refused(path)
    return read_header(path)[0]


def _folder(folder: Path) -> Mapping[str, TensorEntry]:
    """The tensors of a folder: `model.safetensors`, else shards with their index, else the one safetensors file there
    is.
    """
    for name in (WEIGHTS, INDEX):
        if (folder / name).exists():
            return _file(folder / name)
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise unreadable(folder, error) from None
    files = [name for name in names if name.endswith(".safetensors")]
    if len(files) == 1:
        return _file(folder / files[0])
    if files:
        message = f"{folder} has {len(files)} safetensors files and no {INDEX}"
        raise Rejected([Diagnostic("E006", message, notes=(("found", ", ".join(files[:8])),), help="name one of them")])
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        raise pickle_refused(folder / pickles[0], folder)
    raise Rejected(
        [
            Diagnostic(
                "E006",
                f"there are no weights in {folder}",
                notes=(("expected", f"{WEIGHTS}, or {INDEX} with its shards"),),
            )
        ]
    )


def _shards(index: Path) -> Mapping[str, TensorEntry]:
    """The tensors an index names, in its order, each from its shard; then what else the shards hold."""
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(v, str) for v in where.values()):
        raise damaged(index, "it has no `weight_map` of tensors to files")
    shards: dict[str, Mapping[str, TensorEntry]] = {}
    for name in dict.fromkeys(where.values()):
        if Path(name).name != name or name in ("", ".", ".."):
            raise damaged(index, f"{name!r} is not a file of its folder", help="shards lie beside their index")
        if not (index.parent / name).exists():
            raise damaged(index, f"the shard {name} is missing", help="get all files of the checkpoint")
        shards[name] = _file(index.parent / name)
    for tensor, shard in where.items():
        if tensor not in shards[shard]:
            raise damaged(index, f"{shard} does not have {tensor!r}")
    found = {tensor: shards[shard][tensor] for tensor, shard in where.items()}
    for held in shards.values():
        for tensor, entry in held.items():
            found.setdefault(tensor, entry)
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; E006 if the file holds something else."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise Rejected(
                [Diagnostic("E006", f"{path} is too large ({path.stat().st_size:,} bytes, limit {MAX_JSON:,})")]
            )
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise Rejected([Diagnostic("E006", f"{path} is not JSON{line}")]) from None
    if not isinstance(found, dict):
        raise Rejected([Diagnostic("E006", f"{path} is not a JSON object")])
    return found

"""Small files that are replaced whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step: whatever happens meanwhile, it is the old one or the new one, whole.

    An old one's permissions are kept; a link keeps pointing to it. Raises `OSError`.
    """
    target = path.resolve()
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            with suppress(FileNotFoundError):
                os.fchmod(file.fileno(), target.stat().st_mode & 0o7777)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    with suppress(OSError):  # what cannot be opened or synced is a folder all the same
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def left_over(path: Path) -> Iterator[Path]:
    """What killed writers of this file have left beside it."""
    target = path.resolve()
    return target.parent.glob(f".{target.name}.*.part")

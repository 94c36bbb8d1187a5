"""A folder that appears whole or not at all.

A build is written into a temporary folder beside its place, synced, and swapped in by one rename. An earlier build stays until then.
Whatever a killed process left is swept by the next run: each temporary folder holds a file that its writer keeps locked.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MARK = ".specc-writing"
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


@contextmanager
def publishing(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes `target` when the block ends, and vanishes when it raises.

    Raises OSError where the disk is full or the place cannot be written; `target` is then as it was.
    """
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target)
    work = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
    lock = os.open(work / _MARK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        work.chmod(0o755 & ~_umask())
        yield work
        (work / _MARK).unlink()
        _sync_tree(work)
        _swap(work, target)
    finally:
        os.close(lock)
        shutil.rmtree(work, ignore_errors=True)


def sweep(target: Path) -> None:
    """Remove what a killed build of this target left, and put back an earlier build that was caught between two renames."""
    for left in sorted(target.parent.glob(f"{_prefix(target)}*")):
        if left.name.endswith(".old"):
            if not target.exists():
                left.rename(target)
            else:
                shutil.rmtree(left, ignore_errors=True)
        elif _abandoned(left):
            shutil.rmtree(left, ignore_errors=True)


def _prefix(target: Path) -> str:
    return f".{target.name}.specc-"


def _abandoned(folder: Path) -> bool:
    """Whether no process is writing it: its mark is gone or nobody holds the lock."""
    try:
        handle = os.open(folder / _MARK, os.O_RDWR)
    except OSError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_tree(folder: Path) -> None:
    """Every file's bytes and every folder's entries on the disk."""
    for root, _, files in os.walk(folder):
        for name in files:
            _sync(Path(root) / name, os.O_RDONLY)
        _sync(Path(root), os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap(work: Path, target: Path) -> None:
    """One atomic step from the old folder to the new."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise OSError(errno.EEXIST, "a file is in the way", str(target))
    if not target.exists():
        work.rename(target)
    elif not _exchange(work, target):
        aside = Path(f"{work}.old")  # a kill between these two is mended by the next sweep
        target.rename(aside)
        work.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
    _sync(target.parent, os.O_RDONLY | os.O_DIRECTORY)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two folders in one system call; False where the kernel or file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    done = renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE)
    return bool(done == 0)

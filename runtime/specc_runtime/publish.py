"""A folder that appears whole or not at all.

A build is written into a temporary folder beside its place, synced, and swapped in by one rename. An earlier build
stays until then; a large one is deleted by a process that outlives the build. A writer holds a lock on its temporary
folder; the kernel drops it with the process, so the next run can tell what a killed process left from what another one
is writing, and sweeps it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_OLD = ".old"
_TRIES = 100
_SYNCING = 8  # files at a time
_LARGE = 1 << 26  # bytes; deleting takes up to a second for each gigabyte


@contextmanager
def publishing(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes `target` when the block ends, and vanishes when it raises.

    `target` is absolute; what was there is replaced. Raises OSError where the disk is full or the place cannot be
    written; `target` and the folders above it are then as they were.
    """
    with _parents(target):
        sweep(target)
        work, lock = _locked_folder(target)
        try:
            yield work
            _sync_tree(work)
            _swap(work, target)
        finally:
            os.close(lock)
            _discard(work)


def sweep(target: Path) -> None:
    """Remove what a killed build of this target left; an earlier build that was caught between two renames goes back.

    Folders that a running process writes are left alone.
    """
    prefix = _prefix(target)
    for name in sorted(os.listdir(target.parent)):
        if not name.startswith(prefix):
            continue
        left = target.parent / name
        try:
            handle = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # gone meanwhile, or not ours
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if name.endswith(_OLD) and not target.exists():
                left.rename(target)
            else:
                shutil.rmtree(left, ignore_errors=True)
        except OSError:  # in use; or on a file system without locks, where nobody can tell
            continue
        finally:
            os.close(handle)


def _discard(folder: Path) -> None:
    """Delete a folder, if it is there; nobody has to wait for a large one."""
    if _bytes(folder) < _LARGE or not _deleted_in_background(folder):
        shutil.rmtree(folder, ignore_errors=True)


def _bytes(folder: Path) -> int:
    """Of all its files; one that another run sweeps meanwhile has none."""
    found = 0
    for root, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                found += (Path(root) / name).lstat().st_size
    return found


def _deleted_in_background(folder: Path) -> bool:
    """Start a process of its own session that deletes a folder; False where that cannot be.

    It holds the folder's lock, so that a sweep meanwhile does not wait for it; what it leaves when it is killed, the
    next sweep removes.
    """
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        line = ["sh", "-c", 'rm -rf -- "$1" &', "sh", str(folder)]
        silent = subprocess.DEVNULL
        done = subprocess.run(
            line, pass_fds=(lock,), stdin=silent, stdout=silent, stderr=silent, start_new_session=True, check=False
        )
        return done.returncode == 0
    except OSError:  # no shell
        return False
    finally:
        os.close(lock)


def _prefix(target: Path) -> str:
    return f".{target.name}.specc-"


@contextmanager
def _parents(target: Path) -> Iterator[None]:
    """The folders above a target; those that had to be made go again if the block raises."""
    made: list[Path] = []
    folder = target.parent
    while not folder.exists():
        made.append(folder)
        folder = folder.parent
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # not empty any more: somebody else's now
            for folder in made:
                folder.rmdir()
        raise


def _locked_folder(target: Path) -> tuple[Path, int]:
    """A new folder beside the target, and the descriptor that holds its lock."""
    while True:
        work = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
        try:
            work.chmod(0o777 & ~_umask())
            lock = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # swept by another run before it was locked
            continue
        except BaseException:
            work.rmdir()
            raise
        with contextlib.suppress(OSError):  # no locks on this file system: sweeping leaves it alone
            fcntl.flock(lock, fcntl.LOCK_EX)
        if work.exists():
            return work, lock
        os.close(lock)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync_tree(folder: Path) -> None:
    """Every file's bytes, then every folder's entries on the disk. File systems write down once what is asked for by
    several threads at a time."""
    folders = []
    with ThreadPoolExecutor(_SYNCING) as pool:
        done = []
        for root, _, files in os.walk(folder):
            folders.append(Path(root))
            done += [pool.submit(_sync, Path(root) / name, os.O_RDONLY) for name in files]
        for one in done:
            one.result()
    for path in folders:
        _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap(work: Path, target: Path) -> None:
    """One atomic step from the old folder to the new; `work` is then the old one, or gone."""
    for attempt in range(_TRIES):
        if target.is_dir() and _exchange(work, target):
            break
        if _renamed(work, target) or _replaced(work, target, Path(f"{work}-{attempt}{_OLD}")):
            break
    else:
        raise OSError(errno.EBUSY, "other builds keep replacing it", str(target))
    _sync(target.parent, os.O_RDONLY | os.O_DIRECTORY)


def _renamed(work: Path, target: Path) -> bool:
    """Put the folder in its place if there is none yet, or an empty one; False where a folder is in the way."""
    try:
        work.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _replaced(work: Path, target: Path, aside: Path) -> bool:
    """For file systems that cannot exchange two folders: put the old one aside, then rename; False if another build
    was quicker.

    The old folder is locked meanwhile. A kill between the two steps drops the lock, and the next sweep mends it.
    """
    try:
        old = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(old, fcntl.LOCK_EX)
        try:
            target.rename(aside)
            return _renamed(work, target)
        except FileNotFoundError:
            return False
        finally:
            with contextlib.suppress(FileNotFoundError):
                # Back it goes, unless a new folder is in its place: ours, or that of a build that was quicker.
                back = _renamed(aside, target)
                if not back and (work.exists() or not _renamed(aside, work)):
                    shutil.rmtree(aside, ignore_errors=True)
    finally:
        os.close(old)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two folders in one system call; False where there is only one, or the file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    done = renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE)
    return bool(done == 0)

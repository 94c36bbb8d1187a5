"""`specc trust`: which Python files of extern functions a project's builds may run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime.cli.common import reporting


@click.command("trust")
@click.argument("files", metavar="FILE.py...", nargs=-1)
@click.option("--list", "listing", is_flag=True, help="Show what is trusted, and whether it is as it was.")
@click.option("--remove", is_flag=True, help="Trust the files no longer.")
@click.option(
    "--root",
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The project's root.  [default: the folder above with a specc.toml or specc.lock, else the current one]",
)
def command(files: tuple[str, ...], listing: bool, remove: bool, root: Path | None) -> None:
    """Let builds run Python files of extern functions.

    Records each file's path and SHA-256 in specc.lock in the project's root. A file that changes is refused until it
    is trusted again, so read it first.
    """
    if listing and (files or remove):
        raise click.UsageError("--list takes no files")
    if not files and not listing:
        raise click.UsageError("name the files to trust, or --list")
    with reporting():
        if listing:
            show(_root(root, Path("specc.lock")))
            return
        for file in files:
            home = _root(root, Path(file))
            if remove:
                forget(file, home)
            else:
                record(file, home)


def _root(given: Path | None, file: Path) -> Path:
    from specc_runtime.externs import default_root

    return given.resolve() if given is not None else default_root(file)


def record(file: str, root: Path) -> None:
    """Trust a file as it is now."""
    from specc_runtime.externs import read_file
    from specc_runtime.lock import LOCK

    name = _name(file, root)
    if not name.endswith(".py"):
        raise Rejected([Diagnostic("E003", f"`{file}` is no Python file: extern functions are defined in one")])
    digest = read_file(file, root / name).sha256
    with _changing(root) as trusted:
        before = trusted.get(name)
        trusted[name] = digest
    if before == digest:
        click.echo(f"{name} is trusted already (sha256 {digest[:16]}..)")
        return
    was = f", was {before[:16]}.." if before is not None else ""
    click.echo(f"trusted {name} (sha256 {digest[:16]}..{was}) in {os.path.relpath(root / LOCK)}")


def forget(file: str, root: Path) -> None:
    """Trust a file no longer; it need not exist."""
    from specc.elaborate.names import available
    from specc_runtime.lock import LOCK

    with _changing(root) as trusted:
        name = file if file in trusted else _name(file, root)
        if trusted.pop(name, None) is None:
            known = (("available", available(trusted) or "none"),)
            raise Rejected([Diagnostic("X901", f"{name} is not in {os.path.relpath(root / LOCK)}", notes=known)])
    click.echo(f"{name} is trusted no longer")


def show(root: Path) -> None:
    """Every trusted file with its hash."""
    from specc_runtime.externs import read_file
    from specc_runtime.lock import LOCK, read_lock

    locked = read_lock(root)
    if not locked:
        click.echo(f"nothing is trusted in {os.path.relpath(root / LOCK)}")
    for name, digest in sorted(locked.items()):
        try:
            state = "" if read_file(name, root / name).sha256 == digest else "   changed since"
        except Rejected:
            state = "   missing"
        click.echo(f"{digest[:16]}..  {name}{state}")


def _name(file: str, root: Path) -> str:
    """The path from the root, links resolved; raises `Rejected` (E003) for a file outside."""
    path = Path(os.path.realpath(file))
    if not path.is_relative_to(root):
        message = f"`{file}` is outside the project, whose root is {os.path.relpath(root)}"
        raise Rejected([Diagnostic("E003", message, help="--root DIR names another")])
    return path.relative_to(root).as_posix()


@contextmanager
def _changing(root: Path) -> Iterator[dict[str, str]]:
    """`lock.changing`; raises `Rejected` (B640) where the lock cannot be written."""
    from specc_runtime.lock import LOCK, changing

    try:
        with changing(root) as trusted:
            yield trusted
    except OSError as error:
        message = f"cannot write {os.path.relpath(root / LOCK)}: {error.strerror}"
        raise Rejected([Diagnostic("B640", message, note="it is as it was")]) from None

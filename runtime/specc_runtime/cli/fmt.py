"""`specc fmt`: one layout for specs, comments kept, the meaning proved unchanged before anything is written."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import click

from specc import reading
from specc.diagnostics import Diagnostic, Rejected
from specc.source import Source
from specc.syntax.format import format_text
from specc_runtime.atomic import write_atomically
from specc_runtime.cli.common import print_diagnostics, reporting, stop

STDIN = "-"


@click.command("fmt")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if a file would change.")
@click.option("--diff", is_flag=True, help="Write nothing; show what would change, and exit with 1 if something would.")
def command(paths: tuple[str, ...], check: bool, diff: bool) -> None:
    """Give specs the layout of the standard library.

    Comments, line breaks and aligned columns are kept. A file with errors of syntax is left alone. A folder stands for
    every .spec file below it. The file - is the standard input, which is written to the standard output.
    """
    failed = changes = False
    with reporting():
        files = [file for path in paths for file in reading.specs_below(path)]
    for file in files:
        try:
            changes |= _format(file, check=check, diff=diff)
        except Rejected as rejected:
            print_diagnostics(rejected.diagnostics)
            failed = True
    if failed or (changes and (check or diff)):
        stop(1)


def _format(file: str, *, check: bool, diff: bool) -> bool:
    """Format one file; whether that changes it. Raises `Rejected` if it can't be read, parsed or written."""
    before = _stdin() if file == STDIN else reading.read_text(Path(file), file)
    after = format_text(Source("stdin" if file == STDIN else file, before))
    if diff:
        click.echo(unified(before, after, file), nl=False)
    if check and after != before:
        click.echo(f"would format {file}", err=True)
    if check or diff:
        return after != before
    if file == STDIN:
        click.echo(after.encode("utf-8"), nl=False)
    elif after != before:
        try:
            write_atomically(Path(file), after.encode("utf-8"))
        except OSError as error:
            raise Rejected([Diagnostic("B640", f"cannot write `{file}`: {error.strerror or error}")]) from None
        click.echo(f"formatted {file}", err=True)
    return after != before


def _stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise Rejected([Diagnostic("E006", f"the standard input is not UTF-8 text (byte {error.start})")]) from None


def unified(before: str, after: str, file: str) -> str:
    """The change of a file as a patch."""
    patch = difflib.unified_diff(_lines(before), _lines(after), file, f"{file} (formatted)")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in patch)


def _lines(text: str) -> list[str]:
    """Lines with their ends; only a newline ends one, as in the language."""
    *whole, rest = text.split("\n")
    return [f"{line}\n" for line in whole] + ([rest] if rest else [])

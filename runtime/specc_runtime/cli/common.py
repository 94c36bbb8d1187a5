"""What commands share: options, printing of diagnostics, exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from specc.diagnostics import Diagnostic, Rejected

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def parse_set(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """`K=V` options as a mapping."""
    sets = {}
    for text in values:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise click.BadParameter(f"`{text}` is not K=V", ctx, param)
        sets[key.strip()] = value.strip()
    return sets


def setting(help: str) -> Decorator:
    """The option `--set K=V` of a command; `help`: what it sets."""
    return click.option("--set", "sets", multiple=True, metavar="K=V", callback=parse_set, help=help)


def configuration(command: Callable[..., Any]) -> Callable[..., Any]:
    """The spec, and the options that choose a configuration of it."""
    return choices(click.argument("file", metavar="FILE")(command))


def choices(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that choose a configuration of a spec."""
    for option in (
        click.option("--model", metavar="NAME", help="The model, if the file declares several."),
        setting("Set a hyper-parameter (repeatable)."),
        click.option("--preset", metavar="NAME", help="A preset of the file."),
    ):
        command = option(command)
    return command


trusting = click.option(
    "--trust",
    multiple=True,
    metavar="FILE.py",
    help="Run this Python file of extern functions, this time only (repeatable).",
)
"""The option of commands that run the files of extern functions."""


def use_color(stream: Any) -> bool:
    return bool(stream.isatty()) and "NO_COLOR" not in os.environ


def print_diagnostics(diagnostics: Iterable[Diagnostic], format: str = "full") -> None:
    """To stderr as text; machine formats go to stdout."""
    from specc import report

    found = list(diagnostics)
    if format == "full":
        text, stream = report.full(found, color=use_color(sys.stderr)), sys.stderr
    else:
        printer = {"concise": report.concise, "json": report.as_json, "github": report.github, "sarif": report.sarif}[
            format
        ]
        text, stream = printer(found), sys.stdout
    if text.strip():
        print(text.rstrip("\n"), file=stream)


@contextmanager
def reporting(format: str = "full") -> Iterator[None]:
    """Print the findings that reject an input, and exit with 1."""
    try:
        yield
    except Rejected as rejected:
        print_diagnostics(rejected.diagnostics, format)
        stop(1)


def stop(code: int) -> NoReturn:
    raise click.exceptions.Exit(code)

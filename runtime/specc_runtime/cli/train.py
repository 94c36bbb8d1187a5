"""`specc train`: parsed and checked in this version, not run."""

from __future__ import annotations

import click

from specc.diagnostics import Diagnostic
from specc_runtime.cli.common import print_diagnostics, stop


@click.command("train", context_settings={"ignore_unknown_options": True})
@click.argument("args", nargs=-1, metavar="FILE [NAME]")
def command(args: tuple[str, ...]) -> None:
    """Run a `train` section (not in this version)."""
    help = "specc build FILE --emit torch    gives a module for your own training loop"
    note = "`specc check` checks the names and shapes of train sections"
    print_diagnostics([Diagnostic("B650", "training is not supported yet", help=help, note=note)])
    stop(1)

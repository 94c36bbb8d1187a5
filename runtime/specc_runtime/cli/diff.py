"""`specc diff`: two models, compared without running them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click

from specc_runtime.cli.common import choices, print_diagnostics, stop
from specc_runtime.cli.inspect import parse_at


@click.command("diff")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@choices
@click.option("--entry", default="forward", show_default=True, metavar="NAME", help="The entry to compare.")
@click.option("--at", callback=parse_at, metavar="B=1,T=1024", help="Numbers for these sizes beside the formulas.")
@click.option("--json", "as_json", is_flag=True, help="The differences as data.")
def command(
    before: str,
    after: str,
    preset: str | None,
    sets: dict[str, str],
    model: str | None,
    entry: str,
    at: dict[str, int] | None,
    as_json: bool,
) -> None:
    """Compare two models: structure, shapes, tensors, cost, operators, and what becomes of a checkpoint of the first.

    A and B are specs (FILE or a name of the zoo, also FILE:PRESET and FILE@REVISION), builds or .onnx files. Exits with
    0 if there is no difference, with 1 if there is one, with 2 if they cannot be compared.
    """
    from specc.diagnostics import Rejected
    from specc_runtime.diff.changes import difference
    from specc_runtime.diff.subject import Choice, subject
    from specc_runtime.diff.text import lines

    choice = Choice(preset, model, sets, entry)
    try:
        with tempfile.TemporaryDirectory(prefix="specc-diff-") as work:
            one = subject(before, choice, Path(work) / "a")
            found = difference(one, subject(after, choice, Path(work) / "b"), at)
    except Rejected as rejected:
        print_diagnostics(rejected.diagnostics)
        stop(2)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
    else:
        for line in lines(found):
            click.echo(line)
    if not found.equal:
        stop(1)

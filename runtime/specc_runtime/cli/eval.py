"""`specc eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from specc_runtime.cli.common import reporting, setting, trusting
from specc_runtime.threads import yielding

if TYPE_CHECKING:
    from specc_runtime.training.evaluation import Measured


@click.command("eval")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--data", metavar="EXPR", help="Another data source, in place of the run's `val`: 'csv(\"new.csv\", ..)'."
)
@setting("A setting of the run, as `metrics` or `batch` (repeatable).")
@click.option("--weights", metavar="DIR|FILE", help="Other weights, as of one of the run's checkpoints.")
@click.option("--spec", metavar="FILE", help="The run's spec, if it was moved since.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@trusting
def command(
    run: Path,
    data: str | None,
    sets: dict[str, str],
    weights: str | None,
    spec: str | None,
    as_json: bool,
    trust: tuple[str, ...],
) -> None:
    """Measure the weights of a run: its loss and its metrics on its validation rows, or on other data.

    Paths in EXPR are relative to the run's spec. Nothing is written.
    """
    yielding()
    from specc_runtime.training.evaluation import Request, evaluate

    with reporting():
        found = evaluate(Request(run, data, sets, weights, spec, trust))
    click.echo(json.dumps(found.to_json(), indent=1) if as_json else table(found))


def table(found: Measured) -> str:
    """What was measured, of what."""
    from rich.text import Text

    from specc_runtime.screen import columns, grid, rendered

    which = "" if found.held else ", which it was trained on: the section has no `val`"
    title = f"{found.title}, {found.weights} on {found.rows:,} rows of {found.data}{which}"
    rows = [(f"  {name}", f"{value:.6g}") for name, value in found.values.items()]
    return rendered(Text(title), grid(("", ""), rows, show_header=False), width=columns())

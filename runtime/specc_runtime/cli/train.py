"""`specc train`."""

from __future__ import annotations

from pathlib import Path

import click

from specc_runtime.cli.common import reporting, setting, stop, trusting
from specc_runtime.threads import yielding


@click.command("train")
@click.argument("file", metavar="FILE", required=False)
@click.argument("name", metavar="[NAME]", required=False)
@setting("A setting, an argument of the optimiser, or a hyper-parameter (repeatable).")
@click.option(
    "--out", metavar="DIR", type=click.Path(path_type=Path), help="The run folder.  [default: runs/<model>-<name>-<n>]"
)
@click.option("--weights", metavar="DIR|FILE", help="Begin with these weights: a checkpoint, or another run.")
@click.option(
    "--resume", metavar="RUN", type=click.Path(path_type=Path), help="Continue a run from its last checkpoint."
)
@click.option("--max-steps", type=click.IntRange(1), metavar="N", help="Stop after N steps of the optimiser.")
@click.option("--dry-run", is_flag=True, help="Read the data and tell the plan; train nothing.")
@trusting
def command(
    file: str | None,
    name: str | None,
    sets: dict[str, str],
    out: Path | None,
    weights: str | None,
    resume: Path | None,
    max_steps: int | None,
    dry_run: bool,
    trust: tuple[str, ...],
) -> None:
    """Run a `train` section with Lightning: a run folder with weights, metrics.csv and checkpoints."""
    yielding()
    from specc_runtime.training.run import Request, train

    if file is None and resume is None:
        raise click.UsageError("Missing argument 'FILE', or --resume RUN.")
    with reporting():
        done = train(Request(file or "", name, sets, out, weights, max_steps, dry_run, trust, resume), click.echo)
    if done is not None and done.interrupted:
        stop(130)

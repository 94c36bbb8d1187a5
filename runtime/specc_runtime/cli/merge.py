"""`specc merge`."""

from __future__ import annotations

from pathlib import Path

import click

from specc_runtime.cli.build import relative, terminable
from specc_runtime.cli.common import reporting, trusting


@click.command("merge")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="The folder to write.  [default: RUN]")
@click.option("--weights", metavar="DIR|FILE", help="What the run began with, if it was moved since.")
@click.option("--spec", metavar="FILE", help="The run's spec, if it was moved since.")
@trusting
def command(run: Path, out: Path | None, weights: str | None, spec: str | None, trust: tuple[str, ...]) -> None:
    """Fold the adapters of a run with `lora` into its weights: RUN/model.safetensors.

    The run's adapters stay. `specc build FILE --weights RUN` ships a run either way.
    """
    from specc_runtime.merging import merge_run

    with reporting(), terminable():
        made = merge_run(run, out, weights=weights, target=spec, trust=trust)
    click.echo(f"{relative(made.file)}: {made.tensors} tensors; next:\n  {made.next}")

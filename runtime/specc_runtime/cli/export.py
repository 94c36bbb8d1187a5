"""`specc export`."""

from __future__ import annotations

from pathlib import Path

import click

from specc_runtime.cli.build import relative, terminable
from specc_runtime.cli.common import print_diagnostics, reporting
from specc_runtime.units import size


@click.command("export")
@click.argument("build", metavar="BUILD", type=click.Path(path_type=Path))
@click.option("--to", required=True, metavar="[hf:]DIR", help="The folder to write; nothing may be there.")
@click.option("--config", metavar="FILE|DIR", help="A config.json whose other keys are kept.")
@click.option("--format", metavar="NAME", help="The family to write (`hf:qwen2`), where the model has several.")
def command(build: Path, to: str, config: str | None, format: str | None) -> None:
    """Write a build as a Hugging Face folder: config.json and model.safetensors, as transformers loads them.

    The `weights` section that reads the family's checkpoints is turned around. A config that would not read back as the
    build's hyper-parameters is refused.
    """
    from specc_runtime.export import export

    with reporting(), terminable():
        made = export(build, to, config=config, format=format)
    print_diagnostics(made.warnings)
    click.echo(f"{relative(made.folder)}: {made.source}, {made.tensors} tensors, {size(made.bytes)}")

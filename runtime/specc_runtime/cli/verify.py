"""`specc verify`: repeat a build's proof from its folder."""

from __future__ import annotations

from pathlib import Path

import click

from specc_runtime.cli.build import progress
from specc_runtime.cli.common import reporting


@click.command("verify")
@click.argument("build", metavar="BUILD", type=click.Path(path_type=Path))
def command(build: Path) -> None:
    """Check the recorded hashes of a build, then compare its torch and ONNX programs again.

    Exits with 1 if a file was changed or the programs differ.
    """
    from specc_runtime import manifest
    from specc_runtime.half_proof import repeat_half
    from specc_runtime.verify import repeat

    with reporting(), progress() as say:
        half = manifest.read(build, "manifest.json")["dtype"] != "f32"
        certificate = (repeat_half if half else repeat)(build, progress=say)
    click.echo(f"{build}: {certificate.summary()}")

"""`specc verify`: repeat a build's proof from its folder."""

from __future__ import annotations

from pathlib import Path

import click

from specc_runtime.cli.build import progress
from specc_runtime.cli.common import reporting
from specc_runtime.threads import yielding


@click.command("verify")
@click.argument("build", metavar="BUILD", type=click.Path(path_type=Path))
@click.option(
    "--text",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Of a build with --quant: the text whose perplexity is told. It needs a tokenizer.json in the build.",
)
def command(build: Path, text: Path | None) -> None:
    """Check the recorded hashes of a build, then compare its torch and ONNX programs again.

    Exits with 1 if a file was changed or the programs differ.
    """
    yielding()
    from specc.diagnostics import Diagnostic, Rejected
    from specc_runtime import manifest
    from specc_runtime.half_proof import repeat_half
    from specc_runtime.verify import repeat

    with reporting(), progress() as say:
        record = manifest.read(build, "manifest.json")
        if text is not None and "quantisation" not in record:
            message = f"--text: `{build}` has no weights in few bits to compare by it"
            raise Rejected([Diagnostic("B660", message, help="build it with  --quant int8")])
        half = record["dtype"] != "f32"
        certificate = repeat_half(build, progress=say) if half else repeat(build, progress=say, text=text)
    click.echo(f"{build}: {certificate.summary()}")

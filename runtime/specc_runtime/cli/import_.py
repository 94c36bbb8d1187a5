"""`specc import`."""

from __future__ import annotations

from typing import Any

import click

from specc_runtime.cli.build import make, making, terminable
from specc_runtime.cli.common import reporting, setting


@click.command("import")
@click.argument("checkpoint", metavar="[hf:]DIR")
@setting("Set a hyper-parameter (repeatable).")
@making
def command(checkpoint: str, **given: Any) -> None:
    """Build the spec of the zoo that a Hugging Face checkpoint is of.

    The spec is found by the `model_type` of config.json; hyper-parameters and weights are the checkpoint's.
    """
    from specc_runtime.families import family_of

    with reporting(), terminable():
        family = family_of(checkpoint)
        make(
            str(family.spec),
            model=family.model,
            weights=checkpoint.removeprefix("hf:"),
            weights_format=family.source,
            **given,
        )

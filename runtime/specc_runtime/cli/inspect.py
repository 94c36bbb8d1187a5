"""`specc inspect`: neither torch nor onnx is imported."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from specc_runtime.cli.common import configuration, print_diagnostics, reporting


def parse_at(ctx: click.Context, param: click.Parameter, value: str | None) -> dict[str, int] | None:
    """`B=1,T=1024` as a mapping."""
    if value is None:
        return None
    sizes: dict[str, int] = {}
    for part in value.split(","):
        name, sign, number = (text.strip() for text in part.partition("="))
        if not (sign and name and number.isascii() and number.replace("_", "").isdigit()):
            raise click.BadParameter(f"`{part}` is not NAME=SIZE, as in B=1,T=1024", ctx, param)
        if name in sizes:
            raise click.BadParameter(f"`{name}` is given twice", ctx, param)
        if len(number) > MAX_DIGITS:
            raise click.BadParameter(f"`{name}`: sizes have at most {MAX_DIGITS} digits", ctx, param)
        sizes[name] = int(number.replace("_", ""))
    return sizes


MAX_DIGITS = 18


@click.command("inspect")
@configuration
@click.option("--entry", default="forward", show_default=True, metavar="NAME", help="The entry to show.")
@click.option("--without", multiple=True, metavar="INPUT", help="Leave an optional input out (repeatable).")
@click.option("--at", callback=parse_at, metavar="B=1,T=1024", help="Numbers for these sizes beside the formulas.")
@click.option("--depth", type=click.IntRange(0), metavar="N", help="Show N levels of blocks.  [default: all]")
@click.option("--format", type=click.Choice(["tree", "json"]), default="tree", show_default=True)
def command(
    file: str,
    preset: str | None,
    sets: dict[str, str],
    model: str | None,
    entry: str,
    without: tuple[str, ...],
    at: dict[str, int] | None,
    depth: int | None,
    format: str,
) -> None:
    """Show the tree of blocks of a spec or a build: shapes, parameters and FLOPs as formulas over the entry's dims.

    A repeated block is shown once: `h.{0..11}  12 x Block`. A multiply-add is two FLOPs.
    """
    from specc import driver
    from specc.inspect import report
    from specc.inspect.text import table

    with reporting():
        omitted = frozenset(without)
        if (Path(file) / "manifest.json").is_file():
            from specc_runtime.origin import origin_of

            origin = origin_of(Path(file))
            file, preset, model = str(origin.file), preset or origin.preset, origin.model
            sets = origin.sets | sets
            omitted = omitted or origin.without.get(entry, omitted)
        checked = driver.load(file, preset=preset, model=model, sets=sets)
        found = report(checked.model, entry, without=omitted, at=at, depth=depth)
    print_diagnostics(checked.warnings)
    if format == "json":
        import json

        click.echo(json.dumps(found.to_json(), indent=1))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        click.echo(table(found, width), nl=False)

"""`specc inspect`: neither torch nor onnx is imported."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specc_runtime.cli.common import configuration, print_diagnostics, reporting

if TYPE_CHECKING:
    from specc.inspect import Report

FORMATS = ("tree", "json", "csv", "markdown", "mermaid")
SORTS = ("params", "flops", "activation", "name")
COLUMNS = "result params weights flops products training activation live moved intensity formula".split()


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


def parse_columns(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """`params,flops` as names of columns."""
    names = tuple(name.strip() for name in value.split(",")) if value else ()
    for name in names:
        if name not in COLUMNS:
            raise click.BadParameter(f"there is no column `{name}`; there are {', '.join(COLUMNS)}", ctx, param)
    return names


@click.command("inspect")
@configuration
@click.option("--entry", default="forward", show_default=True, metavar="NAME", help="The entry to show.")
@click.option("--without", multiple=True, metavar="INPUT", help="Leave an optional input out (repeatable).")
@click.option("--at", callback=parse_at, metavar="B=1,T=1024", help="Numbers for these sizes beside the formulas.")
@click.option("--depth", type=click.IntRange(0), metavar="N", help="Show N levels of blocks.  [default: all]")
@click.option("--sort", type=click.Choice(SORTS), help="Order blocks side by side.  [default: as they run]")
@click.option("--columns", callback=parse_columns, metavar="NAME,NAME", help="Columns of the table.  [see below]")
@click.option("--dtype", type=click.Choice(["f32", "f16", "bf16"]), default="f32", show_default=True)
@click.option("--quant", multiple=True, metavar="SCHEME", help="Weights in few bits, as of build --quant (repeatable).")
@click.option("--format", type=click.Choice(FORMATS), default="tree", show_default=True)
def command(
    file: str,
    preset: str | None,
    sets: dict[str, str],
    model: str | None,
    entry: str,
    without: tuple[str, ...],
    at: dict[str, int] | None,
    depth: int | None,
    sort: str | None,
    columns: tuple[str, ...],
    dtype: str,
    quant: tuple[str, ...],
    format: str,
) -> None:
    """Show the tree of blocks of a spec or a build: shapes, parameters and FLOPs as formulas over the entry's dims.

    A repeated block is shown once: `h.{0..11}  12 x Block`. A multiply-add is two FLOPs.

    Columns: result params weights flops products training activation live moved intensity formula.
    """
    from specc import driver
    from specc.inspect import report
    from specc_runtime.quantised import parse

    with reporting():
        omitted = frozenset(without)
        if (Path(file) / "manifest.json").is_file():
            from specc_runtime.origin import origin_of

            origin = origin_of(Path(file))
            file, preset, model = str(origin.file), preset or origin.preset, origin.model
            sets = origin.sets | sets
            omitted = omitted or origin.without.get(entry, omitted)
        checked = driver.load(file, preset=preset, model=model, sets=sets)
        more: dict[str, Any] = {"schemes": [parse(text) for text in quant]} if quant else {}
        found = report(checked.model, entry, without=omitted, at=at, depth=depth, dtype=dtype, sort=sort, **more)
    print_diagnostics(checked.warnings)
    click.echo(shown(found, format, columns), nl=False)


def shown(found: Report, format: str, columns: tuple[str, ...]) -> str:
    """The report in one of `FORMATS`, a table as wide as the terminal."""
    from specc.inspect import formats
    from specc.inspect.text import table

    if format == "json":
        return json.dumps(found.to_json(), indent=1) + "\n"
    if format == "csv":
        return formats.as_csv(found)
    if format == "markdown":
        return formats.as_markdown(found, columns)
    if format == "mermaid":
        return formats.as_mermaid(found)
    return table(found, shutil.get_terminal_size().columns if sys.stdout.isatty() else None, columns)

"""`specc bench`: how fast a build runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from specc_runtime.cli.common import reporting, stop
from specc_runtime.cli.inspect import parse_at

if TYPE_CHECKING:
    from rich.console import Console

    from specc_runtime.bench.request import Case
    from specc_runtime.module import Build


def parse_sizes(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> list[dict[str, int]]:
    """Every `--at`."""
    return [sizes for value in values if (sizes := parse_at(ctx, param, value)) is not None]


@click.command("bench")
@click.argument("build", metavar="BUILD", type=click.Path(path_type=Path))
@click.option(
    "--backend", "backends", multiple=True,
    type=click.Choice(
        ["torch", "torch.compile", "onnxruntime", "torch-cuda", "torch.compile-cuda", "onnxruntime-cuda"]
    ),
    help="What runs it (repeatable).  [default: torch, onnxruntime]",
)  # fmt: skip
@click.option("--at", "sizes", multiple=True, callback=parse_sizes, metavar="B=1,T=128", help="Sizes (repeatable).")
@click.option("--threads", multiple=True, type=click.IntRange(1), help="Threads (repeatable).  [default: all cores]")
@click.option("--entry", default="forward", show_default=True, metavar="NAME", help="The entry to run.")
@click.option(
    "--seconds", default=1.0, show_default=True, type=click.FloatRange(0.01), help="How long each is measured."
)
@click.option("--json", "to", metavar="FILE", type=click.Path(path_type=Path), help="Write the results (- for stdout).")
@click.option("--against", metavar="FILE", type=click.Path(path_type=Path), help="Earlier results to compare with.")
@click.option(
    "--fail-above",
    type=click.FloatRange(0.0),
    metavar="X",
    help="Exit with 1 if one takes X times as long as before, or does not run any more.",
)
@click.option("--profile", is_flag=True, help="Tell which lines of the spec take the time, in onnxruntime.")
def command(
    build: Path,
    backends: tuple[str, ...],
    sizes: list[dict[str, int]],
    threads: tuple[int, ...],
    entry: str,
    seconds: float,
    to: Path | None,
    against: Path | None,
    fail_above: float | None,
    profile: bool,
) -> None:
    """Measure a build: median latency with quartiles, throughput, memory, of each backend in a process of its own.

    The file that --json writes is one of pytest-benchmark's, too.
    """
    from rich.console import Console

    from specc_runtime.bench import results, text
    from specc_runtime.bench.request import cases
    from specc_runtime.bench.run import run
    from specc_runtime.module import open_build

    if fail_above is not None and against is None:
        raise click.UsageError("--fail-above compares with earlier results: --against FILE")
    console = Console(stderr=str(to) == "-")
    if not console.is_terminal:
        console.width = 120
    with reporting():
        if to is not None and str(to) != "-":
            _check_writable(to)
        made = open_build(build)
        before = results.earlier(against) if against is not None else {}
        wanted = ("onnxruntime",) if profile else backends or ("torch", "onnxruntime")
        chosen = cases(made, wanted, sizes, threads or (os.cpu_count() or 1,), entry)
        if profile:
            _profile(made, chosen, console)
            return
        with console.status("measuring") as status:
            found = list(run(made, chosen, seconds, lambda name: status.update(f"measuring {name}")))
    rows = results.rows(made, found, before)
    for table in text.results(rows, against is not None):
        console.print(table)
    for one in found:
        if one.failed:
            console.print(f"{one.case.name}: {one.failed}", style="yellow", markup=False, highlight=False)
    if to is not None:
        content = json.dumps(results.written(made, found), indent=2) + "\n"
        if str(to) == "-":
            click.echo(content, nl=False)
        else:
            with reporting():
                _write(to, content)
    uncompared = against is not None and all(row.ratio is None for row in rows)
    if uncompared:
        told = f"{against} has nothing to compare with: it holds {', '.join(before) or 'no results'}"
        console.print(told, style="yellow", markup=False, highlight=False)
    slower = [row for row in rows if fail_above is not None and row.ratio is not None and row.ratio > fail_above]
    gone = fail_above is not None and (uncompared or any(one.failed and one.case.name in before for one in found))
    if slower or gone or all(one.failed for one in found):
        stop(1)


def _check_writable(to: Path) -> None:
    """Raises `Rejected` (E006) before anything is measured."""
    from specc.diagnostics import Diagnostic, Rejected

    if to.is_dir() or not to.absolute().parent.is_dir():
        why = "it is a folder" if to.is_dir() else f"`{to.parent}` is no folder"
        raise Rejected([Diagnostic("E006", f"cannot write {to}: {why}")])


def _write(to: Path, content: str) -> None:
    """Raises `Rejected` (E006) where the file cannot be written."""
    from specc.diagnostics import Diagnostic, Rejected

    try:
        to.write_text(content, "utf-8")
    except OSError as error:
        raise Rejected([Diagnostic("E006", f"cannot write {to}: {error.strerror}")]) from None


def _profile(made: Build, chosen: list[Case], console: Console) -> None:
    """The slowest lines for each choice of sizes."""
    from specc.diagnostics import Rejected
    from specc_runtime.bench import text
    from specc_runtime.bench.profile import by_line, profile
    from specc_runtime.origin import sources_of

    try:
        specs = sources_of(made.folder)
    except Rejected:
        specs = {}
    for case in chosen:
        if case.backend != "onnxruntime":
            continue
        nodes = profile(made, case)
        total = sum(node.seconds for node in nodes)
        kind = "onnxruntime quantized" if case.quantized else "onnxruntime"
        threads = f"{case.threads} thread{'s' if case.threads > 1 else ''}"
        title = f"{kind}, {text.sizes_of(case)}, {threads}: {text.seconds(total)} in {len(nodes)} nodes"
        console.print(title, style="bold", highlight=False)
        console.print(text.lines(by_line(nodes), specs))

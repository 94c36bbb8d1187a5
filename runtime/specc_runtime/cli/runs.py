"""`specc runs`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from specc_runtime.cli.common import reporting
from specc_runtime.units import size

if TYPE_CHECKING:
    from specc_runtime.training.runs import Known

NOTHING = "-"
MINUTE, HOUR, DAY = 60, 3600, 86400


@click.command("runs")
@click.argument("folders", metavar="[DIR | RUN...]", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--sort", "by", default="when", show_default=True, metavar="NAME", help="A column; a measure: best first."
)
@click.option("--json", "as_json", is_flag=True, help="All that is known of each run.")
def command(folders: tuple[Path, ...], by: str, as_json: bool) -> None:
    """List the runs in a folder (default: runs), or set runs side by side: what they do not share, what they reached.

    Measures are the best ones of a run, wherever in it they were; the first column is what `specc eval` and
    `specc build .. --weights` take.
    """
    from specc_runtime.trained import RUN
    from specc_runtime.training import runs

    others: list[tuple[Path, str]] = []
    with reporting():
        listing = len(folders) < 2 and not (folders and (folders[0] / RUN).is_file())
        if listing:
            found, others = runs.below(folders[0] if folders else Path("runs"))
        else:
            found = [runs.opened(folder) for folder in folders]
        found = runs.ordered(found, by) if listing or by != "when" else found
    for path, why in others:
        click.echo(f"note: skipped {path}: {why}", err=True)
    if as_json:
        click.echo(json.dumps([run.to_json() for run in found], indent=1))
    elif not found:
        click.echo(f"no runs in {folders[0] if folders else 'runs'}")
    else:
        click.echo(listed(found) if listing else beside(found))


def listed(found: Sequence[Known]) -> str:
    """One line a run."""
    from specc_runtime.screen import columns, grid, rendered
    from specc_runtime.training.runs import measures

    held = all("val_loss" in run.best for run in found)
    names = [name for name in measures(found) if not (held and name == "loss")]
    head = ["run", "section", "preset", "when", "status", "steps", *names, "size"]
    rows = [
        [
            str(run.folder),
            run.title,
            run.preset or NOTHING,
            ago(time.time() - run.when),
            run.status,
            steps(run),
            *(number(run.best.get(name)) for name in names),
            size(run.size),
        ]
        for run in found
    ]
    if not any(run.preset for run in found):
        at = head.index("preset")
        head, rows = head[:at] + head[at + 1 :], [row[:at] + row[at + 1 :] for row in rows]
    return rendered(grid(head, rows, ["steps", *names, "size"]), width=columns(), fold=False)


def beside(found: Sequence[Known]) -> str:
    """A column for each run: settings that differ (all of them, of a single run), then what it reached."""
    from specc_runtime.screen import columns, grid, rendered
    from specc_runtime.training.runs import compared, measures

    alone = len(found) == 1
    rows = [["section", *(run.title for run in found)], ["preset", *(run.preset or NOTHING for run in found)]]
    if alone:
        rows += [[name, text] for name, text in {**found[0].settings, **found[0].sets}.items() if name != "preset"]
    else:
        rows = [[name, *map(shown, values)] for name, values in compared(found).items()]
    rows += [["", *("" for _ in found)], ["status", *(run.status for run in found)]]
    rows += [["steps", *map(steps, found)], ["when", *(ago(time.time() - run.when) for run in found)]]
    rows += [["size", *(size(run.size) for run in found)]]
    for name in measures(found):
        rows.append([f"best {name}", *(number(run.best.get(name)) for run in found)])
        rows.append([f"last {name}", *(number(run.last.get(name)) for run in found)])
    return rendered(grid(["", *(str(run.folder) for run in found)], rows), width=columns())


def shown(value: str | float | None) -> str:
    return NOTHING if value is None else str(value)


def steps(run: Known) -> str:
    return f"{run.step:,}" if run.step == run.steps else f"{run.step:,}/{run.steps:,}"


def number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4g}"


def ago(seconds: float) -> str:
    """`3 h ago`."""
    if seconds < MINUTE:
        return "now"
    for unit, scale in (("d", DAY), ("h", HOUR), ("min", MINUTE)):
        if seconds >= scale:
            return f"{seconds // scale:.0f} {unit} ago"
    return "now"

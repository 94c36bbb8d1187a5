"""`specc test`: the `test` sections of a spec."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from specc_runtime.cli.common import print_diagnostics, reporting, stop, trusting
from specc_runtime.threads import yielding

if TYPE_CHECKING:
    from specc_runtime.spectest import Report


@click.command("test")
@click.argument("file", metavar="FILE")
@click.option("--filter", "pattern", default="", metavar="TEXT", help="Only the tests whose name contains TEXT.")
@trusting
def command(file: str, pattern: str, trust: tuple[str, ...]) -> None:
    """Run the `test` sections of a spec. Exits with 1 if an expectation does not hold."""
    yielding()
    from specc_runtime.spectest import run_tests

    start = time.perf_counter()
    reports: list[Report] = []
    with reporting():
        for report in run_tests(file, pattern, trust):
            show(report)
            reports.append(report)
    counts = {s: sum(o.status == s for r in reports for o in r.outcomes) for s in ("passed", "failed", "skipped")}
    counts["failed"] += sum(bool(r.broken) for r in reports)
    shown = ", ".join(f"{n} {status}" for status, n in counts.items() if n) or "no tests"
    click.echo(f"{file}: {shown} in {time.perf_counter() - start:.1f} s")
    if any(r.failed for r in reports):
        stop(1)


def show(report: Report) -> None:
    """Each expectation with its result, then what went wrong."""
    click.echo(f'test "{report.name}"')
    for outcome in report.outcomes:
        mark = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}[outcome.status]
        detail = f"   ({outcome.detail})" if outcome.detail else ""
        click.echo(f"  {mark:<8} {outcome.text}{detail}")
    print_diagnostics([*report.broken, *(o.diagnostic for o in report.outcomes if o.diagnostic is not None)])

"""`specc check`: neither torch nor onnx is imported."""

from __future__ import annotations

import click

from specc import driver
from specc.diagnostics import Diagnostic
from specc_runtime.cli.common import configuration, print_diagnostics, reporting, stop

FORMATS = ("full", "concise", "json", "github", "sarif")
MAX_ROUNDS = 20  # of fixes that uncover other fixes


@click.command("check")
@configuration
@click.option("--all-presets", is_flag=True, help="Check every preset of the file.")
@click.option("--format", type=click.Choice(FORMATS), default="full", show_default=True)
@click.option("--deny", type=click.Choice(["warnings"]), help="Exit with 1 on warnings too.")
@click.option("--fix", is_flag=True, help="Apply the fixes that are safe to apply mechanically.")
def command(
    file: str,
    preset: str | None,
    sets: dict[str, str],
    model: str | None,
    all_presets: bool,
    format: str,
    deny: str | None,
    fix: bool,
) -> None:
    """Check a spec without building it."""

    def check() -> list[Diagnostic]:
        return driver.check(file, all_presets=all_presets, sets=sets, model=model, preset=preset)

    found = check()
    for _ in range(MAX_ROUNDS if fix else 0):
        if not any(d.edits for d in found):
            break
        from specc_runtime.fixes import apply_fixes

        with reporting(format):
            done = apply_fixes(found)
        if not done:
            break
        click.echo(done, err=True)
        found = check()
    print_diagnostics(found, format)
    bad = {"error", "warning"} if deny else {"error"}
    if any(d.severity in bad for d in found):
        stop(1)
    if format == "full":
        click.echo(f"{file}: ok")

"""`specc check`: neither torch nor onnx is imported."""

from __future__ import annotations

import click

from specc import driver
from specc_runtime.cli.common import configuration, print_diagnostics, stop


@click.command("check")
@configuration
@click.option("--all-presets", is_flag=True, help="Check every preset of the file.")
@click.option("--format", type=click.Choice(["full", "concise", "json", "github", "sarif"]), default="full", show_default=True)
@click.option("--deny", type=click.Choice(["warnings"]), help="Exit with 1 on warnings too.")
@click.option("--fix", is_flag=True, help="Apply the fixes that are safe to apply mechanically.")
def command(file: str, preset: str | None, sets: dict[str, str], model: str | None, all_presets: bool, format: str, deny: str | None, fix: bool) -> None:
    """Check a spec without building it."""
    found = driver.check(file, all_presets=all_presets, sets=sets, model=model, preset=preset)
    if fix and any(d.edits for d in found):
        from specc_runtime.fixes import apply_fixes

        print(apply_fixes(found))
        found = driver.check(file, all_presets=all_presets, sets=sets, model=model, preset=preset)
    print_diagnostics(found, format)
    bad = {"error", "warning"} if deny else {"error"}
    if any(d.severity in bad for d in found):
        stop(1)
    if format == "full":
        click.echo(f"{file}: ok")

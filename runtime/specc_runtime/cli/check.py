"""`specc check`: neither torch nor onnx is imported."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from specc import driver, reading, report
from specc.diagnostics import Diagnostic
from specc.report import suppressed
from specc_runtime.cli.common import choices, print_diagnostics, reporting, stop

if TYPE_CHECKING:
    from specc.inspect.lowering import Lowerings

FORMATS = ("full", "concise", "json", "github", "sarif")
MAX_ROUNDS = 20  # of fixes that uncover other fixes


@click.command("check")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@choices
@click.option("--all-presets", is_flag=True, help="Check every preset of the files.")
@click.option("--format", type=click.Choice(FORMATS), default="full", show_default=True)
@click.option("--deny", type=click.Choice(["warnings"]), help="Exit with 1 on warnings too.")
@click.option("--strict", is_flag=True, help="Sizes may not agree by the values of one configuration alone.")
@click.option("--notes", is_flag=True, help="Tell style and unused names too.")
@click.option("--against", metavar="DIR|FILE", help="A build or checkpoint whose weights the model should take.")
@click.option("--incremental", is_flag=True, help="Tell what keeps entries from being built with --cache.")
@click.option(
    "--target",
    type=click.Choice(["onnxruntime", "genai"]),
    help="Tell what each operator becomes in ONNX for it: native, fused or decomposed.  [default: onnxruntime]",
)
@click.option("--opset", type=click.IntRange(17, 26), help="The same at this operator set.  [default: 23]")
@click.option("--fix", is_flag=True, help="Apply the fixes that are safe to apply mechanically.")
def command(
    paths: tuple[str, ...],
    preset: str | None,
    sets: dict[str, str],
    model: str | None,
    all_presets: bool,
    format: str,
    deny: str | None,
    against: str | None,
    fix: bool,
    strict: bool,
    notes: bool,
    incremental: bool,
    target: str | None,
    opset: int | None,
) -> None:
    """Check specs without building them. A folder stands for every .spec file below it."""
    with reporting(format):
        files = [file for path in paths for file in reading.specs_below(path)]
    if len(files) > 1 and (preset or sets or model):
        raise click.UsageError("--preset, --set and --model choose a configuration of one file; there are several")
    if len(files) > 1 and against is not None:
        raise click.UsageError("--against compares one file; there are several")
    chosen = _Chosen(sets, model, preset, all_presets)

    def check() -> dict[str, list[Diagnostic]]:
        return {
            file: chosen.findings(file, against, strict=strict, notes=notes, incremental=incremental) for file in files
        }

    found = _fixed(check, format) if fix else check()
    forms: list[Lowerings] = []
    if target or opset:
        for file in [file for file, about in found.items() if not _failed(about, {"error"})]:
            made = chosen.lowerings(file, target or "onnxruntime", opset or 23)
            found[file] += [problem for one in made for problem in one.problems]
            forms += made
    if forms and format == "json":
        click.echo(_document(_once(found), forms))
    else:
        print_diagnostics(_once(found), format)
    failed = [file for file, about in found.items() if _failed(about, {"error", "warning"} if deny else {"error"})]
    if format == "full":
        _say(files, failed, forms)
    if failed:
        stop(1)


@dataclass(frozen=True)
class _Chosen:
    """The configurations to check."""

    sets: dict[str, str]
    model: str | None
    preset: str | None
    all_presets: bool

    def findings(
        self, file: str, against: str | None, *, strict: bool, notes: bool, incremental: bool
    ) -> list[Diagnostic]:
        found = driver.check(
            file,
            all_presets=self.all_presets,
            sets=self.sets,
            model=self.model,
            preset=self.preset,
            strict=strict,
            notes=notes,
            incremental=incremental,
        )
        if against is not None and not _failed(found, {"error"}):
            from specc_runtime.against import compare

            found += compare(file, against, preset=self.preset, model=self.model, sets=self.sets)
        return _told(found)

    def lowerings(self, file: str, target: str, opset: int) -> list[Lowerings]:
        from specc.lowered import lowered

        return lowered(
            file,
            target=target,
            opset=opset,
            all_presets=self.all_presets,
            sets=self.sets,
            model=self.model,
            preset=self.preset,
        )


def _failed(found: list[Diagnostic], bad: set[str]) -> bool:
    return any(d.severity in bad for d in found)


def _fixed(check: Callable[[], dict[str, list[Diagnostic]]], format: str) -> dict[str, list[Diagnostic]]:
    """What is found once all fixes are applied, those that fixes uncover too."""
    from specc_runtime.fixes import apply_fixes

    found = check()
    for _ in range(MAX_ROUNDS):
        if not any(d.edits for d in _once(found)):
            break
        with reporting(format):
            done = apply_fixes(_once(found))
        if not done:
            break
        click.echo(done, err=True)
        found = check()
    return found


def _say(files: list[str], failed: list[str], forms: list[Lowerings]) -> None:
    """What becomes of operators, if that was asked; else which files are good."""
    if forms:
        told = [str(one) for one in forms if one.operators or not one.problems]
        if told:
            click.echo("\n\n".join(told))
    elif len(files) == 1 and not failed:
        click.echo(f"{files[0]}: ok")
    elif len(files) > 1:
        click.echo(f"{len(files) - len(failed)} of {len(files)} files ok", err=bool(failed))


def _document(found: list[Diagnostic], forms: list[Lowerings]) -> str:
    """The findings and the forms as one JSON document."""
    return json.dumps({"diagnostics": json.loads(report.as_json(found)), "lowerings": [one.to_json() for one in forms]})


def _told(found: list[Diagnostic]) -> list[Diagnostic]:
    """Without what a comment silences."""
    return [d for d in found if not suppressed(d)]


def _once(found: dict[str, list[Diagnostic]]) -> list[Diagnostic]:
    """Each finding once: a file's own are met again wherever it is imported."""
    kept: dict[tuple[object, ...], Diagnostic] = {}
    for d in itertools.chain.from_iterable(found.values()):
        place = (d.span.source.display, d.span.start) if d.span else id(d)
        kept.setdefault((d.code, place, d.message), d)
    return list(kept.values())

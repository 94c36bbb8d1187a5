"""Every message has a golden file: `errors/NAME.spec` is checked, `errors/NAME.txt` is what is printed.

Checked are the defaults of every model and every preset. What specs import is in `errors/lib/`.

Read what --update-golden writes before committing it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import TypedDict

import pytest

from specc import codes, driver, report
from specc.diagnostics import Diagnostic

ERRORS = Path(__file__).with_name("errors")
SPECS = sorted(ERRORS.glob("*.spec"))


def check(path: Path, text: str) -> list[Diagnostic]:
    """All findings about a spec file with this text, under its own name in a folder of its own."""
    with TemporaryDirectory() as folder, chdir(folder):
        copytree(ERRORS / "lib", "lib")
        Path(path.name).write_bytes(text.encode("utf-8"))
        return driver.check(path.name, all_presets=True, **asked(path.name))


class Asked(TypedDict):
    """Options of a check."""

    strict: bool
    notes: bool
    incremental: bool


def asked(name: str) -> Asked:
    """What has to be asked for to be told of a code, or of a file named after it."""
    notes = name.startswith(("N203", "N204", "N205"))
    return Asked(strict=name.startswith("S290"), notes=notes, incremental=name.startswith("D4"))


@pytest.mark.parametrize("spec", SPECS, ids=[spec.stem for spec in SPECS])
def test_message(spec: Path, golden: Callable[[Path, str], None]) -> None:
    found = check(spec, spec.read_bytes().decode("utf-8"))
    assert found, "nothing was found"
    golden(spec.with_suffix(".txt"), report.full(found))


@pytest.mark.parametrize("spec", SPECS, ids=[spec.stem for spec in SPECS])
def test_fix(spec: Path) -> None:
    """What is called fixable is fixed: each round of `--fix` leaves less to fix, and the last nothing fixable."""
    text = spec.read_bytes().decode("utf-8")
    found = check(spec, text)
    if not any(d.edits for d in found):
        pytest.skip("nothing fixable")
    for _ in range(20):
        fixable = [d for d in found if d.edits]
        if not fixable:
            return
        fixed = report.apply_edits(text, fixable)
        left = check(spec, fixed)
        places = [(d.code, d.message, d.span and (d.span.line, d.span.source.line(d.span.line))) for d in left]
        for d in fixable:
            assert (d.code, d.message, d.span and (d.span.line, d.span.source.line(d.span.line))) not in places, fixed
        text, found = fixed, left
    pytest.fail("the fixes do not come to an end:\n" + text)


def test_golden_files_have_a_spec() -> None:
    assert {path.stem for path in ERRORS.glob("*.txt")} <= {path.stem for path in SPECS}


def test_every_code_has_a_golden_message() -> None:
    """Here, in `errors/checkpoints` (about weights files), `errors/cli` (about commands), or beside other goldens."""
    folders = (ERRORS, ERRORS.with_name("golden"))
    told = "".join(path.read_text(encoding="utf-8") for folder in folders for path in sorted(folder.rglob("*.txt")))
    assert [code for code in codes.CODES if f"[{code}]: " not in told] == []


def test_codes_in_messages_are_known() -> None:
    for path in ERRORS.glob("*.txt"):
        for code in re.findall(r"^(?:error|warning|note)\[(\w+)\]", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert codes.title(code), f"{path.name}: {code} is not in codes.py"

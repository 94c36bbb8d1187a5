"""Every message has a golden file: `errors/NAME.spec` is checked, `errors/NAME.txt` is what is printed.

A `.spec` that needs options says so in its first line: `#: preset=tiny dim=256`. Read what --update-golden writes before committing it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from specc import codes, report
from specc.diagnostics import Collector, Diagnostic
from specc.source import Source
from specc.syntax.parser import parse

ERRORS = Path(__file__).with_name("errors")
SPECS = sorted(ERRORS.glob("*.spec"))


def check(path: Path, text: str) -> list[Diagnostic]:
    """All findings about a spec file."""
    collector = Collector()
    parse(Source(path.name, text), collector)
    return collector.found


@pytest.mark.parametrize("spec", SPECS, ids=[spec.stem for spec in SPECS])
def test_message(spec: Path, golden: Callable[[Path, str], None]) -> None:
    found = check(spec, spec.read_bytes().decode("utf-8"))
    assert found, "nothing was found"
    golden(spec.with_suffix(".txt"), report.full(found))


@pytest.mark.parametrize("spec", SPECS, ids=[spec.stem for spec in SPECS])
def test_fix(spec: Path) -> None:
    """What is called fixable is fixed: after `--fix` the message is gone and no other syntax error took its place."""
    text = spec.read_bytes().decode("utf-8")
    found = check(spec, text)
    fixable = [d for d in found if d.edits]
    if not fixable:
        pytest.skip("nothing fixable")
    fixed = report.apply_edits(text, fixable)
    left = check(spec, fixed)
    for d in fixable:
        assert (d.code, d.message) not in [(other.code, other.message) for other in left], fixed
    assert len(left) < len(found), fixed


def test_golden_files_have_a_spec() -> None:
    assert {path.stem for path in ERRORS.glob("*.txt")} <= {path.stem for path in SPECS}


def test_codes_in_messages_are_known() -> None:
    for path in ERRORS.glob("*.txt"):
        for code in re.findall(r"^(?:error|warning|note)\[(\w+)\]", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert codes.title(code), f"{path.name}: {code} is not in codes.py"

"""Specs of the zoo with the slips people make: each is found, told once, where it was made."""

from __future__ import annotations

import shutil
from contextlib import chdir
from pathlib import Path

import pytest
from mistakes import mistakes

from specc import driver, report

SPECS = Path(__file__).resolve().parents[1] / "specs"

# Slips that leave a right spec behind, in some models.
HARMLESS = {
    "heads that do not divide": "heads of a size of their own need not divide anything",
    "sizes swapped": "two hyper-parameters with the same value in every preset",
}
# Places that nothing looks at: by spec and kind.
UNSEEN = {
    ("vit", "argument of a function misspelt"): "the branch of a pooling that no preset has",
    ("transformer", "method of torch"): "the size of a batch in a train section",
}
# A slip shows where something is used, not where it is declared or given.
SHOWN_ELSEWHERE = {
    "part misspelt where it is declared",
    "import forgotten",
    "import line forgotten",
    "dim undeclared",
    "sizes swapped",
    "wrong size",
    "result declared too wide",
    "heads that do not divide",
    "config key of no hyper-parameter",  # the binding of a body looks the same
    "argument of a function misspelt",  # so does `mask = ..`
    "closing brace forgotten",  # told at the brace that is never closed
    "colon for a brace",
}


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.spec")), ids=lambda path: path.stem)
def test_slips(path: Path, tmp_path: Path) -> None:
    shutil.copytree(SPECS, tmp_path / "specs")
    text = path.read_text(encoding="utf-8")
    slips = 0
    with chdir(tmp_path):
        for slip in mistakes(text):
            slips += 1
            Path("specs", path.name).write_text(slip.text, encoding="utf-8")
            found = [d for d in driver.check(f"specs/{path.name}", all_presets=True) if d.severity == "error"]
            told = f"{slip.kind}: {slip.was!r} -> {slip.now!r} in line {slip.line}\n{report.full(found)}"
            if not found:
                assert slip.kind in HARMLESS or (path.stem, slip.kind) in UNSEEN, told
                continue
            assert len(found) <= 4, told
            lines = [d.span.line for d in found if d.span is not None and d.span.source.display.endswith(path.name)]
            assert slip.line in lines or slip.kind in SHOWN_ELSEWHERE, told
    assert slips >= 12

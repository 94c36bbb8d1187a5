"""What `specc check` says only when it is asked: `--strict` and `--notes`.

Read what --update-golden writes before committing it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest

from specc import driver, report

LINTS = Path(__file__).with_name("lints")
SPECS = Path(__file__).resolve().parents[1] / "specs"


@pytest.mark.parametrize("option", ["strict", "notes"])
def test_message(option: str, golden: Callable[[Path, str], None]) -> None:
    with chdir(LINTS):
        assert driver.check(f"{option}.spec") == [], "without the option nothing is said"
        found = driver.check(f"{option}.spec", strict=option == "strict", notes=option == "notes")
    golden(LINTS / f"{option}.txt", report.full(found))


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.spec")), ids=lambda path: path.stem)
def test_the_zoo_holds_to_both(path: Path) -> None:
    """No size of the zoo agrees by chance, no name is idle. Parts are called as checkpoints call them."""
    found = driver.check(path, strict=True, notes=True)
    assert [d for d in found if d.code != "N203"] == [], report.full(found)

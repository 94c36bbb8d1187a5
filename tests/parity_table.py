"""The README's table of parity: every comparison with transformers that the zoo's tests make, by family.

A run of pytest with `--parity` ends with the table of the tests it ran; `make parity` runs the zoo's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from pytest import TestReport

PROPERTY = "parity"


@dataclass(frozen=True)
class Comparison:
    """Largest |ours - reference| of one output, relative to max(1, largest |reference|)."""

    family: str  # config.json's model_type, else the spec's name: the reference is made of torch.nn's layers
    backend: str  # torch | onnxruntime
    difference: float


pending: list[Comparison] = []
"""What the running test has compared so far; a fixture hands it to the test's report, which crosses processes."""


def compared(family: str, backend: str, difference: float, scale: float) -> None:
    """Keep a comparison for the table."""
    pending.append(Comparison(family, backend, difference / scale))


def taken() -> tuple[str, list[tuple[str, str, float]]]:
    """The pending comparisons as a property of a test report, which has to be plain data."""
    found = [(c.family, c.backend, c.difference) for c in pending]
    pending.clear()
    return PROPERTY, found


def table(reports: Sequence[TestReport]) -> list[str]:
    """Lines of a Markdown table; a family whose tests failed says so."""
    broken = {report.nodeid for report in reports if report.failed}
    checkpoints: dict[str, int] = {}
    worst: dict[tuple[str, str], list[float]] = {}
    failed: set[str] = set()
    for report in reports:
        if report.when != "teardown":  # the last of a test, with all its properties
            continue
        properties = [cast("list[tuple[str, str, float]]", v) for name, v in report.user_properties if name == PROPERTY]
        rows = [row for found in properties for row in found]
        for family in {family for family, _, _ in rows}:
            checkpoints[family] = checkpoints.get(family, 0) + 1
            failed |= {family} if report.nodeid in broken else set()
        for family, backend, difference in rows:
            worst.setdefault((family, backend), []).append(difference)
    lines = [
        "| model_type | checkpoints | outputs compared | torch | onnxruntime |",
        "|---|---|---|---|---|",
    ]
    for family in sorted(checkpoints):
        of = [worst.get((family, backend), []) for backend in ("torch", "onnxruntime")]
        name = f"{family} (failed)" if family in failed else family
        lines.append(f"| {name} | {checkpoints[family]} | {sum(map(len, of))} | {_worst(of[0])} | {_worst(of[1])} |")
    return lines


def _worst(differences: Sequence[float]) -> str:
    return f"{max(differences):.1e}" if differences else "-"

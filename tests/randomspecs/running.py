"""Hypothesis at work: so many specs by one seed, and the small spec that is left when one of them fails."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from .checking import Examined, examine
from .recipes import RECIPES
from .strategy import specs

FOUND = Path(__file__).with_name("found")
"""Shrunk specs that failed once, each with the reason in its first line; the ordinary tests run them."""


@dataclass
class Totals:
    """Sums over all specs; `text` is the last spec that failed, which after shrinking is the smallest."""

    count: int = 0
    ops: Counter[str] = field(default_factory=Counter)
    worst: float = 0.0
    excused: int = 0
    text: str = ""

    def add(self, found: Examined) -> None:
        self.count += 1
        self.ops.update(found.ops)
        self.worst = max(self.worst, found.worst)
        self.excused += found.excused


SHARES = 8
PHASES = (Phase.generate, Phase.shrink)


def share(number: int) -> list[str]:
    """The operators that the specs of a seed begin with: those of eight consecutive seeds are all there are."""
    return list(RECIPES)[number % SHARES :: SHARES]


def run(count: int, number: int, totals: Totals, phases: tuple[Phase, ...] = PHASES) -> None:
    """Draw `count` specs by seed `number` and examine each; raises what the smallest failing one raises.

    The same seed draws the same specs, whatever ran before. Hypothesis varies what it has drawn, so specs of one run
    are alike: every operator of the seed's share gets a short run of its own.
    """
    first = share(number)
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate(first):
            some = count * (i + 1) // len(first) - count * i // len(first)
            if some:
                _run(some, number * len(RECIPES) + i, name, totals, Path(folder), phases)


def _run(count: int, number: int, first: str, totals: Totals, folder: Path, phases: tuple[Phase, ...]) -> None:
    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(specs(first))
    def each(text: str) -> None:
        try:
            found = examine(text, folder)
        except BaseException:
            totals.text = text
            raise
        totals.add(found)

    each()

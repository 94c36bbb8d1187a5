"""Measurements one after the other, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

from specc_runtime.bench.request import Case, Measured, to_json
from specc_runtime.module import Build

LONGEST = 1800
"""Seconds after which a measurement is given up."""


def run(
    made: Build, chosen: Sequence[Case], seconds: float, say: Callable[[str], None] = lambda _: None
) -> Iterator[Measured]:
    """Measure the cases in their order."""
    for case in chosen:
        say(case.name)
        yield _measured(made, case, seconds)


def _measured(made: Build, case: Case, seconds: float) -> Measured:
    asked = {"case": to_json(case), "folder": str(made.folder.absolute()), "seconds": seconds}
    surroundings = {**os.environ, "OMP_NUM_THREADS": str(case.threads)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "specc_runtime.bench.child"],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            env=surroundings,
            timeout=LONGEST,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Measured(case, failed=f"not done after {LONGEST} s")
    try:
        return Measured(case, **json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        last = done.stderr.strip().splitlines()
        return Measured(case, failed=f"the process ended with {done.returncode}: {last[-1] if last else ''}")

"""How long threads of torch wait awake for one another."""

from __future__ import annotations

import os

SPINS = "1000"
"""Turns of a loop, some twenty microseconds: about what waking a thread costs."""


def yielding() -> None:
    """Let threads that wait fall asleep soon: of use before torch is imported; what was asked for otherwise stays.

    OpenMP of GNU, which torch has on Linux, lets a thread that waits for the others look 300,000 times whether they are
    there, a few milliseconds. On a machine that has something else to do it so takes the processor from the thread that
    it waits for: a step of a small model then takes ten times as long.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)

"""Memory: what the proof of a build takes, what the machine has."""

from __future__ import annotations

import contextlib
from pathlib import Path

from specc.diagnostics import Diagnostic, Rejected

PROOF = 3.5
"""Bytes for each byte of weights in f32: the module with random ones, onnxruntime's packed copies, what is between. It
was 3.3 for a Llama of 623 MB."""

SMALL = 1 << 30  # bytes that any machine has
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def check_proof(parameters: int) -> None:
    """Refuse a build whose proof the machine would end half-way (B641)."""
    needed, there = round(PROOF * 4 * parameters), available()
    if needed <= SMALL or there is None or needed <= there:
        return
    message = f"proving this build takes about {needed / 1e9:.0f} GB of memory, {there / 1e9:.0f} GB are free"
    why = "torch and onnxruntime run it side by side, with its own weights and with random ones"
    help = "build it with --no-verify, and run `specc verify` on a machine that has the memory"
    raise Rejected([Diagnostic("B641", message, notes=(("why", why),), help=help)])


def available() -> int | None:
    """Bytes that a process may take, swap and what can be given back included; None where nothing tells."""
    limits: list[int] = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        machine = _fields(_MEMINFO)
        limits.append((machine["MemAvailable:"] + machine["SwapFree:"]) * 1024)
    with contextlib.suppress(OSError, ValueError, KeyError):  # `max` is no number: there is no limit
        most = int((_CGROUP / "memory.max").read_text())
        held = int((_CGROUP / "memory.current").read_text()) - _fields(_CGROUP / "memory.stat")["file"]
        limits.append(most - held)
    return min(limits, default=None)


def _fields(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    return {line.split()[0]: int(line.split()[1]) for line in path.read_text().splitlines()}

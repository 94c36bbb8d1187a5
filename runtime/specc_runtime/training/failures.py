"""What ends a run though its spec is right: memory that runs out, a process that something else ended (T534)."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Sequence

import torch

from specc.diagnostics import Diagnostic, Rejected
from specc.source import Span
from specc_runtime.units import size

PATIENCE = 5.0
"""Seconds in which a process whose connection broke is found to be gone."""
LESS = 'less of it:  a smaller `batch` and `accumulate`,  precision = "bf16-mixed",  or `lora`'


def exhausted(error: BaseException, where: str, span: Span | None = None) -> Rejected | None:
    """T534 if an error says that memory ran out, else None."""
    text = str(error)
    if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in text:
        return None
    found = re.search(r"tried to allocate ([\d.]+ ?\w+)", text, re.IGNORECASE)
    amount = found[1] if found is not None else ""
    if amount.endswith(" bytes"):
        amount = size(int(amount.removesuffix(" bytes")))
    more = f": {amount} more were asked for" if amount else ""
    return Rejected([Diagnostic("T534", f"memory ran out {where}{more}", span, help=LESS)])


def ended(processes: Sequence[subprocess.Popen[bytes]], again: str, *, killed: bool = False) -> Rejected | None:
    """T534 if one of the further processes of a run was ended from outside, or failed unless `killed`, else None.

    `again` is the command that continues the run.
    """
    until = time.monotonic() + PATIENCE
    while all(process.poll() is None for process in processes) and time.monotonic() < until:
        time.sleep(0.05)
    found = {rank: process.poll() for rank, process in enumerate(processes, 1)}
    gone = {rank: status for rank, status in found.items() if status and (status < 0 or not killed)}
    for rank, status in sorted(gone.items(), key=lambda each: each[1] > 0):  # others fail because one was ended
        if status < 0:
            name = signal.Signals(-status).name
            notes = (("why", "the system ends processes so when memory runs out"),) if name == "SIGKILL" else ()
            message = f"process {rank} of the run was ended by {name}"
            return Rejected([Diagnostic("T534", message, help=f"to go on:  {again}", notes=notes)])
        message = f"process {rank} of the run failed: what it said stands above"
        return Rejected([Diagnostic("T534", message, help=f"mend it, then go on:  {again}")])
    return None

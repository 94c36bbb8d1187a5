"""The processes of one run look after each other: none waits for one that is gone, none is left behind.

Gloo tells a broken connection at once. Nothing tells a process that ended before it was connected: the others would
wait for it for the half hour that a rendezvous may take, as they do for a lost one over nccl.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

from specc import report
from specc_runtime.training.failures import ended

ARRIVAL = "SPECC_ARRIVAL"
"""In the environment of a further process: the end of a pipe on which it tells that it is about to be connected."""
PERIOD = 0.5
"""Seconds between two looks at another process."""
GRACE = 15.0
"""Seconds in which the first process tells by itself that another one is lost."""


def arrived() -> None:
    """Tell the first process that this one is there, if it waits for that."""
    end = os.environ.pop(ARRIVAL, None)
    if end is not None:
        os.write(int(end), b"+")
        os.close(int(end))


def meet(processes: Mapping[int, subprocess.Popen[bytes]]) -> None:
    """Wait until each process, by the end of its pipe, has arrived; raises `RuntimeError` if one ended before."""
    for end, process in processes.items():
        while not select.select([end], [], [], PERIOD)[0]:
            for other in processes.values():
                if other.poll():
                    raise RuntimeError("a process ended before it was connected")
        if not os.read(end, 1):
            raise RuntimeError(f"process {process.pid} ended before it was connected")


def follow(first: int) -> None:
    """End this process as soon as its parent is not the process `first` any more, whatever it waits for."""

    def look() -> None:
        while os.getppid() == first:
            time.sleep(PERIOD)
        os._exit(1)

    threading.Thread(target=look, daemon=True, name="specc-follow").start()


class Watch(threading.Thread):
    """Ends this process with T534 if another one is lost and `over` is not set within `grace` seconds.

    What waits in a library for a lost process cannot be interrupted. States are written whole or not at all, so the
    run goes on from the last one.
    """

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]], again: str, grace: float = GRACE) -> None:
        super().__init__(daemon=True, name="specc-watch")
        self.processes, self.again, self.grace = processes, again, grace
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(PERIOD):
            if any(process.poll() for process in self.processes):
                break
        if self.over.wait(self.grace):
            return
        lost = ended(self.processes, self.again)
        for process in self.processes:
            process.kill()
        if lost is not None:
            print(report.full(lost.diagnostics), file=sys.stderr, flush=True)
        os._exit(1)

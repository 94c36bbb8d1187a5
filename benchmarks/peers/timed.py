"""Run a command and print, as the last line, what it took and what it said last.

A process of its own: the peak memory that Linux reports of a child is at least that of the process it was forked from,
and the one that benchmarks is large.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

start = time.perf_counter()
with subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
    assert process.stdout is not None
    lines = process.stdout.read().strip().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
wall = time.perf_counter() - start
errors = [line for line in lines if "rror" in line and not line.startswith(" ")]
print(
    json.dumps(
        {
            "status": process.returncode,
            "seconds": wall,
            "rss": usage.ru_maxrss * 1024,
            "last": lines[-1] if lines else "",
            "error": (errors or lines or [""])[-1],
        }
    )
)

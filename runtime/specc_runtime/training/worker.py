"""A further process of a run: `python -m specc_runtime.training.worker JOB PID`, started by the first one, PID."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from specc import report
from specc.diagnostics import Rejected
from specc_runtime.training.processes import rank
from specc_runtime.training.request import Request
from specc_runtime.training.run import train
from specc_runtime.training.watching import follow


def main() -> int:
    """Take part in the run that the first argument tells; the exit status.

    It ends with the first process, whatever that ends by.
    """
    told = json.loads(sys.argv[1])
    first = int(sys.argv[2])
    follow(first)
    told |= {"resume": Path(told["resume"]), "trust": tuple(told["trust"])}
    try:
        train(Request(**told, joined=True))
    except Rejected as error:
        if os.getppid() == first:  # else the first process is gone: it was that
            print(report.full(error.diagnostics), file=sys.stderr)
        return 1
    except RuntimeError as error:
        if os.getppid() == first:
            print(f"process {rank()}: {str(error).strip().partition(chr(10))[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

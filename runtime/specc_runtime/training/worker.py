"""A further process of a run: `python -m specc_runtime.training.worker JOB`, started by the first one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from specc import report
from specc.diagnostics import Rejected
from specc_runtime.training.request import Request
from specc_runtime.training.run import train


def main() -> int:
    """Take part in the run that the first argument tells; the exit status."""
    told = json.loads(sys.argv[1])
    told |= {"resume": Path(told["resume"]), "trust": tuple(told["trust"])}
    try:
        train(Request(**told, joined=True))
    except Rejected as error:
        print(report.full(error.diagnostics), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

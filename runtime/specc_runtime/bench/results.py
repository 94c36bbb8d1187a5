"""Results on disk, in the format that `pytest-benchmark compare` reads, and against earlier ones."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, quantiles, stdev
from typing import Any

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime.bench.request import Measured, items, to_json
from specc_runtime.module import Build


@dataclass(frozen=True)
class Row:
    """A measurement as it is shown: seconds, `rate` of `unit` per second, and the median of an earlier run."""

    measured: Measured
    median: float = 0.0
    low: float = 0.0  # the quartiles
    high: float = 0.0
    rate: float = 0.0
    unit: str = ""
    earlier: float | None = None

    @property
    def ratio(self) -> float | None:
        return None if self.earlier is None or not self.earlier or not self.median else self.median / self.earlier


def rows(made: Build, found: Iterable[Measured], earlier: Mapping[str, float]) -> list[Row]:
    """Medians with their quartiles."""
    shown = []
    for one in found:
        if one.failed:
            shown.append(Row(one))
            continue
        low, middle, high = quantiles(one.times, n=4)
        count, unit = items(made.interface(one.case.entry), one.case.sizes)
        shown.append(Row(one, middle, low, high, count / middle, unit, earlier.get(one.case.name)))
    return shown


def written(made: Build, found: Sequence[Measured]) -> dict[str, Any]:
    """What pytest-benchmark writes with `--benchmark-json`; what it has no place for is in `extra_info`."""
    from specc.version import version

    return {
        "machine_info": {
            "node": platform.node(),
            "processor": platform.processor(),
            "machine": platform.machine(),
            "python_version": platform.python_version(),
            "system": platform.system(),
            "release": platform.release(),
            "cpu": {"count": os.cpu_count()},
        },
        "commit_info": {"id": "", "time": None, "dirty": False, "branch": ""},
        "benchmarks": [_benchmark(made, one) for one in found if not one.failed],
        "datetime": datetime.now(UTC).isoformat(),
        "version": "5.0.0",
        "specc": {"version": version(), "build": made.manifest["name"], "spec": made.manifest["spec"]},
    }


def _benchmark(made: Build, one: Measured) -> dict[str, Any]:
    times = sorted(one.times)
    low, middle, high = quantiles(times, n=4)
    count, unit = items(made.interface(one.case.entry), one.case.sizes)
    spread = high - low
    inside = [t for t in times if low - 1.5 * spread <= t <= high + 1.5 * spread]
    mean, deviation = fmean(times), stdev(times)
    far = sum(abs(t - mean) > deviation for t in times)
    return {
        "group": made.manifest["name"],
        "name": one.case.name,
        "fullname": f"{made.manifest['name']}::{one.case.name}",
        "params": None,
        "param": None,
        "extra_info": {
            **to_json(one.case),
            "first": one.first,
            "loading": one.loading,
            "peak_bytes": one.peak,
            f"{unit}_per_second": count / middle,
        },
        "options": {"timer": "perf_counter", "warmup": True},
        "stats": {
            "min": times[0],
            "max": times[-1],
            "mean": mean,
            "stddev": deviation,
            "rounds": len(times),
            "median": middle,
            "iqr": spread,
            "q1": low,
            "q3": high,
            "iqr_outliers": len(times) - len(inside),
            "stddev_outliers": far,
            "outliers": f"{far};{len(times) - len(inside)}",
            "ld15iqr": inside[0],
            "hd15iqr": inside[-1],
            "ops": 1 / mean,
            "total": sum(times),
            "iterations": 1,
        },
    }


def earlier(path: Path) -> dict[str, float]:
    """Medians of a file by their names; raises `Rejected` (B660) for a file that is none of results."""
    try:
        data = json.loads(path.read_text("utf-8"))
        return {b["name"]: float(b["stats"]["median"]) for b in data["benchmarks"]}
    except OSError as error:
        raise Rejected([Diagnostic("B660", f"cannot read {path}: {error.strerror}")]) from None
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        help = "specc bench BUILD --json FILE  writes one"
        raise Rejected([Diagnostic("B660", f"`{path}` holds no results of a benchmark", help=help)]) from None

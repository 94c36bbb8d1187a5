"""`specc check --against CHECKPOINT`: would a build take its weights from there?"""

from __future__ import annotations

from collections.abc import Mapping

from specc import driver
from specc.diagnostics import Collector, Diagnostic, Rejected
from specc.elaborate.models import Options
from specc_runtime.build import Request
from specc_runtime.weights import open_source, plan_weights


def compare(
    target: str, checkpoint: str, *, preset: str | None, model: str | None, sets: Mapping[str, str]
) -> list[Diagnostic]:
    """What a checkpoint or build folder lacks, has too much or has otherwise; headers alone are read.

    A former build is of the model's own names: what renames made unreadable is W320, with the line that mends it.
    """
    try:
        project = driver.open_project(target)
        request = Request(target, preset=preset, model=model, sets=sets)
        source = open_source(checkpoint, None, project, request)
        assert source is not None
        try:
            checked = project.check(Options(model, preset, driver.parse_sets(sets), source.config))
            collector = Collector()
            plan_weights(checked, source, collector)
        finally:
            source.close()
    except Rejected as rejected:
        return list(rejected.diagnostics)
    return collector.found

"""The model of a section as a module of torch: a build of its configuration without a proof."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from specc_runtime.build import Request, build
from specc_runtime.module import Build, open_build
from specc_runtime.training.plan import Plan
from specc_runtime.training.section import Section


def emitted(section: Section, counts: Plan, target: str, work: Path, trust: tuple[str, ...], **more: Any) -> Build:
    """The module of the spec `target` with the section's weights, below `work`: inputs that nothing feeds are left out.

    `more` is of `specc_runtime.build.Request`. Raises `Rejected`.
    """
    fed = {*counts.train.fields, *section.bound}
    arguments = section.checked.model.entries[section.entry].full.inputs
    asked = Request(
        target,
        preset=section.preset,
        model=section.model,
        sets=section.sets,
        weights=section.weights,
        emit=frozenset({"torch"}),
        verify=False,
        render=False,
        out=work / "build",
        without=frozenset(a.name for a in arguments if a.optional and a.name not in fed),
        entries=(section.entry,),
        trust=trust,
        **more,
    )
    return open_build(build(asked).folder)

"""What a run of `specc train` says about its weights: a build of them is of the same configuration, unasked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Rejected

if TYPE_CHECKING:
    from specc_runtime.build import Request

RUN = "run.json"
FORMAT = "specc-run/1"


def as_trained(request: Request) -> Request:
    """The request with the model, preset and hyper-parameters of the run that its weights come from.

    What the request gives itself stays. Raises `Rejected` with B660 for a run folder that cannot be read.
    """
    file = Path(request.weights) / RUN if request.weights else None
    if file is None or not file.is_file():
        return request
    try:
        run: dict[str, Any] = json.loads(file.read_text("utf-8"))
        model, preset, sets = run["model"], run["preset"], dict(run["sets"])
        known = run["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise Rejected([Diagnostic("B660", f"{file} is damaged or from another version of specc")])
    if request.preset is not None or request.model is not None:
        return request
    return replace(request, model=None if preset else model, preset=preset, sets={**sets, **request.sets})

"""Figures for a drawing from what a user names: counted from the spec, measured on the build, or read from a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime.drawn.costs import Measure, attach, known, own_methods
from specc_runtime.drawn.subject import Chosen

if TYPE_CHECKING:
    from onnx import ModelProto

    from specc.inspect import Report
    from specc_runtime.bench.profile import NodeTime


@dataclass(frozen=True)
class Wanted:
    """`by`: what nodes are coloured by; `at`: sizes, others as `bench` has them; `profile`: a file of `attachment`."""

    by: Measure
    at: Mapping[str, int]
    profile: Path | None = None


def attachment(chosen: Chosen, drawing: ModelProto, wanted: Wanted) -> bytes:
    """The file for Netron; names the nodes of the drawing. Raises `Rejected`.

    B660 where there is nothing to count or to run, or for a profile of another build; E006 for a file that is none;
    E009 for sizes that the model does not take.
    """
    times: list[NodeTime] = []
    sizes, extra = dict(wanted.at), {}
    if wanted.by == "time":
        times, sizes, graph = _profile(chosen, wanted)
        extra = {"graph": graph, "times": [asdict(time) for time in times]}
    report = _report(chosen, sizes, optional=bool(times))
    own = own_methods(report, chosen.checked.model, chosen.entry, chosen.absent) if report is not None else {}
    return attach(drawing, known(report, own, times), wanted.by, extra)


def _report(chosen: Chosen, sizes: Mapping[str, int], optional: bool) -> Report | None:
    """`optional`: times are told without a spec, too."""
    from specc.inspect import report

    if chosen.file is not None:
        help = "name the spec, or the folder of its build"
        raise Rejected([Diagnostic("B660", f"`{chosen.target}` has no figures to colour it by", help=help)])
    try:
        model = chosen.checked.model
    except Rejected:
        if optional:
            return None
        raise
    return report(model, chosen.entry, without=chosen.absent, at=usual_sizes(chosen, sizes))


def usual_sizes(chosen: Chosen, sizes: Mapping[str, int]) -> dict[str, int]:
    """Sizes that a user gave, the others as `bench` chooses them; raises `Rejected` (E009)."""
    from specc_runtime.bench.request import chosen_sizes
    from specc_runtime.inputs import interface

    return chosen_sizes(interface(chosen.checked.model, chosen.entry, chosen.absent), chosen.entry, sizes)


def _profile(chosen: Chosen, wanted: Wanted) -> tuple[list[NodeTime], dict[str, int], str]:
    """Times of nodes, the sizes that they are for, and the hash of the graph that ran."""
    from specc_runtime.bench.profile import profile
    from specc_runtime.bench.request import cases
    from specc_runtime.module import open_build

    if chosen.folder is None:
        message = f"`{chosen.target}` cannot be run: a build is measured"
        raise Rejected([Diagnostic("B660", message, help="specc build FILE      makes one")])
    made = open_build(chosen.folder)
    interface = made.interface(chosen.entry)
    file = made.manifest["entries"][chosen.entry]["onnx"]
    graph = str(made.manifest["files"].get(file, {}).get("sha256"))
    if wanted.profile is not None:
        return _read(wanted.profile, chosen, graph)
    case = cases(made, ("onnxruntime",), [wanted.at] if wanted.at else [], (os.cpu_count() or 1,), chosen.entry)[0]
    return profile(made, case), {name: case.sizes[name] for name in interface.dims}, graph


def _read(path: Path, chosen: Chosen, graph: str) -> tuple[list[NodeTime], dict[str, int], str]:
    """What `--attachment` wrote with times, if it is of this very graph."""
    from specc_runtime.bench.profile import NodeTime

    help = f"specc view {chosen.target} --metrics time --attachment {path}      writes one"
    try:
        kept: Any = json.loads(path.read_bytes())["specc"]
        of = str(kept["graph"])
        times = [
            NodeTime(str(t["name"]), str(t["operator"]), str(t["line"]), str(t["scope"]), float(t["seconds"]))
            for t in kept["times"]
        ]
        sizes = {str(name): int(size) for name, size in kept["sizes"].items()}
    except OSError as error:
        message = f"cannot read `{path}`: {error.strerror or error}"
        raise Rejected([Diagnostic("E006", message, help=help)]) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Rejected([Diagnostic("E006", f"`{path}` is no profile of specc", help=help)]) from None
    if of != graph:
        message = f"`{path}` is the profile of another build than `{chosen.target}`"
        why = (("why", f"its graph was {of[:12]}.., this one is {graph[:12]}.."),)
        raise Rejected([Diagnostic("B660", message, notes=why, help=help)])
    return times, sizes, of

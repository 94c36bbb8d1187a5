"""A proof that failed, and other reasons not to trust a build, as diagnostics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Label, Rejected, Size
from specc.ir.graph import Model
from specc_runtime import manifest
from specc_runtime.compare import Figures
from specc_runtime.inputs import Interface

if TYPE_CHECKING:
    import numpy as np
    import torch

    from specc_runtime.externs import Loaded
    from specc_runtime.locate import Place
    from specc_runtime.programs import Crash

    Array = np.ndarray[Any, Any]


class Mismatch(Exception):
    """Two programs differ: at which sizes, on which inputs, in which output, by how much."""

    def __init__(
        self,
        entry: str,
        of: Interface,
        sizes: Mapping[str, int],
        feeds: Mapping[str, Array],
        weights: str,
        module: torch.nn.Module,
        file: str,
    ) -> None:
        super().__init__(entry)
        self.entry, self.of, self.sizes, self.feeds = entry, of, sizes, feeds
        self.weights, self.module, self.file = weights, module, file
        self.output = ""
        self.program = ""
        self.figures = Figures()
        self.crash: Crash | None = None
        self.externs: Loaded | None = None  # the files of extern functions, if the model has any


def located(mismatch: Mismatch, model: Model, without: frozenset[str], opset: int, folder: Path) -> Diagnostic:
    """B630 at the line of the first value that differs."""
    from specc_runtime.locate import locate

    place = locate(mismatch, model, without, opset, folder)
    if place is None:
        graph = model.entries[mismatch.entry].full
        found = _diagnostic(mismatch, graph.span.head(), f"in {model.module.name}", _NOT_PLACED)
    else:
        found = _placed(mismatch, model, place)
    return replace(found, note=_amplified(mismatch) or found.note)


def _amplified(mismatch: Mismatch) -> str:
    """A word on models that make rounding errors large: there the criterion cannot be met by anybody."""
    from specc_runtime.programs import rounding

    if mismatch.crash is not None or not mismatch.figures.max_abs:
        return ""
    error = rounding(mismatch.module, mismatch.of, mismatch.feeds, mismatch.output)
    if error is None or mismatch.figures.max_abs > 4 * error:
        return ""
    return (
        f"torch in float32 is itself {error:.1e} away from torch in float64 here: the model amplifies rounding errors. "
        "Large values before a softmax do that; smaller initial weights help"
    )


_NOT_PLACED = "no intermediate value differs by itself"


def _placed(mismatch: Mismatch, model: Model, place: Place) -> Diagnostic:
    value = f"`{place.name}`" if place.name else f"the result of {place.what}"
    where = f"{value} in {place.path}" if place.path else value
    trail = f"in {model.module.name}" + (f" > {place.path}" if place.path else "")
    found = _diagnostic(mismatch, place.span, trail, "")
    notes = [*found.notes, ("first difference", f"{where}: {place.figures.problem}")]
    if place.blame:
        notes.append(("blame", place.blame))
    others = (Label(place.inner.head(), "inside this part"),) if place.inner is not None else ()
    return replace(found, label=f"{where} is the first value that differs", others=others, notes=tuple(notes))


def stepped(mismatch: Mismatch, of: str, span: Any) -> Diagnostic:
    """B630 for a cached entry: what steps give is not what the whole gives."""
    found = _diagnostic(mismatch, span, "", "")
    if mismatch.crash is not None and not mismatch.output:
        return found
    problem = f"{mismatch.output}: {mismatch.figures.problem}" if mismatch.output else mismatch.figures.problem
    notes = tuple(("whole" if name == "torch" else "steps" if name == "onnx" else name, t) for name, t in found.notes)
    return replace(found, message=f"{mismatch.entry} differs from {of} of the whole text: {problem}", notes=notes)


def unlocated(mismatch: Mismatch, command: str) -> Diagnostic:
    """B630 without the spec: which command names the first value that differs."""
    help = f"{command}    names the first value that differs, if it is the compiler's fault"
    return replace(_diagnostic(mismatch, None, "", ""), help=help)


def _diagnostic(mismatch: Mismatch, span: Any, path: str, note: str) -> Diagnostic:
    sizes = tuple(Size(name, str(size)) for name, size in mismatch.sizes.items())
    if mismatch.crash is not None and not mismatch.output:
        message = f"{mismatch.entry} does not run: {mismatch.crash}"
        return Diagnostic("B630", message, span, path=path, sizes=sizes, note=note)
    figures = mismatch.figures
    message = f"torch and ONNX outputs differ: {mismatch.output}: {figures.problem}"
    notes = [("program", mismatch.program)]
    if figures.worst is not None:
        index, reference, found = figures.worst
        notes += [("at", f"{mismatch.output}{list(index)}"), ("torch", f"{reference:.8g}"), ("onnx", f"{found:.8g}")]
    if mismatch.weights == "perturbed":
        notes.append(("weights", "random ones: the build's own hide this"))
    return Diagnostic("B630", message, span, path=path, sizes=sizes, notes=tuple(notes), note=note)


# ---- builds that cannot be compared ----------------------------------------------------------------------------------


def check_files(folder: Path, record: Mapping[str, Any]) -> None:
    """Hold every file against its recorded hash; raises `Rejected` (B660) naming those that are not as they were."""
    known = {name: entry["sha256"] for name, entry in record["files"].items()}
    known |= (record["certificate"] or {}).get("files", {})
    found = []
    for name, digest in known.items():
        path = folder / name
        if not path.is_file():
            found.append(Diagnostic("B660", f"`{path}` is missing", help="build it again"))
        elif digest is not None and manifest.sha256(path) != digest:
            found.append(Diagnostic("B660", f"`{path}` was changed after the build", help="build it again"))
    if found:
        raise Rejected(found)


def nothing_to_compare(folder: Path) -> Diagnostic:
    """B660 for a build of one program."""
    return Diagnostic("B660", f"`{folder}` holds one program: nothing to compare", help="build with --emit torch,onnx")


def no_weights(folder: Path) -> Diagnostic:
    """B660 for a build of structure alone."""
    return Diagnostic("B660", f"`{folder}` has no weights: nothing to compare", help="build without --no-weights")

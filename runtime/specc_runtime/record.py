"""What manifest.json says of a build: what it was made from, what it consists of, what was proved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import specc
from specc import driver
from specc.ir import graph as ir
from specc.ir.json import plain
from specc.ir.members import parameter_count
from specc.passes.incremental import Incremental
from specc.types import DType
from specc_runtime import cache, manifest
from specc_runtime.cache import cached_interface
from specc_runtime.companions import special_tokens
from specc_runtime.externs import copies
from specc_runtime.inputs import describe
from specc_runtime.module import WEIGHTS
from specc_runtime.quantised import Quantised, graph_file

if TYPE_CHECKING:
    from specc_runtime.build import Request
    from specc_runtime.certificate import Certificate
    from specc_runtime.weights import Source, Written


@dataclass(frozen=True)
class Graph:
    """An ONNX file of a build. `without`: the optional inputs that it leaves out; `incremental`: what it is of, if it
    continues the entry's earlier calls; `once`: the one whose values computed once are appended to it."""

    entry: str
    file: str
    without: frozenset[str]
    incremental: Incremental | None = None
    once: Incremental | None = None

    @property
    def name(self) -> str:
        return self.entry if self.incremental is None else self.incremental.name


def record(
    work: Path,
    checked: driver.Checked,
    source: Source | None,
    written: Written | None,
    graphs: list[Graph],
    request: Request,
    certificate: Certificate | None,
    timings: Mapping[str, float],
    quantised: Quantised | None = None,
) -> manifest.Json:
    """The content of manifest.json; `work` holds every other file of the build. No path in it is absolute."""
    model = checked.model
    return {
        "format": "specc-build/1",
        "specc": specc.__version__,
        "name": model.name,
        "model": model.module.name,
        "preset": model.preset,
        "spec": {
            "files": _sources(checked),
            "set": dict(request.sets),
            **({"position_ids": True} if request.position_ids else {}),
        },
        "hyperparameters": {h.name: plain(h.value) for h in model.module.hypers if not h.is_let},
        "parameters": parameter_count(model.module),
        "dtype": request.dtype.value,
        "entries": {
            g.name: {
                "onnx": g.file if "onnx" in request.emit else None,
                "opset": request.opset,
                **({"quantised": graph_file(g.file, quantised.scheme)} if quantised is not None else {}),
                "without": sorted(g.without),
                **_interface(model, g, request.dtype),
            }
            for g in graphs
        },
        "weights": written.to_json(source, request.seed) if written is not None else None,
        **_special_tokens(source, request),
        **({"quantisation": quantised.to_json()} if quantised is not None else {}),
        "files": _files(work, certificate),
        "externs": copies(model) if "torch" in request.emit else {},
        "certificate": certificate.to_json() if certificate is not None else None,
        "versions": manifest.versions(),
        "timings": {stage: round(seconds, 3) for stage, seconds in timings.items()},
    }


def _special_tokens(source: Source | None, request: Request) -> dict[str, Any]:
    """What a build that continues texts has to know of its checkpoint besides the tensors."""
    if source is None or request.cache is None:
        return {}
    return {"special_tokens": special_tokens(source.checkpoint).to_json()}


def _interface(model: ir.Model, graph: Graph, compute: DType) -> dict[str, Any]:
    if graph.incremental is None:
        return {"interface": describe(model, graph.entry, graph.without, compute)}
    of = cached_interface(model, graph.incremental, graph.without, compute)
    return {"interface": of.to_json(), "cache": cache.describe(model, graph.incremental, compute).to_json()}


def _sources(checked: driver.Checked) -> dict[str, str]:
    """The spec, then what it imports by name: file -> SHA-256 of its text."""
    imported = sorted((file.source for file in checked.elaborator.files.by_key.values()), key=lambda s: s.name)
    return {s.name: sha256(s.text.encode("utf-8")).hexdigest() for s in (checked.file.source, *imported)}


def _files(work: Path, certificate: Certificate | None) -> dict[str, dict[str, Any]]:
    """Every file with its size and SHA-256.

    Hashing costs as much as copying: the weights' is there only where a certificate speaks of them.
    """
    known = certificate.files if certificate is not None else {}
    files = {}
    for path in sorted(p for p in work.rglob("*") if p.is_file()):
        name = path.relative_to(work).as_posix()
        digest = known.get(name)
        if digest is None and path.suffix != Path(WEIGHTS).suffix:
            digest = manifest.sha256(path)
        files[name] = {"bytes": path.stat().st_size, "sha256": digest}
    return files

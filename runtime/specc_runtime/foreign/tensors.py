"""Checkpoints: a safetensors file, or a folder with one or several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from specc.diagnostics import Diagnostic, Rejected
from specc.inspect.numbers import byte_text
from specc_runtime.checkpoint import Checkpoint
from specc_runtime.foreign.table import Summary, Tensor, tree


def tensor_summary(path: Path, at: Mapping[str, int] | None, sort: str | None) -> Summary:
    """Headers alone are read. Raises `Rejected`: E006 W351 W352, E009 for sizes, of which weights have none."""
    if at:
        message = f"--at: {path} has weights alone, no dims"
        raise Rejected([Diagnostic("E009", message, help=f"specc inspect {path}")])
    with Checkpoint.open(path) as opened:
        files = len(opened.files)
        tensors = [Tensor(name, e.dtype, e.shape, e.nbytes) for name, e in opened.tensors.items()]
        kind = opened.model_type
    elements, stored = Counter[str](), Counter[str]()
    for tensor in tensors:
        elements[tensor.dtype] += tensor.elements
        stored[tensor.dtype] += tensor.bytes
    facts = [("parameters", f"{sum(elements.values()):,} in {len(tensors):,} tensors")]
    facts += [(d, f"{count:,} elements, {byte_text(stored[d])}") for d, count in elements.most_common()]
    facts += [("bytes", byte_text(sum(stored.values())) + (f" in {files} files" if files > 1 else ""))]
    facts += [("config.json", f"model_type {kind}: specc import {path} builds the spec of the zoo")] if kind else []
    data = {"format": "safetensors", "tensors": len(tensors), "files": files, "dtypes": dict(elements)}
    return Summary(path.resolve().name, tree(tensors, {}, sort), tuple(facts), data)

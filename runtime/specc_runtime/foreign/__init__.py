"""`specc inspect` of files that specc did not write: tensors of a checkpoint, graphs in ONNX, as far as they tell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from specc_runtime.foreign.table import Summary

__all__ = ["Summary", "is_foreign", "shown", "summary"]


def is_foreign(path: Path) -> bool:
    """Whether this is an ONNX graph, a safetensors file, or a folder that holds weights but no build and no spec."""
    if path.is_dir():
        return not (path / "manifest.json").exists() and any(path.glob("*.safetensors"))
    return path.suffix in (".onnx", ".safetensors")


def summary(path: Path, *, at: Mapping[str, int] | None = None, sort: str | None = None) -> Summary:
    """What a file says of itself. Raises `Rejected`: E006 W351 W352 for damaged files, E009 for sizes it has not."""
    if path.suffix == ".onnx":
        from specc_runtime.foreign.graph import graph_summary

        return graph_summary(path, at, sort)
    from specc_runtime.foreign.tensors import tensor_summary

    return tensor_summary(path, at, sort)


def shown(
    path: Path,
    *,
    at: Mapping[str, int] | None = None,
    depth: int | None = None,
    sort: str | None = None,
    format: str = "tree",
) -> str:
    """The summary as text, `tree`, `json`, `csv`, `markdown` or `mermaid`."""
    return summary(path, at=at, sort=sort).shown(format, depth)

"""Weights that are the checkpoint's own file: a hard link, so no byte is copied.

A symbolic link would not do: onnxruntime refuses data that lies outside the model's folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from specc.diagnostics import Diagnostic, Rejected
from specc.weights.layout import Read
from specc_runtime.checkpoint import Checkpoint
from specc_runtime.weights_writer import NewTensor, Place


class Linked:
    """A `Writing` of a file that is complete."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        self.places = dict(places)

    def finish(self) -> dict[str, Place]:
        """Where each tensor lies."""
        return self.places

    def stop(self) -> None:
        """Nothing is being written."""


def link(path: Path, tensors: Sequence[NewTensor], checkpoint: Checkpoint | None) -> Linked:
    """Make `path` a link to the checkpoint's file; raises `Rejected` (B640) where it is not what would be written."""
    reason = "there is no checkpoint" if checkpoint is None else _obstacle(tensors, checkpoint)
    if reason or checkpoint is None:
        raise _refused(reason)
    [file] = checkpoint.files
    try:
        os.link(os.path.realpath(file), path)
    except OSError as error:
        raise _refused(f"{file}: {(error.strerror or str(error)).lower()}") from None
    return Linked({name: Place(entry.offset, entry.nbytes) for name, entry in checkpoint.tensors.items()})


def _obstacle(tensors: Sequence[NewTensor], checkpoint: Checkpoint) -> str:
    """Why the build's file would not be the checkpoint's; empty if it would, but for the order of its tensors."""
    if len(checkpoint.files) != 1:
        return f"{checkpoint.name} has {len(checkpoint.files)} files, a build one"
    for tensor in tensors:
        source = tensor.source
        if not isinstance(source, Read):
            return f"{tensor.name} is not as {checkpoint.name} has it"
        if source.name != tensor.name:
            return f"{tensor.name} is called {source.name} in {checkpoint.name}"
        if source.dtype != tensor.info.dtype:
            return f"{tensor.name} is {source.dtype} in {checkpoint.name}, and {tensor.info.dtype} in the build"
    known = {tensor.name for tensor in tensors}
    stray = next((name for name in checkpoint.tensors if name not in known), None)
    return f"{checkpoint.name} also holds {stray}" if stray is not None else ""


def _refused(reason: str) -> Rejected:
    help = "build it without --link, which copies what is the same and converts the rest"
    return Rejected([Diagnostic("B640", "the weights cannot be a link", notes=(("why", reason),), help=help)])

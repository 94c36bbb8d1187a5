"""Pictures as files: each is replaced whole or not at all, and none if one of them cannot be drawn."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime.atomic import write_atomically

if TYPE_CHECKING:
    from onnx import ModelProto


def check(path: Path) -> None:
    """Raises `Rejected` (B640) for a place where no file can be written, before anything is drawn for it."""
    folder = path.parent
    if path.is_dir():
        why = "it is a folder"
    elif not folder.is_dir():
        why = f"there is no folder `{folder}`"
    elif not os.access(folder, os.W_OK):
        why = f"nothing can be written in `{folder}`"
    else:
        return
    raise Rejected([Diagnostic("B640", f"cannot write `{path}`: {why}")])


def put(path: Path, content: bytes) -> None:
    """Replace a file; raises `Rejected` (B640), and leaves what was there."""
    try:
        write_atomically(path, content)
    except OSError as error:
        message = f"cannot write `{path}`: {error.strerror or error}"
        raise Rejected([Diagnostic("B640", message)]) from None


def draw(drawing: ModelProto, name: str, formats: tuple[str, ...], attachment: bytes | None = None) -> dict[str, bytes]:
    """The drawing in every format (`svg`, `png`, `pdf`), as bytes.

    Raises `RenderUnavailable` without a browser, `RenderFailed` with Netron's message.
    """
    from specc_runtime.render import Renderer

    with tempfile.TemporaryDirectory(prefix="specc-view-") as folder, Renderer() as renderer:
        return renderer.draw(saved(drawing, Path(folder), name), formats, attachment=attachment)


def saved(drawing: ModelProto, folder: Path, name: str) -> Path:
    """The drawing as a file, without the data of weights, which is not drawn."""
    from specc_runtime.module import python_name

    path = folder / f"{python_name(name)}.onnx"
    path.write_bytes(drawing.SerializeToString(deterministic=True))
    return path

"""The pictures of a build: the model's hierarchy, and one of each block, drawn by Netron."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from specc.ir.graph import Model
from specc_runtime.render import Renderer, RenderFailed, RenderUnavailable

if TYPE_CHECKING:
    from specc.backends.onnx.externs import Externs

VIEW = "model.view.onnx"


def draw(
    work: Path, model: Model, without: frozenset[str], opset: int, externs: Externs | None = None
) -> tuple[list[str], str]:
    """Write `model.view.onnx`, `model.svg`, `model.png` and `blocks/<Block>.svg`; (pictures, why there are none)."""
    from specc.backends.onnx.functions import view

    entry = model.entries["forward"]
    whole, blocks = view(model, "forward", opset=opset, without=without & entry.full.present, externs=externs)
    (work / VIEW).write_bytes(whole.SerializeToString(deterministic=True))
    folder = work / "blocks"
    try:
        with Renderer() as renderer:
            renderer.export(work / VIEW, work / "model.svg", work / "model.png")
            pictures = ["model.svg", "model.png"]
            if blocks:
                folder.mkdir()
            for name, block in blocks.items():
                source = folder / f"{name}.onnx"
                source.write_bytes(block.SerializeToString(deterministic=True))
                renderer.export(source, folder / f"{name}.svg", folder / f"{name}.png")
                source.unlink()
                (folder / f"{name}.png").unlink()
                pictures.append(f"blocks/{name}.svg")
    except (RenderUnavailable, RenderFailed) as error:
        for left in [work / "model.svg", work / "model.png", *folder.glob("*")]:
            left.unlink(missing_ok=True)
        if folder.is_dir():
            folder.rmdir()
        return [], str(error)
    return pictures, ""

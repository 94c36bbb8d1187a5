"""`lowered`: what the operators of a spec become in ONNX, for each configuration that a check looks at."""

from __future__ import annotations

from collections.abc import Mapping

from specc import driver
from specc.elaborate.models import Options, configurations
from specc.inspect.lowering import Lowerings, of_model


def lowered(
    file: str,
    *,
    target: str = "onnxruntime",
    opset: int = 23,
    all_presets: bool = False,
    sets: Mapping[str, str] | None = None,
    model: str | None = None,
    preset: str | None = None,
) -> list[Lowerings]:
    """Of `forward` of every model, or of the one that `model` and `preset` choose; raises `Rejected`."""
    project = driver.open_project(file)
    options = Options(model=model, preset=preset, sets=driver.parse_sets(sets or {}))
    with driver.deep_recursion():
        chosen = configurations(project.elaborator, project.file, options, all_presets=all_presets)
        return [one for each in chosen for one in of_model(project.check(each).model, target=target, opset=opset)]

"""Points of a plane for small runs of training: their class is in how many directions they lie above zero."""

from __future__ import annotations

from pathlib import Path

import numpy as np

NET = """\
from std.nn import Linear
dim B
model Net(hidden: int = 8) {
  first: Linear(2, hidden)
  head: Linear(hidden, 3)
  forward(x: Tensor[B, 2]) -> logits: Tensor[B, 3] = first(x) |> relu |> head
}
"""
"""A model of the classes, without a train section."""


def write_points(file: Path, rows: int, draw: np.random.Generator) -> None:
    """A table with the columns x, y and class."""
    points = draw.normal(size=(rows, 2))
    lines = [f"{x:.3f},{y:.3f},{int(x > 0) + int(y > 0)}\n" for x, y in points]
    file.write_text("".join(("x,y,class\n", *lines)))

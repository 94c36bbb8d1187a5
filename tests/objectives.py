"""A net with results of several shapes, rows for it, and train sections with the losses to try on both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from specc_runtime.training.section import Section, open_section

ROWS = 7

SPEC = """\
dim B
fn focal(logits: Tensor[N, 3], label: Int[N], power: float = 2.0) -> Tensor[] {
  p = sum(softmax(logits, axis = -1) * cast_like(one_hot(label, 3), logits), axis = -1)
  return -mean((1.0 - p)**power * log(p))
}
fn both(x: Tensor[N, C], y: Tensor[N, C]) -> Tensor[] = 0.5*mse(x, y) + l1(x, y)
model Net {
  param scale: Tensor[1] = ones()
  forward(x: Tensor[B, 3], frames: Tensor[B, 5, 4], flat: Tensor[B, 1])
      -> (a: Tensor[B, 3], f: Tensor[B, 5, 4], p: Tensor[B, 1]) {
    return x * scale, frames * scale, sigmoid(flat) * scale
  }
}
train Net {
  data = npz("d.npz", x = "x", frames = "frames", flat = "flat", label = "label", y = "y", probable = "probable",
             texts = "texts", places = "places", yes = "yes")
  loss = LOSS
  optim = sgd(lr = 0.1)
  batch = 4; epochs = 1
}
""".replace("dim B\n", "dim B, N, C\n")


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(ROWS, 3)).astype(np.float32),
        "frames": rng.normal(size=(ROWS, 5, 4)).astype(np.float32),
        "flat": rng.normal(size=(ROWS, 1)).astype(np.float32),
        "label": rng.integers(0, 3, ROWS),
        "y": rng.normal(size=(ROWS, 3)).astype(np.float32),
        "probable": rng.dirichlet((1.0, 1.0, 1.0), ROWS).astype(np.float32),
        "texts": np.array([[1, 2], [3, -100], [2, 1], [1, 1], [3, 2], [2, -100], [1, 3]]),
        "places": rng.integers(0, 4, (ROWS, 5)),
        "yes": rng.integers(0, 2, (ROWS, 1)),
    }


def save(folder: Path, values: dict[str, Any]) -> None:
    np.savez(folder / "d.npz", **values)


def opened(folder: Path, loss: str, *more: str) -> Section:
    (folder / "net.spec").write_text(SPEC.replace("LOSS", "\n  ".join([loss, *more])))
    return open_section(str(folder / "net.spec"), None, {})

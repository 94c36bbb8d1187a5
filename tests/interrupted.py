"""Runs of training that are killed at a moment that a test chooses, and gone on with."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from points import write_points

from specc_runtime.training import checkpoints
from specc_runtime.training.loop import Fit
from specc_runtime.training.run import Request, train

SPEC = """\
from std.nn import Linear, BatchNorm1d
dim B
model Net(hidden: int = 6) {
  first: Linear(2, hidden)
  norm: BatchNorm1d(hidden)
  head: Linear(hidden, 3)
  forward(x: Tensor[B, 2]) -> logits: Tensor[B, 3] {
    h = norm(first(x)[:, :, none])[:, :, 0]
    return relu(h) |> dropout(p = 0.2) |> head
  }
}
train Net "points" {
  data  = csv("points.csv", x = ["x", "y"], label = "class")
  loss  = cross_entropy(logits + 0.1 * randn_like(logits), data.label)
  optim = adam(lr = 0.05)
  sched = cosine(warmup = 2)
  batch = 4
  save_every = 1
  SETTINGS
}
"""

KINDS = {
    "epochs": """\
  val = split(0.2)
  epochs = 3
  accumulate = 2
  metrics = [accuracy(logits, data.label)]
  checkpoint = best("val_loss", keep = 2)
  early_stop = early_stopping("val_loss", patience = 2)
""",
    "steps": """\
  val = split(0.2)
  steps = 11
  val_every = 3
  checkpoint = best("val_accuracy", mode = "max", every = 2)
  metrics = [accuracy(logits, data.label)]
  ema = 0.9
  clip = 0.5
""",
    "unvalidated": """\
  steps = 9
  metrics = [accuracy(logits, data.label), auroc(logits, data.label)]
  precision = "bf16-mixed"
""",
    "plateau": """\
  val = split(0.2)
  epochs = 4
  accumulate = 3
  optim = muon(lr = 0.1, momentum = 0.9)
  sched = plateau(patience = 0, factor = 0.5)
  freeze = ["first.bias"]
""",
}


def write_rows(folder: Path) -> Path:
    """The table that `SPEC` trains on."""
    write_points(folder / "points.csv", 27, np.random.default_rng(0))
    return folder


def spec(folder: Path, settings: str) -> str:
    """A spec with these settings, which come in place of its own."""
    path = folder / "net.spec"
    names = [line.split()[0] for line in settings.splitlines()]
    kept = [line for line in SPEC.splitlines() if not line.startswith("  ") or line.split()[0] not in names]
    path.write_text("\n".join(kept).replace("  SETTINGS\n", settings) + "\n")
    return str(path)


def begun(request: Request, when: Callable[[], None] = lambda: None) -> int:
    """Train in a process of its own that `when` has prepared; its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        when()
        train(request)
        status = 0
    finally:
        os._exit(status)


def killed(request: Request, when: Callable[[], None]) -> bool:
    """Train in a process of its own that `when` has prepared to be killed; whether it was."""
    _, status = os.waitpid(begun(request, when), 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_batch(number: int) -> Callable[[], None]:
    """A process that is killed in the midst of a batch, counted from the first that it trains on."""

    def prepare() -> None:
        count, step = iter(range(10_000)), Fit.training_step

        def dying(self: Fit, *args: Any) -> torch.Tensor:
            if next(count) == number:
                kill()
            return step(self, *args)

        pytest.MonkeyPatch().setattr(Fit, "training_step", dying)

    return prepare


def at_call(module: Any, name: str, number: int, after: bool) -> Callable[[], None]:
    """A process that is killed at a call of a function, before or after it does its work."""

    def prepare() -> None:
        count, function = iter(range(10_000)), getattr(module, name)

        def dying(*args: Any, **more: Any) -> Any:
            last = next(count) == number
            if last and not after:
                kill()
            found = function(*args, **more)
            if last:
                kill()
            return found

        setattr(module, name, dying)

    return prepare


def half_written(number: int) -> Callable[[], None]:
    """A process that is killed when half of a trainer's state is written."""

    def prepare() -> None:
        count, save = iter(range(10_000)), torch.save

        def dying(state: Any, file: Any) -> None:
            if next(count) == number:
                whole = io.BytesIO()
                save(state, whole)
                file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
                file.flush()
                kill()
            save(state, file)

        pytest.MonkeyPatch().setattr(torch, "save", dying)

    return prepare


def half_removed() -> None:
    """A process that is killed when a file of the first checkpoint that it removes is gone."""

    def dying(path: Path, **_: Any) -> None:
        if path.exists():
            next(path.iterdir()).unlink()
            kill()

    pytest.MonkeyPatch().setattr(checkpoints, "shutil", SimpleNamespace(rmtree=dying, copyfile=shutil.copyfile))


def same(one: Path, other: Path) -> None:
    """The bits of the weights and of the rows, and what the run says of itself."""
    for name in ("model.safetensors", "metrics.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    first, second = (json.loads((run / "run.json").read_text()) for run in (one, other))
    assert first["metrics"] == second["metrics"] and first["step"] == second["step"]

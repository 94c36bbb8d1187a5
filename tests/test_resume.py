"""`specc train --resume`: a run that was killed anywhere ends with the bits of one that was not."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from specc_runtime.training import checkpoints
from specc_runtime.training.loop import Fit
from specc_runtime.training.run import Request, Run, train

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
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads of such small models only wait for each other, and none may be there when a process forks."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    points = np.random.default_rng(0).normal(size=(27, 2))
    rows = "".join(f"{x:.3f},{y:.3f},{int(x > 0) + int(y > 0)}\n" for x, y in points)
    (tmp_path / "points.csv").write_text(f"x,y,class\n{rows}")
    return tmp_path


def spec(folder: Path, settings: str) -> str:
    path = folder / "net.spec"
    path.write_text(SPEC.replace("  SETTINGS\n", settings))
    return str(path)


def killed(request: Request, when: Callable[[], None]) -> bool:
    """Train in a process of its own that `when` has prepared to be killed; whether it was."""
    child = os.fork()
    if child == 0:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 2)
        when()
        train(request)
        os._exit(0)
    _, status = os.waitpid(child, 0)
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

        Fit.training_step = dying  # type: ignore[method-assign]

    return prepare


def at_write(number: int, function: str) -> Callable[[], None]:
    """A process that is killed within the writing of a checkpoint, when half of a file is there."""

    def prepare() -> None:
        count, write = iter(range(10_000)), getattr(checkpoints, function)

        def dying(*args: Any) -> Any:
            if next(count) == number:
                path = next(a for a in args if isinstance(a, Path))
                (path / "half" if path.is_dir() else path).write_bytes(b"half")
                kill()
            return write(*args)

        setattr(checkpoints, function, dying)

    return prepare


def same(one: Path, other: Path) -> None:
    """The bits of the weights and of the rows, and what the run says of itself."""
    for name in ("model.safetensors", "metrics.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    first, second = (json.loads((run / "run.json").read_text()) for run in (one, other))
    assert first["metrics"] == second["metrics"] and first["step"] == second["step"]


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_batch(kind: str, folder: Path) -> None:
    """Twice in one run: within the run, and within its continuation."""
    path = spec(folder, KINDS[kind])
    train(Request(path, out=folder / "whole"))
    for first in (1, 5, 8, 13):
        out = folder / f"at-{first}"
        if not killed(Request(path, out=out), at_batch(first)):
            break
        killed(Request(resume=out), at_batch(1 + first % 3))
        assert train(Request(resume=out)) == Run(out, interrupted=False)
        same(folder / "whole", out)

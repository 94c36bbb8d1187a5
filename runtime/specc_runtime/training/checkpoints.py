"""Checkpoints on the disk: weights as safetensors, the trainer's state beside them, digests that tell a torn one.

A checkpoint is a folder, `step-120` of a run's `checkpoints/`. It is written under another name, synced, and renamed
in one step, so a name stands for a whole checkpoint or for nothing. What a disk damages later, the digests tell.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from specc_runtime.manifest import sha256
from specc_runtime.module import WEIGHTS
from specc_runtime.publish import publishing

FORMAT = "specc-checkpoint/1"
INDEX, STATE, METRICS = "checkpoint.json", "trainer.pt", "metrics.csv"
PREFIX = "model."
"""Of weights' names in the `LightningModule`; a checkpoint has the model's own."""


class Torn(Exception):
    """A checkpoint that is damaged or not whole, and why."""


class Store(CheckpointIO):
    """How Lightning writes and reads checkpoints of a run. `ties` are names that share the tensor of another name."""

    def __init__(self, run: Path, ties: Mapping[str, str]) -> None:
        self.run, self.ties = run, ties

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint; with `storage_options = "weights"` without the trainer's state. Raises `OSError`."""
        state = dict(checkpoint)
        weights = named(state.pop("state_dict"), self.ties)
        with publishing(Path(path).absolute()) as work:
            write_weights(weights, work / WEIGHTS)
            if storage_options != "weights":
                _write_state(state, work / STATE)
                if (self.run / METRICS).exists():
                    shutil.copyfile(self.run / METRICS, work / METRICS)
            digests = {file.name: sha256(file) for file in sorted(work.iterdir())}
            index = {"format": FORMAT, "step": state["global_step"], "sha256": digests}
            (work / INDEX).write_text(json.dumps(index, indent=1) + "\n", "utf-8")

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Everything of a checkpoint, on the CPU; the state is data alone, whatever a file says. Raises `Torn`."""
        folder = Path(path)
        verify(folder)
        state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        weights = load_file(folder / WEIGHTS)
        weights |= {name: weights[source] for name, source in self.ties.items() if source in weights}
        return {**state, "state_dict": {PREFIX + name: tensor for name, tensor in weights.items()}}

    def remove_checkpoint(self, path: Any) -> None:
        remove(Path(path))


def named(state: Mapping[str, torch.Tensor], ties: Iterable[str] = ()) -> dict[str, torch.Tensor]:
    """Weights by the model's names, each tensor once, on the CPU."""
    tied = set(ties)
    found = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items() if name not in tied}


def write_weights(weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """A safetensors file; raises `OSError`, where the library has an error of its own around the system's."""
    try:
        save_file(dict(weights), path, {"format": "pt"})
    except SafetensorError as error:
        code = re.search(r"code: (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from None


def _write_state(state: Mapping[str, Any], path: Path) -> None:
    """torch's own format; raises `OSError`, which torch covers with an error about its position in the file."""
    try:
        with path.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:
        cause = error.__context__
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        if cause is None:
            raise
        raise cause from None


def verify(folder: Path) -> None:
    """Raises `Torn` if a checkpoint is not what was written."""
    try:
        index = json.loads((folder / INDEX).read_bytes())
        known = index["format"] == FORMAT
        digests = dict(index["sha256"])
    except FileNotFoundError:
        raise Torn(f"it has no {INDEX}") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise Torn(f"its {INDEX} cannot be read") from None
    if not known:
        raise Torn("it is of another version of specc")
    for name, digest in digests.items():
        try:
            found = sha256(folder / name)
        except FileNotFoundError:
            raise Torn(f"its {name} is gone") from None
        except OSError as error:
            raise Torn(f"its {name} cannot be read: {error.strerror}") from None
        if found != digest:
            raise Torn(f"its {name} is not what was written")


# ---- those of a run --------------------------------------------------------------------------------------------------


def states(folder: Path) -> list[Path]:
    """The checkpoints that a run can be resumed from, latest first."""
    found = [(int(p.name[5:]), p) for p in folder.glob("step-*") if p.name[5:].isdigit()]
    return [path for _, path in sorted(found, reverse=True)]


def latest(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The last checkpoint that is whole; every later one that is not is told."""
    for path in states(folder):
        try:
            verify(path)
            return path
        except Torn as torn:
            say(f"checkpoint {path.name} is damaged: {torn}; going back to the one before")
    return None


def remove(folder: Path) -> None:
    """In one step from a checkpoint to none: a half of one would be told as damaged."""
    aside = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return
    shutil.rmtree(aside, ignore_errors=True)


def sweep(folder: Path) -> None:
    """What a killed process left unfinished."""
    for path in folder.glob(".*"):
        shutil.rmtree(path, ignore_errors=True)

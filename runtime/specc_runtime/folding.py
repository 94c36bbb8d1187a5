"""Adapters on disk, in peft's format, and what becomes of them: folded into the weights they were trained beside."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime.libraries import needs, quietly
from specc_runtime.manifest import sha256
from specc_runtime.module import WEIGHTS, Build, open_build

if TYPE_CHECKING:
    import peft
    import torch

ADAPTER = "adapter"
"""The folder of a run that peft loads."""

NAME = "default"
"""What peft calls an adapter that is given no name: a piece of its parameters' names."""

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def own_name(name: str) -> str:
    """A parameter's name as the model has it, that of a part with an adapter too."""
    return name.replace(f".modules_to_save.{NAME}.", ".").replace(".base_layer.", ".")


@dataclass(frozen=True)
class Base:
    """What a run's adapters are for. `weights`: what the run began with; `fresh`: tensors that were drawn instead;
    `sha256`: of the weights file that this gives, empty where other machines may round it otherwise.
    """

    target: str
    weights: str
    entry: str
    seed: int
    fresh: tuple[str, ...]
    sha256: str

    def to_json(self, run: Path) -> dict[str, Any]:
        """For run.json; `beside` has the paths as they are from the run's folder: all of it can be moved together."""
        beside = {key: os.path.relpath(getattr(self, key), run.resolve()) for key in ("target", "weights")}
        return {**vars(self), "fresh": list(self.fresh), "beside": beside}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], run: Path) -> Base:
        """Reads what `to_json` wrote; raises `KeyError` and `TypeError` for anything else."""
        own = {key: value for key, value in data.items() if key != "beside"}
        places = {key: os.path.normpath(run.resolve() / path) for key, path in data["beside"].items()}
        moved = {key: path for key, path in places.items() if Path(path).exists()}
        return cls(**{**own, **moved, "fresh": tuple(data["fresh"])})


def has_adapters(run: Path) -> bool:
    """Whether a run folder's weights are adapters that nobody folded yet."""
    return (run / ADAPTER / CONFIG).is_file() and not (run / WEIGHTS).is_file()


def base_of(made: Build, spec: Path, weights: str, entry: str, seed: int) -> Base:
    """What is recorded of the build whose module gets adapters."""
    assert made.weights is not None
    digest = "" if has_adapters(Path(weights)) else sha256(made.weights)
    fresh = tuple(made.manifest["weights"]["fresh"])
    return Base(str(spec.resolve()), os.path.realpath(weights.removeprefix("hf:")), entry, seed, fresh, digest)


def write_adapter(model: peft.PeftModel, folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """`adapter_config.json` and `adapter_model.safetensors`, whole or as they were. Raises `OSError`.

    `weights`: of the module that the adapters are in, by its names.
    """
    import peft
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    named = {f"base_model.model.{name}": tensor for name, tensor in weights.items()}
    state = peft.get_peft_model_state_dict(model, named, save_embedding_layers=False)
    config = copy(model.peft_config[NAME])
    config.inference_mode = True
    config.save_pretrained(str(folder))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / f"{TENSORS}.part", {"format": "pt"})
    os.replace(folder / f"{TENSORS}.part", folder / TENSORS)


def folded(made: Build, base: Base, folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a build with the adapters of a folder in them; raises `Rejected` (B660) where they do not fit."""
    assert made.weights is not None
    if base.sha256 and base.sha256 != sha256(made.weights):
        message = f"{base.weights} is not what the run began with: its weights were changed since"
        raise _unusable(message, "--weights DIR  names the folder they are in now")
    peft = library()
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
        state = load_file(folder / TENSORS)
        model = peft.get_peft_model(made.module(), config)
        loaded: Any = peft.set_peft_model_state_dict(model, state)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().partition("\n")[0]
        raise _unusable(f"the adapters in {folder} cannot be read: {first}", "") from None
    missing = [name for name in loaded.missing_keys if ".lora_" in name or ".modules_to_save." in name]
    strange = [*loaded.unexpected_keys, *missing]
    if strange:
        raise _unusable(f"the adapters in {folder} are not of this model: {strange[0]}", "")
    merged = model.merge_and_unload()
    ties = made.manifest["weights"]["ties"]
    return {name: tensor.detach().contiguous() for name, tensor in merged.state_dict().items() if name not in ties}


def fold(run: Path, base: Base, to: Path, build: Callable[[Path], Path]) -> int:
    """Write `to`, the weights of a run with its adapters in them; the number of tensors.

    `build` makes the build of the base in a folder. Raises `Rejected` as `folded`, `OSError`.
    """
    from safetensors.torch import save_file

    with TemporaryDirectory(prefix="specc-merge-") as work:
        tensors = folded(open_build(build(Path(work) / "build")), base, run / ADAPTER)
        part = to.with_name(f"{to.name}.part")
        save_file(tensors, part, {"format": "pt"})
        os.replace(part, to)
    return len(tensors)


def library() -> ModuleType:
    """peft; raises `Rejected` (B650) where it is not installed."""
    needs("a run with adapters", "peft")
    with quietly():
        import peft
    return peft


def _unusable(message: str, help: str) -> Rejected:
    return Rejected([Diagnostic("B660", message, help=help)])

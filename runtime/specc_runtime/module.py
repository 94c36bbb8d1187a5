"""Builds as live objects: the emitted module with its weights, an onnxruntime session on the graph."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime import manifest

if TYPE_CHECKING:
    import onnxruntime
    import torch

WEIGHTS = "model.safetensors"


def load_source(path: Path) -> ModuleType:
    """Import an emitted file under a private name; nothing is written beside it."""
    name = f"_specc_build_{path.stem}_{abs(hash(path.resolve())):x}"
    loader = SourceFileLoader(name, str(path))
    spec = spec_from_loader(name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.modules[name] = module  # torch.compile looks a function's module up by name
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def load_module(source: Path, weights: Path | None, class_name: str) -> torch.nn.Module:
    """The emitted model in eval mode with its weights; parameters share the file's pages until they are written to.

    Raises `Rejected` (B660) if the weights are not of this module.
    """
    import torch
    from safetensors.torch import load_file

    model_class = getattr(load_source(source), class_name)
    if weights is None:
        return model_class().eval()  # type: ignore[no-any-return]
    with torch.device("meta"):
        module: torch.nn.Module = model_class()
    state = load_file(weights)
    tied = tied_names(module)
    for alias, name in tied.items():
        if name in state:
            state[alias] = state[name]
    constants = {name: buffer for name, buffer in module.named_buffers() if name not in module.state_dict()}
    if constants:  # tables that are computed, not stored: computed anew off the meta device
        reference = model_class()
        for name, buffer in reference.named_buffers():
            if name in constants:
                owner, _, leaf = name.rpartition(".")
                module.get_submodule(owner).register_buffer(leaf, buffer, persistent=False)
    try:
        module.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise Rejected([Diagnostic("B660", f"{weights} does not fit {source.name}: {error}")]) from None
    for alias, name in tied.items():  # `assign` breaks sharing: tie again
        owner, _, leaf = alias.rpartition(".")
        setattr(module.get_submodule(owner), leaf, module.get_parameter(name))
    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    return module.eval()


def tied_names(module: torch.nn.Module) -> dict[str, str]:
    """Parameter names that share a tensor with an earlier one: alias -> first name."""
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            tied[name] = first[id(parameter)]
        else:
            first[id(parameter)] = name
    return tied


@dataclass(frozen=True)
class Build:
    """A build folder."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def source(self) -> Path:
        """The emitted Python file."""
        return self.folder / f"{python_name(self.manifest['name'])}.py"

    def module(self) -> torch.nn.Module:
        """The live `nn.Module` with its weights, in eval mode; call it with the inputs' names."""
        if not self.source.is_file():
            raise Rejected([Diagnostic("B660", f"`{self.folder}` has no torch source", help="build it with  --emit torch,onnx")])
        weights = self.folder / WEIGHTS
        return load_module(self.source, weights if weights.is_file() else None, self.manifest["model"])

    def session(self, entry: str = "forward", options: onnxruntime.SessionOptions | None = None) -> onnxruntime.InferenceSession:
        """An onnxruntime session on the CPU."""
        import onnxruntime

        file = self.manifest["entries"].get(entry, {}).get("onnx")
        if file is None:
            known = ", ".join(name for name, e in self.manifest["entries"].items() if e["onnx"])
            raise Rejected([Diagnostic("B660", f"`{self.folder}` has no ONNX graph of `{entry}`", notes=(("available", known or "none"),))])
        return onnxruntime.InferenceSession(self.folder / file, options, providers=["CPUExecutionProvider"])


def open_build(folder: str | Path) -> Build:
    """Open a build folder; raises `Rejected` (B660) if it is none."""
    return Build(Path(folder), manifest.read(Path(folder), "manifest.json"))


def python_name(name: str) -> str:
    """A preset's or file's name as a Python identifier: `gpt2-tiny` -> `gpt2_tiny`."""
    from keyword import iskeyword

    text = "".join(c if c.isalnum() or c == "_" else "_" for c in name) or "model"
    return f"_{text}" if text[0].isdigit() or iskeyword(text) else text

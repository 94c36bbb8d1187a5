"""Builds as live objects: the emitted module with its weights, an onnxruntime session on the graph."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from hashlib import sha256
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from keyword import iskeyword
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime import manifest

if TYPE_CHECKING:
    import onnxruntime
    import torch

WEIGHTS = "model.safetensors"
_AGAIN = "build it again:  specc build FILE"


def load_source(path: Path) -> ModuleType:
    """Import an emitted file under a private name; nothing is written beside it.

    Loading the same text from the same place again gives the same Python module, and so the same classes.
    """
    place = path.resolve()
    text = place.read_bytes()
    name = f"_specc_build_{path.stem}_{sha256(bytes(place) + text).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_loader(name, SourceFileLoader(name, str(place)))
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # torch.compile and pickle look a class's module up by name
    try:
        exec(compile(text, place, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def load_module(source: Path, weights: Path | None, class_name: str) -> torch.nn.Module:
    """The emitted model in eval mode with its weights; parameters share the file's pages until they are written to.

    Without weights its parameters are those that the class draws. Raises `Rejected` (B660) if the source or the weights
    are not of this model.
    """
    import torch

    try:
        model_class = getattr(load_source(source), class_name)
    except (OSError, SyntaxError, ImportError, AttributeError) as error:
        raise Rejected([Diagnostic("B660", f"cannot load {class_name} from {source}: {error}", help=_AGAIN)]) from None
    if weights is None:
        return model_class().eval()  # type: ignore[no-any-return]
    with torch.device("meta"):
        module: torch.nn.Module = model_class()
    _fill_constants(module, model_class)
    tied = tied_names(module)
    try:
        state = _tensors(weights)
        state |= {alias: state[name] for alias, name in tied.items() if name in state}
        module.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise Rejected([Diagnostic("B660", f"{weights} does not fit {source.name}: {error}", help=_AGAIN)]) from None
    for alias, name in tied.items():  # `assign` gives every name a parameter of its own
        owner, _, leaf = alias.rpartition(".")
        setattr(module.get_submodule(owner), leaf, module.get_parameter(name))
    return module.eval()


def _tensors(weights: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file, mapped into memory."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(weights)
    except (OSError, SafetensorError) as error:
        raise Rejected([Diagnostic("B660", f"cannot read {weights}: {error}", help=_AGAIN)]) from None


def _fill_constants(module: torch.nn.Module, model_class: type[torch.nn.Module]) -> None:
    """Tables that are computed rather than stored (non-persistent buffers), which the meta device does not compute."""
    stored = module.state_dict()
    constants = [name for name, _ in module.named_buffers() if name not in stored]
    if not constants:
        return
    computed = dict(model_class().named_buffers())
    for name in constants:
        owner, _, leaf = name.rpartition(".")
        module.get_submodule(owner).register_buffer(leaf, computed[name], persistent=False)


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

    @property
    def weights(self) -> Path | None:
        """The safetensors file; None for a build of structure only (`--no-weights`)."""
        return self.folder / WEIGHTS if self.manifest["weights"] is not None else None

    def module(self) -> torch.nn.Module:
        """The live `nn.Module` with its weights, in eval mode; call it with the inputs' names.

        A build without weights gives what the class draws. Loading runs the emitted Python. Raises `Rejected` (B660).
        """
        if not self.source.is_file():
            message = f"`{self.folder}` has no torch source"
            raise Rejected([Diagnostic("B660", message, help="build it with  --emit torch,onnx")])
        return load_module(self.source, self.weights, self.manifest["model"])

    def session(
        self, entry: str = "forward", options: onnxruntime.SessionOptions | None = None
    ) -> onnxruntime.InferenceSession:
        """An onnxruntime session on the CPU. Raises `Rejected` (B660) where a file is missing."""
        import onnxruntime

        file = self.manifest["entries"].get(entry, {}).get("onnx")
        if file is None:
            known = ", ".join(name for name, e in self.manifest["entries"].items() if e["onnx"])
            message = f"`{self.folder}` has no ONNX graph of `{entry}`"
            raise Rejected([Diagnostic("B660", message, notes=(("available", known or "none"),))])
        if self.weights is None:
            help = "build it without --no-weights"
            raise Rejected([Diagnostic("B660", f"`{self.folder}` has no weights to run with", help=help)])
        missing = next((p for p in (self.folder / file, self.weights) if not p.is_file()), None)
        if missing is not None:
            raise Rejected([Diagnostic("B660", f"{missing} is missing", help=_AGAIN)])
        return onnxruntime.InferenceSession(self.folder / file, options, providers=["CPUExecutionProvider"])


def open_build(folder: str | Path) -> Build:
    """Open a build folder; raises `Rejected` (B660) if it is none."""
    return Build(Path(folder), manifest.read(Path(folder), "manifest.json"))


def python_name(name: str) -> str:
    """A preset's or file's name as that of a Python module: `gpt2-tiny` -> `gpt2_tiny`."""
    text = "".join(c if f"_{c}".isidentifier() else "_" for c in name[:60]) or "model"
    # A module called torch would be imported in place of torch by its own first line.
    return f"_{text}" if text[0].isdigit() or iskeyword(text) or text == "torch" else text

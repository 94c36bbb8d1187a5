"""Builds as live objects: the emitted module with its weights, an onnxruntime session on the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime import manifest
from specc_runtime.devices import Device, check_session, providers
from specc_runtime.exported import exported
from specc_runtime.inputs import Interface
from specc_runtime.loading import Load, settings
from specc_runtime.python_file import UserFile, load_source

if TYPE_CHECKING:
    import onnxruntime
    import torch

WEIGHTS = "model.safetensors"
_AGAIN = "build it again:  specc build FILE"


def load_module(
    source: Path, weights: Path | None, class_name: str, externs: Sequence[UserFile] = (), dtype: str = "f32"
) -> torch.nn.Module:
    """The emitted model in eval mode with its weights; parameters share the file's pages until they are written to.

    Without weights its parameters are those that the class draws. `dtype` is that of the build. `externs` are the files
    that the source imports from beside it. Raises `Rejected` (B660) if the source or the weights are not of this model,
    X904 if an extern file fails.
    """
    import torch

    try:
        beside = {file.path.stem: file.load() for file in externs}
        model_class = getattr(load_source(source, beside=beside), class_name)
    except (OSError, SyntaxError, ImportError, AttributeError) as error:
        raise Rejected([Diagnostic("B660", f"cannot load {class_name} from {source}: {error}", help=_AGAIN)]) from None
    if weights is None:
        drawn: torch.nn.Module = model_class().to(_torch_dtype(dtype))
        _fill_constants(drawn, model_class, dtype)
        return drawn.eval()
    with torch.device("meta"):
        module: torch.nn.Module = model_class()
    _fill_constants(module, model_class, dtype)
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


def _torch_dtype(dtype: str) -> torch.dtype:
    import torch

    return {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]


def _fill_constants(module: torch.nn.Module, model_class: type[torch.nn.Module], dtype: str) -> None:
    """Tables that are computed rather than stored (non-persistent buffers), which the meta device does not compute.

    They are computed in f32; one that a spec does not pin to it then has the dtype of the build.
    """
    import torch

    stored = module.state_dict()
    constants = [name for name, _ in module.named_buffers() if name not in stored]
    if not constants:
        return
    computed = dict(model_class().named_buffers())
    before = torch.get_default_dtype()
    torch.set_default_dtype(_torch_dtype(dtype))
    try:
        with torch.device("meta"):
            wanted = {name: buffer.dtype for name, buffer in model_class().named_buffers()}
    finally:
        torch.set_default_dtype(before)
    for name in constants:
        owner, _, leaf = name.rpartition(".")
        module.get_submodule(owner).register_buffer(leaf, computed[name].to(wanted[name]), persistent=False)


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
    """A build folder, as `open_build` gives it.

    `manifest`: what manifest.json says, as data. `load`: how its sessions are loaded (`loading`).
    """

    folder: Path
    manifest: dict[str, Any]
    load: Load = "full"

    @property
    def source(self) -> Path:
        """The emitted Python file."""
        return self.folder / f"{python_name(self.manifest['name'])}.py"

    @property
    def weights(self) -> Path | None:
        """The safetensors file; None for a build of structure only (`--no-weights`)."""
        return self.folder / WEIGHTS if self.manifest["weights"] is not None else None

    @property
    def quantisation(self) -> Mapping[str, Any]:
        """How a build with `--quant` stores weights in few bits. Raises `Rejected` (B660) for another build."""
        found: Mapping[str, Any] | None = self.manifest.get("quantisation")
        if found is None:
            message = f"`{self.folder}` has no weights in few bits"
            raise Rejected([Diagnostic("B660", message, help="build it with  --quant int8")])
        return found

    def module(self, *, quantized: bool = False) -> torch.nn.Module:
        """The live `nn.Module` with its weights, in eval mode, on the CPU; call it with the inputs' names.

        `quantized`: the weights that a build with `--quant` has in few bits are so here, too, in torchao's own form. A
        build without weights gives what the class draws. Loading runs the emitted Python. Raises `Rejected`: B660, B670
        without torchao.
        """
        if quantized:
            from specc_runtime.quantised import parse
            from specc_runtime.torch_quant import quantize

            stored, ties = self.quantisation, self.manifest["weights"]["ties"]
            module = self.module()
            quantize(module, parse(stored["scheme"]), stored["products"], stored["tables"], ties)
            return module
        if not self.source.is_file() and self.source.name in self.manifest["files"]:
            raise Rejected([Diagnostic("B660", f"{self.source} is missing", help=_AGAIN)])
        if not self.source.is_file():
            message = f"`{self.folder}` has no torch source"
            raise Rejected([Diagnostic("B660", message, help="build it with  --emit torch,onnx")])
        beside, record = list(extern_copies(self).values()), self.manifest
        return load_module(self.source, self.weights, record["model"], beside, record["dtype"])

    def session(
        self,
        entry: str = "forward",
        options: onnxruntime.SessionOptions | None = None,
        device: Device = "cpu",
        *,
        quantized: bool = False,
        load: Load | None = None,
    ) -> onnxruntime.InferenceSession:
        """An onnxruntime session, `quantized` on the graph of a build with `--quant` whose weights are in few bits.

        Its inputs and outputs have the names, shapes and dtypes of `interface(entry)`, and are numpy arrays.
        `load`: see `loading`; the build's own if None. Raises `Rejected`: B660 where a file is missing, G706 without
        such a device.
        """
        if load is not None:
            return replace(self, load=load).session(entry, options, device, quantized=quantized)
        if quantized and self.quantisation and entry in self.manifest["entries"]:
            return self.session_of(self.manifest["entries"][entry]["onnx"], options, device, quantized=True)
        file = self.manifest["entries"].get(entry, {}).get("onnx")
        if file is None:
            known = ", ".join(name for name, e in self.manifest["entries"].items() if e["onnx"])
            message = f"`{self.folder}` has no ONNX graph of `{entry}`"
            help = "" if known else "build it with  --emit torch,onnx"
            raise Rejected([Diagnostic("B660", message, notes=(("available", known or "none"),), help=help)])
        return self.session_of(file, options, device)

    def session_of(
        self,
        file: str,
        options: onnxruntime.SessionOptions | None = None,
        device: Device = "cpu",
        *,
        quantized: bool = False,
    ) -> onnxruntime.InferenceSession:
        """An onnxruntime session on a graph of the folder, `quantized` on the one that stands for it. Raises as
        `session` does."""
        import onnxruntime

        weights = self.weights
        if weights is None:
            raise Rejected([no_weights(self.folder)])
        if quantized:
            from specc_runtime.quantised import graph_file, parse

            file, weights = (
                graph_file(file, parse(self.quantisation["scheme"])),
                self.folder / self.quantisation["weights"],
            )
        missing = next((p for p in (self.folder / file, weights) if not p.is_file()), None)
        if missing is not None:
            raise Rejected([Diagnostic("B660", f"{missing} is missing", help=_AGAIN)])
        how = settings(self.load, options)
        session = onnxruntime.InferenceSession(self.folder / file, providers=providers(device), **how)
        check_session(device, session.get_providers())
        return session

    def exported(self, entry: str = "forward") -> torch.export.ExportedProgram:
        """The entry as a `torch.export` program, its runtime sizes dynamic within the model's facts.

        Inputs are passed by name, all that the build's graph has. Raises `Rejected` (B660), and what torch raises.
        """
        return exported(self.module(), self.interface(entry))

    def interface(self, entry: str = "forward") -> Interface:
        """What an entry takes and returns, and the facts about its sizes. Raises `Rejected` (B660) for another name."""
        found = self.manifest["entries"].get(entry)
        if found is None:
            notes = (("available", ", ".join(self.manifest["entries"])),)
            help = "build it with  --all-entries"
            raise Rejected([Diagnostic("B660", f"`{self.folder}` has no entry `{entry}`", help=help, notes=notes)])
        return Interface.from_json(found["interface"])


def no_weights(folder: Path) -> Diagnostic:
    return Diagnostic("B660", f"`{folder}` has no weights to run with", help="build it without --no-weights")


def extern_copies(build: Build) -> dict[str, UserFile]:
    """The Python files of extern functions that the emitted source imports, by their names in the spec.

    Raises `Rejected` (B660) where one is missing or was changed after the build: what is loaded is what was trusted.
    """
    found: dict[str, UserFile] = {}
    for name, origin in build.manifest.get("externs", {}).items():
        path = build.folder / name
        try:
            file = UserFile(origin, path, path.read_bytes())
        except OSError as error:
            raise Rejected([Diagnostic("B660", f"cannot read {path}: {error.strerror}", help=_AGAIN)]) from None
        if file.sha256 != build.manifest["files"].get(name, {}).get("sha256"):
            raise Rejected([Diagnostic("B660", f"`{path}` was changed after the build", help=_AGAIN)])
        found[origin] = file
    return found


def open_build(folder: str | Path, load: Load = "full") -> Build:
    """Open a build folder; `load` is how its sessions will be loaded. Raises `Rejected` (B660) if it is none.

    Nothing is run or loaded yet.
    """
    return Build(Path(folder), manifest.read(Path(folder), "manifest.json"), load)


def python_name(name: str) -> str:
    """A preset's or file's name as that of a Python module: `gpt2-tiny` -> `gpt2_tiny`."""
    text = "".join(c if f"_{c}".isidentifier() else "_" for c in name[:60]) or "model"
    # A module called torch would be imported in place of torch by its own first line.
    return f"_{text}" if text[0].isdigit() or iskeyword(text) or text == "torch" else text

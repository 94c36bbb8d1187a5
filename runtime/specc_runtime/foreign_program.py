"""Programs that specc did not make, as things that run on the inputs of a spec and show their intermediate values."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc import report
from specc.diagnostics import Rejected
from specc_runtime.inputs import Interface, Masks
from specc_runtime.module import Build, open_build
from specc_runtime.programs import PLAIN, TORCH_ERRORS, Crash, as_numpy, crashing, open_session, run_torch

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import onnxruntime
    import torch

    Array = np.ndarray[Any, Any]

_ELEMENTS: Mapping[str, str] = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(bool)": "bool",
    "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(int16)": "int16", "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
}  # fmt: skip
LARGEST = 2 << 30
"""Bytes of a graph that is held in memory as a whole, which protobuf limits."""


@dataclass(frozen=True)
class Seen:
    """An intermediate value: the result of the part `name` (a module's path, a node's name)."""

    name: str
    value: Array


class Foreign(ABC):
    """The other side of a comparison."""

    label: str
    masks: Masks = "random"
    checkpoint: Path | None = None
    """A Hugging Face folder of it, if it has one: weights are then read through the spec's `weights` section."""

    @abstractmethod
    def run(self, of: Interface, feeds: Mapping[str, Array]) -> dict[str, Array] | list[Array]:
        """Outputs by name, or in order where they have none; raises `Crash`."""

    @abstractmethod
    def seen(self, of: Interface, feeds: Mapping[str, Array]) -> list[Seen]:
        """Intermediate values in the order in which they are computed."""

    @abstractmethod
    def weights(self) -> dict[str, Array] | None:
        """Weights by name; None where the spec's own are to stay."""


class Different(Rejected, AssertionError):
    """The two are not equal, or cannot be compared; its text is the findings as a command prints them."""

    def __str__(self) -> str:
        return "\n" + report.full(list(self.diagnostics), color=False).rstrip("\n")


def built(target: str, out: Path, **request: Any) -> Build:
    """A build without proof and pictures; raises `Different` with the findings where the spec is wrong."""
    from specc_runtime.build import Request, build

    __tracebackhide__ = True
    try:
        return open_build(build(Request(target, **{"verify": False, "render": False, "out": out, **request})).folder)
    except Rejected as rejected:
        raise Different(rejected.diagnostics) from None


def foreign(other: Any, work: Path) -> Foreign:
    """What a caller compares a spec with. Raises TypeError for what is no program."""
    import torch

    if isinstance(other, Build):
        return _Built(other)
    if isinstance(other, (str, Path)):
        path = Path(other)
        if path.suffix == ".onnx":
            return _Onnx(path)
        if (path / "manifest.json").is_file():
            return _Built(open_build(path))
        return _Built(built(str(other), work / "other"))
    if isinstance(other, torch.nn.Module):
        return _Module(other, work)
    kind = type(other).__name__
    raise TypeError(f"a spec is compared with an nn.Module, an .onnx file, a spec or a build, not with {kind}")


class _Module(Foreign):
    def __init__(self, module: torch.nn.Module, work: Path) -> None:
        self.module, self.label = module, type(module).__name__
        self.parameters = inspect.signature(module.forward).parameters
        save: Any = getattr(module, "save_pretrained", None)
        if save is not None and hasattr(module, "config"):
            self.checkpoint = work / "checkpoint"
            save(self.checkpoint)
            self.masks = "all true"  # what positions padding has, and what it computes, differs from model to model

    def run(self, of: Interface, feeds: Mapping[str, Array]) -> dict[str, Array] | list[Array]:
        import torch

        values = {i.name: torch.from_numpy(feeds[i.name]) for i in of.inputs}
        if self.checkpoint is not None:  # transformers' masks are numbers
            values = {name: v.long() if v.dtype == torch.bool else v for name, v in values.items()}
        names = {i.name: i.argument for i in of.inputs}
        by_name = all(argument in self.parameters for argument in names.values())
        training = self.module.training
        self.module.eval()
        try:
            with torch.inference_mode():
                if by_name:
                    found = self.module(**{names[name]: value for name, value in values.items()})
                else:
                    found = self.module(*values.values())
        except TORCH_ERRORS as error:
            raise Crash(self.label, error) from error
        finally:
            self.module.train(training)
        if isinstance(found, Mapping):  # a dict, or transformers' ModelOutput
            return {name: as_numpy(v) for name, v in found.items() if isinstance(v, torch.Tensor)}
        results = found if isinstance(found, (tuple, list)) else (found,)
        return [as_numpy(r) for r in results if isinstance(r, torch.Tensor)]

    def seen(self, of: Interface, feeds: Mapping[str, Array]) -> list[Seen]:
        with watching(self.module) as found:
            self.run(of, feeds)
        return found

    def weights(self) -> dict[str, Array] | None:
        return {name: as_numpy(tensor.detach()) for name, tensor in self.module.state_dict().items()}


class _Built(Foreign):
    """Another spec, by its emitted module."""

    def __init__(self, made: Build) -> None:
        self.made, self.label = made, f"`{made.manifest['name']}`"
        self.module = made.module()

    def run(self, of: Interface, feeds: Mapping[str, Array]) -> dict[str, Array] | list[Array]:
        return run_torch(self.module, self.made.interface(of.method), feeds)

    def seen(self, of: Interface, feeds: Mapping[str, Array]) -> list[Seen]:
        with watching(self.module) as found:
            self.run(of, feeds)
        return found

    def weights(self) -> dict[str, Array] | None:
        return {name: as_numpy(tensor.detach()) for name, tensor in self.module.state_dict().items()}


class _Onnx(Foreign):
    def __init__(self, path: Path) -> None:
        self.path, self.label = path, path.name

    def run(self, of: Interface, feeds: Mapping[str, Array]) -> dict[str, Array] | list[Array]:
        with crashing(self.label):
            return self._run(open_session(PLAIN, self.path), of, feeds)

    def _run(
        self, session: onnxruntime.InferenceSession, of: Interface, feeds: Mapping[str, Array]
    ) -> dict[str, Array] | list[Array]:
        inputs = session.get_inputs()
        names = [i.name for i in inputs]
        if not set(names) <= set(feeds):
            if len(names) != len(of.inputs):
                raise ValueError(f"the graph takes {', '.join(names)}; the spec {', '.join(feeds)}")
            feeds = {theirs: feeds[ours.name] for theirs, ours in zip(names, of.inputs, strict=True)}
        given = {i.name: feeds[i.name].astype(_ELEMENTS.get(i.type, str(feeds[i.name].dtype))) for i in inputs}
        found = dict(zip((o.name for o in session.get_outputs()), session.run(None, given), strict=True))
        return found if {o.name for o in of.outputs} & set(found) else list(found.values())

    def seen(self, of: Interface, feeds: Mapping[str, Array]) -> list[Seen]:
        import onnx

        proto = onnx.load(self.path)
        if proto.ByteSize() >= LARGEST:
            return []
        produced = {name: node.name or node.op_type for node in proto.graph.node for name in node.output if name}
        kept = {o.name for o in proto.graph.output}
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in produced if name not in kept)
        session = open_session(PLAIN, proto.SerializeToString())
        found = self._run(session, of, feeds)
        names = [o.name for o in session.get_outputs()]
        values = found if isinstance(found, dict) else dict(zip(names, found, strict=True))
        return [Seen(where, values[name]) for name, where in produced.items() if hasattr(values.get(name), "dtype")]

    def weights(self) -> dict[str, Array] | None:
        """Initializers that keep their names; None for a graph without any of them."""
        import onnx
        from onnx import numpy_helper

        proto: onnx.ModelProto = onnx.load(self.path)
        found = {t.name: numpy_helper.to_array(t, str(self.path.parent)) for t in proto.graph.initializer}
        return found or None


@contextmanager
def watching(module: torch.nn.Module) -> Iterator[list[Seen]]:
    """First results of every part of a module, in the order in which they are finished."""
    import torch

    found: list[Seen] = []

    def record(path: str) -> Any:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, (tuple, list)) and output else output
            if isinstance(first, torch.Tensor):
                found.append(Seen(path, as_numpy(first.detach().clone())))

        return hook

    handles = [part.register_forward_hook(record(path)) for path, part in module.named_modules() if path]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()

"""Programs that specc did not make, as things that run on the inputs of a spec and show their intermediate values."""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc import report
from specc.api import written
from specc.diagnostics import Diagnostic, Rejected
from specc.types import DType
from specc_runtime.foreign import graph as graphs
from specc_runtime.inputs import Interface, Masks
from specc_runtime.module import Build, open_build
from specc_runtime.programs import PLAIN, TORCH_ERRORS, Crash, as_numpy, crashing, open_session, run_torch
from specc_runtime.quantised import parse

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
    rounds: str = ""
    """The element type that it computes in, if that is coarser or finer than the spec's f32."""

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
    """A build without proof and pictures; raises `Different` with the findings where the spec is wrong.

    `request`: fields of `build.Request`; those that a command takes as text may be text here, too (`dtype`, `quant`).
    """
    from specc_runtime.build import Request, build

    __tracebackhide__ = True
    try:
        given = {name: _READ[name](value) if name in _READ else value for name, value in request.items()}
        return open_build(build(Request(target, **{"verify": False, "render": False, "out": out, **given})).folder)
    except Rejected as rejected:
        raise Different(rejected.diagnostics) from None


_READ: Mapping[str, Callable[[Any], Any]] = {
    "dtype": DType,
    "quant": lambda value: parse(value) if isinstance(value, str) else value,
    "sets": lambda value: {name: one if isinstance(one, str) else written(one) for name, one in value.items()},
    "without": lambda value: frozenset([value] if isinstance(value, str) else value),
}


def foreign(other: Any, work: Path) -> Foreign:
    """What a caller compares a spec with. Raises `Different` where it cannot run, TypeError for what is no program."""
    import torch

    __tracebackhide__ = True
    if isinstance(other, Build):
        return _Built(other)
    if isinstance(other, (str, Path)):
        path = Path(other)
        if path.suffix == ".onnx":
            try:
                graphs.load(path)
            except Rejected as rejected:
                raise Different(rejected.diagnostics) from None
            return _Onnx(path)
        if (path / "manifest.json").is_file():
            return _Built(open_build(path))
        return _Built(built(str(other), work / "other"))
    if isinstance(other, torch.nn.Module):
        if any(tensor.is_meta for tensor in (*other.parameters(), *other.buffers())):
            message = f"{type(other).__name__} has weights on the meta device, which computes nothing"
            raise Different([Diagnostic("B631", message, help='module.to_empty(device="cpu"), then load its weights')])
        return _Module(other, work)
    kind = type(other).__name__
    raise TypeError(f"a spec is compared with an nn.Module, an .onnx file, a spec or a build, not with {kind}")


class _Torch(Foreign):
    """A module of torch, as it runs."""

    module: torch.nn.Module

    def seen(self, of: Interface, feeds: Mapping[str, Array]) -> list[Seen]:
        with watching(self.module) as found:
            self.run(of, feeds)
        return found

    def weights(self) -> dict[str, Array] | None:
        return {name: as_numpy(tensor.detach()) for name, tensor in self.module.state_dict().items()}


class _Module(_Torch):
    def __init__(self, module: torch.nn.Module, work: Path) -> None:
        import torch

        self.module, self.label = module, type(module).__name__
        tensors = [*module.parameters(), *module.buffers()]
        self.device = tensors[0].device if tensors else torch.device("cpu")
        kinds = {parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()}
        self.dtype = kinds.pop() if len(kinds) == 1 else torch.float32
        save: Any = getattr(module, "save_pretrained", None)
        if save is not None and hasattr(module, "config"):
            self.checkpoint = work / "checkpoint"
            save(self.checkpoint)
            self.masks = "all true"  # what positions padding has, and what it computes, differs from model to model
        if self.dtype != torch.float32:
            self.rounds = str(self.dtype).removeprefix("torch.")

    def run(self, of: Interface, feeds: Mapping[str, Array]) -> dict[str, Array] | list[Array]:
        import torch

        method: Callable[..., Any] | None = getattr(self.module, of.method, None)
        if method is None:
            raise Crash(self.label, AttributeError(f"it has no method `{of.method}`"))
        values = {i.name: self._tensor(feeds[i.name]) for i in of.inputs}
        given, named = _arguments(self.label, inspect.signature(method), of, values)
        modes = {part: part.training for part in self.module.modules()}
        self.module.eval()
        try:
            with torch.inference_mode():
                return _results(self.module(*given, **named) if of.method == "forward" else method(*given, **named))
        except TORCH_ERRORS as error:
            raise Crash(self.label, error) from error
        finally:
            for part, training in modes.items():
                part.training = training

    def _tensor(self, value: Array) -> torch.Tensor:
        """As the module takes it: in its dtype, where its weights are; transformers' masks are numbers."""
        import torch

        found = torch.from_numpy(value)
        if found.is_floating_point():
            found = found.to(self.dtype)
        elif found.dtype == torch.bool and self.checkpoint is not None:
            found = found.long()
        return found.to(self.device)


class _Built(_Torch):
    """Another spec, by its emitted module."""

    def __init__(self, made: Build) -> None:
        self.made, self.label = made, f"`{made.manifest['name']}`"
        self.module = made.module()

    def run(self, of: Interface, feeds: Mapping[str, Array]) -> dict[str, Array] | list[Array]:
        return run_torch(self.module, self.made.interface(of.method), feeds)


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
        # numpy has no bf16 of its own, and no types of few bits; f32 holds all of them
        return {n: v if v.dtype.kind in "fiub" else v.astype("float32") for n, v in found.items()} or None


def _arguments(
    label: str, signature: inspect.Signature, of: Interface, values: Mapping[str, torch.Tensor]
) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """By name where the other side has the spec's names or takes any, else in order; raises `Crash` if it has fewer."""
    parameters = [p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    kinds = {p.kind for p in signature.parameters.values()}
    known = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
    any_name = inspect.Parameter.VAR_KEYWORD in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds
    if any_name or all(i.argument in known for i in of.inputs):
        return [], {i.argument: values[i.name] for i in of.inputs}
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return list(values.values()), {}
    if len(parameters) < len(values):
        taken, given = (", ".join(names) or "nothing" for names in ([p.name for p in parameters], values))
        message = f"its {of.method} takes {taken}, that of the spec {given}; without=[..] leaves optional inputs out"
        raise Crash(label, TypeError(message))
    pairs = list(zip(parameters, values.values(), strict=False))
    return (
        [value for parameter, value in pairs if parameter.kind is not parameter.KEYWORD_ONLY],
        {parameter.name: value for parameter, value in pairs if parameter.kind is parameter.KEYWORD_ONLY},
    )


def _results(found: Any) -> dict[str, Array] | list[Array]:
    """Tensors of what a module returns: by name those of a dict, a dataclass or a named tuple, else in order, those of
    inner tuples only where there are no others."""
    import torch

    named = found if isinstance(found, Mapping) else None
    if dataclasses.is_dataclass(found) and named is None:
        named = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    elif hasattr(found, "_asdict"):
        named = found._asdict()
    if named is not None:
        return {str(name): as_numpy(v.detach()) for name, v in named.items() if isinstance(v, torch.Tensor)}
    values = found if isinstance(found, (tuple, list)) else (found,)
    while values and not any(isinstance(v, torch.Tensor) for v in values):
        values = [inner for v in values if isinstance(v, (tuple, list)) for inner in v]
    return [as_numpy(v.detach()) for v in values if isinstance(v, torch.Tensor)]


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

"""The programs that are compared: the emitted module in eager mode, and onnxruntime with and without optimisations."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from specc_runtime.inputs import Interface

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime
    import torch
    from onnx import ModelProto

    Array = np.ndarray[Any, Any]

Outputs = dict[str, "Array"]

OPTIMISED = "onnxruntime"
PLAIN = "onnxruntime, no optimisations"
PROGRAMS = (OPTIMISED, PLAIN)
"""What is held against torch, in this order."""


class Crash(Exception):
    """A program could not be loaded or did not run through.

    `node` is the ONNX node that failed, if the message tells.
    """

    def __init__(self, program: str, error: Exception) -> None:
        text = re.sub(r"Load model from \S+ failed: ?", "", str(error).strip())
        super().__init__(f"{program}: {text.splitlines()[0] if text else type(error).__name__}")
        named = re.search(r"Name:'([^']*)'|in node \(([^)]*)\)", text)
        self.node = next(filter(None, named.groups()), "") if named else ""


# ---- torch -----------------------------------------------------------------------------------------------------------

TORCH_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NameError)


def run_torch(module: torch.nn.Module, of: Interface, feeds: Mapping[str, Array]) -> Outputs:
    """The entry's outputs in eager mode; raises `Crash`."""
    import torch

    try:
        with torch.inference_mode():
            found = called(module, of, {i.name: torch.from_numpy(feeds[i.name]) for i in of.inputs})
    except TORCH_ERRORS as error:
        raise Crash("torch", error) from error
    return {name: as_numpy(value) for name, value in found.items()}


def called(module: torch.nn.Module, of: Interface, feeds: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The results of a method by name."""
    method = module if of.method == "forward" else getattr(module, of.method)
    found = method(**{i.argument: feeds[i.name] for i in of.inputs})
    results = found if isinstance(found, tuple) else (found,)
    return {o.name: value for o, value in zip(of.outputs, results, strict=True)}


def as_numpy(value: torch.Tensor) -> Array:
    """The same numbers on the CPU; numpy has no bf16, f32 holds them."""
    import torch

    value = value.detach()  # a view of a parameter asks for gradients in inference mode, too
    found: Array = (value.float() if value.dtype == torch.bfloat16 else value).cpu().numpy()
    return found


def rounding(module: torch.nn.Module, of: Interface, feeds: Mapping[str, Array], output: str) -> float | None:
    """How far torch in float32 is from torch in float64; None if the module does not run in float64."""
    import numpy as np

    wide = {name: value.astype("float64") if value.dtype.kind == "f" else value for name, value in feeds.items()}
    try:
        exact = run_torch(copy.deepcopy(module).double(), of, wide)[output]
    except Crash:
        return None
    return float(np.abs(exact - run_torch(module, of, feeds)[output]).max())


def perturb(module: torch.nn.Module, seed: int) -> None:
    """Replace every floating parameter and vector buffer by seeded random numbers, in memory.

    Fresh biases are zero and fresh norm weights one, which hides a bias that is left out or a scale that is applied
    twice. Matrices get the scale 1/sqrt(fan in), vectors that are positive throughout (norm weights, running variances)
    stay so. Tables that are computed (rotary frequencies) or stored as buffers of two axes or more are part of the
    program and stay.
    """
    import numpy as np
    import torch

    stored = module.state_dict()
    buffers = [(name, b) for name, b in module.named_buffers() if b.dim() == 1 and name in stored]
    for name, tensor in [*module.named_parameters(), *buffers]:
        if not tensor.is_floating_point():
            continue
        rng = np.random.default_rng([seed, crc32(name.encode())])
        values = rng.random(tuple(tensor.shape), dtype=np.float32)
        values -= np.float32(0.5)
        if tensor.dim() > 1:
            fan_in = tensor[0].numel()
            values *= np.float32((12 / max(fan_in, 1)) ** 0.5)
        elif bool((tensor > 0).all()):
            values += np.float32(1)
        tensor.data = torch.from_numpy(values).to(tensor.dtype)


def state(module: torch.nn.Module) -> dict[str, Array]:
    """Every tensor by its state_dict name, without a copy."""
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


# ---- onnxruntime -----------------------------------------------------------------------------------------------------


def open_session(
    program: str, graph: Path | bytes, weights: Mapping[str, Array] | None = None
) -> onnxruntime.InferenceSession:
    """A session on the CPU; `weights` take the place of the external initializers of their names. Raises `Crash`."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would slow torch down
    if program == PLAIN:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
    names = list(weights or ())
    held = [ort.OrtValue.ortvalue_from_numpy(value) for value in (weights or {}).values()]
    if names:
        options.add_external_initializers(names, held)
    with crashing(program):
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    session.held = held, weights  # onnxruntime reads them where they are
    return session


def session_on(program: str, path: Path, module: torch.nn.Module | None) -> onnxruntime.InferenceSession:
    """A session on a finished graph with its own weights, or with those of a module. Raises `Crash`."""
    if module is None:
        return open_session(program, path)
    import onnx

    proto = onnx.load(path, load_external_data=False)
    known = state(module)
    values = {t.name: known[t.name] for t in proto.graph.initializer if t.name in known}
    if is_external(proto):
        return open_session(program, path, values)
    return open_session(program, embedded(proto, values))


def run_session(
    session: onnxruntime.InferenceSession, program: str, feeds: Mapping[str, Array], names: Sequence[str] | None = None
) -> Outputs:
    """Outputs by name; raises `Crash`."""
    chosen = list(names) if names is not None else [o.name for o in session.get_outputs()]
    taken = {i.name for i in session.get_inputs()}
    with crashing(program):
        results = session.run(chosen, {name: value for name, value in feeds.items() if name in taken})
    return dict(zip(chosen, results, strict=True))


@contextmanager
def crashing(program: str) -> Iterator[None]:
    """What onnxruntime raises becomes a `Crash`."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [e for e in vars(state).values() if isinstance(e, type) and issubclass(e, Exception)]
    errors: tuple[type[Exception], ...] = (*own, RuntimeError, ValueError)
    try:
        yield
    except errors as error:
        raise Crash(program, error) from error


def stored_weights(proto: ModelProto, folder: Path, names: Mapping[str, Any]) -> dict[str, Array]:
    """What a finished graph reads for the tensors named, mapped from the file they lie in."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    found: dict[str, Array] = {}
    for tensor in proto.graph.initializer:
        if tensor.name not in names:
            continue
        if tensor.data_location != TensorProto.EXTERNAL:
            found[tensor.name] = numpy_helper.to_array(tensor)
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        file, offset = folder / place["location"], int(place.get("offset", 0))
        shape = tuple(tensor.dims)
        found[tensor.name] = np.memmap(file, dtype, "r", offset, shape) if 0 not in shape else np.zeros(shape, dtype)
    return found


def embedded(proto: ModelProto, weights: Mapping[str, Array]) -> bytes:
    """A self-contained graph with other weights (onnxruntime folds what it can before it would take new ones)."""
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            tensor.raw_data = weights[tensor.name].tobytes()
    content: bytes = proto.SerializeToString()
    return content


def is_external(proto: ModelProto) -> bool:
    """Whether a graph's parameters lie outside the file."""
    from onnx import TensorProto

    return any(t.data_location == TensorProto.EXTERNAL for t in proto.graph.initializer)

"""What this machine's kernels for few bits may do: round activations to eight bits, and nothing else.

The proof of the graphs takes that rounding out; here it stays in. Random and extreme numbers go through one layer of
each width that a build has, and no sum may be further from the exact one than rounding every activation by a step. (On
CPUs without VNNI, sums of uint8 x int8 in pairs that overflow 16 bits would be: they saturate there.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from specc.backends.onnx.packed import ACCURACY_LEVEL, CONTRIB
from specc.diagnostics import Diagnostic, Rejected
from specc.quantisation import Scheme
from specc_runtime import packing
from specc_runtime.programs import OPTIMISED, open_session, run_session

if TYPE_CHECKING:
    from onnx import ModelProto

    Array = np.ndarray[Any, Any]

_ROWS, _OUT = 5, 16
_SLACK = 1e-5  # of the largest sum: fp32 arithmetic around the integers


def check(scheme: Scheme, widths: Iterable[int], file: str) -> None:
    """Raises `Rejected` (B630) where a kernel does more than round."""
    for width in sorted(set(widths)):
        rng = np.random.default_rng(width)
        x, w = _with_extremes(rng, _ROWS, width), _with_extremes(rng, _OUT, width)
        packed = packing.pack(w, scheme)
        graph = _layer(packed, scheme, width)
        found = run_session(open_session(OPTIMISED, graph.SerializeToString()), OPTIMISED, {"x": x})["y"]
        exact = packing.unpack(packed, width)
        sums = x.astype(np.float64) @ exact.T.astype(np.float64)
        off = np.abs(found - sums)
        limit = step(x, scheme) * np.abs(exact).sum(axis=1) + _SLACK * np.abs(sums).max()
        if (off > limit).any():
            at = np.unravel_index((off - limit).argmax(), off.shape)
            message = (
                f"{file}: a product of {scheme.kind} is off by {off[at]:.2e} on this machine; rounding activations may "
                f"cost {limit[at[1]]:.1e}"
            )
            other = "int4" if scheme.bits == 8 else "int8"
            raise Rejected([Diagnostic("B630", message, help=f"--quant {other}, or a machine with VNNI")])


def step(x: Array, scheme: Scheme) -> float:
    """The step of activations that are rounded together."""
    if scheme.bits == 8:
        return float(np.maximum(x.max(), 0) - np.minimum(x.min(), 0)) / 255
    return float(np.abs(x).max()) / 127


def _with_extremes(rng: np.random.Generator, rows: int, width: int) -> Array:
    """Random rows between one of all the largest and one of all the smallest."""
    found = rng.uniform(-1, 1, (rows, width)).astype(np.float32)
    found[0], found[-1] = 1, -1
    return found


def _layer(packed: packing.Packed, scheme: Scheme, width: int) -> ModelProto:
    """y = x @ w^T as the graphs of a build write it."""
    stored = {"w": packed.data, "scale": packed.scale}
    if scheme.bits == 8:
        nodes = [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "step", "zero"]),
            helper.make_node("Transpose", ["w"], ["turned"], perm=[1, 0]),
            helper.make_node("MatMulInteger", ["q", "turned", "zero"], ["sums"]),
            helper.make_node("Cast", ["sums"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["step", "scale"], ["both"]),
            helper.make_node("Mul", ["wide", "both"], ["y"]),
        ]
    else:
        if packed.zero is not None:
            stored["zero"] = packed.zero
        options: dict[str, Any] = {
            "K": width,
            "N": _OUT,
            "bits": 4,
            "block_size": scheme.block,
            "accuracy_level": ACCURACY_LEVEL,
        }
        nodes = [helper.make_node("MatMulNBits", ["x", *stored], ["y"], domain=CONTRIB, **options)]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [_ROWS, width])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [_ROWS, _OUT])
    weights = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "layer", [given], [made], weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)

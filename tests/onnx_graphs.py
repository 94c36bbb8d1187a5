"""Graphs of hand-written IR: weights for them, checked and run in onnxruntime, and what torch makes of the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch.nn.functional as F

from specc.backends.onnx.proto import Embedded
from specc.ir import graph as ir
from specc.ir import members

NO_MASK = frozenset({"mask"})


def check(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def weights(model: ir.Model) -> dict[str, np.ndarray[Any, Any]]:
    """The state_dict of random numbers, tied names left out."""
    rng = np.random.default_rng(0)
    tied = members.aliases(model.module)
    shapes = {name: p.type.shape for name, p in members.parameters(model.module).items() if name not in tied}
    return {n: rng.standard_normal([d.evaluate({}) for d in s]).astype(np.float32) / 4 for n, s in shapes.items()}


def embedded(arrays: Mapping[str, np.ndarray[Any, Any]]) -> Embedded:
    return Embedded({name: array.tobytes() for name, array in arrays.items()})


def run(model: onnx.ModelProto, **inputs: Any) -> list[np.ndarray[Any, Any]]:
    check(model)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def ops(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def stack_reference(
    arrays: Mapping[str, np.ndarray[Any, Any]], x: np.ndarray[Any, Any], mask: np.ndarray[Any, Any] | None, heads: int
) -> np.ndarray[Any, Any]:
    """`small_ir.stack` in plain torch."""
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    h = torch.from_numpy(x)
    batch, length, dim = h.shape
    visible = torch.ones(length, length).tril().bool()
    if mask is not None:
        visible = visible & torch.from_numpy(mask)[:, None, None, :]

    def project(path: str, value: torch.Tensor) -> torch.Tensor:
        return F.linear(value, state[f"{path}.weight"], state[f"{path}.bias"])

    layer = 0
    while f"layers.{layer}.attn.q_proj.weight" in state:
        attn = f"layers.{layer}.attn"
        q, k, v = (
            project(f"{attn}.{n}_proj", h).view(batch, length, heads, dim // heads).transpose(1, 2) for n in "qkv"
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        h = h + project(f"{attn}.out_proj", y.transpose(1, 2).reshape(batch, length, dim))
        layer += 1
    return F.linear(h, state["layers.0.attn.q_proj.weight"], state["head.bias"]).numpy()

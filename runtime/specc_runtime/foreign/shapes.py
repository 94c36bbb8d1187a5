"""Shapes of the values of an ONNX graph: by ONNX's own inference, and where that does not tell by onnxruntime's.

ONNX follows sizes that are computed by the graph only as far as they are numbers; onnxruntime's script follows them as
formulas, which a graph traced from torch needs: it computes every shape from that of its input.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc.dims import Dim
from specc_runtime.foreign.products import Shape, dim_of

if TYPE_CHECKING:
    import onnx

Known = dict[str, Shape]
_NAME = "onnxruntime_symbolic_shape_infer"
_SINCE = 7
"""The first operator set that onnxruntime's script reads."""


def shapes_of(model: onnx.ModelProto, enough: Callable[[Mapping[str, Shape]], bool]) -> Mapping[str, Shape]:
    """Every value's shape as far as it is known; `enough`: whether they tell what is asked."""
    found = _by_onnx(model)
    for merging in (False, True):
        if not enough(found):
            more = _by_onnxruntime(model, merging)
            found |= {name: shape for name, shape in more.items() if None not in shape}
    return found


def _by_onnx(model: onnx.ModelProto) -> Known:
    from onnx.shape_inference import InferenceError, infer_shapes

    try:
        inferred = infer_shapes(model, data_prop=True)
    except (InferenceError, ValueError):  # a shape that contradicts another: what is written down counts
        inferred = model
    return _told(inferred)


def _by_onnxruntime(model: onnx.ModelProto, merging: bool) -> Known:
    """`merging`: sizes that must be equal for a broadcast are taken to be.

    Nothing where it gives up: it is a script that asserts what it hopes for, and raises whatever it meets.
    """
    from onnx import ModelProto

    if any(o.version < _SINCE for o in model.opset_import if o.domain in ("", "ai.onnx")):
        return {}
    logger = logging.getLogger(_NAME)
    before, logger.disabled = logger.disabled, True
    copy = ModelProto()
    copy.CopyFrom(model)
    try:
        script = _script().SymbolicShapeInference(2**31 - 1, auto_merge=merging, guess_output_rank=False, verbose=0)
        script._preprocess(copy)  # `infer_shapes` writes a file into the current folder where it does not finish
        while script.run_:
            script._infer_impl()
        return _told(script.out_mp_)
    except Exception:
        return {}
    finally:
        logger.disabled = before


@cache
def _script() -> Any:
    """The module by its file: importing its package would import torch. It needs sympy, as torch does."""
    found = find_spec("onnxruntime")
    assert found is not None and found.origin is not None
    path = Path(found.origin).with_name("tools") / "symbolic_shape_infer.py"
    spec = spec_from_file_location(_NAME, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _told(model: onnx.ModelProto) -> Known:
    import onnx

    found: Known = {}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
            found[value.name] = tuple(dim_of(d) for d in value.type.tensor_type.shape.dim)
    for tensor in model.graph.initializer:
        found[tensor.name] = tuple(Dim.const(d) for d in tensor.dims)
    for node in model.graph.node:  # constants are nodes, too
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR:
                    found[node.output[0]] = tuple(Dim.const(d) for d in attribute.t.dims)
    return found

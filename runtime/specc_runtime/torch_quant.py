"""The emitted module with the weights of a `--quant` build in few bits, by torchao: its tensors and its kernels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from specc.diagnostics import Diagnostic, Rejected
from specc.quantisation import Scheme
from specc_runtime.libraries import quietly

if TYPE_CHECKING:
    import torch


def quantize(
    module: torch.nn.Module,
    scheme: Scheme,
    products: Collection[str],
    tables: Collection[str],
    ties: Mapping[str, str],
) -> None:
    """Store the weights of the `nn.Linear`s and `nn.Embedding`s named in few bits; activations stay as they are.

    `products`, `tables`: names of the stored tensors, `ties`: of others that are the same. Raises `Rejected` (B670)
    without torchao, and where the blocks of a scheme do not divide a row (in ONNX the last one is filled up).
    """
    import torch

    try:
        with quietly():
            from torchao.quantization import IntxWeightOnlyConfig, PerAxis, PerGroup, quantize_
            from torchao.quantization.quant_primitives import MappingType
    except ImportError as error:
        message = f"torchao cannot be imported, which keeps weights in few bits in torch: {error}"
        raise Rejected([Diagnostic("B670", message, help="pip install torchao")]) from None

    def chosen(part: torch.nn.Module, path: str) -> bool:
        name = f"{path}.weight"
        wanted = {torch.nn.Linear: products, torch.nn.Embedding: tables}.get(type(part), ())
        if ties.get(name, name) not in wanted:
            return False
        if scheme.bits == 4 and part.get_parameter("weight").shape[1] % scheme.block:
            raise _undivided(name, part, scheme)
        return True

    granularity = PerAxis(0) if scheme.bits == 8 else PerGroup(scheme.block)
    config = IntxWeightOnlyConfig(
        weight_dtype=getattr(torch, scheme.kind),  # torch.int4 has no stub
        granularity=granularity,
        mapping_type=MappingType.SYMMETRIC if scheme.symmetric else MappingType.ASYMMETRIC,
    )
    quantize_(module, config, chosen)


def _undivided(name: str, part: torch.nn.Module, scheme: Scheme) -> Rejected:
    width = part.get_parameter("weight").shape[1]
    message = f"{name} has rows of {width}: torchao's blocks of {scheme.block} do not divide them"
    return Rejected([Diagnostic("B670", message, help="build it with another block:  --quant int4:block=N")])

"""Accelerators by name: what their makers publish. Nothing here was measured.

FLOPs are of dense matrix products, without structured sparsity; f32 is that of the plain units, as torch multiplies
unless it is told otherwise; f16 and bf16 with sums in f32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from specc.diagnostics import Diagnostic, Rejected


@dataclass(frozen=True)
class Device:
    """`bandwidth`: bytes a second of its memory; `flops`: by dtype, a second; `memory`: bytes; `source`: where from,
    empty for what a user gave.
    """

    name: str
    bandwidth: float
    flops: Mapping[str, float]
    memory: int | None
    source: str
    measured: bool = False

    def peak(self, dtype: str) -> float:
        """FLOPs a second of products in a dtype; those of weights in few bits are computed in it, too."""
        return self.flops.get(dtype, self.flops["f32"])


def _device(name: str, memory: int, bandwidth: float, half: float, single: float, source: str) -> Device:
    """In GB, GB/s and TFLOP/s."""
    flops = {"f32": single * 1e12, "f16": half * 1e12, "bf16": half * 1e12}
    return Device(name, bandwidth * 1e9, flops, memory * 10**9, source)


DEVICES = {
    device.name: device
    for device in (
        _device("b200", 180, 8000, 2250, 75, "NVIDIA HGX B200 datasheet, one of eight"),
        _device("h200", 141, 4800, 989.5, 67, "NVIDIA H200 datasheet, SXM"),
        _device("h100", 80, 3350, 989.5, 67, "NVIDIA H100 datasheet, SXM"),
        _device("h100-pcie", 80, 2000, 756.5, 51, "NVIDIA H100 datasheet, PCIe"),
        _device("a100", 80, 2039, 312, 19.5, "NVIDIA A100 80GB datasheet, SXM"),
        _device("a100-40", 40, 1555, 312, 19.5, "NVIDIA A100 40GB datasheet"),
        _device("l40s", 48, 864, 362, 91.6, "NVIDIA L40S datasheet"),
        _device("a10", 24, 600, 125, 31.2, "NVIDIA A10 datasheet"),
        _device("l4", 24, 300, 121, 30.3, "NVIDIA L4 datasheet"),
        _device("v100", 32, 900, 125, 15.7, "NVIDIA V100 datasheet, SXM2; it has no bf16"),
        _device("t4", 16, 300, 65, 8.1, "NVIDIA T4 datasheet; it has no bf16"),
        _device("rtx5090", 32, 1792, 209.5, 104.8, "NVIDIA RTX Blackwell GPU architecture"),
        _device("rtx4090", 24, 1008, 165.2, 82.6, "NVIDIA Ada GPU architecture"),
        _device("rtx3090", 24, 936, 71, 35.6, "NVIDIA Ampere GA102 GPU architecture"),
        _device("mi300x", 192, 5300, 1307.4, 163.4, "AMD Instinct MI300X data sheet"),
    )
}

_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e\d+)?)\s*([kKMGTP]?)(?:B/s|FLOP/s|FLOPS|B|)")
_SCALES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}


def device(text: str) -> Device:
    """A name of the table, or `BANDWIDTH,FLOPS` as in `900GB/s,125TFLOP/s`; raises `Rejected` (E009)."""
    if text.lower() in DEVICES:
        return DEVICES[text.lower()]
    parts = text.split(",")
    found = [_NUMBER.fullmatch(part.strip()) for part in parts]
    if len(parts) == 2 and found[0] is not None and found[1] is not None:
        bandwidth, flops = (float(m.group(1)) * _SCALES[m.group(2)] for m in found if m is not None)
        if 0 < bandwidth < inf and 0 < flops < inf:
            return Device(text, bandwidth, dict.fromkeys(("f32", "f16", "bf16"), flops), None, "")
    notes = (("available", f"{', '.join(DEVICES)}, measured"),)
    help = "or its bandwidth and FLOPs a second:  --device 900GB/s,125TFLOP/s"
    raise Rejected([Diagnostic("E009", f"there is no device `{text}` in the table", notes=notes, help=help)])

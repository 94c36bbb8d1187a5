"""Where programs run: the CPU, or an NVIDIA GPU through onnxruntime's CUDA provider or torch."""

from __future__ import annotations

from typing import Literal

from specc.diagnostics import Diagnostic, Rejected

Device = Literal["cpu", "cuda"]
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def providers(device: Device) -> list[str]:
    """The execution providers of a session, the preferred one first. Raises `Rejected` (G706)."""
    import onnxruntime

    if device == "cpu":
        return [_CPU]
    if _CUDA not in onnxruntime.get_available_providers():
        raise not_there(f"onnxruntime {onnxruntime.__version__}, as it is installed, has no {_CUDA}")
    return [_CUDA, _CPU]


def check_session(device: Device, used: list[str]) -> None:
    """onnxruntime goes on without a provider that it cannot load; raises `Rejected` (G706) instead."""
    if device == "cuda" and _CUDA not in used:
        raise not_there(f"onnxruntime cannot load its {_CUDA}: a library of CUDA is missing, or there is no GPU")


def check_torch(device: Device) -> None:
    """Raises `Rejected` (G706) where torch has no GPU to run on."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        why = "finds no GPU" if torch.version.cuda else "is a build without CUDA"
        raise not_there(f"torch {torch.__version__} {why}")


def not_there(message: str) -> Rejected:
    help = "--device cpu, or install onnxruntime-gpu in place of onnxruntime; a CUDA build of torch for --backend torch"
    return Rejected([Diagnostic("G706", message, help=help)])

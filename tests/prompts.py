"""Prompts of unequal length, and what continues them."""

from __future__ import annotations

from typing import Literal

from specc_runtime.cache import Request as Cache

CONCAT = Cache()
BACKENDS: tuple[Literal["onnxruntime", "torch"], ...] = ("onnxruntime", "torch")
PROMPTS = [[5, 9, 2, 33, 41, 17, 8], [3, 11, 60], [7]]

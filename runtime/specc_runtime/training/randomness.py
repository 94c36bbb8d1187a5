"""The states of all generators of random numbers, as plain data: what a checkpoint keeps of dropout and its like."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def taken() -> dict[str, Any]:
    """Of torch on every device, numpy and Python."""
    name, keys, position, cached, value = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, cached, value],
        "python": random.getstate(),
    }


def put_back(states: dict[str, Any]) -> None:
    """Go on from there; devices that are not there any more are left out."""
    torch.set_rng_state(states["torch"])
    for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device)
    name, keys, position, cached, value = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, cached, value))
    random.setstate(states["python"])

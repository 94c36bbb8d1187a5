"""`--device measured`: this machine's processor, by a copy and a product that take a moment."""

from __future__ import annotations

import time
from collections.abc import Callable

from specc.inspect.devices import Device

COPIED = 64 * 2**20  # bytes: more than caches hold
SIDE = 1024
ROUNDS = 5


def measured() -> Device:
    """The best of a few rounds, with as many threads as numpy takes: bytes read and written, FLOPs in f32."""
    import numpy as np

    source = np.ones(COPIED // 4, np.float32)
    target = np.empty_like(source)
    a = np.ones((SIDE, SIDE), np.float32)
    result = np.empty_like(a)
    copied = _best(lambda: np.copyto(target, source))
    multiplied = _best(lambda: np.matmul(a, a, out=result))
    flops = 2 * SIDE**3 / multiplied
    return Device(
        "this processor",
        2 * COPIED / copied,
        {"f32": flops, "f16": flops, "bf16": flops},
        None,
        "a copy of 64 MiB, a product of 1024 x 1024 in f32",
        measured=True,
    )


def _best(run: Callable[[], object]) -> float:
    """Seconds of the fastest of some rounds, the first of which does not count."""
    run()
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found)

"""The runtime of specc: builds on disk, verification, rendering, the command line.

Heavy libraries are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specc_runtime.equivalence import assert_equivalent
    from specc_runtime.generation import Generation
    from specc_runtime.generator import Generator
    from specc_runtime.module import Build, open_build
    from specc_runtime.sampling import Sampling

__all__ = ["Build", "Generation", "Generator", "Sampling", "assert_equivalent", "open_build"]

_HOMES = {
    "Generation": "generation",
    "Generator": "generator",
    "Sampling": "sampling",
    "assert_equivalent": "equivalence",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"specc_runtime.{_HOMES.get(name, 'module')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The runtime of specc: builds on disk, verification, rendering, the command line.

Heavy libraries are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specc_runtime.module import Build, open_build

__all__ = ["Build", "open_build"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from specc_runtime import module

        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

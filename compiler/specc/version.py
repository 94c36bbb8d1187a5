"""The version that is installed, from the distribution's metadata."""

from __future__ import annotations

from functools import cache
from importlib import metadata


@cache
def version() -> str:
    """`0.1.0`; `0+unknown` in a source tree that is not installed."""
    try:
        return metadata.version("specc-ml")
    except metadata.PackageNotFoundError:
        return "0+unknown"

"""Libraries that only some commands need."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from specc.diagnostics import Diagnostic, Rejected
from specc.source import Span


def installed(name: str) -> bool:
    return find_spec(name) is not None


def needs(what: str, *libraries: str, span: Span | None = None) -> None:
    """Raises `Rejected` (B650) with the command that installs it where a library is missing that `what` needs."""
    missing = next((name for name in libraries if not installed(name)), None)
    if missing is not None:
        message = f"{what} needs {missing}, which is not installed"
        raise Rejected([Diagnostic("B650", message, span, help="pip install 'specc-ml[train]'")])


@contextmanager
def quietly() -> Iterator[None]:
    """To import what warns of kernels that this machine lacks and nothing here uses."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

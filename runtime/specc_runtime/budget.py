"""A number of bytes that threads share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class Budget:
    """At most `total` bytes are held at a time; whoever needs more than that holds it alone."""

    def __init__(self, total: int) -> None:
        self._total = self._free = total
        self._change = Condition()

    @contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Wait until there is room."""
        held = min(count, self._total)
        with self._change:
            self._change.wait_for(lambda: self._free >= held)
            self._free -= held
        try:
            yield
        finally:
            with self._change:
                self._free += held
                self._change.notify_all()

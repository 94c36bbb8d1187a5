"""Which local of a function holds which value, and which names are free at a statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from specc.ir.graph import Value

_SPARE = ("x", "y", "h", "z", "u", "v", "w")


class Names:
    """`last_use`: value -> position of the last statement that reads it. `reserved`: names that nothing may take.

    `arguments` are not used for anything nameless: code may ask for their dtype after their last use as a value.
    """

    def __init__(self, last_use: Mapping[Value, int], reserved: set[str], arguments: frozenset[str]) -> None:
        self.last_use, self.reserved, self.arguments = last_use, reserved, arguments
        self.of: dict[Value, str] = {}
        self.holder: dict[str, Value] = {}
        self.position = 0

    def saved(self) -> tuple[dict[Value, str], dict[str, Value]]:
        """For `restore` after an attempt that came to nothing."""
        return dict(self.of), dict(self.holder)

    def restore(self, saved: tuple[dict[Value, str], dict[str, Value]]) -> None:
        self.of, self.holder = dict(saved[0]), dict(saved[1])

    def hold(self, value: Value, name: str) -> None:
        self.of[value] = name
        self.holder[name] = value

    def over(self, value: Value, position: int) -> bool:
        """Whether nothing reads the value after that position."""
        return self.last_use.get(value, 0) <= position

    def free(self, name: str) -> bool:
        """Whether the statement at hand may bind the name."""
        holder = self.holder.get(name)
        return name not in self.reserved and (holder is None or self.over(holder, self.position))

    def fresh(self, wishes: Sequence[str], *, numbered: bool = False) -> str:
        """A free name: a wish, else (`numbered`) the first wish with a number, else one of the usual letters."""
        for name in wishes:
            if name.isidentifier() and self.free(name):
                return name
        spare = next((name for name in _SPARE if name not in self.arguments and self.free(name)), None)
        if spare is not None and not (numbered and wishes):
            return spare
        base, number = (*wishes, "y")[0], 2
        while not self.free(f"{base}{number}"):
            number += 1
        return f"{base}{number}"

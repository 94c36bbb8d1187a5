"""One graph as steps: what the methods of emitted source are written from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from specc.ir.graph import Apply, Call, Emitted, Input, Loop, Path, Scan, Value, When

END = 1 << 60
"""The position after every statement, where results are read."""


@dataclass(eq=False)
class Step:
    """An operator, a call, a `route`, or the fold of an `nn.Sequential`: one expression."""

    node: Apply | Call | Loop
    inputs: tuple[Input, ...]
    outputs: tuple[Value, ...]
    region: int
    position: int = 0


@dataclass(eq=False)
class LoopStep:
    """A loop. A fold re-binds one local: `carrier` is what its first iteration reads in place of `start`."""

    loop: Loop
    iterations: tuple[tuple[tuple[tuple[str, Path | None], ...], tuple[Item, ...]], ...]
    start: Value | None = None
    carrier: Value | None = None
    position: int = 0


@dataclass(eq=False)
class WhenStep:
    when: When
    items: tuple[Item, ...]
    rebinds: tuple[tuple[Value, Input, Value], ...]
    aux: tuple[tuple[str, Input], ...]
    region: int
    position: int = 0


@dataclass(eq=False)
class ScanStep:
    """A scan. `sequences`, `states` and `emits` are those of the node, with what they read resolved.

    `position` is that of the end of the body, where the next step begins and what is read from outside is still needed.
    """

    scan: Scan
    items: tuple[Item, ...]
    sequences: tuple[Input, ...]
    starts: tuple[Input, ...]
    ends: tuple[Input, ...]
    emits: tuple[tuple[Input, Emitted], ...]
    region: int
    start: int = 0
    position: int = 0

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What the loop needs, whichever result is used."""
        return (*self.sequences, *self.starts, *self.ends)

    @property
    def outputs(self) -> tuple[Value, ...]:
        return self.scan.outputs


Item = Step | LoopStep | WhenStep | ScanStep


@dataclass(eq=False)
class Program:
    """`producer`: value -> its step (none for arguments). `reads`: values that are parameters. `scanned`: what scans
    bind and give out. `inline`: values written where they are used. `last_use`: value -> the position of the last
    statement that reads it.
    """

    items: tuple[Item, ...] = ()
    results: tuple[Input, ...] = ()
    producer: dict[Value, Step] = field(default_factory=dict)
    reads: dict[Value, Path] = field(default_factory=dict)
    scanned: dict[Value, ScanStep] = field(default_factory=dict)
    inline: set[Value] = field(default_factory=set)
    last_use: dict[Value, int] = field(default_factory=dict)


def made(items: Sequence[Item]) -> Iterator[Value]:
    """The values that items compute."""
    for item in items:
        if isinstance(item, Step):
            yield from item.outputs
        elif isinstance(item, LoopStep):
            yield from () if item.carrier is None else (item.carrier,)
            for _, body in item.iterations:
                yield from made(body)
        elif isinstance(item, WhenStep):
            yield from made(item.items)
            yield from (after for _, _, after in item.rebinds)
        else:
            yield from made(item.items)
            yield from (*item.scan.bound, *item.outputs)


def whens(items: Sequence[Item]) -> Iterator[WhenStep]:
    """The regions of a mode, inside each other too."""
    for item in items:
        if isinstance(item, WhenStep):
            yield item
            yield from whens(item.items)
        elif isinstance(item, ScanStep):
            yield from whens(item.items)
        elif isinstance(item, LoopStep):
            for _, body in item.iterations:
                yield from whens(body)

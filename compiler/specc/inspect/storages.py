"""What is spent while nodes run one after the other, and the memory of the values that they make."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from specc.dims import Dim
from specc.inspect.formulas import ZERO, Formula, Largest, largest, times, total


@dataclass(frozen=True)
class Spent:
    """FLOPs of the forward pass and of the gradients, of both those of matrix products; bytes.

    `moved`: what operators read and write in the forward pass, each operand and result once. `saved`: kept until the
    gradients are computed. `peak`: alive at once in inference, one of several candidates.
    """

    flops: Formula = ZERO
    products: Formula = ZERO
    backward: Formula = ZERO
    backward_products: Formula = ZERO
    moved: Formula = ZERO
    saved: Formula = ZERO
    peak: Largest = ()

    @property
    def columns(self) -> tuple[Formula, ...]:
        """All that adds up."""
        return self.flops, self.products, self.backward, self.backward_products, self.moved, self.saved

    @property
    def training(self) -> Formula:
        return total((self.flops, self.backward))

    @property
    def training_products(self) -> Formula:
        return total((self.products, self.backward_products))

    def repeated(self, steps: Dim) -> Spent:
        """Of running that often, one after the other."""
        flops, products, backward, backward_products, moved, saved = (times(c, steps) for c in self.columns)
        return Spent(flops, products, backward, backward_products, moved, saved, self.peak)


def both(spent: Iterable[Spent]) -> Spent:
    """One after the other."""
    found = list(spent)
    sums = (total(of.columns[i] for of in found) for i in range(len(Spent().columns)))
    flops, products, backward, backward_products, moved, saved = sums
    peak = largest(peak for of in found for peak in of.peak)
    return Spent(flops, products, backward, backward_products, moved, saved, peak)


@dataclass(eq=False)
class Storage:
    """`live`: its bytes in inference, where a dropout's result is its operand. `input`: see `Result`."""

    bytes: Dim
    live: Dim
    input: int | None = None
    counted: bool = False  # a callee counts it as saved
    saved: bool = False
    of: Storage | None = None  # which lives as long
    last: int = -1


@dataclass
class Event:
    """One node: the storages it makes, and what it takes beside them while it runs."""

    made: list[Storage]
    spent: Spent
    inside: Largest = ()
    whole: bool = False  # `inside` includes what it makes


def use(storage: Storage, at: int) -> None:
    storage.last = max(storage.last, at)
    if storage.of is not None:
        use(storage.of, at)


def save(storage: Storage) -> None:
    storage.saved = True
    if storage.of is not None and storage.bytes == ZERO:
        save(storage.of)


def peak_of(events: Sequence[Event]) -> Largest:
    """The most that lives at once: before each node, what is made and not yet freed, and what it takes itself."""
    freed: dict[int, list[Storage]] = {}
    for at, event in enumerate(events):
        for storage in event.made:
            freed.setdefault(max(at, storage.last), []).append(storage)
    live, found = ZERO, list[Dim]()
    for at, event in enumerate(events):
        made = total(storage.live for storage in event.made) or ZERO
        inside = event.inside or (ZERO,)
        found += [live + most + (ZERO if event.whole else made) for most in inside]
        live = live + made
        found.append(live)
        for storage in freed.get(at, ()):
            live = live - storage.live
    return largest(found)

"""Operations of a `weights` section, each able to go both ways (LANGUAGE 15).

`forward` makes model tensors of file tensors, `backward` file tensors of model tensors; both only build expressions of
`layout`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, takewhile

from specc.source import Span
from specc.weights import layout
from specc.weights.layout import Expr, LayoutError, Read
from specc.weights.patterns import Captures, Pattern

Lookup = Callable[[str], Read | None]
"""A tensor by its name, None if there is none."""


class Missing(Exception):
    """The other side has no tensor of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class OneWay(Exception):
    """The operation at `span` cannot be inverted (W341)."""

    def __init__(self, message: str, span: Span, help: str = "") -> None:
        super().__init__(message)
        self.message, self.span, self.help = message, span, help


@dataclass(frozen=True)
class Leaf:
    """One file tensor."""

    pattern: Pattern

    def patterns(self) -> Iterator[tuple[Pattern, str | None]]:
        """Every pattern below, with the capture that runs over a stack's elements."""
        yield self.pattern, None

    def forward(self, captures: Captures, file: Lookup) -> list[Expr]:
        name = self.pattern.render(captures)
        tensor = file(name)
        if tensor is None:
            raise Missing(name)
        return [tensor]

    def backward(self, captures: Captures, values: list[Expr]) -> Iterator[tuple[str, Expr]]:
        yield self.pattern.render(captures), _single(values)


@dataclass(frozen=True)
class Step:
    """An operation on each tensor of `x`. `back` is its inverse, None if it has none."""

    name: str
    x: Right
    there: Callable[[Expr], Expr]
    back: Callable[[Expr], Expr] | None
    span: Span

    def patterns(self) -> Iterator[tuple[Pattern, str | None]]:
        return self.x.patterns()

    def forward(self, captures: Captures, file: Lookup) -> list[Expr]:
        return [self.there(x) for x in self.x.forward(captures, file)]

    def backward(self, captures: Captures, values: list[Expr]) -> Iterator[tuple[str, Expr]]:
        if self.back is None:
            help = "reshape([file shape] -> [model shape])"
            raise OneWay("`reshape` does not tell the shape in the file", self.span, help)
        return self.x.backward(captures, [self.back(value) for value in values])


@dataclass(frozen=True)
class Joined:
    """`concat(..)`; without `sizes` the parts are equal."""

    items: tuple[Right, ...]
    axis: int
    sizes: tuple[int, ...] | None

    def patterns(self) -> Iterator[tuple[Pattern, str | None]]:
        for item in self.items:
            yield from item.patterns()

    def forward(self, captures: Captures, file: Lookup) -> list[Expr]:
        parts = [_single(item.forward(captures, file)) for item in self.items]
        if self.sizes is not None:
            found = [p.shape[layout.axis_of(p, self.axis)] for p in parts]
            if found != list(self.sizes):
                along = f"{layout.show(found)} along axis {self.axis}"
                raise LayoutError(f"`sizes` are {layout.show(self.sizes)}, the tensors have {along}")
        elif len({p.shape for p in parts}) > 1:
            found_shapes = ", ".join(layout.show(p.shape) for p in parts)
            raise LayoutError(f"the parts of `concat` are not equal ({found_shapes}): give `sizes`")
        return [layout.concat(parts, self.axis)]

    def backward(self, captures: Captures, values: list[Expr]) -> Iterator[tuple[str, Expr]]:
        whole = _single(values)
        sizes = self.sizes or layout.even_sizes(whole, self.axis, len(self.items))
        for item, value in zip(self.items, layout.split(whole, self.axis, sizes), strict=True):
            yield from item.backward(captures, [value])


@dataclass(frozen=True)
class Parted:
    """`split(x, 3)`, `split(x, [..])`: `sizes` is a number of equal parts or their sizes."""

    x: Right
    sizes: int | tuple[int, ...]
    axis: int

    @property
    def count(self) -> int:
        return self.sizes if isinstance(self.sizes, int) else len(self.sizes)

    def patterns(self) -> Iterator[tuple[Pattern, str | None]]:
        return self.x.patterns()

    def forward(self, captures: Captures, file: Lookup) -> list[Expr]:
        whole = _single(self.x.forward(captures, file))
        sizes = layout.even_sizes(whole, self.axis, self.sizes) if isinstance(self.sizes, int) else self.sizes
        return layout.split(whole, self.axis, sizes)

    def backward(self, captures: Captures, values: list[Expr]) -> Iterator[tuple[str, Expr]]:
        return self.x.backward(captures, [layout.concat(values, self.axis)])


@dataclass(frozen=True)
class Stacked:
    """`stack("e.{x}.w", over = "x")`: the tensors of x = 0, 1, .. along a new axis."""

    pattern: Pattern
    over: str
    axis: int

    def patterns(self) -> Iterator[tuple[Pattern, str | None]]:
        yield self.pattern, self.over

    def name(self, captures: Captures, x: int) -> str:
        return self.pattern.render({**captures, self.over: x})

    def forward(self, captures: Captures, file: Lookup) -> list[Expr]:
        found = (file(self.name(captures, x)) for x in count())
        parts = [tensor for tensor in takewhile(lambda tensor: tensor is not None, found) if tensor is not None]
        if not parts:
            raise Missing(self.name(captures, 0))
        return [layout.stack(parts, self.axis)]

    def backward(self, captures: Captures, values: list[Expr]) -> Iterator[tuple[str, Expr]]:
        for x, value in enumerate(layout.unstack(_single(values), self.axis)):
            yield self.name(captures, x), value


Right = Leaf | Step | Joined | Parted | Stacked


def _single(values: list[Expr]) -> Expr:
    if len(values) != 1:
        raise LayoutError(f"{len(values)} tensors stand where one is needed")
    return values[0]


def results(right: Right) -> int:
    """How many tensors a right side gives."""
    return right.count if isinstance(right, Parted) else results(right.x) if isinstance(right, Step) else 1

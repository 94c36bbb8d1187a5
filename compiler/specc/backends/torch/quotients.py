"""Quotients of runtime sizes that the spec has a name for: `rows = (Y + 6) // 7` is written once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from specc.backends.torch.labels import python_name
from specc.backends.torch.program import Program
from specc.backends.torch.statements import Statement, assign
from specc.dims import Dim, Floor
from specc.dims.text import render
from specc.ir.graph import Apply
from specc.op import Pattern


class Quotients:
    """The named quotients of one method, and which of them its text uses."""

    def __init__(self, program: Program, plain: Mapping[str, Dim | int], taken: Collection[str]) -> None:
        self.of: dict[str, Dim] = {}
        self.names: dict[Floor, str] = {}
        for dim in _sizes(program):
            name, size = python_name(dim.label or ""), dim.substitute(plain)
            floor = _alone(size)
            free = name.isidentifier() and name not in self.of and name not in taken
            if floor is not None and floor not in self.names and free:
                self.of[name], self.names[floor] = size, name
        self.used: set[str] = set()

    def text(self, size: Dim, sizes: Mapping[str, str]) -> str:
        """The size as Python, with these names in it."""
        self.use(self.names[floor] for floor in _floors(size) if floor in self.names)
        return size.python(sizes, self.names)

    def shown(self, size: Dim) -> Dim:
        """The size as comments write it."""
        named = size.label is None and any(floor in self.names for floor in _floors(size))
        return size.with_label(render(size, quotients=self.names)) if named else size

    def use(self, names: Iterable[str]) -> None:
        self.used.update(names)

    def statements(self, sizes: Mapping[str, str]) -> list[Statement]:
        """One assignment for each quotient that was used."""
        return [assign(name, size.python(sizes)) for name, size in self.of.items() if name in self.used]


def _sizes(program: Program) -> Iterator[Dim]:
    for value, step in program.producer.items():
        yield from value.type.shape
        if isinstance(step.node, Apply):
            for attribute in step.node.op.attributes.values():
                yield from _within(attribute)


def _within(attribute: Any) -> Iterator[Dim]:
    if isinstance(attribute, Dim):
        yield attribute
    elif isinstance(attribute, Pattern):
        yield from _within((attribute.left, attribute.right))
    elif isinstance(attribute, tuple):
        for item in attribute:
            yield from _within(item)


def _alone(size: Dim) -> Floor | None:
    """The quotient that the size is."""
    terms = list(size.terms())
    if len(terms) != 1 or terms[0][1] != 1 or len(terms[0][0]) != 1:
        return None
    factor, power = terms[0][0][0]
    return factor if power == 1 and isinstance(factor, Floor) else None


def _floors(size: Dim) -> Iterator[Floor]:
    for monomial, _ in size.terms():
        for factor, _ in monomial:
            if isinstance(factor, Floor):
                yield factor
                yield from _floors(factor.numerator)
                yield from _floors(factor.denominator)

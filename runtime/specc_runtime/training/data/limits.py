"""What the model takes of a field, known from the spec before anything is built."""

from __future__ import annotations

from specc_runtime.inputs import Input, Interface, interface
from specc_runtime.training.section import Section


def fed(section: Section) -> Interface:
    """The section's entry, without the optional inputs that neither a field nor `bind` feeds."""
    entry, of = section.entry, section.checked.model
    given = {*(section.checker.place.fields or ()), *section.bound}
    without = frozenset(a.name for a in of.entries[entry].full.inputs if a.optional and a.name not in given)
    return interface(of, entry, without)


def input_of(section: Section, field: str) -> tuple[Interface, Input | None]:
    """The input that a field feeds."""
    of = fed(section)
    return of, next((i for i in of.inputs if i.name == field and field not in section.bound), None)


def most_ids(section: Section, field: str) -> int | None:
    """The longest row that the model takes in the input of this name; None where any length will do."""
    of, item = input_of(section, field)
    if item is None or len(item.shape) != 2:
        return None
    return of.facts.interval(item.shape[1])[1]

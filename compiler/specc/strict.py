"""`specc check --strict`: sizes that agree because of the values of a configuration, not because of how they are made
(S290).

Every check of a shape compares values. Here each int hyper-parameter of the model is changed by itself: if no change
passes, and one fails because sizes no longer agree, the spec relied on a coincidence. What `require` rules out is no
change, so stating the relation is the way to allow it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from specc.diagnostics import Diagnostic
from specc.ir.declared import Hyper
from specc.ir.graph import Model

Attempt = Callable[[dict[str, str]], tuple[Diagnostic, ...]]
"""The errors of the configuration with these hyper-parameters set (as texts of `--set`)."""

SIZES = frozenset({"S200", "S201", "S203", "S210", "S211", "S220", "S221", "S240", "S241", "S250"})
"""Codes that say that two sizes disagree; a promise that does not hold (S222, S223) is no coincidence."""


def coincidences(model: Model, attempt: Attempt) -> Iterator[Diagnostic]:
    """A finding for each hyper-parameter that can't change by itself; `model` is the configuration as it is."""
    told = set()  # places: of two sizes that agree by chance, each can be changed
    for hyper in model.module.hypers:
        if hyper.is_let or hyper.kind != "int" or not isinstance(hyper.value, int) or hyper.value < 1:
            continue
        finding = _only(hyper, attempt)
        if finding is not None and finding.span not in told:
            told.add(finding.span)
            yield finding


def _only(hyper: Hyper, attempt: Attempt) -> Diagnostic | None:
    first: Diagnostic | None = None
    v = hyper.value
    for value in dict.fromkeys((2 * v, 3 * v, max(1, v // 2), v + 1, v + 2)):
        if value == v:
            continue
        errors = attempt({hyper.name: str(value)})
        if not errors:
            return None
        if first is None and all(error.code in SIZES for error in errors):
            first = _told(hyper, value, errors[0])
    return first


def _told(hyper: Hyper, value: int, error: Diagnostic) -> Diagnostic:
    return replace(
        error,
        code="S290",
        message=f"sizes agree only at {hyper.name} = {hyper.value}; at {hyper.name} = {value}: {error.message}",
        help=error.help
        or f"write one size in terms of the other, or state what must hold:  require {hyper.name} == ..",
        edits=(),
        notes=tuple(note for note in error.notes if note[0] != "counter-example"),
    )

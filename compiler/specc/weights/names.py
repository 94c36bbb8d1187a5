"""Many names in one line: `h.{0..11}.attn.bias` for a person, `h.{i}.attn.bias` for a rule."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import prod

_NUMBER = re.compile(r"\d+")


def template(name: str) -> str:
    """The name without its numbers: what repetitions of one tensor share."""
    return _NUMBER.sub("#", name)


def fold(names: Iterable[str]) -> list[str]:
    """The names with repetitions folded, in the order of their first appearance."""
    return [text for group in _groups(names) for text in _folded(group)]


def generalize(names: Sequence[str]) -> str | None:
    """The pattern that gives exactly these names of one template; None if their numbers are no full grid."""
    parts, columns = _numbers(names)
    if prod(len(set(c)) for c in columns) != len(set(names)):
        return None
    letters = iter("ijklmnop")
    holes = []
    for column in columns:
        if len(set(column)) > 1:
            letter = next(letters, None)
            if letter is None:
                return None
            holes.append(f"{{{letter}}}")
        else:
            holes.append(column[0])
    return _filled(parts, holes)


def _groups(names: Iterable[str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(template(name), []).append(name)
    return list(groups.values())


def _numbers(names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The literal parts of names of one template, and for each place between them its numbers."""
    parts = _NUMBER.split(names[0])
    rows = [_NUMBER.findall(name) for name in names]
    return parts, [list(column) for column in zip(*rows, strict=True)]


def _filled(parts: Sequence[str], holes: Sequence[str]) -> str:
    return "".join(part + hole for part, hole in zip(parts, [*holes, ""], strict=True))


def _folded(names: Sequence[str]) -> list[str]:
    parts, columns = _numbers(names)
    kinds = [sorted(set(column), key=int) for column in columns]
    if prod(len(kind) for kind in kinds) == len(set(names)):
        return [_filled(parts, [_range(kind) for kind in kinds])]
    first = next(i for i, kind in enumerate(kinds) if len(kind) > 1)
    split = [[n for n, value in zip(names, columns[first], strict=True) if value == one] for one in kinds[first]]
    return [text for group in split for text in _folded(group)]


def _range(numbers: Sequence[str]) -> str:
    if len(numbers) == 1:
        return numbers[0]
    values = [int(n) for n in numbers]
    if values == list(range(values[0], values[-1] + 1)):
        return f"{{{values[0]}..{values[-1]}}}"
    shown = ",".join(numbers[:8]) + (",.." if len(numbers) > 8 else "")
    return f"{{{shown}}}"

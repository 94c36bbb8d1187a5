"""Differences of two subjects as data: what is added, removed and changed, equal changes of repeated parts as one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

from specc.diagnostics import Collector, Diagnostic, Rejected
from specc.dims import Dim
from specc.inspect.examples import example
from specc.inspect.formulas import ZERO, Formula
from specc.weights.layout import TensorInfo
from specc.weights.moved import instances, read_moves
from specc.weights.renames import find_renames
from specc_runtime.diff.subject import Part, Subject

Action = Literal["+", "-", "~"]
MOVED = "moved to "
"""How what becomes of a renamed tensor begins."""
_INDEX = re.compile(r"(?<![^.])\d+(?![^.])")


@dataclass(frozen=True)
class Change:
    """`name` with what it was and is, as text; `count` of them have this very change, `percent` is that of a number."""

    action: Action
    name: str
    before: str = ""
    after: str = ""
    count: int = 1
    percent: str = ""

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"action": {"+": "add", "-": "remove", "~": "change"}[self.action], "name": self.name}
        data |= {"before": self.before, "after": self.after, "count": self.count}
        return data | ({"percent": self.percent} if self.percent else {})


@dataclass(frozen=True)
class Section:
    """One aspect. `unknown`: why it was not compared."""

    title: str
    changes: tuple[Change, ...]
    unknown: str = ""

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"title": self.title, "changes": [change.to_json() for change in self.changes]}
        return data | ({"unknown": self.unknown} if self.unknown else {})


@dataclass(frozen=True)
class Moved:
    """A `moved` line that the second model does not have, and with which so many tensors more would load."""

    block: str
    line: str
    tensors: int

    def to_json(self) -> dict[str, Any]:
        return {"block": self.block, "line": self.line, "tensors": self.tensors}


@dataclass(frozen=True)
class Fate:
    """What becomes of a checkpoint of the first model in the second; names are folded, counts are of tensors."""

    loads: int
    changes: tuple[Change, ...]  # "~" renamed or of another shape, "+" missing in the checkpoint, "-" left over
    fits: bool
    renames: tuple[Moved, ...] = ()  # those that shapes leave no doubt of

    def to_json(self) -> dict[str, Any]:
        changes = [change.to_json() for change in self.changes]
        renames = [one.to_json() for one in self.renames]
        return {"loads": self.loads, "fits": self.fits, "changes": changes, "renames": renames}


@dataclass(frozen=True)
class Difference:
    """All there is to say of two subjects."""

    before: str
    after: str
    sections: tuple[Section, ...]
    checkpoint: Fate

    @property
    def equal(self) -> bool:
        return not any(section.changes for section in self.sections)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": "specc-diff/1",
            "before": self.before,
            "after": self.after,
            "equal": self.equal,
            "sections": [section.to_json() for section in self.sections],
            "checkpoint": self.checkpoint.to_json(),
        }


def difference(before: Subject, after: Subject, at: Mapping[str, int] | None = None) -> Difference:
    """Compare two subjects; `at` gives numbers beside formulas that depend on sizes.

    Raises `Rejected` (E009) for sizes that a side's entry does not take.
    """
    if at is not None:
        _check_sizes(before, after, at)
    unknown = before.unknown or after.unknown
    moved = _moved(before, after)
    costed = before.costed and after.costed
    sections = [
        _section("hyper-parameters", _mappings(before.hypers, after.hypers), before.hypers, after.hypers, unknown),
        Section("build", tuple(_made(before, after))),
        _section("structure", _structure(before, after), before.parts, after.parts, unknown),
        Section("inputs", tuple(_mappings(before.inputs, after.inputs))),
        Section("outputs", tuple(_mappings(before.outputs, after.outputs))),
        Section("tensors", tuple(folded(_mappings(_shapes(before, moved), _shapes(after, {}))))),
        Section("ties", tuple(folded(_mappings(before.ties, after.ties)))),
        Section("cost", tuple(_costs(before, after, at))),
        *([] if costed else [Section(_uncosted(before, after), (), unknown)]),
        _section(
            "ONNX operators",
            _mappings(_counts(before), _counts(after)),
            before.operators,
            after.operators,
            before.no_operators or after.no_operators,
        ),
    ]
    return Difference(before.label, after.label, tuple(sections), _fate(before, after, moved))


def _section(title: str, changes: Iterable[Change], before: object, after: object, unknown: str) -> Section:
    if before is None or after is None:
        return Section(title, (), unknown)
    return Section(title, tuple(changes))


def _mappings(before: Mapping[str, str] | None, after: Mapping[str, str] | None) -> Iterator[Change]:
    """In the order of the second, what only the first has at its place there."""
    one, other = before or {}, after or {}
    for name in _merged(one, other):
        if name not in one:
            yield Change("+", name, "", other[name])
        elif name not in other:
            yield Change("-", name, one[name])
        elif one[name] != other[name]:
            yield Change("~", name, one[name], other[name])


def _merged(one: Mapping[str, object], other: Mapping[str, object]) -> Iterator[str]:
    """Names of both: the order of the first, new ones behind the one that they follow."""
    new: dict[str | None, list[str]] = {}
    last: str | None = None
    for name in other:
        if name in one:
            last = name
        else:
            new.setdefault(last, []).append(name)
    yield from new.get(None, ())
    for name in one:
        yield name
        yield from new.get(name, ())


def _shapes(subject: Subject, moved: Mapping[str, str]) -> dict[str, str]:
    """By the name that a `moved` line gives."""
    return {moved.get(n, n): _shape(info) for n, info in subject.tensors.items() if n not in subject.ties}


def _shape(info: TensorInfo) -> str:
    sizes = str(list(info.shape))
    return sizes if info.dtype == "F32" else f"{info.dtype} {sizes}"


def _counts(subject: Subject) -> dict[str, str] | None:
    return None if subject.operators is None else {k: str(v) for k, v in sorted(subject.operators.items())}


def _made(before: Subject, after: Subject) -> Iterator[Change]:
    """How two builds were made; a spec is no build."""
    if before.made is not None and after.made is not None:
        yield from _mappings(before.made, after.made)


def _check_sizes(before: Subject, after: Subject, at: Mapping[str, int]) -> None:
    dims = tuple(dict.fromkeys((*before.dims, *after.dims)))
    notes = (("available", ", ".join(dims) or "none: every size is fixed"),)
    help = example(dims, before.facts.union(after.facts))
    strange = next((name for name in at if name not in dims), None)
    if strange is not None:
        raise Rejected([Diagnostic("E009", f"neither model has a dim `{strange}`", notes=notes, help=help)])
    missing = ", ".join(f"`{name}`" for name in dims if name not in at)
    if missing:
        raise Rejected([Diagnostic("E009", f"no size is given for {missing}", notes=notes, help=help)])
    for side in (before, after):
        broken = side.facts.satisfied_by({name: at[name] for name in side.dims})
        if broken is not None:
            raise Rejected([Diagnostic("E009", f"{_sizes(at)}: {side.label} needs {broken}", notes=notes, help=help)])


def _sizes(at: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={value}" for name, value in at.items())


def _costs(before: Subject, after: Subject, at: Mapping[str, int] | None) -> Iterator[Change]:
    if before.parameters is not None and after.parameters is not None:
        yield from _formulas("parameters", Dim.const(before.parameters), Dim.const(after.parameters), None)
        if before.active is not None or after.active is not None:
            left = Dim.const(before.parameters if before.active is None else before.active)
            right = Dim.const(after.parameters if after.active is None else after.active)
            yield from _formulas("active parameters", left, right, None)
    if not (before.costed and after.costed):
        yield from _formulas("FLOPs of products", before.products, after.products, at)
        return
    yield from _formulas("FLOPs", before.flops, after.flops, at)
    one, other = (
        (c.token, c.constant, c.bytes) if c is not None else (ZERO, ZERO, ZERO) for c in (before.cache, after.cache)
    )
    yield from _formulas("cache bytes per token", one[0], other[0], None)
    yield from _formulas("cache bytes that do not grow", one[1], other[1], None)
    if at is not None:  # the formula is told by the two above
        yield from (change for change in _formulas("cache bytes", one[2], other[2], at) if " at " in change.name)


def _uncosted(before: Subject, after: Subject) -> str:
    """What is not compared where one side has no formulas of its own."""
    return "FLOPs and cache" if None in (before.products, after.products) else "FLOPs but of products, cache"


def _formulas(name: str, before: Formula, after: Formula, at: Mapping[str, int] | None) -> Iterator[Change]:
    """A formula of each side where they differ, and its number; what is too long to write (None) is not compared."""
    if before is None or after is None or before == after:
        return
    if before == ZERO or after == ZERO:
        yield Change("+", name, "", str(after)) if before == ZERO else Change("-", name, str(before))
        return
    (left_terms, right_terms), percent = (before.terms(), after.terms()), ""
    if len(left_terms) == len(right_terms) == 1 and left_terms[0][0] == right_terms[0][0]:
        percent = _percent(left_terms[0][1], right_terms[0][1])
    yield Change("~", name, str(before), str(after), percent=percent)
    symbols = {*before.symbols, *after.symbols}
    if at is not None and symbols and symbols <= set(at):
        left, right = before.evaluate(at), after.evaluate(at)
        yield Change("~", f"{name} at {_sizes(at)}", str(left), str(right), percent=_percent(left, right))


def _percent(before: int, after: int) -> str:
    return f"{(after - before) / before:+.1%}" if before else ""


# ---- structure -------------------------------------------------------------------------------------------------------


def _structure(before: Subject, after: Subject) -> Iterator[Change]:
    """Blocks that came, went or are others; what is below an added or removed block goes without saying."""
    one, other = before.parts or {}, after.parts or {}
    silent: set[str] = set()  # paths whose inside is not spoken of
    found: list[Change] = []
    for path in _merged(one, other):
        parent = path.rpartition(".")[0]
        if path and (parent in silent):
            silent.add(path)
            continue
        old, new = one.get(path), other.get(path)
        if old is None or new is None:
            silent.add(path)
            part = old or new
            assert part is not None
            text = _written(part, part.hypers)
            found.append(Change("+", path, "", text) if old is None else Change("-", path, text))
            continue
        if path and (old.leaf or new.leaf or old.block != new.block):
            silent.add(path)
        if path and old != new:
            names = [n for n in {**old.hypers, **new.hypers} if old.hypers.get(n) != new.hypers.get(n)]
            found.append(Change("~", path, _written(old, names), _written(new, names)))
    return folded(found)


def _written(part: Part, names: Iterable[str]) -> str:
    shown = ", ".join(f"{name} = {part.hypers[name]}" for name in names if name in part.hypers)
    return f"{part.block}({shown})" if shown else part.block


# ---- a checkpoint ----------------------------------------------------------------------------------------------------


def _moved(before: Subject, after: Subject) -> Mapping[str, str]:
    """The second model's names of tensors of the first, where its `moved` lines tell other ones."""
    if after.checked is None:
        return {}
    moves = read_moves(after.checked.model, after.checked.elaborator, Collector())
    return moves.names((name for name in before.tensors if name not in before.ties), after.tensors)


def _fate(before: Subject, after: Subject, moved: Mapping[str, str]) -> Fate:
    """What loading tensors of the first model's names into the second would do.

    Of two that are one tensor there, the second is left over: a build takes it only if its values are the same (W312).
    """
    file = {name: info for name, info in before.tensors.items() if name not in before.ties}
    wanted = {name: info for name, info in after.tensors.items() if name not in after.ties}
    changes: list[Change] = []
    here: set[str] = set()
    loads = 0
    for name, info in file.items():
        now = moved.get(name, name)
        now = after.ties.get(now, now)
        if now not in wanted or now in here:
            changes.append(Change("-", name, _shape(info), f"is {now}" if now in here else ""))
            continue
        here.add(now)
        if wanted[now].shape != info.shape:
            changes.append(Change("~", now, _shape(info), _shape(wanted[now])))
        else:
            loads += 1
            if now != name:
                changes.append(Change("~", name, "", f"{MOVED}{now}"))
    missing = {name: info for name, info in wanted.items() if name not in here}
    changes += [Change("+", name, "", _shape(info)) for name, info in missing.items()]
    left = {name: info for name, info in file.items() if moved.get(name, name) not in wanted}
    return Fate(loads, tuple(folded(changes)), loads == len(file) == len(wanted), _renames(left, missing, after))


def _renames(left: Mapping[str, TensorInfo], missing: Mapping[str, TensorInfo], after: Subject) -> tuple[Moved, ...]:
    if after.checked is None or not left or not missing:
        return ()
    parts = instances(after.checked.model, after.checked.elaborator)
    owners = {path: one for path, one in parts if not one.decl.file.is_std}
    certain, _ = find_renames(left, missing, owners)
    return tuple(Moved(r.owner.decl.name, f'moved "{r.old}" -> "{r.new}"', len(r.pairs)) for r in certain)


# ---- repeated parts --------------------------------------------------------------------------------------------------


def folded(changes: Iterable[Change]) -> Iterator[Change]:
    """Changes that differ only in the indices of their names as one: `h.{0..11}.mlp`."""
    groups: dict[tuple[str, ...], list[tuple[list[int], Change]]] = {}
    for change in changes:
        indices = [int(i) for i in _INDEX.findall(change.name)]
        after = _INDEX.sub("*", change.after) if change.after.startswith(MOVED) else change.after
        key = (change.action, _INDEX.sub("*", change.name), change.before, after)
        groups.setdefault(key, []).append((indices, change))
    for members in groups.values():
        yield from _together(members)


def _together(members: Sequence[tuple[list[int], Change]]) -> Iterator[Change]:
    """Changes of one pattern: one for all if every combination of their indices is there, else one for each first."""
    first = members[0][1]
    columns = [sorted(set(column)) for column in zip(*(indices for indices, _ in members), strict=True)]
    if len(members) == 1:
        yield first
    elif prod(map(len, columns)) == len(members):
        name, after = _with(first.name, columns), first.after
        if after.startswith(MOVED):
            after = MOVED + _with(after.removeprefix(MOVED), columns)
        yield replace(first, name=name, after=after, count=len(members))
    else:
        at = next(at for at, column in enumerate(columns) if len(column) > 1)
        for outer in columns[at]:
            yield from _together([member for member in members if member[0][at] == outer])


def _with(name: str, columns: list[list[int]]) -> str:
    """A name with sets of indices in the place of its own."""
    rest = iter(columns)
    return _INDEX.sub(lambda m: _set(next(rest, [int(m[0])])), name)


def _set(values: list[int]) -> str:
    """{0..11}, {0..3, 7}."""
    if len(values) == 1:
        return str(values[0])
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return "{" + ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs) + "}"

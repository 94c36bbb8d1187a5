"""Renames that explain why a checkpoint with the model's own names does not fit any more (W320).

What the file has too much and what the model lacks are compared by repetition: paths that differ in one place, have
the same indices and the same shapes. A part was renamed if that holds for everything below it, and for nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from specc.diagnostics import Collector, Diagnostic, Edit
from specc.elaborate.elaborator import Elaborator
from specc.elaborate.instances import Instance
from specc.ir.graph import Model
from specc.source import Span
from specc.syntax import ast
from specc.weights.layout import TensorInfo
from specc.weights.moved import instances
from specc.weights.names import fold

Key = tuple[str, ...]
"""The segments of a path, indices as `#`: what repetitions of one tensor share."""

MAX_PAIRS = 250_000  # of paths that are compared: more is another model, not a rename
_INDEX = "#"
_LETTERS = "ijklmnop"


@dataclass(frozen=True)
class Rename:
    """What one `moved` line would explain: file name -> the model's name. Paths are relative to the owner's block."""

    owner: Instance
    old: str
    new: str
    pairs: Mapping[str, str]


@dataclass(eq=False)
class _Candidate:
    owner: Instance
    old: str
    new: str
    before: Key  # the whole paths of what is renamed
    after: Key
    keys: list[tuple[Key, Key]]


def find_renames(
    file: Mapping[str, TensorInfo], model: Mapping[str, TensorInfo], owners: Mapping[str, Instance]
) -> tuple[list[Rename], list[list[Rename]]]:
    """(the renames that are the only explanation, groups of those of which one excludes the others).

    `file`: its tensors that the model does not have; `model`: those that the file does not have.
    """
    old, new = _grouped(file), _grouped(model)
    if len(old) * len(new) > MAX_PAIRS:
        return [], []
    found: dict[tuple[object, ...], _Candidate] = {}
    for before in old:
        for after in new:
            if _same(old[before], new[after], file, model):
                _collect(found, before, after, next(iter(new[after].values())), owners)
    whole = [c for c in found.values() if _complete(c, old, new)]
    certain: list[Rename] = []
    doubtful: list[list[Rename]] = []
    while whole:
        best = max(whole, key=lambda c: len(c.keys))
        rivals = [best]
        for one in rivals:  # grows: a rival's rivals are in doubt as well
            rivals += [c for c in whole if c not in rivals and len(c.keys) == len(best.keys) and _overlap(one, c)]
        if len(rivals) > 1:
            doubtful.append([_rename(c, old, new) for c in rivals])
        else:
            certain.append(_rename(best, old, new))
        whole = [c for c in whole if not any(c is gone or _overlap(c, gone) for gone in rivals)]
    return certain, doubtful


def _grouped(tensors: Mapping[str, TensorInfo]) -> dict[Key, dict[Key, str]]:
    """Key -> indices -> name."""
    found: dict[Key, dict[Key, str]] = {}
    for name in tensors:
        segments = name.split(".")
        key = tuple(_INDEX if s.isdecimal() else s for s in segments)
        found.setdefault(key, {})[tuple(s for s in segments if s.isdecimal())] = name
    return found


def _same(
    old: Mapping[Key, str], new: Mapping[Key, str], file: Mapping[str, TensorInfo], model: Mapping[str, TensorInfo]
) -> bool:
    return old.keys() == new.keys() and all(file[old[i]].shape == model[new[i]].shape for i in old)


def _collect(
    found: dict[tuple[object, ...], _Candidate], before: Key, after: Key, example: str, owners: Mapping[str, Instance]
) -> None:
    """Enter the rename that takes one path to the other, as the innermost block that holds both would write it."""
    start, end = _common(before, after), _common(before[::-1], after[::-1])
    end = min(end, len(before) - start - 1, len(after) - start - 1)
    left, right = before[: len(before) - end], after[: len(after) - end]
    segments = example.split(".")
    depth = next(d for d in range(start, -1, -1) if ".".join(segments[:d]) in owners)
    owner = owners[".".join(segments[:depth])]
    old, new = _written(left[depth:]), _written(right[depth:])
    key = (owner.decl, old, new, left, right)
    candidate = found.setdefault(key, _Candidate(owner, old, new, left, right, []))
    candidate.keys.append((before, after))


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """How many segments both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _written(key: Key) -> str:
    letters = iter(_LETTERS)
    return ".".join(f"{{{next(letters)}}}" if segment == _INDEX else segment for segment in key)


def _complete(candidate: _Candidate, old: Mapping[Key, object], new: Mapping[Key, object]) -> bool:
    """Whether everything below the old path is explained, and everything below the new one."""
    before = {key for key in old if key[: len(candidate.before)] == candidate.before}
    after = {key for key in new if key[: len(candidate.after)] == candidate.after}
    return {b for b, _ in candidate.keys} == before and {a for _, a in candidate.keys} == after


def _overlap(one: _Candidate, other: _Candidate) -> bool:
    return any(a == c or b == d for a, b in one.keys for c, d in other.keys)


def _rename(candidate: _Candidate, old: Mapping[Key, dict[Key, str]], new: Mapping[Key, dict[Key, str]]) -> Rename:
    pairs = {old[b][index]: new[a][index] for b, a in candidate.keys for index in old[b]}
    return Rename(candidate.owner, candidate.old, candidate.new, pairs)


# ---- telling ---------------------------------------------------------------------------------------------------------


def explain_renames(
    file: Mapping[str, TensorInfo],
    model: Mapping[str, TensorInfo],
    checked: tuple[Model, Elaborator],
    collector: Collector,
    file_name: str,
) -> dict[str, str]:
    """Report the renames that explain what does not fit (W320); returns file name -> the model's, as they would say.

    `file` and `model` as in `find_renames`.
    """
    if not file or not model:
        return {}
    owners = {path: one for path, one in instances(*checked) if not one.decl.file.is_std}
    certain, doubtful = find_renames(file, model, owners)
    names: dict[str, str] = {}
    for rename in certain:
        names |= rename.pairs
        collector.add(_told(rename, file_name))
    for group in doubtful:
        for rename in group:  # one way to have each once: nothing more is said of these tensors
            free = set(rename.pairs.values()).isdisjoint(names.values()) and names.keys().isdisjoint(rename.pairs)
            names |= rename.pairs if free else {}
        collector.add(_doubt(group, file_name))
    return names


def _told(rename: Rename, file_name: str) -> Diagnostic:
    line = f'moved "{rename.old}" -> "{rename.new}"'
    count = len(rename.pairs)
    place, start = _declared(rename)
    return Diagnostic(
        "W320",
        f"a rename makes {count} tensor{'s' if count > 1 else ''} of {file_name} unreadable",
        place,
        f"was `{rename.old}` when the checkpoint was written",
        path=f"in {rename.owner.decl.name}",
        notes=(("found", ", ".join(fold(rename.pairs)[:4])), ("expected", ", ".join(fold(rename.pairs.values())[:4]))),
        help=f"keep old checkpoints loadable:  {line}",
        edits=(_insertion(start, line),) if start is not None else (),
    )


def _doubt(group: Sequence[Rename], file_name: str) -> Diagnostic:
    lines = [f'moved "{r.old}" -> "{r.new}"' for r in group]
    place, _ = _declared(group[0])
    return Diagnostic(
        "W320",
        f"renames make tensors of {file_name} unreadable, and shapes do not tell which is which",
        place,
        path=f"in {group[0].owner.decl.name}",
        notes=tuple(("either", line) for line in lines[:8]),
        help="state those that are true",
    )


def _declared(rename: Rename) -> tuple[Span, Span | None]:
    """The name of what the new path names, and the member of the block that declares it."""
    node = rename.owner.decl.node
    members: Sequence[object] = node.members
    name, outer = node.name.span, None
    for segment in rename.new.split("."):
        member = next((m for m in members if isinstance(m, (ast.Part, ast.ParamDecl)) and m.name.id == segment), None)
        if member is None:
            break
        name, outer = member.name.span, outer or member.span
        value = member.value if isinstance(member, ast.Part) else None
        members = value.members if isinstance(value, ast.Group) else ()
    return name, outer


def _insertion(member: Span, line: str) -> Edit:
    """The edit that states a line before a member: on a line of its own if the member begins one."""
    text = member.source.text
    start = text.rfind("\n", 0, member.start) + 1
    indent = text[start : member.start]
    own = not indent.strip()
    return Edit(Span(member.source, member.start, member.start), f"{line}\n{indent}" if own else f"{line}; ")

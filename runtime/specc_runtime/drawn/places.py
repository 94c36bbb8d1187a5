"""Paths as the nodes of a drawing have them: `h.0..11.attn` stands for the parts of twelve blocks at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import FunctionProto, ModelProto, NodeProto

Segment = str | tuple[int, int]
"""A name, or the first and the last number of a range."""
Place = tuple[Segment, ...]
Key = tuple[str, str, str]
"""Domain, name and overload of a function."""

_SEGMENT = re.compile(r"\{?(\d+)\.\.(\d+)\}?|[^.]+")
_COUNT = re.compile(r"^\d+ x ")


def parse(path: str) -> Place:
    """`h.0..11.attn`, `h.{0..11}.attn` or `h.3.attn` as segments; a number is a range of one."""
    found: list[Segment] = []
    for match in _SEGMENT.finditer(path):
        if match[1] is not None:
            found.append((int(match[1]), int(match[2])))
        else:
            text = match[0]
            found.append((int(text), int(text)) if text.isascii() and text.isdigit() else text)
    return tuple(found)


def text(place: Place) -> str:
    """As specs write it: `h.0..11.attn`."""
    return ".".join(s if isinstance(s, str) else f"{s[0]}" if s[0] == s[1] else f"{s[0]}..{s[1]}" for s in place)


def within(part: Place, whole: Place) -> bool:
    """Whether every part that `part` stands for is, or is inside, one that `whole` stands for."""
    return len(part) >= len(whole) and all(_covers(w, p) for p, w in zip(part, whole, strict=False))


def shared(place: Place, other: Place) -> Fraction:
    """How many of the parts that `place` stands for `other` stands for, too: 1 for all of them, 0 for none."""
    found = Fraction(len(place) == len(other))
    for a, b in zip(place, other, strict=False):
        if isinstance(a, str) or isinstance(b, str):
            found *= a == b
        else:
            found *= Fraction(max(0, min(a[1], b[1]) - max(a[0], b[0]) + 1), a[1] - a[0] + 1)
    return found


def _covers(whole: Segment, part: Segment) -> bool:
    if isinstance(whole, str) or isinstance(part, str):
        return whole == part
    return whole[0] <= part[0] and part[1] <= whole[1]


def base_name(op_type: str) -> str:
    """The block's name without the count in front of it: `12 x Block` is `Block`."""
    return _COUNT.sub("", op_type)


def key_of(node: NodeProto) -> Key:
    return node.domain, node.op_type, node.overload


def functions(model: ModelProto) -> dict[Key, FunctionProto]:
    """The local functions of a model, by what calls them."""
    return {(f.domain, f.name, f.overload): f for f in model.functions}


def scope(node: NodeProto) -> str:
    """The path of the part that an operator belongs to: `attn.q` of `attn.q/MatMul` and of `/attn/q/MatMul`."""
    return node.name.strip("/").rpartition("/")[0].replace("/", ".")


@dataclass(frozen=True)
class Scope:
    """Where the nodes of one function are. `binds`: what the loop variables that their paths begin with stand for."""

    base: Place = ()
    binds: Mapping[str, Place] = field(default_factory=dict)

    def resolve(self, path: str) -> Place:
        inner = parse(path)
        if inner and isinstance(inner[0], str) and inner[0] in self.binds:
            return (*self.binds[inner[0]], *inner[1:])
        return (*self.base, *inner)


def is_own(node: NodeProto) -> bool:
    """Whether a node calls another method of its own block: it is named after the function, not after a part."""
    name = re.escape(base_name(node.op_type))
    return re.fullmatch(rf"{name}(_\d+)?", node.name.rpartition("/")[2]) is not None


def is_loop(node: NodeProto) -> bool:
    """Whether a node stands for turns of a loop over several parts, not for a part."""
    return bool(_loop_names(node))


def _loop_names(node: NodeProto) -> str:
    return next((p.value for p in node.metadata_props if p.key == "loop"), "")


def opened(node: NodeProto, at: Scope) -> Scope:
    """Where the nodes are of the function that `node` calls."""
    if is_own(node):
        return at
    bound = _loop_names(node)
    if not bound:
        return Scope(at.resolve(node.name))
    parts = [at.resolve(part) for part in node.name.split(", ")]
    return Scope(at.base, {**at.binds, **dict(zip(bound.split(", "), parts, strict=False))})


def scopes(model: ModelProto) -> dict[Key | None, list[Scope]]:
    """Every place of every function, in the order of the drawing; None: the graph itself.

    Equal places are given once. Drawings have no recursion, and ONNX forbids it.
    """
    known = functions(model)
    found: dict[Key | None, list[Scope]] = {None: [Scope()]}

    def visit(nodes: Iterator[NodeProto], at: Scope) -> None:
        for node in nodes:
            key = key_of(node)
            if key in known:
                inside = opened(node, at)
                places = found.setdefault(key, [])
                if inside not in places:
                    places.append(inside)
                    visit(iter(known[key].node), inside)

    visit(iter(model.graph.node), Scope())
    return found


def name_nodes(model: ModelProto) -> None:
    """Give every node of a drawing a name of its own in the whole file, its full path where it has one.

    An attachment finds nodes by name, whichever function they are in.
    """
    taken = {node.name for node in model.graph.node}
    places = scopes(model)
    for function in model.functions:
        where = places.get((function.domain, function.name, function.overload), [])
        label = base_name(function.name) + (f"_{function.overload}" if function.overload else "")
        for node in function.node:
            full = _full_name(node, where[0], (function.domain, function.name)) if len(where) == 1 else None
            name = full or f"{label}: {node.name or node.op_type}"
            unique, count = name, 1
            while unique in taken:
                count += 1
                unique = f"{name} ({count})"
            taken.add(unique)
            node.name = unique


def _full_name(node: NodeProto, at: Scope, within_: tuple[str, str]) -> str:
    head, slash, operator = node.name.rpartition("/")
    if slash:
        place = text(at.resolve(head.replace("/", ".")))
        return f"{place}/{operator}"
    if node.domain == within_[0] and not is_own(node):
        return text(at.resolve(node.name))
    place = text(at.base)
    return f"{place}/{node.name}" if place else node.name

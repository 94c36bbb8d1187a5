"""A tree of tensors by their dotted names, equal neighbours folded, and the ways to print it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from specc.inspect.formulas import ZERO, Formula, times, total
from specc.inspect.numbers import aligned, byte_text, formula, rounded


@dataclass(frozen=True)
class Tensor:
    """One weight. `bytes` as they lie in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def elements(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class Part:
    """A level of the names, `count` equal ones with consecutive numbers; `flops` are of the operators below it."""

    name: str
    count: int
    tensors: tuple[Tensor, ...]
    children: tuple[Part, ...]
    flops: Formula = ZERO

    @property
    def parameters(self) -> int:
        """Of one of the equal ones."""
        own = sum(tensor.elements for tensor in self.tensors if tensor.dtype.lower() not in INDICES)
        return own + sum(child.count * child.parameters for child in self.children)

    @property
    def bytes(self) -> int:
        own = sum(tensor.bytes for tensor in self.tensors)
        return own + sum(child.count * child.bytes for child in self.children)


@dataclass(frozen=True)
class Summary:
    """`facts` are lines about the whole file; `data` what `json` says beyond the tree; `at` the sizes asked for."""

    title: str
    root: Part
    facts: tuple[tuple[str, str], ...]
    data: Mapping[str, Any] = field(default_factory=dict)
    at: Mapping[str, int] | None = None
    counts_flops: bool = False

    def shown(self, format: str, depth: int | None = None) -> str:
        """In one of the formats of `specc inspect`."""
        cut = self if depth is None else replace(self, root=_cut(self.root, depth))
        if format == "json":
            return json.dumps(cut.to_json(), indent=1) + "\n"
        if format == "csv":
            return cut._csv()
        if format == "markdown":
            return cut._markdown()
        if format == "mermaid":
            return cut._mermaid()
        return cut._text()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        data: dict[str, Any] = {"file": self.title, "at": dict(self.at) if self.at else None, **self.data}
        return {**data, "tree": self._part(self.root)}

    def _part(self, part: Part) -> dict[str, Any]:
        data: dict[str, Any] = {
            "path": part.name,
            "count": part.count,
            "parameters": part.parameters,
            "bytes": part.bytes,
            "tensors": [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape)} for t in part.tensors],
        }
        if self.counts_flops:
            data["flops"] = None if part.flops is None else str(part.flops)
            if self.at is not None and part.flops is not None:
                data["flops_at"] = part.flops.evaluate(self.at)
        data["children"] = [self._part(child) for child in part.children]
        return data

    # ---- tables ------------------------------------------------------------------------------------------------------

    @property
    def _head(self) -> tuple[str, ...]:
        return ("block", "weights", "parameters", "bytes", *(("FLOPs",) if self.counts_flops else ()))

    def _cells(self, part: Part) -> tuple[str, ...]:
        times = f"{part.count} x " if part.count > 1 else ""
        own = ", ".join(f"{t.name} {t.dtype}[{', '.join(map(str, t.shape))}]" for t in part.tensors)
        if len(part.tensors) > MAX_TENSORS:
            own = f"{len(part.tensors)} tensors"
        cells = [own, f"{times}{part.parameters:,}", f"{times}{byte_text(part.bytes)}"]
        if self.counts_flops:
            cells.append(times + self._number(part.flops) if part.flops != ZERO else "")
        return tuple(cells)

    def _number(self, flops: Formula) -> str:
        return formula(flops) if self.at is None or flops is None else rounded(flops.evaluate(self.at))

    def _rows(self, part: Part, depth: int = 0) -> Iterator[tuple[int, Part]]:
        yield depth, part
        for child in part.children:
            yield from self._rows(child, depth + 1)

    def _text(self) -> str:
        rows = [self._head]
        for depth, part in self._rows(self.root):
            rows.append((f"{'  ' * depth}{part.name or self.title}", *self._cells(part)))
        left = (True, True, False, False, *((self.at is None,) if self.counts_flops else ()))
        width = max((len(name) for name, _ in self.facts), default=0)
        facts = [line for name, text in self.facts for line in _wrapped(f"{name:<{width}}  ", text)]
        return "\n".join(line.rstrip() for line in [*aligned(rows, left), "", *facts]) + "\n"

    def _csv(self) -> str:
        lines = [["path", "count", "parameters", "bytes", *(["flops"] if self.counts_flops else [])]]
        for path, part in _paths(self.root):
            row = [path, str(part.count), str(part.parameters), str(part.bytes)]
            lines.append([*row, *([str(part.flops)] if self.counts_flops else [])])
        return "".join(",".join(f'"{cell}"' if "," in cell else cell for cell in line) + "\n" for line in lines)

    def _markdown(self) -> str:
        head = self._head
        lines = ["| " + " | ".join(head) + " |", "|" + "|".join(["---", "---", *["---:"] * (len(head) - 2)]) + "|"]
        for depth, part in self._rows(self.root):
            name = "&nbsp;" * 4 * depth + f"`{part.name or self.title}`"
            lines.append("| " + " | ".join([name, *(cell.replace("*", "\\*") for cell in self._cells(part))]) + " |")
        return "\n".join(lines) + "\n"

    def _mermaid(self) -> str:
        lines, names = ["flowchart TD"], list[str]()

        def node(part: Part, above: str | None) -> None:
            name = f"b{len(names)}"
            names.append(name)
            times = f"{part.count} x " if part.count > 1 else ""
            lines.append(f'  {name}["{part.name or self.title}<br/>{times}{part.parameters:,} parameters"]')
            if above is not None:
                lines.append(f"  {above} --> {name}")
            for child in part.children:
                node(child, name)

        node(self.root, None)
        return "\n".join(lines).replace("{", "#123;").replace("}", "#125;") + "\n"


MAX_TENSORS = 2
"""Weights of one part that a table names."""

INDICES = frozenset({"int64", "int32", "bool", "i64", "i32"})
"""Element types of tables of numbers: no parameters."""

WIDE = 100


def _wrapped(head: str, text: str) -> Iterator[str]:
    """Lines of at most so many columns, broken after commas."""
    line = head
    for i, piece in enumerate(text.split(", ")):
        more = piece if i == 0 else f", {piece}"
        if i and len(line) + len(more) > WIDE:
            yield line + ","
            line, more = " " * len(head), piece
        line += more
    yield line


def _paths(part: Part, prefix: str = "") -> Iterator[tuple[str, Part]]:
    path = ".".join(p for p in (prefix, part.name) if p)
    yield path, part
    for child in part.children:
        yield from _paths(child, path)


def _cut(part: Part, depth: int) -> Part:
    """What is nested deeper is counted, not shown."""
    if depth > 0:
        return replace(part, children=tuple(_cut(child, depth - 1) for child in part.children))
    whole = tuple(_everything(part))
    return replace(part, children=(), tensors=whole)


def _everything(part: Part, prefix: str = "", count: int = 1) -> Iterator[Tensor]:
    for tensor in part.tensors:
        yield replace(tensor, name=prefix + tensor.name, shape=(count, *tensor.shape) if count > 1 else tensor.shape,
                      bytes=count * tensor.bytes)  # fmt: skip
    for child in part.children:
        yield from _everything(child, f"{prefix}{child.name}.", count * child.count)


# ---- building --------------------------------------------------------------------------------------------------------


@dataclass
class _Level:
    tensors: list[Tensor] = field(default_factory=list)
    children: dict[str, _Level] = field(default_factory=dict)
    flops: list[Formula] = field(default_factory=list)


def tree(tensors: Sequence[Tensor], flops: Mapping[str, Sequence[Formula]], sort: str | None = None) -> Part:
    """The levels of dotted names; `flops`: of operators, by the part that they belong to. `sort` as of `inspect`."""
    root = _Level()
    for tensor in tensors:
        name = tensor.name.strip("/").replace("/", ".") if tensor.name.startswith("/") else tensor.name
        *path, leaf = name.split(".")
        level = root
        for segment in path:
            level = level.children.setdefault(segment, _Level())
        level.tensors.append(replace(tensor, name=leaf))
    for name, costs in flops.items():
        level = root
        for segment in name.split(".") if name else ():
            if segment not in level.children:
                break
            level = level.children[segment]
        level.flops += costs
    return _part("", root, sort)


def _part(name: str, level: _Level, sort: str | None) -> Part:
    parts = [_part(segment, child, sort) for segment, child in level.children.items()]
    parts = [_joined(part) for part in _folded(parts)]
    if sort is not None:
        parts.sort(key=lambda part: (part.name,) if sort == "name" else (-_weight(part, sort), part.name))
    inner = (times(part.flops, part.count) for part in parts)
    return Part(name, 1, tuple(level.tensors), tuple(parts), total([*level.flops, *inner]))


def _weight(part: Part, sort: str) -> int:
    if sort == "flops" and part.flops is not None:
        return part.count * part.flops.evaluate(dict.fromkeys(part.flops.symbols, 1024))
    return part.count * part.parameters


def _folded(parts: Sequence[Part]) -> list[Part]:
    """Numbered neighbours that are equal but for the number become one with a range."""
    found: list[tuple[Part, int | None]] = []
    ordered = sorted(parts, key=lambda p: int(p.name)) if parts and all(p.name.isdigit() for p in parts) else parts
    for part in ordered:
        number = int(part.name) if part.name.isdigit() else None
        if found and number is not None:
            last, first = found[-1]
            if (
                first is not None
                and number == first + last.count
                and replace(part, name="", count=1) == replace(last, name="", count=1)
            ):
                found[-1] = replace(last, count=last.count + 1), first
                continue
        found.append((part, number))
    ranged = []
    for part, first in found:
        name = f"{{{first}..{first + part.count - 1}}}" if first is not None and part.count > 1 else part.name
        ranged.append(replace(part, name=name))
    return ranged


def _joined(part: Part) -> Part:
    """A level that only leads to one other is no row: `model.layers.{0..31}`."""
    if part.tensors or len(part.children) != 1 or (part.count > 1 and part.children[0].count > 1):
        return part
    (child,) = part.children
    if part.flops != times(child.flops, child.count):  # it computes something itself
        return part
    return replace(child, name=f"{part.name}.{child.name}", count=part.count * child.count)

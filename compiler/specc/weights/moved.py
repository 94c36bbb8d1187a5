"""`moved "old" -> "new"`: tensors of a checkpoint that was written before a part was renamed (LANGUAGE 5).

Paths are relative to the block that states the line, and may name a tensor or a part with all that is below it. The
lines of every block apply to a name until the model has it, outer blocks first, so renames follow each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from specc.diagnostics import Collector, Diagnostic
from specc.elaborate.elaborator import Elaborator
from specc.elaborate.instances import Instance
from specc.elaborate.names import closest
from specc.ir.graph import Model, Submodule, dotted
from specc.ir.members import distinct_modules, walk_members
from specc.syntax import ast
from specc.weights.patterns import STAR, Pattern, PatternError, pattern


@dataclass(frozen=True, eq=False)
class Move:
    """One `moved` line."""

    old: Pattern
    new: Pattern
    node: ast.Moved

    def apply(self, path: str) -> str | None:
        """The newer path of what this line moves; None for anything else."""
        found = self.old.match(path)
        if found is not None:
            return self.new.render(found)
        end = path.find(".") if STAR not in self.old.captures else -1
        while end >= 0:
            found = self.old.match(path[:end])
            if found is not None:
                return self.new.render(found) + path[end:]
            end = path.find(".", end + 1)
        return None


@dataclass(frozen=True)
class Moves:
    """All lines of a model, by the path of the instance of the block that states them ("" for the model)."""

    by_path: Mapping[str, tuple[Move, ...]]

    def current(self, name: str, known: Mapping[str, object]) -> str:
        """The name that the model has for a tensor of a file; the file's own if no line leads to one."""
        now, seen = name, {name}
        while now not in known:
            moved = next(self._steps(now), None)
            if moved is None or moved in seen:
                return name
            seen.add(moved)
            now = moved
        return now

    def names(self, file: Iterable[str], known: Mapping[str, object]) -> dict[str, str]:
        """File name -> the model's, for every tensor of the file that has another name now."""
        if not self.by_path:
            return {}
        found = {name: self.current(name, known) for name in file}
        return {name: now for name, now in found.items() if now != name}

    def _steps(self, name: str) -> Iterator[str]:
        for prefix, rest in _splits(name):
            for move in self.by_path.get(prefix, ()):
                path = move.apply(rest)
                if path is not None:
                    yield f"{prefix}.{path}" if prefix else path


def read_moves(model: Model, elaborator: Elaborator, collector: Collector) -> Moves:
    """The lines of every block of a model; a bad pattern is a finding (W340)."""
    nodes = dict.fromkeys(elaborator.instance_of(module).decl.node for module in distinct_modules(model.module))
    lines = {node: tuple(_compiled(node, collector)) for node in nodes}
    if not any(lines.values()):
        return Moves({})
    found = ((path, lines[instance.decl.node]) for path, instance in instances(model, elaborator))
    return Moves({path: of_block for path, of_block in found if of_block})


def instances(model: Model, elaborator: Elaborator) -> Iterator[tuple[str, Instance]]:
    """Every part with its path, the model itself first."""
    yield "", elaborator.instance_of(model.module)
    for path, member, _ in walk_members(model.module):
        if isinstance(member, Submodule):
            yield dotted(path), elaborator.instance_of(member.module)


def check_moves(model: Model, elaborator: Elaborator, collector: Collector) -> None:
    """What can be said of the lines without a checkpoint: the old path is gone (W322), the new one is there (W321)."""
    told: set[ast.Moved] = set()
    moves = read_moves(model, elaborator, collector)
    for prefix, instance in instances(model, elaborator):
        lines = moves.by_path.get(prefix, ())
        paths = [dotted(path) for path, _, _ in walk_members(instance.module)] if lines else []
        for move in lines:
            if move.node in told:
                continue
            kept = next((path for path in paths if move.old.match(path) is not None), None)
            if kept is not None:
                told.add(move.node)
                collector.add(_still_there(move, kept, instance))
            elif not _leads_somewhere(move, lines, paths, instance):
                told.add(move.node)
                collector.add(_nowhere(move, paths, instance))


def _compiled(node: ast.BlockDef, collector: Collector) -> Iterator[Move]:
    for member in node.members:
        if not isinstance(member, ast.Moved):
            continue
        sides = [_pattern(text, collector) for text in (member.old, member.new)]
        old, new = sides
        if old is None or new is None:
            continue
        if not new.captures <= old.captures:
            lacking = ", ".join(sorted(new.captures - old.captures))
            message = f'"{member.new.value}" uses {lacking}, which "{member.old.value}" does not capture'
            collector.add(Diagnostic("W340", message, member.new.span, path=f"in {node.name.id}"))
            continue
        yield Move(old, new, member)


def _pattern(text: ast.Str, collector: Collector) -> Pattern | None:
    try:
        return pattern(text.value)
    except PatternError as error:
        message = f'"{text.value}" is not a pattern: {error}'
        collector.add(Diagnostic("W340", message, text.span, help='"layers.{i}.attn"'))
        return None


def _leads_somewhere(move: Move, lines: tuple[Move, ...], paths: list[str], instance: Instance) -> bool:
    """Whether what a line gives exists, in this configuration or another, or is what a later line moves on."""
    if any(move.new.match(path) is not None for path in paths):
        return True
    if any(_absent(move.new, path) for path in instance.absent):
        return True
    return any(other is not move and _meets(move.new, other.old) for other in lines)


def _absent(new: Pattern, path: str) -> bool:
    """Whether a path names a member that this configuration leaves out, or something below it."""
    return new.text == path or new.text.startswith(f"{path}.")


def _meets(new: Pattern, old: Pattern) -> bool:
    """Whether a path that one line gives may be one that another takes, or is below it."""
    mine, theirs = new.text.split("."), old.text.split(".")
    return len(mine) >= len(theirs) and all(
        a == b or "{" in a + b or STAR in a + b for a, b in zip(mine, theirs, strict=False)
    )


def _still_there(move: Move, path: str, instance: Instance) -> Diagnostic:
    name = instance.decl.name
    return Diagnostic(
        "W322",
        f'moved "{move.old.text}": {name} still has `{path}`',
        move.node.old.span,
        path=f"in {name}",
        notes=(("why", "a tensor of that name in a file may be the old one or the one of today"),),
        help="give the new part another name, or delete the line",
    )


def _nowhere(move: Move, paths: list[str], instance: Instance) -> Diagnostic:
    name = instance.decl.name
    guess = closest(move.new.text, paths)
    return Diagnostic(
        "W321",
        f'moved .. -> "{move.new.text}": {name} has nothing of that name',
        move.node.new.span,
        path=f"in {name}",
        notes=(("expected", f"a path below {name}: of a part, a parameter, or another line's old path"),),
        help=f'did you mean "{guess}"?' if guess else "",
    )


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """The ways to cut a path in two, the first with nothing before the cut."""
    yield "", name
    at = name.find(".")
    while at >= 0:
        yield name[:at], name[at + 1 :]
        at = name.find(".", at + 1)

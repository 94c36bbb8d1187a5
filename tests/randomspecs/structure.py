"""The language's structures: blocks, lists of parts, functions, loops, compile-time choices, optional inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .body import Body, Value

Fill = Callable[[Body, int], None]
Structure = Callable[[Body, Any], None]
STRUCTURES: list[Structure] = []
RESULTS = 99
"""A model returns every value that nothing else uses, so that nothing is dead."""


def structure(write: Structure) -> Structure:
    STRUCTURES.append(write)
    return write


# ---- the whole text ---------------------------------------------------------------------------------------------


def text_of(body: Body) -> str:
    """The spec of a finished model body."""
    file = body.file
    results = outcome(body, RESULTS)
    lines = [f"from std.{module} import {', '.join(sorted(names))}" for module, names in sorted(file.imports.items())]
    lines += [f"dim {', '.join(file.dims)}", "", *file.declarations]
    facts = [f"{s} >= {low}" for s, low in body.low.items() if low > 1]
    lines.append(block_text(body, "model Random", results, facts))
    return "\n".join(lines) + "\n"


def outcome(body: Body, most: int) -> list[Value]:
    """What a body returns: the values that nothing has used, the last ones first, so that nothing is dead."""
    loose = [v for v in body.pool if not v.used] or body.pool[-1:]
    if len(loose) > most:
        loose = [*loose[:-most], *loose[-most:]]
    return [body.keep(v) for v in loose[-max(most, 1) :]]


def block_text(body: Body, head: str, results: list[Value], facts: list[str]) -> str:
    types = [body.type_text(v.type) for v in results]
    outcome = types[0] if len(types) == 1 else f"({', '.join(types)})"
    arguments = ", ".join(
        f"{a.name}: {body.type_text(a.type)}{'? = none' if a.optional else ''}" for a in body.arguments
    )
    hypers = ", ".join(f"{n}: {kind} = {literal(v)}" for n, (kind, v) in body.hypers.items())
    lines = [f"{head}({hypers}) {{" if hypers else f"{head} {{"]
    lines += [f"  dim {', '.join(facts)}"] if facts else []
    lines += [f"  {m}" for m in body.members]
    lines.append(f"  forward({arguments}) -> {outcome} {{")
    lines += [f"    {line}" for line in body.lines]
    lines += [f"    return {', '.join(v.text for v in results)}", "  }", "}"]
    return "\n".join(lines)


def literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "none" if value is None else str(value)

"""From finished bodies to text."""

from __future__ import annotations

from collections.abc import Set

from .body import Body
from .values import Value


def text_of(body: Body) -> str:
    """The spec of a finished model body."""
    file = body.file
    results = loose(body)
    lines = [f"from std.{module} import {', '.join(sorted(names))}" for module, names in sorted(file.imports.items())]
    lines += [f"dim {', '.join(file.dims)}", "", *file.declarations]
    facts = [f"{s} >= {low}" for s, low in body.low.items() if low > 1]
    lines.append(block_text(body, "model Random", results, facts))
    return "\n".join(lines) + "\n"


def loose(body: Body) -> list[Value]:
    """The values that nothing has used: a body returns them all, so that nothing is dead."""
    return [body.keep(v) for v in [v for v in body.pool if not v.used] or body.pool[-1:]]


def block_text(
    body: Body, head: str, results: list[Value], facts: list[str], without_default: Set[str] = frozenset()
) -> str:
    signature, statements = method(body, results)
    shown = sorted(body.hypers.items(), key=lambda item: item[0] not in without_default)
    hypers = ", ".join(
        f"{name}: {kind}" + ("" if name in without_default else f" = {str(value).lower()}")
        for name, (kind, value) in shown
    )
    lines = [f"{head}({hypers}) {{" if hypers else f"{head} {{"]
    lines += [f"  dim {', '.join(facts)}"] if facts else []
    lines += [f"  {m}" for m in body.members]
    lines += [f"  forward{signature} {{", *(f"    {s}" for s in statements), "  }", "}"]
    return "\n".join(lines)


def fn_text(body: Body, name: str, results: list[Value]) -> str:
    signature, statements = method(body, results)
    return "\n".join([f"fn {name}{signature} {{", *(f"  {s}" for s in statements), "}"])


def method(body: Body, results: list[Value]) -> tuple[str, list[str]]:
    """`(x: Tensor[B, 4]) -> Tensor[B]`, and the statements."""
    types = [body.type_text(v.type) for v in results]
    outcome = types[0] if len(types) == 1 else f"({', '.join(types)})"
    ordered = sorted(body.arguments, key=lambda a: a.optional)
    arguments = ", ".join(f"{a.name}: {body.type_text(a.type)}{'? = none' if a.optional else ''}" for a in ordered)
    return f"({arguments}) -> {outcome}", [*body.lines, f"return {', '.join(v.text for v in results)}"]

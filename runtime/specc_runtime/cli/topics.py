"""What `specc explain` can be asked for: operators, functions of numbers, blocks of the standard library."""

from __future__ import annotations

import textwrap
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from specc.op import Op

NUMBERS = {
    "len": "len(xs): how many elements a list has, or characters a string",
    "range": "range(n), range(a, b), range(a, b, step): a list of ints, b left out",
    "enumerate": "enumerate(xs): the list of [i, x], i from 0",
    "zip": "zip(xs, ys, ..): the list of [x, y, ..]; the lists are of one length",
    "reversed": "reversed(xs): the list from its end",
    "prod": "prod(xs), prod(a, b, ..): the product of numbers",
    "sum": "sum(xs), sum(a, b, ..): the sum of numbers",
    "min": "min(xs), min(a, b, ..): the smallest of numbers",
    "max": "max(xs), max(a, b, ..): the largest of numbers",
    "round": "round(x): the nearest int, of two the even one",
    "floor": "floor(x): the largest int that is at most x",
    "ceil": "ceil(x): the smallest int that is at least x",
    "ceil_div": "ceil_div(a, b): a / b rounded up, of sizes too",
    "float": "float(n): a number as a float",
    "int": "int(x): a number as an int, rounded toward zero",
    "startswith": "startswith(s, p): whether a string begins with another",
    "endswith": "endswith(s, p): whether a string ends with another",
    "abs": "abs(x): a number without its sign",
    "sqrt": "sqrt(x): the square root",
    "log": "log(x): the natural logarithm",
    "exp": "exp(x): e to the power of x",
}
"""Functions that are computed when a spec is compiled; some are operators of tensors, too."""


def overview(width: int) -> str:
    """All names by kind, for `specc explain` alone."""
    from specc import reading

    kinds = [
        ("Operators of tensors", sorted(_named())),
        ("Functions of numbers and lists, at compile time", sorted(NUMBERS)),
        *((f"std.{module}", exported(module)) for module in reading.std_names()),
    ]
    parts = [
        f"{title}:\n{textwrap.fill('  '.join(names), width, initial_indent='  ', subsequent_indent='  ')}"
        for title, names in kinds
    ]
    return "\n\n".join(
        [*parts, "specc explain NAME tells more about any of these, and about any diagnostic code (S201)."]
    )


def _named() -> dict[str, type[Op]]:
    """The operators that are called by their names."""
    from specc.op import operators

    return {name: op for name, op in operators().items() if name.isidentifier() and not op.syntax}


def exported(module: str) -> list[str]:
    """The blocks and functions of a module of std."""
    from specc import reading
    from specc.syntax import ast

    _, tree = reading.std_module(module)
    return [i.name.id for i in (tree.items if tree is not None else ()) if isinstance(i, (ast.BlockDef, ast.Method))]


def like(what: str) -> list[str]:
    """Names near one that is none: spelt alike, containing it, or whose first line has the word."""
    from inspect import getdoc

    from specc import reading

    first = {name: (getdoc(op) or "").partition("\n")[0] for name, op in _named().items()}
    first |= NUMBERS
    first |= {f"std.{module}.{name}": "" for module in reading.std_names() for name in exported(module)}
    word = what.lower().rpartition(".")[2].removesuffix("ing")
    inside = [name for name, line in first.items() if word and (word in name.lower() or word in line.lower().split())]
    return sorted({*inside, *get_close_matches(what, first, n=3, cutoff=0.75)})

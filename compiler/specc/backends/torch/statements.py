"""Python statements between the IR and text: compared, merged and moved about before anything is laid out.

Expressions are text in one canonical form (`printer.tidy`), so that equal statements are equal objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from specc.backends.torch.printer import names_in


@dataclass(frozen=True)
class Line:
    """`target = expr`, `return expr`, `raise expr` or just `expr`; `keyword` is "=", "return", "raise" or ""."""

    keyword: str
    targets: tuple[str, ...]
    expr: str
    comment: str = ""


@dataclass(frozen=True)
class Block:
    """A compound statement: its header without the colon, a body, and the body of an `else`.

    The header of a function, which stands inside another one, is `def NAME(PARAMETERS)`: all are tensors.
    """

    header: str
    body: tuple[Statement, ...]
    orelse: tuple[Statement, ...] = ()


@dataclass(frozen=True)
class Remark:
    """A comment on a line of its own, or an empty line."""

    text: str


Statement = Line | Block | Remark


def assign(targets: str | tuple[str, ...], expr: str, comment: str = "") -> Line:
    return Line("=", (targets,) if isinstance(targets, str) else targets, expr, comment)


def header_names(header: str) -> tuple[frozenset[str], frozenset[str]]:
    """Names that a header reads, and those it binds."""
    keyword, _, rest = header.partition(" ")
    if keyword == "def":
        return frozenset(), names_in(rest)
    if keyword == "for":
        targets, _, iterable = rest.partition(" in ")
        return names_in(iterable), frozenset(t.strip() for t in targets.split(","))
    return names_in(rest), frozenset()


def all_names(statements: Sequence[Statement], *, bound_only: bool = False) -> Iterator[str]:
    """Every name bound, and every name read unless `bound_only`."""
    for statement in statements:
        if isinstance(statement, Line):
            yield from statement.targets
            yield from () if bound_only else names_in(statement.expr)
        elif isinstance(statement, Block):
            reads, binds = header_names(statement.header)
            yield from binds if bound_only else reads | binds
            yield from all_names(statement.body, bound_only=bound_only)
            yield from all_names(statement.orelse, bound_only=bound_only)


def live_before(statements: Sequence[Statement], live: frozenset[str]) -> frozenset[str]:
    """Names whose values are still read, seen from before the statements; `live` is the same seen from after them."""
    for statement in reversed(statements):
        if isinstance(statement, Line):
            if statement.keyword in ("return", "raise"):
                live = frozenset()
            live = (live - frozenset(statement.targets)) | names_in(statement.expr)
        elif isinstance(statement, Block):
            reads, binds = header_names(statement.header)
            if statement.header.startswith("def "):
                live = (live - binds) | captured(statement)
            elif statement.header.startswith("for "):
                again = live | live_before(statement.body, live)
                live = live | live_before(statement.body, again) - binds | reads
            else:
                live = live_before(statement.body, live) | live_before(statement.orelse, live) | reads
    return live


def captured(function: Block) -> frozenset[str]:
    """The names that a function inside another one reads from outside. It may not bind them anywhere."""
    return live_before(function.body, frozenset()) - header_names(function.header)[1]


def without_comments(statements: Sequence[Statement]) -> tuple[Statement, ...]:
    """The statements alone."""
    done: list[Statement] = []
    for statement in statements:
        if isinstance(statement, Line):
            done.append(replace(statement, comment=""))
        elif isinstance(statement, Block):
            body, orelse = without_comments(statement.body), without_comments(statement.orelse)
            done.append(Block(statement.header, body, orelse))
    return tuple(done)


def rename_in(statements: Sequence[Statement], mapping: Mapping[str, str]) -> tuple[Statement, ...]:
    """Replaces tokens (placeholders of class names) in all text."""

    def swap(text: str) -> str:
        for old, new in mapping.items():
            if old in text:
                text = text.replace(old, new)
        return text

    done: list[Statement] = []
    for statement in statements:
        if isinstance(statement, Line):
            done.append(replace(statement, expr=swap(statement.expr)))
        elif isinstance(statement, Block):
            body, orelse = rename_in(statement.body, mapping), rename_in(statement.orelse, mapping)
            done.append(Block(swap(statement.header), body, orelse))
        else:
            done.append(statement)
    return tuple(done)

"""Names that some configuration may have.

What a configuration leaves out (an optional part, a tie under a false condition) is not there to be looked up; still a
name that no block declares is wrong in every configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from specc.elaborate.files import FileScope
from specc.syntax import ast


def member_names(files: Iterable[FileScope]) -> frozenset[str]:
    """The names of parts, groups and parameters that any block of these files declares."""
    return frozenset(
        name
        for file in files
        for item in file.tree.items
        if isinstance(item, ast.BlockDef)
        for member in item.members
        if isinstance(member, ast.Part | ast.ParamDecl)
        for name in _names(member)
    )


def _names(member: ast.Part | ast.ParamDecl) -> Iterator[str]:
    yield member.name.id
    if isinstance(member, ast.Part):
        for group in _groups(member.value):
            for inner in group.members:
                yield from _names(inner)


def _groups(value: object) -> Iterator[ast.Group]:
    """The groups that a part's value is made of: itself, the elements of its lists, the sides of its conditions."""
    if isinstance(value, ast.Group):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _groups(item)
    elif isinstance(value, ast.ListExpr | ast.Comprehension | ast.Ternary | ast.Binary | ast.Paren):
        for child in vars(value).values():
            yield from _groups(child)

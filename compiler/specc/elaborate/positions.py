"""`--position-ids`: the positions of a model's methods become an input of them (LANGUAGE 13).

The methods are rewritten before they are elaborated, so that every shape is proved with positions [B, T] in the place
of [T]: `positions(T)` is then the name of an argument, which methods that call each other hand on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, cast

from specc.diagnostics import Diagnostic
from specc.elaborate.values import BlockDecl, Fail
from specc.source import Span
from specc.syntax import ast

POSITION_IDS = "position_ids"

_N = TypeVar("_N", bound=ast.Node)


def with_position_ids(decl: BlockDecl) -> BlockDecl:
    """The model with this input; raises `Fail` (B622) where it cannot have one."""
    taken = next((n for n in _nodes(decl.node) if isinstance(n, (ast.Name, ast.Ident)) and n.id == POSITION_IDS), None)
    if taken is not None:
        raise _fail(f"{decl.name} has a `{POSITION_IDS}` of its own", taken.span, "build it without --position-ids")
    methods = {m.name.id: m for m in decl.node.members if isinstance(m, ast.Method)}
    dim = _dim(decl, list(methods.values()))
    having: dict[str, _Place] = {}
    waiting = [name for name, method in methods.items() if any(_is_of(n, dim) for n in _nodes(method))]
    while waiting:
        name = waiting.pop()
        having[name] = _place(methods[name], dim)
        waiting += [m for m, method in methods.items() if m not in having and m not in waiting and _calls(method, name)]

    def rewritten(member: ast.Member) -> ast.Member:
        if not isinstance(member, ast.Method) or member.name.id not in having:
            return member
        place = having[member.name.id]
        params = (*member.params[: place.index], place.param, *member.params[place.index :])
        return replace(_mapped(member, lambda node: _read(node, dim, having)), params=params)

    return replace(decl, node=replace(decl.node, members=tuple(map(rewritten, decl.node.members))))


@dataclass(frozen=True)
class _Place:
    """Where the argument stands among those of a method: after the last that has to be given."""

    index: int
    param: ast.Param


def _place(method: ast.Method, dim: str) -> _Place:
    for param in method.params:
        sizes = param.type.dims if isinstance(param.type, ast.TensorTypeExpr) else ()
        if len(sizes) >= 2 and isinstance(sizes[0], ast.Name) and isinstance(sizes[1], ast.Name) and sizes[1].id == dim:
            at = param.span
            type_ = ast.TensorTypeExpr(at, False, "Int", sizes[:2])
            given = [i for i, p in enumerate(method.params) if p.default is None and not p.type.optional]
            return _Place(max(given, default=-1) + 1, ast.Param(at, ast.Ident(at, POSITION_IDS), type_, None))
    message = f"`{method.name.id}` has no input [B, {dim}, ..] that tells how many texts there are positions of"
    raise _fail(message, method.name.span)


def _dim(decl: BlockDecl, methods: Sequence[ast.Method]) -> str:
    """The dim that positions are of: one that the past goes along, else the only one."""
    own = [item for m in decl.node.members if isinstance(m, ast.Dims) for item in m.items]
    past = {dim for item in (*decl.file.dim_items, *own) for n in _nodes(item) if (dim := _argument(n, "past"))}
    found = [(dim, n.span) for method in methods for n in _nodes(method) if (dim := _argument(n, "positions"))]
    if any(dim in past for dim, _ in found):
        found = [(dim, span) for dim, span in found if dim in past]
    if not found:
        message = (
            f"no method of {decl.name} calls positions(T) itself, and there is nothing that an input would replace"
        )
        raise _fail(message, decl.node.name.span, "build it without --position-ids")
    first = found[0][0]
    other = next(((dim, span) for dim, span in found if dim != first), None)
    if other is not None:
        message = f"{decl.name} has positions({first}) and positions({other[0]}): one input cannot be both"
        raise _fail(message, other[1], "dim T, S = past(T) + T  says that texts go on along T")
    return first


def _read(node: ast.Node, dim: str, having: dict[str, _Place]) -> ast.Node:
    """Positions are read; calls of methods that read them hand them on."""
    if _is_of(node, dim):
        return ast.Name(node.span, POSITION_IDS)
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in having):
        return node
    index, value = having[node.func.id].index, ast.Name(node.span, POSITION_IDS)
    if len(node.args) >= index and all(isinstance(a, ast.Arg) and a.name is None for a in node.args[:index]):
        return replace(node, args=(*node.args[:index], ast.Arg(node.span, None, value), *node.args[index:]))
    return replace(node, args=(*node.args, ast.Arg(node.span, ast.Ident(node.span, POSITION_IDS), value)))


def _is_of(node: ast.Node, dim: str) -> bool:
    return _argument(node, "positions") == dim


def _calls(method: ast.Method, name: str) -> bool:
    calls = (n.func for n in _nodes(method) if isinstance(n, ast.Call))
    return any(isinstance(func, ast.Name) and func.id == name for func in calls)


def _argument(node: ast.Node, function: str) -> str | None:
    """The dim that a call of a function is of, if it is one."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function and node.args):
        return None
    given = next((a for a in node.args if isinstance(a, ast.Arg) and (a.name is None or a.name.id == "D")), None)
    return given.value.id if given is not None and isinstance(given.value, ast.Name) else None


def _nodes(node: ast.Node) -> Iterator[ast.Node]:
    """A node and all below it."""
    yield node
    for field in fields(node):
        for child in _children(getattr(node, field.name)):
            yield from _nodes(child)


def _children(value: Any) -> Iterator[ast.Node]:
    if isinstance(value, ast.Node):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _children(item)


def _mapped(node: _N, change: Callable[[ast.Node], ast.Node]) -> _N:
    """The tree with every node changed, those below it first; what stays the same is the same node."""

    def of(value: Any) -> Any:
        if isinstance(value, ast.Node):
            return _mapped(value, change)
        if isinstance(value, tuple):
            items = tuple(map(of, value))
            return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
        return value

    made = {field.name: of(getattr(node, field.name)) for field in fields(node)}
    same = all(made[name] is getattr(node, name) for name in made)
    return cast("_N", change(node if same else replace(node, **made)))


def _fail(message: str, span: Span, help: str = "") -> Fail:
    return Fail(Diagnostic("B622", message, span.head(), help=help))

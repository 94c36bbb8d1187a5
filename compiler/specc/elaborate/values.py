"""Compile-time values: what hyper-parameters hold, and what the names of declarations stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic
from specc.dims import Dim
from specc.ir.graph import Value
from specc.op import Op
from specc.source import Span
from specc.syntax import ast
from specc.types import DType

if TYPE_CHECKING:
    from specc.elaborate.files import FileScope


class Fail(Exception):
    """One finding that makes an expression, a statement or a member meaningless; caught at the next place that can go
    on.
    """

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic = diagnostic


class Poisoned(Exception):
    """The value depends on something already reported: say nothing more."""


class Poison:
    """The value of a name whose declaration was reported: whatever uses it is not checked further."""


POISON = Poison()


@dataclass(frozen=True, eq=False)
class BlockDecl:
    """A `block` or `model` of a file."""

    file: FileScope
    node: ast.BlockDef

    @property
    def name(self) -> str:
        return self.node.name.id


@dataclass(frozen=True, eq=False)
class FnDecl:
    """A file-level `fn`."""

    file: FileScope
    node: ast.Method

    @property
    def name(self) -> str:
        return self.node.name.id


@dataclass(frozen=True, eq=False)
class ExternDecl(FnDecl):
    """An `extern fn`: a `fn` whose body is Python. `path`: its file, relative to the project's root; `at`: the string
    that names it.
    """

    path: str
    at: Span


@dataclass(frozen=True)
class Binding:
    """A named value and where it came from.

    `origin` is how messages cite it: `default of GPT2 (gpt2.spec:36)`. `labelled`: the name means the same in the
    module's emitted code (a hyper-parameter, a `let`, a comprehension variable), so labels may use it; else `label` may
    say how to write the value.
    """

    value: Any
    span: Span
    origin: str
    labelled: bool = True
    label: str | None = None


@dataclass(frozen=True)
class FnValue:
    """A tensor function of one tensor: a built-in operator or a user (or extern) `fn`, with some arguments bound."""

    name: str
    op: type[Op] | None
    fn: FnDecl | None
    args: tuple[tuple[str, Any], ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict, compare=False, hash=False)

    def __str__(self) -> str:
        return self.name + (f"({', '.join(f'{k} = {show(v)}' for k, v in self.args)})" if self.args else "")


@dataclass(frozen=True)
class BlockValue:
    """A block constructor, with some arguments bound."""

    decl: BlockDecl
    args: tuple[tuple[str, Any], ...] = ()
    sources: Mapping[str, Binding] = field(default_factory=dict, compare=False, hash=False)

    def __str__(self) -> str:
        return self.decl.name + (f"({', '.join(f'{k} = {show(v)}' for k, v in self.args)})" if self.args else "")


def show(value: Any) -> str:
    """A value as a spec would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(show, value))}]" if len(value) <= 20 else f"[{', '.join(map(show, value[:20]))}, ..]"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, DType):
        return value.value
    if isinstance(value, Value):
        return "a tensor"
    return str(value) if isinstance(value, (int, Dim, FnValue, BlockValue)) else "a value"


def describe(value: Any) -> str:
    """`the int 8`, `the string "mean"`: a value with what it is, for messages."""
    kinds: list[tuple[type | tuple[type, ...], str]] = [
        (bool, "the bool"), (int, "the int"), (float, "the float"), (str, "the string"), (tuple, "the list"),
        (DType, "the dtype"), (Dim, "the size"), (FnValue, "the function"), (BlockValue, "the block"),
    ]  # fmt: skip
    if isinstance(value, Value):
        return f"a tensor ({value.type})"
    return (
        "none"
        if value is None
        else next((f"{text} {show(value)}" for kind, text in kinds if isinstance(value, kind)), "a value")
    )


def number(value: Any) -> bool:
    """Whether it is an int or a float (a bool is neither)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def fits(value: Any, type_: ast.TypeExpr) -> bool:
    """Whether a value is of a hyper-parameter type. An int is accepted for a float; a bool is never an int."""
    if value is None:
        return type_.optional
    if isinstance(type_, ast.EnumType):
        return value in type_.options
    if isinstance(type_, ast.ListType):
        return isinstance(value, tuple) and all(fits(v, type_.element) for v in value)
    if not isinstance(type_, ast.NamedType):
        return False
    plain_int = isinstance(value, int) and not isinstance(value, bool)
    return {
        "int": plain_int,
        "float": plain_int or isinstance(value, float),
        "bool": isinstance(value, bool),
        "str": isinstance(value, str),
        "fn": isinstance(value, FnValue),
        "block": isinstance(value, BlockValue),
        "dtype": isinstance(value, DType),
    }.get(type_.name, False)


def coerced(value: Any, type_: ast.TypeExpr) -> Any:
    """The value in its type's own form: ints become floats where a float is declared."""
    if isinstance(type_, ast.NamedType) and type_.name == "float" and number(value):
        return float(value)
    if isinstance(type_, ast.ListType) and isinstance(value, tuple):
        return tuple(coerced(v, type_.element) for v in value)
    return value


def type_text(type_: ast.TypeExpr) -> str:
    """The type as written: `int`, `[int]`, `"cls" | "mean"`, with `?` if optional."""
    text = type_.span.text.strip()
    return text if text.endswith("?") or not type_.optional else text + "?"

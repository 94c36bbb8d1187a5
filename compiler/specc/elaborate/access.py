"""Names in bodies: locals, members of the block, parts of parts; and what each is as a value."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Edit, Label, Size
from specc.dims import Dim, Facts
from specc.elaborate.attributes import OpArguments
from specc.elaborate.instances import Instance
from specc.elaborate.references import AbsentRef, ListRef, MethodRef, PartRef
from specc.elaborate.scopes import Scope, names_in
from specc.elaborate.values import POISON, Binding, Fail, Poisoned, describe, number, show
from specc.ir.graph import (
    Absent,
    Node,
    Parameter,
    PartGroup,
    Path,
    Read,
    Submodule,
    Value,
)
from specc.source import Span
from specc.syntax import ast
from specc.syntax.unparse import unparse
from specc.types import TensorType

if TYPE_CHECKING:
    from specc.elaborate.elaborator import Elaborator


class Results(tuple[Any, ...]):
    """The results of one call with several, tensors and lists of tensors: must be unpacked."""


class Access(OpArguments):
    """The part of a body's checker that knows what names stand for."""

    instance: Instance | None = None
    method: ast.Method

    def __init__(self, elab: Elaborator, scope: Scope) -> None:
        super().__init__(elab, scope)
        self.locals: dict[str, Any] = {}
        self.nodes: list[Node] = []
        self.reads: dict[Path, Value] = {}
        self.mode = ""
        self.trains = False  # whether the body is a function that draws or computes a loss
        self.aux: list[tuple[str, Value]] = []
        self.facts = Facts.EMPTY
        self.bound: frozenset[str] = frozenset()
        self.optional: frozenset[str] = frozenset()  # the optional inputs of this body
        self.branch: ast.If | None = None  # the statement whose condition is looked at
        self.statement: ast.Stmt | None = None

    def _Name(self, expr: ast.Name) -> Any:
        if expr.id in self.locals:
            local = self.locals[expr.id]
            if local is POISON:
                raise Poisoned
            return local.value if isinstance(local, Binding) else local
        member = self.member(expr.id, expr.span)
        if member is not None:
            return member
        return super()._Name(expr)

    def _Evaluated(self, expr: Any) -> Any:
        return expr.value

    def _name_label(self, expr: ast.Name) -> str | None:
        local = self.locals.get(expr.id)
        if isinstance(local, Binding):
            return local.label
        return None if local is not None else super()._name_label(expr)

    def _label(self, expr: ast.Expr) -> str | None:
        original = getattr(expr, "original", None)
        return super()._label(original if original is not None else expr)

    def text_of(self, expr: ast.Expr) -> str | None:
        return unparse(expr)

    def nearby(self) -> list[str]:
        members = self.instance.members if self.instance is not None else {}
        return list(dict.fromkeys([*self.locals, *members, *super().nearby()]))

    def member(self, name: str, span: Span, *, called: bool = False) -> Any:
        """A member of the block at hand as a value: its parameter, part, method; `Absent` if this configuration has
        none.
        """
        instance = self.instance
        if instance is None:
            return None
        if name in instance.broken:
            raise Poisoned
        if name in instance.members:
            if called and isinstance(instance.members[name], Parameter):
                return None  # tensors are not callable, so they are skipped
            return self.reference(PartRef((name,), instance.members[name], instance, (name,)), span)
        if name in instance.methods and called:
            return MethodRef((), instance, instance.methods[name])
        if name in instance.absent:
            return AbsentRef(owner=instance, key=name)
        return None

    def absent_part(self, ref: AbsentRef, text: str, span: Span) -> Fail:
        """A part that this configuration does not have is called (S140)."""
        assert ref.owner is not None
        absence = ref.owner.absent[ref.key]
        values = " and ".join(f"{row.name} is {row.value}" for row in absence.sizes) or "its condition is false"
        condition = absence.cond.text if "." not in text else f"{text} != none"
        lone = isinstance(self.statement, (ast.Assign, ast.AugAssign)) and "\n" not in self.statement.span.text
        fix = f"if {condition} {{ {self.statement.span.text} }}" if lone and self.statement is not None else ""
        return self.fail(
            "S140",
            f"part `{text}` does not exist when {values}",
            span,
            others=(Label(absence.cond, "declared only then"),),
            sizes=absence.sizes,
            help=fix or f"if {condition} {{ x = {text}(x) }}",
            edits=(Edit(self.statement.span, fix),) if fix and self.statement is not None else (),
        )

    def reference(self, ref: PartRef, span: Span) -> Any:
        """A part as a value: parameters are read."""
        if not isinstance(ref.member, Parameter):
            return ref
        if ref.path not in self.reads:
            value = Value(str(ref.path[-1]), ref.member.type, span)
            self.reads[ref.path] = value
            self.nodes.append(Read(ref.path, value, span))
        return self.reads[ref.path]

    def _Attr(self, expr: ast.Attr) -> Any:
        base = self.value(expr.base)
        name = expr.name.id
        if not isinstance(base, PartRef):
            raise self.fail(
                "E107", f"`{unparse(expr.base)}` is {self.kind(base)} and has no member `{name}`", expr.name.span
            )
        if isinstance(base.member, Submodule):
            inner = self.elab.instance_of(base.member.module)
            if name in inner.broken:
                raise Poisoned
            if name in inner.methods:
                return MethodRef(base.path, inner, inner.methods[name])
            if name in inner.members:
                return self.reference(PartRef((*base.path, name), inner.members[name], inner, (name,)), expr.span)
            if name in inner.absent:
                return AbsentRef(owner=inner, key=name)
            names = [*inner.members, *inner.methods]
        elif isinstance(base.member, PartGroup):
            if name in base.member.members:
                return self.reference(
                    PartRef((*base.path, name), base.member.members[name], base.owner, (*base.local, name)), expr.span
                )
            key = ".".join(map(str, (*base.local, name)))
            if key in base.owner.absent:
                return AbsentRef(owner=base.owner, key=key)
            names = list(base.member.members)
        else:
            raise self.fail("E107", f"`{unparse(expr.base)}` is a list: index it or loop over it", expr.name.span)
        raise self.no_such("E107", f"`{unparse(expr.base)}` has no member `{name}`", expr.name.span, name, names)

    def kind(self, value: Any) -> str:
        """What a value is, for messages: `a tensor, Tensor[B, T, dim]`, `a part`, `the int 8`."""
        if isinstance(value, Value):
            return f"a tensor ({value.type})"
        if isinstance(value, Binding):
            return describe(value.value)
        kinds = [(AbsentRef, "absent"), (Absent, "an optional input that is absent here"), (MethodRef, "a method")]
        kinds += [(PartRef, "a part"), (ListRef, "a list of parts"), (Results, "several results")]
        found = next((text for type_, text in kinds if isinstance(value, type_)), "")
        if not found and isinstance(value, tuple) and any(isinstance(v, Value) for v in value):
            found = f"a list of {len(value)} tensors"
        return found or describe(value)

    def tensor(self, value: Any, at: ast.Expr) -> Value:
        """The value as one tensor, or the reason why it is none."""
        if isinstance(value, Value):
            return value
        if isinstance(value, Absent):
            raise self.fail(
                "S141",
                f"`{unparse(at)}` is optional and absent here",
                at.span,
                help=f"if {unparse(at)} != none {{ .. }}",
            )
        if isinstance(value, Results):
            raise self.fail(
                "S150",
                f"this call has {len(value)} results: name them first",
                at.span,
                help=f"{', '.join('abcdefgh'[: len(value)])} = {unparse(at)}",
            )
        if isinstance(value, (PartRef, ListRef)):
            raise self.fail("E100", f"`{unparse(at)}` is a part, not a tensor", at.span, help=f"{unparse(at)}(x)")
        raise self.fail("E125", f"a tensor is needed here, found {self.kind(value)}", at.span)

    def size_rows(self, type_: TensorType) -> tuple[Size, ...]:
        """Origins of the names in a type's sizes."""
        rows = {}
        for dim in type_.shape:
            for name in re.findall(r"[A-Za-z_]\w*", dim.label or ""):
                binding = self.scope.find(name)
                if binding is not None and number(binding.value):
                    rows[name] = Size(name, show(binding.value), binding.origin)
        return tuple(rows.values())

    def check_bound(self, dim: Dim, span: Span) -> None:
        """Every symbol of a size is bound by the (present) arguments (S104)."""
        for symbol in dim.symbols:
            inner = symbol[5:-1] if symbol.startswith("past(") else symbol
            if inner not in self.bound:
                absent = [name for name in self.optional if self._declares(name, inner)]
                why = f"only `{absent[0]}` has it, and that is optional and absent here" if absent else ""
                raise self.fail(
                    "S104",
                    f"dimension `{inner}` is not bound: no argument that is given has an axis of just that size",
                    span,
                    why=why,
                    help=f"if {absent[0]} != none {{ .. }}" if absent else "",
                    note="sizes never depend on data; a dim is bound by an argument of the signature",
                )

    def _declares(self, argument: str, dim: str) -> bool:
        param = next((p for p in self.method.params if p.name.id == argument), None)
        return param is not None and any(name.id == dim for name in names_in(param.type))

    def size(self, expr: ast.Expr) -> Dim:
        if isinstance(expr, ast.Name) and expr.id not in self.locals:
            self._no_member(expr)
        dim = super().size(expr)
        if self.bound:
            self.check_bound(dim, expr.span)
        return dim

    def _no_member(self, expr: ast.Name) -> None:
        """E112 where a size has the name of a part or a parameter, which hides the hyper-parameter that is meant."""
        member = self.instance.members.get(expr.id) if self.instance is not None else None
        if member is not None:
            hidden = self.scope.find(expr.id) is not None
            raise self.fail(
                "E112",
                f"a size is an int, `{expr.id}` is a member of the block here",
                expr.span,
                others=(Label(member.span.head(), "declared here"),),
                note="in methods a member hides the hyper-parameter of its name" if hidden else "",
                help=f"give one of the two another name:  {expr.id}_size" if hidden else "",
            )


class Evaluated(ast.StandIn):
    """An expression whose value is known: a function's bound argument, or what a fold carries."""

    def __init__(self, span: Span, value: Any, original: ast.Expr | None) -> None:
        super().__init__(span, original)
        self.value = value

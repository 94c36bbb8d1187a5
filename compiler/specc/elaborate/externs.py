"""`extern fn`: the signature alone becomes a graph with one operator (LANGUAGE 19)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specc.elaborate.body import BodyChecker
from specc.elaborate.scopes import Scope
from specc.elaborate.signatures import is_list, is_tensor
from specc.elaborate.values import Binding, ExternDecl, type_text
from specc.ir.graph import Absent, Apply, Argument, Value
from specc.ops.extern import Extern
from specc.syntax import ast
from specc.types import TensorType

if TYPE_CHECKING:
    from specc.elaborate.elaborator import Elaborator

PLAIN_TYPES = ("int", "float", "bool", "str")


class ExternChecker(BodyChecker):
    """Makes the graph of an extern function. What a body would compute, its signature says."""

    def __init__(self, elab: Elaborator, decl: ExternDecl, scope: Scope) -> None:
        super().__init__(elab, None, decl.node, scope)
        self.decl = decl

    def fill(self, inputs: list[Argument], declared: list[TensorType]) -> None:
        name = self.decl.name
        for param in self.method.params:
            if not is_tensor(param.type) and not is_plain(param.type):
                raise self.fail(
                    "E125",
                    f"`{name}` is extern: `{param.name.id}` cannot be {type_text(param.type)}",
                    param.type.span,
                    expected="a tensor; int, float, bool, str, one of several strings, a list of those",
                    why="it is passed to Python functions that know nothing of specc",
                )
        for type_ in (*(p.type for p in self.method.params), *(r.type for r in self.method.results)):
            if is_list(type_):
                raise self.fail("E125", f"`{name}` is extern: it takes and gives tensors, not lists", type_.span)
        if not inputs:
            raise self.fail("E124", f"`{name}` is extern: it takes at least one tensor", self.method.name.span)
        settings = []
        for param in self.method.params:
            binding = self.scope.names.get(param.name.id)
            if not is_tensor(param.type) and isinstance(binding, Binding):
                settings.append((param.name.id, binding.value))
        op = Extern(
            function=name,
            file=self.decl.path,
            tensors=tuple(a.name for a in inputs),
            settings=tuple(settings),
            results=tuple(declared),
            free=tuple(free_axes(p.type) for p in self.method.params if is_tensor(p.type)),
        )
        outputs = tuple(Value(None, type_, self.decl.at) for type_ in declared)
        self.returned_lists = (None,) * len(outputs)
        operands = tuple(a.value if a.value is not None else Absent(a.name) for a in inputs)
        self.nodes.append(Apply(op, operands, outputs, self.decl.at))
        self.elab.bodies.count(self, self.decl.at)
        self.returned = [(value, self.decl.at) for value in outputs]


def free_axes(type_: ast.TypeExpr) -> tuple[int, int] | None:
    """How many axes of a declared type come before and after its `...`; None if it has none."""
    dims = type_.dims if isinstance(type_, ast.TensorTypeExpr) else ()
    at = next((i for i, d in enumerate(dims) if isinstance(d, ast.EllipsisLit)), None)
    return None if at is None else (at, len(dims) - at - 1)


def is_plain(type_: ast.TypeExpr) -> bool:
    """Whether values of a hyper-parameter type mean the same in Python."""
    if isinstance(type_, ast.ListType):
        return is_plain(type_.element)
    return isinstance(type_, ast.EnumType) or (isinstance(type_, ast.NamedType) and type_.name in PLAIN_TYPES)

"""What is called in a body, and which argument goes where (LANGUAGE 3, third row of its table)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specc.elaborate.applications import Applications
from specc.elaborate.builtins import COMPILE_TIME, ROUTE
from specc.elaborate.names import available, closest, counted, did_you_mean, replaced
from specc.elaborate.references import AbsentRef, ListRef, MethodRef, PartRef
from specc.elaborate.values import (
    POISON,
    Binding,
    BlockValue,
    Fail,
    FnValue,
    Poisoned,
    show,
)
from specc.ir.graph import Value
from specc.op import operators
from specc.source import Span
from specc.syntax import ast
from specc.syntax.unparse import unparse

_NOTHING: Mapping[str, Any] = {}


class Lookup(Applications):
    """The part of a body's checker that finds what a call means."""

    def callee(self, func: ast.Expr) -> Any:
        """A PartRef, ListRef, MethodRef, FnValue, or the name of a built-in function (LANGUAGE 3, third row)."""
        if not isinstance(func, ast.Name):
            if isinstance(func, ast.Attr) and (fail := self._foreign(func)) is not None:
                raise fail
            value = self.value(func)
            if isinstance(value, (PartRef, ListRef, MethodRef, FnValue)):
                return value
            if isinstance(value, AbsentRef):
                raise self.absent_part(value, unparse(func), func.span)
            raise self.fail("E109", f"`{unparse(func)}` is {self.kind(value)} and cannot be called", func.span)
        name = func.id
        local = self.locals.get(name)
        if local is POISON:
            raise Poisoned
        if isinstance(local, AbsentRef):
            raise self.absent_part(local, name, func.span)
        if isinstance(local, (PartRef, ListRef, MethodRef)):
            return local
        if isinstance(local, Binding) and isinstance(local.value, FnValue):
            return local.value
        member = self.member(name, func.span, called=True)
        if isinstance(member, AbsentRef):
            raise self.absent_part(member, name, func.span)
        if member is not None:
            return member
        binding = self.scope.find(name)
        if binding is not None and binding.value is POISON:
            raise Poisoned
        if binding is not None and isinstance(binding.value, FnValue):
            return binding.value
        if binding is not None and isinstance(binding.value, BlockValue):
            raise self.created(name, func.span)
        found = self.file.find(name)
        if found is not None:
            value = self.declared(*found, func.span)
            if isinstance(value, FnValue):
                return value
            if isinstance(value, BlockValue):
                raise self.created(name, func.span)
        if name in self.file.broken:
            raise Poisoned
        op = operators().get(name)
        if (op is not None and not op.syntax) or name in COMPILE_TIME or name == ROUTE:
            return name
        if local is not None or binding is not None:
            what = local if local is not None else binding
            raise self.fail("E109", f"`{name}` is {self.kind(what)}, not a part or function", func.span)
        if self.instance is not None and name in self.instance.members:
            raise self.fail("E109", f"`{name}` is a parameter, not a part or function", func.span)
        raise self.unknown_call(func)

    def _foreign(self, func: ast.Attr) -> Fail | None:
        """`nn.relu(x)`, `F.gelu(x)`, as in Python; `x.view(..)` on a tensor."""
        base = func.base
        if isinstance(base, ast.Name) and (base.id in self.locals or self.member(base.id, base.span, called=True)):
            name = func.name.id
            if not isinstance(self.locals.get(base.id), Value):
                return None
            known = (
                name if name in operators() else closest(name, [n for n, op in operators().items() if not op.syntax])
            )
            if known is None:
                return None
            help = f"{base.id} |> {known}(..)"
            return self.fail("E107", f"tensors have no methods: `{unparse(func)}`", func.name.span, help=help)
        return self.qualified(func)

    def created(self, name: str, span: Span) -> Any:
        return self.fail(
            "E131",
            f"{name} is a block: parts are created in declarations, not in bodies",
            span,
            help=f"part: {name}(..)   above, then  part(x)",
        )

    def unknown_call(self, func: ast.Name) -> Any:
        parts = list(self.instance.members) if self.instance else []
        builtin = [n for n, op in operators().items() if not op.syntax] + [*COMPILE_TIME, ROUTE]
        guess = closest(func.id, [*parts, *self.file.visible()]) or closest(func.id, builtin)
        home = self.elab.std_home(func.id)
        help = did_you_mean(guess)
        edits = replaced(func.span, guess)
        if home is not None:
            help, edits = f"from {home} import {func.id}, then a part of it", ()
        return self.fail(
            "E103",
            f"unknown function or part `{func.id}`",
            func.span,
            help=help,
            edits=edits,
            cause=func.id,
            available=available(parts),
        )

    def bind_arguments(
        self, expr: ast.Call, method: ast.Method, bound: Mapping[str, Any] = _NOTHING
    ) -> dict[str, tuple[Any, ast.Expr]]:
        """Arguments of a method by parameter name: (value, expression). `bound`: those that a function value has."""
        params = {p.name.id: p for p in method.params}
        order = [name for name in params if name not in bound]
        args: dict[str, tuple[Any, ast.Expr]] = {}
        position, what = 0, method.name.id if method.name.id != "forward" else unparse(expr.func)
        for arg in expr.args:
            if isinstance(arg, ast.StarArg):
                raise self.fail("E120", "`*` passes hyper-parameters, in declarations only", arg.span)
            if arg.name is None:
                if position >= len(order):
                    raise self.fail(
                        "E122",
                        f"{what} takes {counted(len(order), 'argument')}",
                        arg.span,
                        why=f"declared at {method.name.span.where}",
                    )
                name = order[position]
                position += 1
            else:
                name = arg.name.id
                if name not in params:
                    message = f"{what} has no argument `{name}`"
                    raise self.no_such("E120", message, arg.name.span, name, order)
            if name in bound:
                raise self.fail("E123", f"{what}: `{name}` is already bound to {show(bound[name])}", arg.span)
            if name in args:
                raise self.fail("E121", f"{what}: `{name}` is given twice", arg.span)
            args[name] = (self.value(arg.value), arg.value)
        args |= {name: (value, expr) for name, value in bound.items()}
        for name, param in params.items():
            if name not in args and param.default is None and not param.type.optional:
                raise self.fail("E124", f"{what}: missing `{name}`", expr.span, why=f"declared at {param.span.where}")
        return args

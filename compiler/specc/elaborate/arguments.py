"""Arguments of blocks: positional, by keyword, passed on by `*`, bound beforehand, defaults (LANGUAGE 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from specc.elaborate.builtins import COMPILE_TIME
from specc.elaborate.evaluate import Evaluator, alive
from specc.elaborate.names import available, counted, replaced
from specc.elaborate.scopes import Scope, names_in
from specc.elaborate.values import (
    POISON,
    Binding,
    BlockDecl,
    BlockValue,
    Fail,
    FnValue,
    Poisoned,
    coerced,
    describe,
    fits,
    number,
    show,
    type_text,
)
from specc.source import Span
from specc.syntax import ast
from specc.syntax.unparse import unparse

if TYPE_CHECKING:
    from specc.elaborate.elaborator import Elaborator


Args = tuple["ast.Arg | ast.StarArg", ...]


class Arguments:
    """Binds the arguments of calls that create parts."""

    def __init__(self, elab: Elaborator) -> None:
        self.elab = elab

    def bind(
        self,
        decl: BlockDecl,
        args: Args,
        caller: Evaluator,
        call_span: Span,
        bound: Mapping[str, Binding],
    ) -> tuple[dict[str, Binding], dict[str, str | None]]:
        """Arguments of a call to hyper-parameters: (bindings in the callee, how the caller wrote each)."""
        params = {p.name.id: p for p in decl.node.params}
        given, star = self._sort(decl, args, caller, params, bound)
        scope = Scope(decl.file)
        labels: dict[str, str | None] = {}
        poisoned = False
        for name, param in params.items():
            try:
                if name in given:
                    arg = given[name]
                    binding = Binding(caller.value(arg), arg.span, self._origin(caller, arg))
                    labels[name] = caller.label(arg)
                elif name in bound:
                    binding, labels[name] = bound[name], bound[name].label
                elif star is not None and (passed := caller.scope.find(name)) is not None:
                    binding, labels[name] = (
                        Binding(alive(passed.value), star, passed.origin),
                        caller.label(ast.Name(star, name)),
                    )
                else:
                    binding, labels[name] = self.default(decl, param, scope, caller, call_span, star), None
                scope.names[name] = self.typed(decl, param, binding, caller)
            except Fail as fail:
                self.elab.collector.add(fail.diagnostic)
                poisoned = True
                scope.names[name] = Binding(POISON, param.span, "")
            except Poisoned:
                poisoned = True
                scope.names[name] = Binding(POISON, param.span, "")
        if poisoned:
            raise Poisoned
        return scope.names, labels

    def _sort(
        self,
        decl: BlockDecl,
        args: Args,
        caller: Evaluator,
        params: Mapping[str, ast.Param],
        bound: Mapping[str, Binding],
    ) -> tuple[dict[str, ast.Expr], Span | None]:
        """Positional and keyword arguments by parameter name, and the span of `*`."""
        given: dict[str, ast.Expr] = {}
        star: Span | None = None
        order = list(params)
        position, keyword_seen = 0, False
        for arg in args:
            if isinstance(arg, ast.StarArg):
                star = arg.span
                continue
            if arg.name is None:
                if keyword_seen:
                    raise caller.fail(
                        "E121", f"{decl.name}: a positional argument follows a keyword argument", arg.span
                    )
                if position >= len(order):
                    raise caller.fail(
                        "E122",
                        f"{decl.name} takes {counted(len(order), 'argument')}",
                        arg.span,
                        label="one too many",
                        note=self.signature(decl),
                    )
                name = order[position]
                position += 1
            else:
                keyword_seen = True
                name = arg.name.id
                if name not in params:
                    raise self.unknown(decl, arg.name, caller)
            if name in given:
                raise caller.fail("E121", f"{decl.name}: `{name}` is given twice", arg.span)
            if name in bound:
                raise caller.fail(
                    "E123",
                    f"{decl.name}: `{name}` is already bound to {show(bound[name].value)}",
                    arg.span,
                    why=f"bound at {bound[name].span.where}",
                )
            given[name] = arg.value
        return given, star

    def unknown(self, decl: BlockDecl, name: ast.Ident, caller: Evaluator) -> Fail:
        params = [p.name.id for p in decl.node.params]
        message = f"{decl.name} has no hyper-parameter `{name.id}`"
        return caller.no_such("E120", message, name.span, name.id, params)

    def signature(self, decl: BlockDecl) -> str:
        shown = [p.name.id + (f" = {unparse(p.default)}" if p.default is not None else "") for p in decl.node.params]
        return f"{decl.name}({', '.join(shown[:6])}{', ..' if len(shown) > 6 else ''})   {decl.node.name.span.where}"

    def default(
        self,
        decl: BlockDecl,
        param: ast.Param,
        scope: Scope,
        caller: Evaluator,
        call_span: Span,
        star: Span | None = None,
    ) -> Binding:
        """The value of a parameter that is not given."""
        name = param.name.id
        if param.default is None:
            if param.type.optional:
                return Binding(None, param.span, f"default of {decl.name} ({param.span.where})")
            passed = [p.name.id for p in decl.node.params if star is not None and caller.scope.find(p.name.id)]
            raise caller.fail(
                "E124",
                f"{decl.name}: missing `{name}`",
                star or call_span.head(),
                f"passes: {', '.join(passed) or 'nothing'}" if star is not None else "",
                why=f"no hyper-parameter named {name} is in scope for `*`" if star is not None else "",
                help=with_argument(call_span.text, name, param.type),
                note=self.signature(decl),
            )
        inner = Evaluator(self.elab, scope)
        value = inner.value(param.default)
        derived = any(True for _ in names_in(param.default)) and not isinstance(value, (FnValue, BlockValue))
        origin = (
            f"{unparse(param.default)} ({param.span.where})"
            if derived
            else f"default of {decl.name} ({param.span.where})"
        )
        return Binding(value, param.span, origin, label=inner.label(param.default) if derived else None)

    def typed(self, decl: BlockDecl, param: ast.Param, binding: Binding, caller: Evaluator) -> Binding:
        """The binding in its declared type (E125)."""
        value = binding.value
        if not fits(value, param.type):
            message = f"{decl.name}: `{param.name.id}` cannot be {show(value)}"
            if isinstance(value, BlockValue) and not isinstance(param.type, ast.NamedType):
                message = f"{decl.name}: `{param.name.id}` cannot be a block"
            raise caller.fail(
                "E125",
                message,
                binding.span.head(),
                expected=f"{type_text(param.type)}   ({param.span.where})",
                found=show(value),
            )
        return Binding(coerced(value, param.type), binding.span, binding.origin, label=binding.label)

    def _origin(self, caller: Evaluator, arg: ast.Expr) -> str:
        """Where an argument's value came from: a passed-on name keeps its origin."""
        if isinstance(arg, ast.Name) and (binding := caller.scope.find(arg.id)) is not None:
            return binding.origin
        if any(True for _ in names_in(arg)):
            return f"{unparse(arg)} ({arg.span.where})"
        return f"argument ({arg.span.where})"

    def partial(self, caller: Evaluator, expr: ast.Call, callee: FnValue | BlockValue) -> FnValue | BlockValue:
        """`LayerNorm(eps = 1e-12)` or `leaky_relu(slope = 0.2)` where a constructor or function is expected."""
        named: dict[str, Any] = dict(callee.args)
        sources: dict[str, Binding] = dict(callee.sources) if isinstance(callee, BlockValue) else {}
        labels: dict[str, str] = dict(callee.labels) if isinstance(callee, FnValue) else {}
        params = self._partial_params(callee)
        star: Span | None = None
        for arg in expr.args:
            if isinstance(arg, ast.StarArg):
                star = arg.span
                continue
            if arg.name is None:
                what = callee.decl.name if isinstance(callee, BlockValue) else callee.name
                example = with_default(callee)
                if isinstance(callee, FnValue) and not example:
                    self._needs_tensors(caller, expr, callee, arg)
                plain = all(isinstance(a, ast.Arg) and a.name is None for a in expr.args)
                raise caller.fail(
                    "E130",
                    f"partial application of {what}: keyword arguments only",
                    expr.span,
                    why="what is passed on here is not called yet: its first arguments are given where it is",
                    help=f"{what},  or {example}" if example else what,
                    edits=replaced(expr.span, what) if plain else (),
                )
            name = arg.name.id
            if name not in params:
                if isinstance(callee, BlockValue):
                    raise self.unknown(callee.decl, arg.name, caller)
                raise caller.fail(
                    "E120", f"{callee.name} has no argument `{name}`", arg.name.span, available=available(params)
                )
            if name in named:
                raise caller.fail("E123", f"`{name}` is already bound to {show(named[name])}", arg.span)
            named[name] = caller.value(arg.value)
            label = caller.label(arg.value)
            sources[name] = Binding(named[name], arg.span, self._origin(caller, arg.value), label=label)
            if label is not None:
                labels[name] = label
        if star is not None and isinstance(callee, BlockValue):
            self._bind_star(caller, callee, star, named, sources)
        args = tuple(sorted(named.items()))
        if isinstance(callee, BlockValue):
            return BlockValue(callee.decl, args, sources)
        return FnValue(callee.name, callee.op, callee.fn, args, labels)

    def _needs_tensors(self, caller: Evaluator, expr: ast.Call, callee: FnValue, arg: ast.Arg) -> None:
        """E130 for a function of tensors that is called on what is known at compile time, where parts are declared."""
        value = caller.value(arg.value)
        if number(value) or isinstance(value, tuple):
            raise caller.fail(
                "E130",
                f"{callee.name} is a function of tensors, `{unparse(arg.value)}` is {describe(value)}",
                expr.span,
                note=f"functions of numbers and lists are {', '.join(sorted(COMPILE_TIME))}",
                help="let name = ..     names a value that is computed of others",
            )

    def _partial_params(self, callee: FnValue | BlockValue) -> list[str]:
        if isinstance(callee, BlockValue):
            return [p.name.id for p in callee.decl.node.params]
        if callee.op is not None:
            return [p.name for p in callee.op.params]
        return [p.name.id for p in callee.fn.node.params] if callee.fn else []

    def _bind_star(
        self, caller: Evaluator, callee: BlockValue, span: Span, named: dict[str, Any], sources: dict[str, Binding]
    ) -> None:
        for param in callee.decl.node.params:
            passed = caller.scope.find(param.name.id)
            if passed is not None and param.name.id not in named:
                named[param.name.id] = alive(passed.value)
                sources[param.name.id] = Binding(
                    passed.value, span, passed.origin, label=caller.label(ast.Name(span, param.name.id))
                )


def with_argument(call: str, name: str, type_: ast.TypeExpr) -> str:
    """A call's text with one argument more."""
    examples = {"int": "1", "float": "0.0", "bool": "false", "str": '""', "fn": "gelu", "dtype": "f32"}
    example = examples.get(type_.name) if isinstance(type_, ast.NamedType) else None
    if example is None or "\n" in call or not call.endswith(")"):
        return ""
    separator = "" if call.endswith("(") else ", "
    return f"{call[:-1]}{separator}{name} = {example})"


def with_default(callee: FnValue | BlockValue) -> str:
    """An example of binding an argument: `LayerNorm(eps = 1e-05)`."""
    if isinstance(callee, BlockValue):
        param = next((p for p in callee.decl.node.params if p.default is not None), None)
        return f"{callee.decl.name}({param.name.id} = {unparse(param.default)})" if param and param.default else ""
    option = next((p for p in callee.op.params if not p.is_operand), None) if callee.op is not None else None
    return f"{callee.name}({option.name} = {show(option.default)})" if option is not None else ""

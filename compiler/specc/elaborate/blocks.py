"""Blocks become modules: arguments are bound, members elaborated, once for each distinct (block, arguments) (LANGUAGE
4, 5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from specc.dims import Dim
from specc.elaborate.evaluate import Evaluator, alive
from specc.elaborate.instances import Instance
from specc.elaborate.members import MemberBuilder
from specc.elaborate.names import available, closest, counted, replaced
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
    fits,
    show,
    type_text,
)
from specc.ir.graph import Hyper, InitRule, Member, Module, PartGroup, PartList, Submodule, Tie
from specc.source import Span
from specc.syntax import ast
from specc.syntax.unparse import unparse

if TYPE_CHECKING:
    from specc.elaborate.elaborator import Elaborator

MAX_PARTS = 200_000
MAX_ELEMENTS = 2**43
MAX_NESTING = 100

Args = tuple["ast.Arg | ast.StarArg", ...]
Provided = Callable[[Evaluator], Binding]
"""A value given from outside (preset, `--set`, config.json), evaluated in the scope of the parameters before it."""


class Blocks:
    """All instances of an elaboration, shared by (block, arguments)."""

    def __init__(self, elab: Elaborator) -> None:
        self.elab = elab
        self.by_key: dict[tuple[Any, ...], Instance | None] = {}
        self.by_module: dict[int, Instance] = {}
        self.stack: list[BlockDecl] = []

    # ---- arguments -----------------------------------------------------------------------------------------------

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
        guess = closest(name.id, params)
        return caller.fail(
            "E120",
            f"{decl.name} has no hyper-parameter `{name.id}`",
            name.span,
            help=f"did you mean `{guess}`?" if guess else "",
            edits=replaced(name.span, guess),
            available=available(params) or "none",
        )

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
                named[param.name.id] = passed.value
                sources[param.name.id] = Binding(
                    passed.value, span, passed.origin, label=caller.label(ast.Name(span, param.name.id))
                )

    # ---- instances -----------------------------------------------------------------------------------------------

    def instance(self, decl: BlockDecl, bindings: dict[str, Binding], at: Span, caller: Evaluator | None) -> Instance:
        """The shared instance of (block, arguments); raises `Poisoned` if it was already found broken."""
        key = (decl, *((type(b.value).__name__, b.value) for b in bindings.values()))
        known = self.by_key.get(key)
        if known is not None:
            return known
        self._guard(decl, at)
        if key in self.by_key:
            raise Poisoned
        self.by_key[key] = None
        self.stack.append(decl)
        try:
            instance = self._build(decl, bindings)
        finally:
            self.stack.pop()
        self.by_key[key] = instance
        self.by_module[id(instance.module)] = instance
        return instance

    def _guard(self, decl: BlockDecl, at: Span) -> None:
        evaluator = Evaluator(self.elab, Scope(decl.file))
        if decl in self.stack:
            cycle = " > ".join(d.name for d in [*self.stack[self.stack.index(decl) :], decl])
            raise evaluator.fail(
                "E150",
                f"{decl.name} contains itself: {cycle}",
                at.head(),
                note="there is no recursion; use a list of parts",
            )
        if len(self.stack) >= MAX_NESTING:
            raise evaluator.fail("E193", f"blocks are nested more than {MAX_NESTING} deep", at.head())

    def _build(self, decl: BlockDecl, bindings: dict[str, Binding]) -> Instance:
        node = decl.node
        dims = dict(self.elab.file_dims(decl.file))
        scope = Scope(decl.file, dict(bindings), dims=dims)
        torch_class = next(filter(None, map(_torch_class, node.decorators)), None)
        members: dict[str, Member] = {}
        module = Module(
            name=decl.name,
            file=decl.file.source.name,
            hypers=(),
            members=members,
            ties=(),
            inits=(),
            torch_class=torch_class,
            doc=node.doc,
            span=node.name.span,
        )
        instance = Instance(decl, module, scope, dims, members=members)
        ties: list[Tie] = []
        inits: list[InitRule] = []
        builder = MemberBuilder(self.elab, instance, ties, inits)
        for name in bindings:
            if name in dims:
                param = next(p for p in node.params if p.name.id == name)
                self.elab.collector.add(
                    builder.fail(
                        "N201", f"`{name}` is a hyper-parameter and a dim of the same scope", param.name.span
                    ).diagnostic
                )
        builder.run(node.members)
        kinds = {p.name.id: type_text(p.type) for p in node.params}
        module.hypers = tuple(
            Hyper(
                name,
                _plain(b.value),
                b.label if name not in kinds or _is_derived(b, decl) else None,
                name not in kinds,
                kinds.get(name, "let"),
                b.origin,
            )
            for name, b in scope.names.items()
        )
        module.ties, module.inits = tuple(ties), tuple(inits)
        return instance

    def _heaviest(self, instance: Instance) -> str:
        """The way down to where most of the parts are."""
        names = [instance.decl.name]
        while len(names) <= MAX_NESTING:
            inner = [self.by_module[id(m)] for member in instance.members.values() for m in _parts_of(member)]
            if not inner:
                break
            instance = max(inner, key=lambda one: one.parts)
            names.append(instance.decl.name)
        if len(names) > 6:
            names[3:-1] = ["..."]
        return " > ".join(names)

    def check_counts(self, instance: Instance) -> None:
        """The limits on what an expansion would make, on the shared graph, before anything is expanded (E193, E194)."""
        evaluator = Evaluator(self.elab, instance.scope)
        span = instance.decl.node.name.span
        if instance.parts > MAX_PARTS:
            raise evaluator.fail(
                "E193",
                f"{instance.decl.name} expands to {instance.parts:,} parts and parameters (limit {MAX_PARTS:,})",
                span,
                path=self._heaviest(instance),
                note="counted before expansion; nothing was built",
            )
        if instance.elements > MAX_ELEMENTS:
            raise evaluator.fail(
                "E194",
                f"{instance.decl.name} has {instance.elements:,} parameters (limit {MAX_ELEMENTS:,})",
                span,
                note="counted before expansion; nothing was built",
            )


def _parts_of(member: Member) -> list[Module]:
    """The modules directly inside a member."""
    if isinstance(member, Submodule):
        return [member.module]
    inner = (
        member.items
        if isinstance(member, PartList)
        else member.members.values()
        if isinstance(member, PartGroup)
        else ()
    )
    return [module for one in inner for module in _parts_of(one)]


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


def _torch_class(decorator: ast.Decorator) -> str | None:
    """`torch.nn.Linear` of `@torch("torch.nn.Linear")`."""
    first = decorator.args[0] if decorator.args else None
    if decorator.path == "torch" and isinstance(first, ast.Arg) and isinstance(first.value, ast.Str):
        return first.value.value
    return None


def _plain(value: Any) -> Any:
    """Blocks and functions as text; the rest as it is."""
    if isinstance(value, (BlockValue, FnValue, Dim)):
        return str(value)
    if isinstance(value, tuple):
        return tuple(_plain(v) for v in value)
    return value


def _is_derived(binding: Binding, decl: BlockDecl) -> bool:
    """Whether the value came from a default of the block itself, so that its label is over the block's own names."""
    return any(p.span is binding.span for p in decl.node.params)

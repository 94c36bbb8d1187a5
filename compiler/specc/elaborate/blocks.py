"""Blocks become modules: arguments are bound, members elaborated, once for each distinct (block, arguments) (LANGUAGE
4, 5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specc.dims import Dim
from specc.elaborate.arguments import Arguments
from specc.elaborate.evaluate import Evaluator
from specc.elaborate.instances import Instance
from specc.elaborate.members import MAX_PARTS, MemberBuilder
from specc.elaborate.scopes import Scope
from specc.elaborate.values import (
    Binding,
    BlockDecl,
    BlockValue,
    FnValue,
    Poisoned,
    type_text,
)
from specc.ir.declared import Hyper, InitRule
from specc.ir.graph import Member, Module, PartGroup, PartList, Submodule, Tie
from specc.source import Span
from specc.syntax import ast

if TYPE_CHECKING:
    from specc.elaborate.elaborator import Elaborator

MAX_ELEMENTS = 2**43
MAX_NESTING = 100


class Blocks(Arguments):
    """All instances of an elaboration, shared by (block, arguments)."""

    def __init__(self, elab: Elaborator) -> None:
        super().__init__(elab)
        self.by_key: dict[tuple[Any, ...], Instance | None] = {}
        self.by_module: dict[int, Instance] = {}
        self.stack: list[BlockDecl] = []

    # ---- arguments -----------------------------------------------------------------------------------------------

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

    def decls(self) -> set[BlockDecl]:
        """The blocks that have an instance."""
        return {instance.decl for instance in self.by_module.values()}

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

"""The members of a block: parts, lists, groups, parameters, lets, requirements, ties, initialisation."""

from __future__ import annotations

import keyword
from typing import Any

from specc.dims import Dim
from specc.elaborate.instances import Absence
from specc.elaborate.parameters import ParameterBuilder
from specc.elaborate.values import POISON, Binding, BlockValue, Fail, FnValue, Poisoned, describe, show
from specc.ir.graph import (
    Function,
    Member,
    PartGroup,
    PartList,
    Path,
    Submodule,
)
from specc.syntax import ast
from specc.syntax.unparse import unparse

MAX_PARTS = 200_000

# Attributes of torch.nn.Module that a part of the same name would break.
TORCH_RESERVED = frozenset(
    """training forward add_module apply bfloat16 buffers call_super_init children compile cpu cuda double dump_patches
    eval extra_repr float get_buffer get_extra_state get_parameter get_submodule half ipu load_state_dict
    modules mtia named_buffers named_children named_modules named_parameters parameters register_backward_hook
    register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_load_state_dict_post_hook register_module register_parameter register_state_dict_pre_hook
    requires_grad_ set_extra_state set_submodule share_memory state_dict to to_empty train type xpu zero_grad""".split()
)


class MemberBuilder(ParameterBuilder):
    """Fills one instance.

    Declarations see hyper-parameters and lets above them; members are not visible (LANGUAGE 3).
    """

    def run(self, members: tuple[ast.Member, ...]) -> None:
        instance = self.instance
        dim_items = [item for m in members if isinstance(m, ast.Dims) for item in m.items]
        declared = {i.id: Dim.symbol(i.id) for i in dim_items if isinstance(i, ast.Name)}
        instance.dims.update({k: v for k, v in declared.items() if self.scope.find(k) is None})
        for member in members:
            with self.elab.collecting():
                self._member(member)
        for member in members:  # ties and init rules name members declared anywhere in the block
            with self.elab.collecting():
                if isinstance(member, ast.Tie):
                    self._tie(member)
                elif isinstance(member, ast.Init):
                    self._init(member)

    def _member(self, member: ast.Member) -> None:
        instance = self.instance
        if isinstance(member, ast.Let):
            self._let(member)
        elif isinstance(member, ast.Dims):
            instance.facts = self.elab.declare_dims(
                self.scope, member.items, instance.dims, instance.facts, instance.stated
            )
        elif isinstance(member, ast.Require):
            self._require(member)
        elif isinstance(member, ast.Method):
            self._declare(member.name, member.name.id)
            instance.methods[member.name.id] = member
        elif isinstance(member, (ast.Part, ast.ParamDecl)):
            name = member.name.id
            self._declare(member.name, name)
            try:
                built = self._named(member, (name,))
            except (Fail, Poisoned):
                instance.broken.add(name)
                raise
            if built is None:
                instance.absent[name] = self._absence(member)
            else:
                instance.members[name] = built

    def _absence(self, member: ast.Part | ast.ParamDecl) -> Absence:
        """Why this configuration lacks a member: its condition, and what the names in it are."""
        value = member.value if isinstance(member, ast.Part) else member.init
        cond = value.cond if isinstance(value, (ast.Ternary, ast.Group)) else None
        if cond is None:
            return Absence(member.span, member.span)
        return Absence(member.span, cond.span, tuple(self.origins(cond)))

    def _declare(self, ident: ast.Ident, name: str) -> None:
        if name in self.seen:
            raise self.fail(
                "E104", f"`{name}` is declared twice", ident.span, why=f"first declared at {self.seen[name].where}"
            )
        self.seen[name] = ident.span
        try:
            self._check_name(ident)
        except Fail:
            self.instance.broken.add(name)
            raise

    def _check_name(self, ident: ast.Ident) -> None:
        name = ident.id
        if name == "forward" or not (keyword.iskeyword(name) or name in TORCH_RESERVED):
            return
        why = (
            "it is a Python keyword"
            if keyword.iskeyword(name)
            else "torch.nn.Module already has an attribute of that name"
        )
        raise self.fail(
            "N202",
            f"a part cannot be called `{name}`",
            ident.span,
            why=why,
            help=f"{name}_proj;  map the checkpoint name in a weights section",
        )

    # ---- lets, requirements --------------------------------------------------------------------------------------

    def _let(self, member: ast.Let) -> None:
        name = member.name.id
        if self.scope.names.get(name) is not None:
            raise self.fail("E104", f"`{name}` is declared twice", member.name.span)
        self.scope.names[name] = Binding(POISON, member.name.span, "")
        value = self.value(member.value)
        if isinstance(value, Dim) and value.value is None:
            del self.scope.names[name]
            self.instance.dims[name] = value
            return
        origin = f"{unparse(member.value)} ({member.span.where})"
        self.scope.names[name] = Binding(value, member.name.span, origin, label=self.label(member.value))

    def _require(self, member: ast.Require) -> None:
        if self.condition(member.cond):
            return
        message = (
            f"requirement failed: {member.message}" if member.message else f"requirement failed: {unparse(member.cond)}"
        )
        raise self.fail(
            "E111",
            message,
            member.cond.span,
            self._evaluated(member.cond),
            names=member.cond,
            help=self._divisors(member.cond),
        )

    def _evaluated(self, cond: ast.Expr) -> str:
        """`32 % 5 = 2`: what the left side of a comparison comes to."""
        if not isinstance(cond, ast.Compare):
            return ""
        sides = [cond.first, *cond.rest]
        if len(sides) == 2 and isinstance(cond.first, ast.Binary):
            left, right = self.value(cond.first.left), self.value(cond.first.right)
            return f"{show(left)} {cond.first.op} {show(right)} = {show(self.value(cond.first))}"
        return " ".join(
            show(self.value(side)) + (f" {op}" if op else "") for side, op in zip(sides, (*cond.ops, ""), strict=True)
        )

    def _divisors(self, cond: ast.Expr) -> str:
        """For `a % b == 0`: the values of b that would do."""
        if not (isinstance(cond, ast.Compare) and isinstance(cond.first, ast.Binary) and cond.first.op == "%"):
            return ""
        a = self.value(cond.first.left)
        if not isinstance(a, int) or not 0 < a <= 65_536 or not isinstance(cond.first.right, ast.Name):
            return ""
        divisors = [d for d in range(1, a + 1) if a % d == 0][:12]
        return f"{unparse(cond.first.right)} for {unparse(cond.first.left)} = {a}: {', '.join(map(str, divisors))}"

    # ---- parts ---------------------------------------------------------------------------------------------------

    def _named(self, member: ast.Part | ast.ParamDecl, path: Path) -> Member | None:
        if isinstance(member, ast.ParamDecl):
            return self._parameter(member)
        return (
            self._group(member.value, path) if isinstance(member.value, ast.Group) else self._part(member.value, path)
        )

    def _group(self, group: ast.Group, path: Path) -> PartGroup | None:
        if group.cond is not None and not self.condition(group.cond):
            return None
        members: dict[str, Member] = {}
        names: set[str] = set()
        for one in group.members:
            name = one.name.id
            if name in names:
                raise self.fail("E104", f"`{name}` is declared twice", one.name.span)
            names.add(name)
            self._check_name(one.name)
            built = self._named(one, (*path, name))
            if built is None:
                key = ".".join(map(str, (*path, name)))
                self.instance.absent[key] = self._absence(one)
            else:
                members[name] = built
        return PartGroup(members, group.span)

    def _part(self, expr: ast.Expr, path: Path) -> Member | None:
        """The part an expression of a declaration creates; None if `if` leaves it out."""
        if isinstance(expr, ast.Paren):
            return self._part(expr.inner, path)
        if isinstance(expr, ast.Ternary):
            if self.condition(expr.cond):
                return self._part(expr.then, path)
            return self._part(expr.other, path) if expr.other is not None else None
        if isinstance(expr, ast.NoneLit):
            return None
        if isinstance(expr, ast.ListExpr):
            return self._list(expr, path)
        if isinstance(expr, ast.Comprehension):
            return self._comprehension(expr, path)
        if isinstance(expr, ast.Binary) and expr.op in ("+", "*"):
            return self._list_sum(expr, path)
        if isinstance(expr, ast.Call) and isinstance(expr.func, ast.Name):
            callee = self.constructor(expr.func)
            if isinstance(callee, BlockValue):
                return self._create(expr, callee, path)
            if isinstance(callee, FnValue):
                return self._function(self.elab.blocks.partial(self, expr, callee), expr)
            raise self.fail("E109", f"`{expr.func.id}` is {describe(callee)}, not a block", expr.func.span)
        value = self.value(expr)
        if isinstance(value, FnValue):
            return self._function(value, expr)
        if isinstance(value, BlockValue):
            raise self.fail(
                "E109",
                f"`{unparse(expr)}` is a block: a part is created by a call",
                expr.span,
                help=f"{unparse(expr)}(..)",
            )
        raise self.fail("E100", f"a part is a block, a list of parts or a group, found {describe(value)}", expr.span)

    def _function(self, value: FnValue | BlockValue, expr: ast.Expr) -> Function:
        assert isinstance(value, FnValue)
        if value.op is None:
            function = Function(value.name, None, dict(value.labels), expr.span)
            self.elab.bodies.functions[id(function)] = value
            return function
        return Function(value.name, self.elab.bodies.bound_op(self, value, expr.span), dict(value.labels), expr.span)

    def _create(self, expr: ast.Call, callee: BlockValue, path: Path) -> Submodule:
        decl = callee.decl
        bindings, labels = self.elab.blocks.bind(decl, expr.args, self, expr.span, dict(callee.sources))
        with self.elab.inside(f"{'.'.join(map(str, path))}: {decl.name}", expr.span):
            instance = self.elab.blocks.instance(decl, bindings, expr.span, self)
        self._count(instance.parts, instance.elements)
        args = tuple((name, _argument(b.value), labels.get(name)) for name, b in bindings.items())
        return Submodule(instance.module, args, expr.span)

    def _list(self, expr: ast.ListExpr, path: Path) -> PartList:
        items: list[Member] = []
        for element in expr.elements:
            at = (*path, len(items))
            built = self._group(element, at) if isinstance(element, ast.Group) else self._part(element, at)
            if built is not None:
                items.append(built)
        self._count(1, 0)
        return PartList(tuple(items), None, None, expr.span)

    def _comprehension(self, expr: ast.Comprehension, path: Path) -> PartList:
        items: list[Member] = []
        expected = len(self.items(expr.iterable)) * self._expected(expr.element)
        if expected > MAX_PARTS:  # nested lists: refused before the first element is made
            raise self.fail(
                "E193", f"this list has {expected:,} elements (limit {MAX_PARTS:,} parts)", expr.span.head()
            )
        self._gather(expr, path, items)
        self._count(1, 0)
        if expr.flat:  # no one loop of Python makes it
            return PartList(tuple(items), None, None, expr.span)
        names = tuple(n.id for n in expr.names)
        return PartList(tuple(items), names, self.label(expr.iterable), expr.span)

    def _gather(self, expr: ast.Comprehension, path: Path, items: list[Member]) -> None:
        """Append the elements, those of all generators in one list."""
        element = expr.element
        for _ in self.iterate(expr):
            if expr.flat and isinstance(element, ast.Comprehension):
                self._gather(element, path, items)
                continue
            at = (*path, len(items))
            built = self._group(element, at) if isinstance(element, ast.Group) else self._part(element, at)
            if built is not None:
                items.append(built)

    def _expected(self, element: ast.Expr | ast.Group) -> int:
        """How many parts a nested comprehension makes at least."""
        if not isinstance(element, ast.Comprehension):
            return 1
        return self.repeats(element.iterable) * self._expected(element.element)

    def _list_sum(self, expr: ast.Binary, path: Path) -> PartList:
        if expr.op == "*":
            self.arithmetic(expr, (), 0)  # lists do not repeat: E101
        left = self._part(expr.left, path)
        if not isinstance(left, PartList):
            raise self.fail("E100", "`+` joins lists of parts", expr.left.span)
        right = self._part(expr.right, path)
        if not isinstance(right, PartList):
            raise self.fail("E100", "`+` joins lists of parts", expr.right.span)
        return PartList(left.items + right.items, None, None, expr.span)

    # ---- parameters ----------------------------------------------------------------------------------------------

    # ---- ties, init ----------------------------------------------------------------------------------------------


def _argument(value: Any) -> Any:
    return str(value) if isinstance(value, (BlockValue, FnValue)) else value

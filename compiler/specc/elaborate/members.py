"""The members of a block: parts, lists, groups, parameters, lets, requirements, ties, initialisation."""

from __future__ import annotations

import keyword
from typing import TYPE_CHECKING, Any

from specc import initializers
from specc.diagnostics import Label
from specc.dims import Dim
from specc.elaborate.blocks import Absence, Instance
from specc.elaborate.evaluate import Evaluator
from specc.elaborate.files import FileScope
from specc.elaborate.names import available, closest
from specc.elaborate.values import Binding, BlockDecl, BlockValue, Fail, FnValue, Poisoned, describe, show
from specc.ir.graph import (
    Function,
    Initializer,
    InitRule,
    Member,
    Parameter,
    PartGroup,
    PartList,
    Path,
    Submodule,
    Tie,
    element_count,
)
from specc.source import Span
from specc.syntax import ast
from specc.syntax.unparse import unparse
from specc.types import TYPE_NAMES, TensorType

if TYPE_CHECKING:
    from specc.elaborate.elaborator import Elaborator

MAX_LIST = 65_536
MAX_SIZE = 2**31 - 1

# Attributes of torch.nn.Module that a part of the same name would break.
TORCH_RESERVED = frozenset(
    """training forward add_module apply bfloat16 buffers call_super_init children compile cpu cuda double dump_patches eval
    extra_repr float get_buffer get_extra_state get_parameter get_submodule half ipu load_state_dict modules mtia named_buffers
    named_children named_modules named_parameters parameters register_backward_hook register_buffer register_forward_hook
    register_forward_pre_hook register_full_backward_hook register_load_state_dict_post_hook register_module register_parameter
    register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule share_memory state_dict to to_empty train type xpu
    zero_grad""".split()
)


class MemberBuilder(Evaluator):
    """Fills one instance.

    Declarations see hyper-parameters and lets above them; members are not visible (LANGUAGE 3).
    """

    def __init__(self, elab: Elaborator, instance: Instance, ties: list[Tie], inits: list[InitRule]) -> None:
        super().__init__(elab, instance.scope)
        self.instance, self.ties, self.inits = instance, ties, inits
        self.seen: dict[str, Span] = {}

    def run(self, members: tuple[ast.Member, ...]) -> None:
        instance = self.instance
        dim_items = [item for m in members if isinstance(m, ast.Dims) for item in m.items]
        declared = {i.id: Dim.symbol(i.id) for i in dim_items if isinstance(i, ast.Name)}
        instance.dims.update({k: v for k, v in declared.items() if self.scope.find(k) is None})
        for member in members:
            with self.elab.collecting():
                self._member(member)
        instance.facts = self.elab.declare_dims(self.scope, dim_items, instance.dims, instance.facts)
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
                instance.absent[name] = Absence(member.span, self._condition_span(member))
            else:
                instance.members[name] = built

    def _condition_span(self, member: ast.Part | ast.ParamDecl) -> Span:
        value = member.value if isinstance(member, ast.Part) else member.init
        if isinstance(value, ast.Ternary):
            return value.cond.span
        if isinstance(value, ast.Group) and value.cond is not None:
            return value.cond.span
        return member.span

    def _declare(self, ident: ast.Ident, name: str) -> None:
        if name in self.seen:
            raise self.fail(
                "E104", f"`{name}` is declared twice", ident.span, why=f"first declared at {self.seen[name].where}"
            )
        self.seen[name] = ident.span
        self._check_name(ident)

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
        value = self.value(member.value)
        if value is not None and isinstance(value, Dim) and value.value is None:
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
                self.instance.absent[key] = Absence(one.span, self._condition_span(one))
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
            return Function(value.name, None, dict(value.labels), expr.span)
        return Function(value.name, self.elab.bodies.bound_op(self, value, expr.span), dict(value.labels), expr.span)

    def _create(self, expr: ast.Call, callee: BlockValue, path: Path) -> Submodule:
        decl = callee.decl
        bindings, labels = self.elab.blocks.bind(decl, expr.args, self, expr.span, dict(callee.sources))
        with self.elab.inside(f"{'.'.join(map(str, path))}: {decl.name}"):
            instance = self.elab.blocks.instance(decl, bindings, expr.span, self)
        self._count(instance.parts, instance.elements)
        args = tuple((name, _argument(b.value), labels.get(name)) for name, b in bindings.items())
        return Submodule(instance.module, args, expr.span)

    def _count(self, parts: int, elements: int) -> None:
        self.instance.parts += parts
        self.instance.elements += elements

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
        for _ in self.iterate(expr):
            at = (*path, len(items))
            built = (
                self._group(expr.element, at) if isinstance(expr.element, ast.Group) else self._part(expr.element, at)
            )
            if built is not None:
                items.append(built)
        self._count(1, 0)
        names = tuple(n.id for n in expr.names)
        return PartList(tuple(items), names, self.label(expr.iterable), expr.span)

    def _list_sum(self, expr: ast.Binary, path: Path) -> PartList:
        if expr.op == "*":
            self.arithmetic(expr, (), self.value(expr.right))  # lists do not repeat: E101
        left = self._part(expr.left, path)
        if not isinstance(left, PartList):
            raise self.fail("E100", "`+` joins lists of parts", expr.left.span)
        right = self._part(expr.right, path)
        if not isinstance(right, PartList):
            raise self.fail("E100", "`+` joins lists of parts", expr.right.span)
        return PartList(left.items + right.items, None, None, expr.span)

    # ---- parameters ----------------------------------------------------------------------------------------------

    def _parameter(self, member: ast.ParamDecl) -> Parameter | None:
        init = member.init
        if isinstance(init, ast.Ternary):
            if self.condition(init.cond):
                init = init.then
            elif init.other is None:
                return None
            else:
                init = init.other
        type_ = self._static_type(member.type)
        initializer = self.initializer(init) if init is not None else None
        self._count(1, 0 if member.buffer else element_count(type_))
        return Parameter(member.name.id, type_, initializer, member.buffer, member.span)

    def _static_type(self, type_: ast.TypeExpr) -> TensorType:
        if not isinstance(type_, ast.TensorTypeExpr) or type_.name not in TYPE_NAMES or type_.optional:
            raise self.fail("E125", "a parameter has a tensor type", type_.span, help="param w: Tensor[dim] = zeros()")
        dims = []
        for expr in type_.dims:
            dim = self.size(expr)
            if dim.value is None or not 1 <= dim.value <= MAX_SIZE:
                raise self.fail(
                    "E112", f"the size of a parameter is an int from 1 to 2**31 - 1, found {dim}", expr.span, names=expr
                )
            dims.append(dim)
        return TensorType(TYPE_NAMES[type_.name], tuple(dims))

    def initializer(self, expr: ast.Expr) -> Initializer:
        """`normal(0.02)` with its arguments evaluated."""
        if (
            not isinstance(expr, ast.Call)
            or not isinstance(expr.func, ast.Name)
            or expr.func.id not in initializers.SIGNATURES
        ):
            found = unparse(expr.func) if isinstance(expr, ast.Call) else unparse(expr)
            guess = closest(found, initializers.SIGNATURES)
            help = f"did you mean `{guess}`?" if guess else ""
            raise self.fail(
                "E140",
                f"`{found}` is not an initialiser",
                expr.span,
                help=help,
                available=available(initializers.SIGNATURES, 20),
            )
        name = expr.func.id
        params = initializers.SIGNATURES[name]
        args: dict[str, Any] = {}
        labels: dict[str, str] = {}
        order = list(params)
        for position, arg in enumerate(expr.args):
            if isinstance(arg, ast.StarArg):
                raise self.fail("E120", "initialisers take no `*`", arg.span)
            if arg.name is None and position >= len(order):
                raise self.fail("E122", f"{name} takes {len(order)} arguments", arg.span)
            key = arg.name.id if arg.name is not None else order[position]
            if key not in params:
                raise self.fail("E120", f"{name} has no argument `{key}`", arg.span, available=available(order))
            args[key] = self.value(arg.value)
            label = self.label(arg.value)
            if label is not None:
                labels[key] = label
        for key, default in params.items():
            if key not in args:
                if default is initializers.REQUIRED:
                    raise self.fail("E124", f"{name}: missing `{key}`", expr.span)
                args[key] = default
        return Initializer(name, {key: args[key] for key in order}, labels)

    # ---- ties, init ----------------------------------------------------------------------------------------------

    def _path(self, expr: ast.Expr) -> Path:
        """`model.embed_tokens.weight`, `h[0].w` as a path."""
        if isinstance(expr, ast.Name):
            return (expr.id,)
        if isinstance(expr, ast.Attr):
            return (*self._path(expr.base), expr.name.id)
        if isinstance(expr, ast.Int):
            return (expr.value,)
        if isinstance(expr, ast.Index) and len(expr.items) == 1 and isinstance(expr.items[0], ast.Expr):
            index = self.value(expr.items[0])
            if isinstance(index, int):
                return (*self._path(expr.base), index)
        raise self.fail(
            "E250", "a tie names two parameters by their paths", expr.span, help="tie lm_head.weight = wte.weight"
        )

    def _tie(self, member: ast.Tie) -> None:
        if member.cond is not None and not self.condition(member.cond):
            return
        left, right = self._path(member.left), self._path(member.right)
        targets = [self._resolve(path, expr) for path, expr in ((left, member.left), (right, member.right))]
        a, b = targets
        if a.type.shape != b.type.shape or a.type.dtype != b.type.dtype:
            labels = (Label(member.right.span, _shape_text(b.type)),)
            raise self.fail(
                "S250",
                f"cannot tie {unparse(member.left)} to {unparse(member.right)}",
                member.left.span,
                _shape_text(a.type),
                others=labels,
                help="build both from one size",
            )
        self.ties.append(Tie(left, right, member.span))

    def _resolve(self, path: Path, expr: ast.Expr) -> Parameter:
        member: Member | None = None
        members: Any = self.instance.members
        for i, segment in enumerate(path):
            if i == 0 and segment in self.instance.broken:
                raise Poisoned
            if (
                isinstance(member, PartList)
                and isinstance(segment, int)
                and -len(member.items) <= segment < len(member.items)
            ):
                member = member.items[segment]
            else:
                member = members.get(segment)
            if member is None:
                raise self.fail(
                    "E250",
                    f"`{unparse(expr)}` names no parameter: there is no `{segment}`",
                    expr.span,
                    available=available(map(str, members)),
                )
            members = (
                member.module.members
                if isinstance(member, Submodule)
                else member.members
                if isinstance(member, PartGroup)
                else {}
            )
        if not isinstance(member, Parameter):
            raise self.fail(
                "E250", f"`{unparse(expr)}` is not a parameter", expr.span, available=available(map(str, members))
            )
        return member

    def _init(self, member: ast.Init) -> None:
        for rule in member.rules:
            with self.elab.collecting():
                init = self.initializer(rule.value)
                if isinstance(rule.key, ast.Str):
                    self.inits.append(InitRule(None, None, rule.key.value, init, rule.span))
                else:
                    self.inits.append(self._block_rule(rule.key, init, rule.span))

    def _block_rule(self, key: ast.Expr, init: Initializer, span: Span) -> InitRule:
        if isinstance(key, ast.Attr) and isinstance(key.base, ast.Name):
            found = self.file.find(key.base.id)
            if found is not None and isinstance(found[1], BlockDecl):
                return InitRule(found[1].name, key.name.id, None, init, span)
        blocks = [n for n in self.file.visible() if _is_block(self.file, n)]
        raise self.fail(
            "E103",
            f"`{unparse(key)}`: an init rule names `Block.parameter` or a path pattern",
            key.span,
            available=available(blocks),
        )


def _is_block(file: FileScope, name: str) -> bool:
    found = file.find(name)
    return found is not None and isinstance(found[1], BlockDecl)


def _argument(value: Any) -> Any:
    return str(value) if isinstance(value, (BlockValue, FnValue)) else value


def _shape_text(type_: TensorType) -> str:
    sizes = [str(d) for d in type_.shape]
    labels = [d.label or str(d) for d in type_.shape]
    return f"[{', '.join(sizes)}]" + (f" = [{', '.join(labels)}]" if labels != sizes else "")

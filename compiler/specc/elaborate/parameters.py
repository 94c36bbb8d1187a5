"""Parameters of a block, their ties and their initialisation (LANGUAGE 5)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from specc import initializers
from specc.diagnostics import Label, Size
from specc.dims import Dim
from specc.elaborate.declared import member_names
from specc.elaborate.evaluate import Evaluator
from specc.elaborate.files import FileScope
from specc.elaborate.instances import Instance
from specc.elaborate.names import available, closest, counted, did_you_mean, replaced
from specc.elaborate.values import BlockDecl, Fail, Poisoned, show
from specc.ir.declared import Initializer, InitRule
from specc.ir.graph import Member, Parameter, PartGroup, PartList, Path, Submodule, Tie
from specc.ir.members import element_count
from specc.source import Span
from specc.syntax import ast
from specc.syntax.unparse import unparse
from specc.types import TYPE_NAMES, TensorType

if TYPE_CHECKING:
    from specc.elaborate.elaborator import Elaborator

MAX_SIZE = 2**31 - 1


class ParameterBuilder(Evaluator):
    """The part of a block's builder that declares, ties and initialises parameters."""

    def __init__(self, elab: Elaborator, instance: Instance, ties: list[Tie], inits: list[InitRule]) -> None:
        super().__init__(elab, instance.scope)
        self.instance, self.ties, self.inits = instance, ties, inits
        self.seen: dict[str, Span] = {}

    def _count(self, parts: int, elements: int) -> None:
        self.instance.parts += parts
        self.instance.elements += elements

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
            dim = Dim.UNIT if isinstance(expr, ast.Int) and expr.value == 1 else self.size(expr)
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
            help = did_you_mean(guess)
            place = expr.func.span if isinstance(expr, ast.Call) else expr.span
            raise self.fail(
                "E140",
                f"`{found}` is not an initialiser",
                place,
                help=help,
                edits=replaced(place, guess),
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
                raise self.fail("E122", f"{name} takes {counted(len(order), 'argument')}", arg.span)
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
        left, right = self._path(member.left), self._path(member.right)
        if member.cond is not None and not self.condition(member.cond):
            for path, expr in ((left, member.left), (right, member.right)):
                self._declared(path, expr)
            return
        targets = [self._resolve(path, expr) for path, expr in ((left, member.left), (right, member.right))]
        (a, a_labels), (b, b_labels) = targets
        if a.type.shape != b.type.shape or a.type.dtype != b.type.dtype:
            a_text, b_text = _shape_text(a.type, a_labels), _shape_text(b.type, b_labels)
            rows = {row.name: row for text in (a_text, b_text) for row in self._rows(text)}
            raise self.fail(
                "S250",
                f"cannot tie {unparse(member.left)} to {unparse(member.right)}",
                member.left.span,
                a_text,
                others=(Label(member.right.span, b_text),),
                sizes=tuple(rows.values()),
                help="build both from one size",
            )
        self.ties.append(Tie(left, right, member.span))

    def _declared(self, path: Path, expr: ast.Expr) -> None:
        """A path that this configuration does not need may name what it does not have, but nothing unheard of."""
        names = member_names(self.elab.files.by_key.values())
        for i, segment in enumerate(path):
            if isinstance(segment, str) and segment not in names:
                raise self._names_nothing(expr, path, i, sorted(names), "")

    def _names_nothing(self, expr: ast.Expr, path: Path, at: int, known: Sequence[str], available: str) -> Fail:
        guess = closest(str(path[at]), known)
        span = _segments(expr)[at]
        return self.fail(
            "E250",
            f"`{unparse(expr)}` names no parameter: there is no `{path[at]}`",
            span,
            help=did_you_mean(guess),
            edits=replaced(span, guess),
            cause=str(path[at]),
            available=available,
        )

    def _rows(self, text: str) -> Iterator[Size]:
        """Origins of the names in a shape's text."""
        for name in dict.fromkeys(re.findall(r"[A-Za-z_]\w*", text)):
            binding = self.scope.find(name)
            if binding is not None:
                yield Size(name, show(binding.value), binding.origin)

    def _resolve(self, path: Path, expr: ast.Expr) -> tuple[Parameter, Mapping[str, str | None]]:
        """The parameter at a path; hyper-parameter of its block -> how this block wrote it."""
        member: Member | None = None
        members: Any = self.instance.members
        labels: Mapping[str, str | None] = {}
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
                known = [*map(str, members), *(sorted(self.instance.broken) if i == 0 else ())]
                raise self._names_nothing(expr, path, i, known, available(known) or "nothing")
            if isinstance(member, Submodule):
                labels = {name: label for name, _, label in member.args}
            members = (
                member.module.members
                if isinstance(member, Submodule)
                else member.members
                if isinstance(member, PartGroup)
                else {}
            )
        if not isinstance(member, Parameter):
            names = [name for name, one in members.items() if isinstance(one, Parameter)]
            help = f"{unparse(expr)}.{names[0]}" if names else ""
            edits = replaced(expr.span, help)
            raise self.fail("E250", f"`{unparse(expr)}` is not a parameter", expr.span, help=help, edits=edits)
        return member, labels

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
                params = [m.name.id for m in found[1].node.members if isinstance(m, ast.ParamDecl)]
                if key.name.id not in params:
                    guess = closest(key.name.id, params)
                    raise self.fail(
                        "E250",
                        f"block {found[1].name} declares no parameter `{key.name.id}`",
                        key.name.span,
                        help=f"did you mean `{guess}`?" if guess else 'a path names any parameter:  "*.weight"',
                        edits=replaced(key.name.span, guess),
                        available=available(params) or "none",
                    )
                return InitRule(found[1].name, key.name.id, None, init, span)
        if isinstance(key, ast.Attr) and isinstance(key.base, ast.Name) and key.base.id in self.file.broken:
            raise Poisoned
        blocks = [n for n in self.file.visible() if _is_block(self.file, n)]
        base = key.base if isinstance(key, ast.Attr) and isinstance(key.base, ast.Name) else None
        if base is not None and self.file.find(base.id) is None:
            home, guess = self.elab.std_home(base.id), closest(base.id, blocks)
            raise self.fail(
                "E103",
                f"unknown name `{base.id}`",
                base.span,
                help=f"from {home} import {base.id}" if home else did_you_mean(guess),
                edits=self.imported(home, base.id) if home else replaced(base.span, guess),
                cause=base.id,
                available=available(blocks),
            )
        raise self.fail(
            "E103",
            f"`{unparse(key)}`: an init rule names `Block.parameter` or a path pattern",
            key.span,
            available=available(blocks),
        )


def _segments(expr: ast.Expr) -> list[Span]:
    """Where each segment of a path is written."""
    if isinstance(expr, ast.Attr):
        return [*_segments(expr.base), expr.name.span]
    if isinstance(expr, ast.Index):
        return [*_segments(expr.base), expr.span]
    return [expr.span]


def _is_block(file: FileScope, name: str) -> bool:
    found = file.find(name)
    return found is not None and isinstance(found[1], BlockDecl)


def _shape_text(type_: TensorType, written: Mapping[str, str | None]) -> str:
    """`[50304, 768] = [padded, dim]`"""
    sizes = [str(d) for d in type_.shape]
    labels = [written.get(d.label or "") or str(d) for d in type_.shape]
    return f"[{', '.join(sizes)}]" + (f" = [{', '.join(labels)}]" if labels != sizes else "")

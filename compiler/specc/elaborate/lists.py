"""Lists of tensors as arguments and results: in the IR each tensor of a list is an argument or a result of its own."""

from __future__ import annotations

import re
from typing import Any

from specc.elaborate.evaluate import Evaluator
from specc.elaborate.obligations import Obligations
from specc.elaborate.scopes import Scope
from specc.elaborate.signatures import is_list, tensor_type
from specc.elaborate.values import type_text
from specc.ir.graph import Argument, Value
from specc.source import Span
from specc.syntax import ast
from specc.syntax.unparse import unparse
from specc.types import TensorType


def element_name(name: str, index: int) -> str:
    """What an element of a list of tensors is called as an argument: `skips[0]`."""
    return f"{name}[{index}]"


def element_types(evaluator: Evaluator, type_: ast.ListType, count: int, axes: tuple[str, ...]) -> list[TensorType]:
    """The type of each tensor of a list: `count` times the same, or as many as its `for` gives."""
    _flat(evaluator, type_)
    if type_.iterable is None:
        return [tensor_type(evaluator, type_.element, axes)] * count
    own = Evaluator(evaluator.elab, evaluator.scope)
    names = {name.id for name in type_.names}
    return [
        _without(names, tensor_type(one, type_.element, axes)) for one in own.iterate(_header(type_, type_.iterable))
    ]


def _flat(evaluator: Evaluator, type_: ast.ListType) -> None:
    """A list holds tensors and nothing else, and is there."""
    if isinstance(type_.element, ast.ListType):
        raise evaluator.fail("E125", "a list of tensors holds tensors, not lists", type_.span, help="[Tensor[B, dim]]")
    if type_.optional or type_.element.optional:
        message = "a list of tensors and its elements cannot be optional"
        raise evaluator.fail("E125", message, type_.span, help=type_text(type_).replace("?", ""))


def list_lengths(evaluator: Evaluator, method: ast.Method, unknown: int) -> tuple[int, ...]:
    """How many tensors each list among the arguments has by its type alone, `unknown` where that leaves it open."""
    lists = [p.type for p in method.params if is_list(p.type)]
    return tuple(_length(evaluator, type_, unknown) for type_ in lists)


def _length(evaluator: Evaluator, type_: ast.ListType, open_: int) -> int:
    if type_.iterable is None:
        return open_
    own = Evaluator(evaluator.elab, evaluator.scope)
    return sum(1 for _ in own.iterate(_header(type_, type_.iterable)))


def _without(names: set[str], type_: TensorType) -> TensorType:
    """The type with sizes that say nothing of the variables of a `for`, which mean nothing outside it."""
    return type_.with_shape(
        tuple(d.with_label(None) if names & set(re.findall(r"\w+", d.label or "")) else d for d in type_.shape)
    )


def _header(type_: ast.ListType, iterable: ast.Expr) -> ast.Comprehension:
    """The `for` of a type as one of values."""
    return ast.Comprehension(type_.span, ast.NoneLit(type_.span), type_.names, iterable)


class TensorLists(Obligations):
    """The part of a body's checker that knows lists of tensors of signatures."""

    returned: list[tuple[Value, Span]] | None = None
    returned_lists: tuple[int | None, ...] = ()  # of each result, how many tensors it has if it is a list

    def list_elements(self, param: ast.Param, type_: ast.ListType, count: int, axes: tuple[str, ...]) -> list[Argument]:
        """The arguments that stand for a list in a body that is called with `count` tensors."""
        name, span = param.name.id, param.span
        self._required(param)
        types = element_types(self, type_, count, axes)
        if len(types) != count:
            raise self._wrong_length(param, len(types), count, span)
        names = [element_name(name, i) for i in range(count)]
        return [Argument(n, t, False, Value(n, t, span), span, name) for n, t in zip(names, types, strict=True)]

    def passed_list(
        self, param: ast.Param, type_: ast.ListType, value: Any, at: ast.Expr | None, scope: Scope | None
    ) -> list[tuple[Value, ast.Expr]]:
        """The tensors that a call passes as a list, each with where it is written; `scope`: of the block called."""
        _flat(self, type_)
        self._required(param)
        assert at is not None  # what is not optional is given
        if not isinstance(value, tuple) or self.is_results(value):
            raise self.fail(
                "E125",
                f"`{param.name.id}` is a list of tensors, found {self.kind(value)}",
                at.span,
                expected=f"{type_text(param.type)}   ({param.span.where})",
                help=f"[{unparse(at)}]" if isinstance(value, Value) else "",
            )
        wanted = _length(Evaluator(self.elab, scope), type_, len(value)) if scope is not None else len(value)
        if not value or wanted != len(value):
            raise self._wrong_length(param, wanted, len(value), at.span)
        several = at.elements if isinstance(at, ast.ListExpr) else ()
        written = [e for e in several if isinstance(e, ast.Expr)]
        places = written if len(written) == len(value) else [at] * len(value)
        return [(self.tensor(one, e), e) for one, e in zip(value, places, strict=True)]

    def _required(self, param: ast.Param) -> None:
        if param.default is not None:
            raise self.fail("E125", "a list of tensors has no default", param.default.span)

    def _wrong_length(self, param: ast.Param, wanted: int, found: int, span: Span) -> Exception:
        return self.fail(
            "S151",
            f"`{param.name.id}` is a list of {wanted or 'at least 1'} tensor{'s' * (wanted > 1)}, found {found}",
            span,
            expected=f"{type_text(param.type)}   ({param.span.where})",
        )

    def returns(self, found: list[tuple[Any, ast.Expr]], span: Span) -> None:
        """Note what a body returns: results one by one, the tensors of a list one after the other."""
        wanted = [is_list(r.type) for r in self.method.results]
        value, at = found[0]
        if len(found) == 1 and isinstance(value, tuple) and value and (wanted != [True] or self.is_results(value)):
            found = [(one, at) for one in value]
        values: list[tuple[Value, Span]] = []
        lists: list[int | None] = []
        for i, (value, at) in enumerate(found):
            as_list = i < len(wanted) and wanted[i] and isinstance(value, tuple) and not self.is_results(value)
            values += [(self.tensor(one, at), at.span) for one in (value if as_list else [value])]
            lists.append(len(value) if as_list else None)
        if 0 in lists:
            raise self.fail("S150", "an empty list is returned", span, help="a list has at least one tensor")
        self.returned, self.returned_lists = values, tuple(lists)

    def declared_results(self, axes: tuple[str, ...]) -> list[tuple[str | None, TensorType, Span]]:
        """The declared name and type of each tensor that the body has returned."""
        assert self.returned is not None
        results = self.method.results
        if len(self.returned_lists) != len(results):
            count = f"{len(self.returned_lists)} value{'s' if len(self.returned_lists) != 1 else ''}"
            raise self.fail(
                "S150",
                f"`{self.method.name.id}` declares {len(results)} results and returns {count}",
                self.returned[0][1],
            )
        declared: list[tuple[str | None, TensorType, Span]] = []
        for result, length in zip(results, self.returned_lists, strict=True):
            span = result.type.span
            if not is_list(result.type):
                declared.append((result.name.id if result.name else None, tensor_type(self, result.type, axes), span))
                continue
            types = element_types(self, result.type, length or 1, axes)
            if len(types) != length:
                of = f" of {len(types)}" if result.type.iterable is not None else ""
                raise self.fail(
                    "S150",
                    f"`{self.method.name.id}` declares a list{of}, found {length or 'one tensor'}",
                    self.returned[len(declared)][1],
                    expected=f"{type_text(result.type)}   ({span.where})",
                )
            for type_ in types:
                for dim in type_.shape:
                    self.check_bound(dim, span)
            declared += [(None, type_, span) for type_ in types]
        return declared

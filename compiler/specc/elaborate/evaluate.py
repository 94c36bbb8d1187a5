"""Evaluation of everything that touches no tensor: hyper-parameters, sizes, conditions, lists (LANGUAGE 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from specc.dims import Dim, DimError
from specc.elaborate.builtins import COMPILE_TIME, MAX_LIST, BadArgument
from specc.elaborate.files import Decl, FileScope
from specc.elaborate.scopes import Scope
from specc.elaborate.suggestions import Suggestions
from specc.elaborate.values import (
    POISON,
    Binding,
    BlockDecl,
    BlockValue,
    Fail,
    FnValue,
    Poisoned,
    describe,
    number,
    show,
)
from specc.op import operators
from specc.source import Span
from specc.syntax import ast
from specc.syntax.unparse import unparse
from specc.types import DType

DTYPES = {d.value: d for d in DType if d is not DType.COMPUTE}


class Evaluator(Suggestions):
    """Evaluates expressions in a scope. The body checker extends it with tensors."""

    # ---- values --------------------------------------------------------------------------------------------------

    def value(self, expr: ast.Expr) -> Any:
        """The value of an expression; raises `Fail` or `Poisoned`."""
        self.elab.step(expr.span)
        method: Callable[[Any], Any] | None = getattr(self, f"_{type(expr).__name__}", None)
        if method is None:
            raise self.fail("E100", f"{KIND.get(type(expr), 'this')} is not allowed here", expr.span)
        try:
            return method(expr)
        except DimError as error:
            raise self.fail("E191", str(error), expr.span, names=expr) from None

    def condition(self, expr: ast.Expr) -> bool:
        """A compile-time bool; there is no truthiness (E106)."""
        value = self.value(expr)
        if isinstance(value, bool):
            return value
        raise self.not_a_bool(expr, value)

    def not_a_bool(self, expr: ast.Expr, value: Any) -> Fail:
        text = unparse(expr)
        if isinstance(value, int):
            help = f"if {text} > 0,  or a bool hyper-parameter"
        elif isinstance(value, tuple):
            help = f"if len({text}) > 0"
        else:
            help = f"if {text} != none"
        return self.fail(
            "E106",
            f"a condition must be true or false, `{text}` is {describe(value)}",
            expr.span,
            help=help,
            note='specc has no truthiness: 0 and "" are ordinary settings',
        )

    def _Int(self, expr: ast.Int) -> Any:
        return self.checked(expr.value, expr)

    def _Float(self, expr: ast.Float) -> Any:
        return self.checked(expr.value, expr)

    def _Str(self, expr: ast.Str) -> str:
        return expr.value

    def _Bool(self, expr: ast.Bool) -> bool:
        return expr.value

    def _NoneLit(self, expr: ast.NoneLit) -> None:
        return None

    def _Paren(self, expr: ast.Paren) -> Any:
        return self.value(expr.inner)

    def _Name(self, expr: ast.Name) -> Any:
        binding = self.scope.find(expr.id)
        if binding is not None:
            return alive(binding.value)
        if expr.id in self.scope.dims:
            return self.scope.dims[expr.id]
        return self.global_value(expr)

    def global_value(self, expr: ast.Name) -> Any:
        """A file-level name or a built-in as a value."""
        found = self.file.find(expr.id)
        if found is not None:
            return self.declared(*found, expr.span)
        if expr.id in self.file.broken:
            raise Poisoned
        if expr.id in DTYPES:
            return DTYPES[expr.id]
        op = operators().get(expr.id)
        if op is not None and not op.syntax:
            return FnValue(expr.id, op, None)
        raise self.unknown(expr)

    def declared(self, file: FileScope, decl: Decl, at: Span) -> Any:
        if isinstance(decl, ast.Let):
            return self.elab.file_let(file, decl)
        if isinstance(decl, BlockDecl):
            return BlockValue(decl)
        return FnValue(decl.name, None, decl)

    def _ListExpr(self, expr: ast.ListExpr) -> Any:
        values = []
        for element in expr.elements:
            if isinstance(element, (ast.Group, ast.EllipsisLit)):
                raise self.fail("E100", "this is not allowed in a list of values", element.span)
            values.append(self.value(element))
        return self.made(tuple(values), expr)

    _TupleExpr = _ListExpr

    def _Comprehension(self, expr: ast.Comprehension) -> Any:
        if isinstance(expr.element, ast.Group):
            raise self.fail("E100", "a group is a list of parts, not of values", expr.element.span)
        element = expr.element
        values = (inner.value(element) for inner in self.iterate(expr))
        return self.made(tuple(chain.from_iterable(values) if expr.flat else values), expr)

    def made(self, values: Any, expr: ast.Expr) -> Any:
        """A new list, if it is within the limit on elements, nested ones counted (E190); its making counts as steps."""
        if isinstance(values, tuple):
            count = elements(values)
            self.elab.step(expr.span, count)
            if count > MAX_LIST:
                raise self.fail("E190", f"the list has more than {MAX_LIST:,} elements", expr.span)
        return values

    def iterate(self, expr: ast.Comprehension) -> Iterator[Evaluator]:
        """This evaluator once per element, with the comprehension's variables bound meanwhile."""
        outer = self.scope
        inner = outer.child()
        origin = f"one of {unparse(expr.iterable)} ({expr.span.where})"
        lone = expr.names[0] if len(expr.names) == 1 else None
        try:
            for item in self.items(expr.iterable):
                self.elab.step(expr.span)
                if lone is not None and lone.id != "_":
                    inner.names[lone.id] = Binding(item, lone.span, origin)
                else:
                    for n, v in self.unpacked(expr.names, item, expr.span):
                        if n.id != "_":
                            inner.names[n.id] = Binding(v, n.span, origin)
                self.scope = inner
                yield self
        finally:
            self.scope = outer

    def repeats(self, iterable: ast.Expr) -> int:
        """How often a loop over `range(..)` inside another runs, if that is known already; else 1."""
        if not (isinstance(iterable, ast.Call) and isinstance(iterable.func, ast.Name) and iterable.func.id == "range"):
            return 1
        try:
            return len(self.items(iterable))
        except (Fail, Poisoned):
            return 1

    def items(self, iterable: ast.Expr) -> tuple[Any, ...]:
        items = self.value(iterable)
        if not isinstance(items, tuple):
            help = f"range({show(items)})" if isinstance(items, int) and not isinstance(items, bool) else ""
            raise self.fail("E125", f"a loop runs over a list, found {describe(items)}", iterable.span, help=help)
        return items

    def unpacked(self, names: tuple[ast.Ident, ...], item: Any, span: Span) -> list[tuple[ast.Ident, Any]]:
        if len(names) == 1:
            return [(names[0], item)]
        if not isinstance(item, tuple) or len(item) != len(names):
            count = len(item) if isinstance(item, tuple) else 1
            raise self.fail("S151", f"{len(names)} names for {count} values", names[0].span.to(names[-1].span))
        return list(zip(names, item, strict=True))

    def _Ternary(self, expr: ast.Ternary) -> Any:
        if self.condition(expr.cond):
            return self.value(expr.then)
        return self.value(expr.other) if expr.other is not None else None

    # ---- arithmetic ----------------------------------------------------------------------------------------------

    def _Unary(self, expr: ast.Unary) -> Any:
        operand = self.value(expr.operand)
        if expr.op == "not":
            if isinstance(operand, bool):
                return not operand
            raise self.not_a_bool(expr.operand, operand)
        if number(operand) or isinstance(operand, Dim):
            return -operand
        raise self.fail("E125", f"`-` takes a number, found {describe(operand)}", expr.operand.span)

    def _Binary(self, expr: ast.Binary) -> Any:
        if expr.op in ("and", "or"):
            left = self.condition(expr.left)
            return self.condition(expr.right) if left == (expr.op == "and") else left
        return self.arithmetic(expr, self.value(expr.left), self.value(expr.right))

    def _Compare(self, expr: ast.Compare) -> Any:
        left = self.value(expr.first)
        result = True
        for op, right_expr in zip(expr.ops, expr.rest, strict=True):
            right = self.value(right_expr)
            result = result and self.compare(expr, op, left, right, right_expr)
            left = right
        return result

    # ---- calls, indexing -----------------------------------------------------------------------------------------

    def _Pipe(self, expr: ast.Pipe) -> Any:
        """`x |> f(a)` is `f(x, a)`."""
        first = ast.Arg(expr.value.span, None, expr.value)
        target = expr.target
        func, rest = (target.func, target.args) if isinstance(target, ast.Call) else (target, ())
        return self.value(ast.Call(expr.span, func, (first, *rest)))

    def _Call(self, expr: ast.Call) -> Any:
        func = expr.func
        if isinstance(func, ast.Name):
            if (
                func.id == "past"
                and len(expr.args) == 1
                and isinstance(expr.args[0], ast.Arg)
                and not self.scope.find("past")
            ):
                return self.past(expr, expr.args[0].value)
            function = COMPILE_TIME.get(func.id)
            shadow = self.scope.find(func.id)
            if function is not None and not (shadow is not None and isinstance(shadow.value, (FnValue, BlockValue))):
                return self.compile_time(expr, func.id, function)
            callee = self.constructor(func)
            if isinstance(callee, (FnValue, BlockValue)):
                return self.partial(expr, callee)
            raise self.fail("E109", f"`{func.id}` is {describe(callee)}, not a function", func.span)
        if isinstance(func, ast.Attr) and (fail := self.qualified(func)) is not None:
            raise fail
        raise self.fail("E109", f"`{unparse(func)}` cannot be called here", func.span)

    def past(self, expr: ast.Call, arg: ast.Expr) -> Dim:
        dim = self.value(arg)
        if not isinstance(dim, Dim) or dim.value is not None:
            raise self.fail("S103", "past(..) takes a declared dim", arg.span)
        return Dim.symbol(f"past({dim})")

    def constructor(self, func: ast.Name) -> Any:
        """What a name stands for where it is called: tensors and numbers are not callable, so they are skipped
        (LANGUAGE 3).
        """
        scope: Scope | None = self.scope
        while scope is not None:
            binding = scope.names.get(func.id)
            if binding is not None and isinstance(binding.value, (FnValue, BlockValue)):
                return binding.value
            scope = scope.parent
        found = self.scope.find(func.id)
        if found is not None and found.value is POISON:
            raise Poisoned
        if found is not None and self.file.find(func.id) is None and func.id not in operators():
            return found.value
        return self.global_value(func)

    def compile_time(self, expr: ast.Call, name: str, function: Callable[..., Any]) -> Any:
        args = []
        for arg in expr.args:
            if isinstance(arg, ast.StarArg) or arg.name is not None:
                raise self.fail("E120", f"{name} takes positional arguments only", arg.span)
            args.append(self.value(arg.value))
        return self.computed(expr, name, function, args)

    def computed(self, expr: ast.Call, name: str, function: Callable[..., Any], args: list[Any]) -> Any:
        try:
            return self.made(self.checked(function(*args), expr), expr)
        except BadArgument as bad:
            size = next((a for a in args if name == "range" and isinstance(a, Dim) and a.value is None), None)
            help = f"along a runtime size:  scan u in x along {size} with h = .. {{ .. }}" if size is not None else ""
            help = help or _as_long(expr, name, args)
            raise self.fail(bad.code, str(bad), expr.span, names=expr, help=help) from None
        except TypeError:
            raise self.fail(
                "E124" if not args else "E122", f"{name} does not take {len(args)} arguments", expr.span
            ) from None
        except OverflowError:
            raise self.fail("E191", "the number is too large", expr.span, names=expr) from None

    def partial(self, expr: ast.Call, callee: FnValue | BlockValue) -> FnValue | BlockValue:
        """Partial application, where a `block` or `fn` value is expected: keyword arguments only (E130)."""
        return self.elab.blocks.partial(self, expr, callee)

    def _Index(self, expr: ast.Index) -> Any:
        base = self.value(expr.base)
        if not isinstance(base, (tuple, str)):
            raise self.fail("E105", f"{describe(base)} cannot be indexed", expr.base.span)
        if len(expr.items) != 1:
            raise self.fail("E105", "a list takes one index", expr.span)
        item = expr.items[0]
        if isinstance(item, ast.Slice):
            parts = [self.value(p) if p is not None else None for p in (item.start, item.stop, item.step)]
            if any(p is not None and (not isinstance(p, int) or isinstance(p, bool)) for p in parts) or parts[2] == 0:
                raise self.fail("E105", "the bounds of a slice are ints", item.span)
            return self.made(base[slice(*parts)], expr)
        index = self.value(item)
        if not isinstance(index, int) or isinstance(index, bool):
            raise self.fail("E105", f"an index is an int, found {describe(index)}", item.span)
        if not -len(base) <= index < len(base):
            raise self.fail("E105", f"index {index} is outside a list of {len(base)}", item.span, names=item)
        return base[index]

    def _Attr(self, expr: ast.Attr) -> Any:
        raise self.fail("E107", f"`{unparse(expr)}`: members are read in `forward` and `fn` bodies only", expr.span)

    # ---- labels --------------------------------------------------------------------------------------------------

    def size(self, expr: ast.Expr) -> Dim:
        """A size: an int or a polynomial over declared dims, with its label."""
        value = self.value(expr)
        if isinstance(value, bool) or not isinstance(value, (int, Dim)):
            raise self.fail("E112", f"a size is an int, found {describe(value)}", expr.span, names=expr)
        dim = Dim.of(value)
        if dim.value is None:
            return dim.with_label(expr.id) if isinstance(expr, ast.Name) and not dim.is_symbol() else dim
        label = None if isinstance(expr, ast.Int) else self.label(expr)
        return dim.plain() if label is None else dim.plain().with_label(label)


def _as_long(expr: ast.Call, name: str, args: list[Any]) -> str:
    """How the longer list of a `zip` of two is made as long as the other."""
    if name != "zip" or len(args) != 2 or not all(isinstance(a, tuple) for a in args):
        return ""
    lengths = [len(a) for a in args]
    longer = expr.args[0 if lengths[0] > lengths[1] else 1]
    text = unparse(longer.value) if isinstance(longer, ast.Arg) else ""
    if isinstance(longer, ast.Arg) and isinstance(longer.value, ast.Binary):
        text = f"({text})"
    return f"a slice of the longer one:  {text}[:{min(lengths) - max(lengths)}]"


KIND: dict[type, str] = {
    ast.Axes: "an axis pattern",
    ast.EllipsisLit: "`...`",
    ast.Scan: "`scan`",
}


def alive(value: Any) -> Any:
    """The value, unless its declaration was already reported."""
    if value is POISON:
        raise Poisoned
    return value


def elements(value: Any) -> int:
    """Elements of a list, nested ones counted; stops counting soon after the limit."""
    if not isinstance(value, tuple):
        return 1
    count = len(value)
    for one in value:
        if count > MAX_LIST:
            break
        if isinstance(one, tuple):
            count += elements(one)
    return count

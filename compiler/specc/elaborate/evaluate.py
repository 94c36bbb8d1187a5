"""Evaluation of everything that touches no tensor: hyper-parameters, sizes, conditions, lists (LANGUAGE 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Label, Size
from specc.dims import Dim, DimError
from specc.elaborate.builtins import COMPILE_TIME, BadArgument
from specc.elaborate.files import Decl, FileScope
from specc.elaborate.names import available, closest
from specc.elaborate.values import (
    Binding,
    BlockDecl,
    BlockValue,
    Fail,
    FnDecl,
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

if TYPE_CHECKING:
    from specc.elaborate.elaborator import Elaborator

INT64 = 2**63
DTYPES = {d.value: d for d in DType if d is not DType.COMPUTE}


@dataclass
class Scope:
    """Names to bindings, innermost first; the file is the outermost."""

    file: FileScope
    names: dict[str, Binding] = field(default_factory=dict)
    parent: Scope | None = None
    dims: Mapping[str, Dim] = field(default_factory=dict)  # runtime sizes that may be named here

    def find(self, name: str) -> Binding | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return None

    def child(self, names: dict[str, Binding] | None = None) -> Scope:
        return Scope(self.file, names if names is not None else {}, self, self.dims)

    def visible(self) -> list[str]:
        own = [*self.names]
        return own + (self.parent.visible() if self.parent else [])


class Evaluator:
    """Evaluates expressions in a scope. The body checker extends it with tensors."""

    def __init__(self, elab: Elaborator, scope: Scope) -> None:
        self.elab = elab
        self.scope = scope

    @property
    def file(self) -> FileScope:
        return self.scope.file

    # ---- errors --------------------------------------------------------------------------------------------------

    def fail(
        self,
        code: str,
        message: str,
        span: Span,
        label: str = "",
        *,
        names: ast.Expr | None = None,
        others: tuple[Label, ...] = (),
        sizes: tuple[Size, ...] = (),
        help: str = "",
        note: str = "",
        **notes: str,
    ) -> Fail:
        """A finding at this place of the instance tree; `names`: print the origins of the names in that expression."""
        rows = sizes + (tuple(self.origins(names)) if names is not None else ())
        lines = tuple((key.replace("_", "-"), text) for key, text in notes.items() if text)
        return Fail(Diagnostic(code, message, span, label, others, self.elab.where(), rows, lines, help, note=note))

    def origins(self, expr: ast.Expr) -> Iterator[Size]:
        """`dim = 4096   default of Llama (llama.spec:41)` for each name of an expression."""
        seen = set()
        for node in names_in(expr):
            binding = self.scope.find(node.id)
            if binding is not None and node.id not in seen and not isinstance(binding.value, (BlockValue, FnValue)):
                seen.add(node.id)
                yield Size(node.id, show(binding.value), binding.origin)

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
        fixes = {int: f"if {unparse(expr)} > 0,  or a bool hyper-parameter", tuple: f"if len({unparse(expr)}) > 0"}
        raise self.fail(
            "E106",
            f"a condition must be true or false, `{unparse(expr)}` is {describe(value)}",
            expr.span,
            help=fixes.get(type(value), f"if {unparse(expr)} != none"),
            note='specc has no truthiness: 0 and "" are ordinary settings',
        )

    def _Int(self, expr: ast.Int) -> int:
        return self.checked(expr.value, expr)

    def _Float(self, expr: ast.Float) -> float:
        return self.checked(expr.value, expr)

    def _Str(self, expr: ast.Str) -> str:
        return expr.value

    def _Bool(self, expr: ast.Bool) -> bool:
        return expr.value

    def _NoneLit(self, expr: ast.NoneLit) -> None:
        return None

    def _Paren(self, expr: ast.Paren) -> Any:
        return self.value(expr.inner)

    def checked(self, value: Any, expr: ast.Expr) -> Any:
        """Ints fit in 64 bits, floats are finite (E191)."""
        if isinstance(value, float) and not math.isfinite(value):
            raise self.fail("E191", "the number is not finite", expr.span, names=expr)
        if isinstance(value, int) and not -INT64 <= value < INT64:
            raise self.fail("E191", "the number does not fit in 64 bits", expr.span, names=expr)
        return value

    def _Name(self, expr: ast.Name) -> Any:
        binding = self.scope.find(expr.id)
        if binding is not None:
            return binding.value
        if expr.id in self.scope.dims:
            return self.scope.dims[expr.id]
        return self.global_value(expr)

    def global_value(self, expr: ast.Name) -> Any:
        """A file-level name or a built-in as a value."""
        found = self.file.find(expr.id)
        if found is not None:
            return self.declared(*found)
        if expr.id in self.file.broken:
            raise Poisoned
        if expr.id in DTYPES:
            return DTYPES[expr.id]
        op = operators().get(expr.id)
        if op is not None and not op.syntax:
            return FnValue(expr.id, op, None)
        raise self.unknown(expr)

    def declared(self, file: FileScope, decl: Decl) -> Any:
        if isinstance(decl, ast.Let):
            return self.elab.file_let(file, decl)
        if isinstance(decl, BlockDecl):
            return BlockValue(decl)
        if isinstance(decl, FnDecl):
            return FnValue(decl.name, None, decl)
        raise self.fail("B650", f"extern operations cannot be built yet (`{decl.name}`)", decl.node.span.head())

    def unknown(self, expr: ast.Name) -> Fail:
        candidates = [*self.scope.visible(), *self.scope.dims, *self.file.visible()]
        builtin = [n for n, op in operators().items() if not op.syntax] + list(COMPILE_TIME)
        guess = closest(expr.id, candidates) or closest(expr.id, builtin)
        home = self.elab.std_home(expr.id)
        if home:
            help = f"from {home} import {expr.id}"
        elif expr.id == "nn":
            help = "from std.nn import Linear       then  fc: Linear(dim, 10)"
        else:
            help = f"did you mean `{guess}`?" if guess else ""
        return self.fail("E103", f"unknown name `{expr.id}`", expr.span, help=help, available=available(candidates))

    def _ListExpr(self, expr: ast.ListExpr) -> tuple[Any, ...]:
        values = []
        for element in expr.elements:
            if isinstance(element, (ast.Group, ast.EllipsisLit)):
                raise self.fail("E100", "this is not allowed in a list of values", element.span)
            values.append(self.value(element))
        return tuple(values)

    _TupleExpr = _ListExpr

    def _Comprehension(self, expr: ast.Comprehension) -> tuple[Any, ...]:
        if isinstance(expr.element, ast.Group):
            raise self.fail("E100", "a group is a list of parts, not of values", expr.element.span)
        element = expr.element
        return tuple(inner.value(element) for inner in self.iterate(expr))

    def iterate(self, expr: ast.Comprehension) -> Iterator[Evaluator]:
        """This evaluator once per element, with the comprehension's variables bound meanwhile."""
        outer = self.scope
        try:
            for item in self.items(expr.iterable):
                names = self.unpacked(expr.names, item, expr.span)
                bound = {n.id: Binding(v, n.span, f"{n.id} ({n.span.where})") for n, v in names if n.id != "_"}
                self.scope = outer.child(bound)
                yield self
                self.scope = outer
        finally:
            self.scope = outer

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
            raise self.fail("E106", f"`not` takes a bool, found {describe(operand)}", expr.operand.span)
        if number(operand) or isinstance(operand, Dim):
            return -operand
        raise self.fail("E125", f"`-` takes a number, found {describe(operand)}", expr.operand.span)

    def _Binary(self, expr: ast.Binary) -> Any:
        if expr.op in ("and", "or"):
            left = self.condition(expr.left)
            return self.condition(expr.right) if left == (expr.op == "and") else left
        return self.arithmetic(expr, self.value(expr.left), self.value(expr.right))

    def arithmetic(self, expr: ast.Binary, left: Any, right: Any) -> Any:
        """`left op right` on numbers, sizes and lists."""
        op = expr.op
        if isinstance(left, tuple) and isinstance(right, tuple) and op == "+":
            return left + right
        if op == "*" and (isinstance(left, tuple) or isinstance(right, tuple)):
            raise self.fail(
                "E101",
                "`*` does not repeat a list",
                expr.span,
                help="[.. for i in range(n)]",
                note="`[Layer(dim)] * 12` would read as twelve uses of one layer's weights",
            )
        for side, value in ((expr.left, left), (expr.right, right)):
            if not number(value) and not isinstance(value, Dim):
                raise self.fail("E125", f"`{op}` takes numbers, found {describe(value)}", side.span, names=expr)
        try:
            return self.checked(self._calculate(expr, op, left, right), expr)
        except OverflowError:
            raise self.fail("E191", "the number is too large", expr.span, names=expr) from None

    def _calculate(self, expr: ast.Binary, op: str, left: Any, right: Any) -> Any:
        if op == "+":
            return left + right
        if op == "-":
            return left - right
        if op == "*":
            return left * right
        if op in ("/", "//", "%") and right == 0:
            raise self.fail("E110", f"division by zero: {show(left)} {op} 0", expr.span, names=expr)
        whole = not isinstance(left, float) and not isinstance(right, float)
        if op == "/":
            return self._exact(expr, left, right) if whole else left / right
        if op in ("//", "%"):
            if isinstance(right, Dim) or (isinstance(right, int) and right > 0) or not isinstance(left, Dim):
                return left // right if op == "//" else left % right
            raise self.fail("E110", f"a size is divided by {show(right)}", expr.span, names=expr)
        if op == "**":
            return self._power(expr, left, right)
        raise self.fail("E100", f"`{op}` is for tensors", expr.span)

    def _exact(self, expr: ast.Binary, left: Any, right: Any) -> Any:
        quotient = left // right
        if quotient * right == left:
            return quotient
        help = "pass a size that divides, or round down with `//`"
        if isinstance(left, int) and isinstance(right, int) and right > 0:
            near = [d for d in range(max(1, right - 16), right + 17) if left % d == 0]
            near = sorted(sorted(near, key=lambda d: abs(d - right))[:2])
            name = unparse(expr.right)
            if near:
                help = f"nearest {name} that divide {left}: {', '.join(map(str, near))}"
        raise self.fail(
            "E110",
            f"{show(left)} / {show(right)} is not a whole number",
            expr.span,
            names=expr,
            help=help,
            note="`//` rounds down",
        )

    def _power(self, expr: ast.Binary, left: Any, right: Any) -> Any:
        if isinstance(left, Dim) or isinstance(right, Dim):
            if isinstance(left, Dim) and isinstance(right, int) and 0 <= right <= 8:
                return left**right
            raise self.fail("E100", "a size can be raised to 0 .. 8 only", expr.span, names=expr)
        if isinstance(left, int) and isinstance(right, int) and right >= 0:
            if abs(left) > 1 and right * math.log2(abs(left)) > 64:  # bounded before it is computed
                raise self.fail("E191", f"{left}**{right} does not fit in 64 bits", expr.span, names=expr)
            return left**right
        if left == 0 and right < 0:
            raise self.fail("E110", f"division by zero: 0**{show(right)}", expr.span, names=expr)
        result = float(left) ** right
        if isinstance(result, complex):
            raise self.fail("E191", f"{show(left)}**{show(right)} is not a real number", expr.span, names=expr)
        return result

    def _Compare(self, expr: ast.Compare) -> Any:
        left = self.value(expr.first)
        result = True
        for op, right_expr in zip(expr.ops, expr.rest, strict=True):
            right = self.value(right_expr)
            result = result and self.compare(expr, op, left, right, right_expr)
            left = right
        return result

    def compare(self, expr: ast.Compare, op: str, left: Any, right: Any, at: ast.Expr) -> bool:
        if op in ("==", "!="):
            same = left == right and isinstance(left, bool) == isinstance(right, bool)
            if isinstance(left, Dim) or isinstance(right, Dim):
                return self.same_size(expr, left, right) == (op == "==")
            return bool(same) == (op == "==")
        if op in ("in", "not in"):
            if not isinstance(right, tuple):
                raise self.fail("E125", f"`{op}` takes a list on its right, found {describe(right)}", at.span)
            return (left in right) == (op == "in")
        if op == "~=":
            raise self.fail("E100", "`~=` belongs in `expect`", expr.span)
        if not number(left) or not number(right):
            bad = left if not number(left) else right
            hint = "a runtime size has no value at compile time" if isinstance(bad, Dim) else ""
            raise self.fail("E125", f"`{op}` compares numbers, found {describe(bad)}", expr.span, names=expr, why=hint)
        return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[op]

    def same_size(self, expr: ast.Compare, left: Any, right: Any) -> bool:
        if left is None or right is None:
            return False
        if isinstance(left, (Dim, int)) and isinstance(right, (Dim, int)) and Dim.of(left) == Dim.of(right):
            return True
        raise self.fail("E125", "a runtime size has no value at compile time", expr.span, names=expr)

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
            return self.checked(function(*args), expr)
        except BadArgument as bad:
            raise self.fail(bad.code, str(bad), expr.span, names=expr) from None
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
            return base[slice(*parts)]
        index = self.value(item)
        if not isinstance(index, int) or isinstance(index, bool):
            raise self.fail("E105", f"an index is an int, found {describe(index)}", item.span)
        if not -len(base) <= index < len(base):
            raise self.fail("E105", f"index {index} is outside a list of {len(base)}", item.span, names=item)
        return base[index]

    def _Attr(self, expr: ast.Attr) -> Any:
        raise self.fail("E107", f"`{unparse(expr)}`: members are read in `forward` and `fn` bodies only", expr.span)

    # ---- labels --------------------------------------------------------------------------------------------------

    def label(self, expr: ast.Expr) -> str | None:
        """How to write the expression's value in Python over the module's hyper-parameters, or None (see
        `specc.ir.graph`).
        """
        try:
            return self._label(expr)
        except (Fail, Poisoned):
            return None

    def _label(self, expr: ast.Expr) -> str | None:
        if isinstance(expr, (ast.Int, ast.Float, ast.Bool)):
            return repr(expr.value)
        if isinstance(expr, ast.Str):
            return repr(expr.value)
        if isinstance(expr, ast.NoneLit):
            return "None"
        if isinstance(expr, ast.Paren):
            inner = self._label(expr.inner)
            return None if inner is None else f"({inner})"
        if isinstance(expr, ast.Name):
            return self._name_label(expr)
        if isinstance(expr, ast.Unary):
            return self._join(("not {}" if expr.op == "not" else "-{}"), expr.operand, nested=True)
        if isinstance(expr, ast.Binary) and expr.op != "@":
            op = expr.op
            if op == "/" and not isinstance(self.value(expr), float):
                op = "//"
            spaced = op if op in ("*", "**") else f" {op} "
            return self._join(f"{{}}{spaced}{{}}", expr.left, expr.right, nested=op != "+")
        if isinstance(expr, ast.Ternary) and expr.other is not None:
            return self._join("{} if {} else {}", expr.then, expr.cond, expr.other, nested=True)
        if isinstance(expr, ast.Compare):
            form = "{}" + "".join(f" {op} {{}}" for op in expr.ops)
            return self._join(form, expr.first, *expr.rest, nested=True)
        if isinstance(expr, ast.Index) and len(expr.items) == 1 and isinstance(expr.items[0], ast.Expr):
            return self._join("{}[{}]", expr.base, expr.items[0])
        if isinstance(expr, ast.ListExpr) and all(isinstance(e, ast.Expr) for e in expr.elements):
            return self._join(
                f"[{', '.join('{}' for _ in expr.elements)}]", *[e for e in expr.elements if isinstance(e, ast.Expr)]
            )
        if isinstance(expr, ast.Call) and isinstance(expr.func, ast.Name) and expr.func.id in COMPILE_TIME:
            args = [a.value for a in expr.args if isinstance(a, ast.Arg) and a.name is None]
            if len(args) == len(expr.args):
                return self._join(f"{expr.func.id}({', '.join('{}' for _ in args)})", *args)
        return None

    def _join(self, form: str, *exprs: ast.Expr, nested: bool = False) -> str | None:
        """The form filled with the labels of the operands; `nested`: compound operands in parentheses."""
        texts = []
        for expr in exprs:
            text = self._label(expr)
            if text is None:
                return None
            compound = isinstance(expr, (ast.Binary, ast.Ternary, ast.Compare, ast.Unary))
            texts.append(f"({text})" if nested and compound else text)
        return form.format(*texts)

    def _name_label(self, expr: ast.Name) -> str | None:
        binding = self.scope.find(expr.id)
        if binding is None:
            value = self.value(expr)
            return repr(value) if number(value) or isinstance(value, (bool, str)) else None
        if isinstance(binding.value, (FnValue, BlockValue, Dim)):
            return None
        return expr.id if binding.labelled else binding.label

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


def names_in(expr: Any) -> Iterator[ast.Name]:
    """Every name an expression reads, in order."""
    if isinstance(expr, ast.Name):
        yield expr
    elif isinstance(expr, ast.Node):
        for key, child in vars(expr).items():
            if key != "span":
                yield from names_in(child)
    elif isinstance(expr, tuple):
        for child in expr:
            yield from names_in(child)


KIND: dict[type, str] = {
    ast.Axes: "an axis pattern",
    ast.EllipsisLit: "`...`",
    ast.Scan: "`scan`",
}

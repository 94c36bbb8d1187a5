"""Labels: how the spec wrote a number, rewritten as Python over constructor arguments or attributes.

A label is used only if it evaluates to the number it stands for; everything else prints as a literal. So emitted code
is right by construction, whatever the elaborator could or could not keep of the source.
"""

from __future__ import annotations

import ast
import copy
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from specc.backends.torch.printer import literal, names_in, parse, protected, show, tidy
from specc.dims import Dim, DimError, ceil_div
from specc.ir.declared import Hyper
from specc.ir.graph import Module

ATTRIBUTE_NAMES_TAKEN = frozenset(
    "T_destination add_module apply aux bfloat16 buffers call_super_init children compile cpu cuda double dump_patches "
    "eval extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu load_state_dict "
    "modules mtia "
    "named_buffers named_children named_modules named_parameters parameters register_backward_hook register_buffer "
    "register_forward_hook register_forward_pre_hook register_full_backward_hook register_load_state_dict_pre_hook "
    "register_module register_parameter register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule "
    "share_memory state_dict to to_empty train training type xpu zero_grad init_weights".split()
)
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "len": len,
    "range": lambda *a: tuple(range(*a)),
    "enumerate": lambda *a: tuple(enumerate(*a)),
    "zip": lambda *a: tuple(zip(*a, strict=True)),
    "reversed": lambda a: tuple(reversed(a)),
    "prod": lambda *a: math.prod(a[0] if isinstance(a[0], tuple) else a),
    "sum": lambda *a: sum(a[0] if isinstance(a[0], tuple) else a),
    "round": round,
    "floor": math.floor,
    "ceil": math.ceil,
    "ceil_div": ceil_div,
    "float": float,
    "int": int,
    "min": min,
    "max": max,
    "abs": abs,
    "sqrt": lambda x: x**0.5,
    "log": math.log,
    "exp": math.exp,
}
_NO_VALUE = (LookupError, TypeError, ValueError, ArithmeticError)


def evaluate(node: ast.expr, env: Mapping[str, Any]) -> Any:
    """The value of a label. Raises one of `_NO_VALUE` for what is no label of this scope."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return env[node.id]
    if isinstance(node, (ast.List, ast.Tuple)):
        return tuple(evaluate(e, env) for e in node.elts)
    if isinstance(node, ast.UnaryOp):
        value = evaluate(node.operand, env)
        return not value if isinstance(node.op, ast.Not) else -value
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](evaluate(node.left, env), evaluate(node.right, env))
    if isinstance(node, ast.BoolOp):
        values = [evaluate(v, env) for v in node.values]
        return all(values) if isinstance(node.op, ast.And) else any(values)
    if isinstance(node, ast.IfExp):
        return evaluate(node.body if evaluate(node.test, env) else node.orelse, env)
    if isinstance(node, ast.Compare):
        values = [evaluate(v, env) for v in (node.left, *node.comparators)]
        return all(_COMPARISONS[type(op)](a, b) for op, a, b in zip(node.ops, values, values[1:], strict=False))
    if isinstance(node, ast.Subscript) and not isinstance(node.slice, (ast.Slice, ast.Tuple)):
        return evaluate(node.value, env)[evaluate(node.slice, env)]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return _FUNCTIONS[node.func.id](*(evaluate(a, env) for a in node.args))
    raise ValueError(type(node).__name__)


def same(found: object, value: object) -> bool:
    """Whether a label's value is the number it stands for; roots and logarithms may differ in the last digits."""
    if isinstance(found, bool) or isinstance(value, bool) or found is None or value is None:
        return found is value
    if isinstance(found, float) and isinstance(value, (int, float)):
        return math.isclose(found, value, rel_tol=1e-13)
    return found == value and (type(found) is type(value) or isinstance(value, float))


class _Rewriter(ast.NodeTransformer):
    """Names become Python; `[a] + b` becomes `[a, *b]`; `sqrt(x)` becomes `x**0.5`."""

    def __init__(self, names: Mapping[str, str], env: Mapping[str, Any], known: frozenset[str] = frozenset()) -> None:
        self.names, self.env, self.known = names, env, known

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return parse(self.names.get(node.id, node.id))

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        sides = [node.left, node.right]
        if isinstance(node.op, ast.Add) and isinstance(evaluate(node, self.env), tuple):
            items: list[ast.expr] = []
            for side in sides:
                new = self.visit(side)
                items += new.elts if isinstance(new, ast.List) else [ast.Starred(new, ast.Load())]
            return ast.List(items, ast.Load())
        return ast.BinOp(self.visit(node.left), node.op, self.visit(node.right))

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        names = {n.id for n in ast.walk(node.test) if isinstance(n, ast.Name)}
        if names <= self.known:
            chosen: ast.expr = self.visit(node.body if evaluate(node.test, self.env) else node.orelse)
            return chosen
        return ast.IfExp(self.visit(node.test), self.visit(node.body), self.visit(node.orelse))

    def visit_Call(self, node: ast.Call) -> ast.expr:
        assert isinstance(node.func, ast.Name)
        name, args = node.func.id, [self.visit(a) for a in node.args]
        if name == "sqrt":
            return ast.BinOp(args[0], ast.Pow(), ast.Constant(0.5))
        if name == "ceil_div":
            negated = ast.UnaryOp(ast.USub(), args[0])
            return ast.UnaryOp(ast.USub(), ast.BinOp(negated, ast.FloorDiv(), args[1]))
        if name in ("sum", "prod") and len(args) > 1:
            args = [ast.List(args, ast.Load())]
        if name == "zip":
            return ast.Call(node.func, args, [ast.keyword("strict", ast.Constant(True))])
        function = f"math.{name}" if name in ("log", "exp", "prod", "floor", "ceil") else name
        return ast.Call(parse(function), args, [])


@dataclass(frozen=True)
class Known:
    """A loop variable that is written as its value."""

    value: Any


class Scope:
    """The names of one module: which of its hyper-parameters its class needs, and how its code refers to them."""

    def __init__(self, module: Module | None, members: frozenset[str] = frozenset()) -> None:
        hypers = module.hypers if module is not None else ()
        self.hypers: dict[str, Hyper] = {h.name: h for h in hypers if not h.kind.startswith(("fn", "block"))}
        self.env: dict[str, Any] = {name: h.value for name, h in self.hypers.items()}
        self.taken = members | ATTRIBUTE_NAMES_TAKEN
        self.arguments: set[str] = set()  # constructor arguments that the class needs
        self.attributes: set[str] = set()  # those (and lets) that its methods read
        self.locals: set[str] = set()  # lets that only `__init__` reads
        self.math = False

    def forward(
        self,
        label: str | None,
        value: object,
        dims: Mapping[str, str] | None = None,
        quotients: Mapping[str, Dim] | None = None,
    ) -> str | None:
        """The number in a method: attributes of `self`, and locals that hold runtime sizes.

        `dims`: symbol -> name; `quotients`: what is the value of other locals.
        """
        sizes = {**(dims or {}), **{name: name for name in quotients or ()}}
        known = {**{name: Dim.symbol(name) for name in dims or ()}, **(quotients or {})}
        node = self._checked(label, value, known)
        if node is None:
            return None
        used = self._used(node)
        if any(name in self.taken for name in used):
            return None
        for name in used:
            self._need(name, attribute=True)
        return self._written(node, {**{name: f"self.{name}" for name in used}, **sizes}, known)

    def init(self, label: str | None, value: object, variables: Mapping[str, Any] | None = None) -> str | None:
        """The number in `__init__`. `variables`: loop variables of a comprehension and their values here.

        A `Known` one is written as its value: elements that no comprehension makes are written one by one.
        """
        known = {name: v.value for name, v in (variables or {}).items() if isinstance(v, Known)}
        values = {**(variables or {}), **known}
        node = self._checked(label, value, values)
        if node is None:
            return None
        names: dict[str, str] = {name: literal(v) for name, v in known.items()}
        folded = frozenset(known)
        for name in self._used(_Rewriter({}, {**self.env, **values}, folded).visit(copy.deepcopy(node)), values):
            self._need(name, attribute=False)
            names[name] = self.init_name(name)
        text = self._written(node, names, values, folded)
        return text if names_in(text) else None

    def over(self, label: str, value: object, given: Callable[[str], str]) -> str | None:
        """The number in the enclosing module's `__init__`, where `given` tells what each name here was passed as."""
        node = self._checked(label, value, {})
        if node is None:
            return None
        texts = {name: protected(given(name)) for name in self._used(node)}
        text = tidy(show(_Rewriter(texts, self.env).visit(copy.deepcopy(node)), 0))
        return text if names_in(text) else None

    def init_name(self, name: str) -> str:
        """How `__init__` calls a hyper-parameter or let. Decided late: methods are written before it."""
        return f"self.{name}" if self.hypers[name].is_let and name in self.attributes else python_name(name)

    def let(self, name: str) -> str:
        """What a let is computed from, in `__init__`."""
        hyper = self.hypers[name]
        return self.init(hyper.label, hyper.value) or literal(hyper.value)

    def needs(self) -> tuple[frozenset[str], ...]:
        """What the class needs so far; for `restore` after an attempt that came to nothing."""
        return frozenset(self.arguments), frozenset(self.attributes), frozenset(self.locals)

    def restore(self, needs: tuple[frozenset[str], ...]) -> None:
        self.arguments, self.attributes, self.locals = (set(names) for names in needs)

    def values(self, label: str | None) -> tuple[Any, ...] | None:
        """The elements of a compile-time list, or None if the label says nothing here."""
        try:
            value = evaluate(parse(label or ""), self.env) if label else None
        except (*_NO_VALUE, SyntaxError):
            return None
        return value if isinstance(value, tuple) else None

    def _checked(self, label: str | None, value: object, more: Mapping[str, Any]) -> ast.expr | None:
        if not label:
            return None
        try:
            node = parse(label)
            found = evaluate(node, {**self.env, **more})
        except (*_NO_VALUE, SyntaxError, DimError):
            return None
        if isinstance(value, Dim):
            agree = isinstance(found, (int, Dim)) and not isinstance(found, bool) and found == value
        else:
            agree = same(found, value)
        names = any(isinstance(n, ast.Name) and n.id not in _FUNCTIONS for n in ast.walk(node))
        return node if agree and names else None

    def _used(self, node: ast.expr, variables: Mapping[str, Any] | None = None) -> list[str]:
        """Hyper-parameters that a label mentions."""
        names = (n.id for n in ast.walk(node) if isinstance(n, ast.Name))
        called = {n.func.id for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        return [n for n in dict.fromkeys(names) if n in self.hypers and n not in (variables or {}) and n not in called]

    def _need(self, name: str, *, attribute: bool) -> None:
        hyper = self.hypers[name]
        if attribute:
            self.attributes.add(name)
        if not hyper.is_let:
            self.arguments.add(name)
        elif name not in self.locals:
            self.locals.add(name)
            self.let(name)

    def _written(
        self, node: ast.expr, names: Mapping[str, str], more: Mapping[str, Any], known: frozenset[str] = frozenset()
    ) -> str:
        text = tidy(show(_Rewriter(names, {**self.env, **more}, known).visit(copy.deepcopy(node)), 0))
        self.math = self.math or "math." in text
        return text


def python_name(name: str) -> str:
    """A spec's name as a local of emitted code."""
    return f"{name}_" if name in PYTHON_NAMES else name


PYTHON_NAMES = frozenset(
    "False None True and as assert async await break class continue def del elif else except finally for from global "
    "if import in is lambda nonlocal not or pass raise return try while with yield "
    "self torch nn F math enumerate float int isinstance len list max min range reversed round scan sum super tuple "
    "zip Callable ValueError".split()
)
"""What a local may not be called: keywords, and the names that emitted code itself uses."""

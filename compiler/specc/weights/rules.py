"""A `weights` section, read: patterns compiled, operations resolved and checked (LANGUAGE 15)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from specc.diagnostics import Collector, Diagnostic
from specc.elaborate.values import Fail, Poisoned, show
from specc.source import Span
from specc.syntax import ast
from specc.weights import layout
from specc.weights.layout import Expr, LayoutError, Shape
from specc.weights.operations import Joined, Leaf, Parted, Right, Stacked, Step, results
from specc.weights.patterns import STAR, Pattern, PatternError, any_match, pattern

MAX_RULES = 10_000

Evaluate = Callable[[ast.Expr], Any]
"""The value of a size, axis or list in a rule; may raise `Fail` or `Poisoned`."""


@dataclass(frozen=True, eq=False)
class Rule:
    """`left = right`. All patterns have the same captures, so one model name tells all names."""

    left: tuple[Pattern, ...]
    right: Right
    node: ast.WMap

    @property
    def plain(self) -> bool:
        """A rename and nothing more."""
        return isinstance(self.right, Leaf)

    @property
    def transposes(self) -> bool:
        right = self.right
        while isinstance(right, Step) and right.name not in ("transpose", "permute"):
            right = right.x
        return isinstance(right, Step)


@dataclass(frozen=True)
class Prefix:
    """`strip` (import removes it, export writes it) or `add` (the other way round)."""

    add: bool
    text: str
    exceptions: tuple[Pattern, ...]

    def to_model(self, name: str) -> str:
        return self._with(name) if self.add else self._without(name)

    def to_file(self, name: str) -> str:
        return self._without(name) if self.add else self._with(name)

    def _with(self, name: str) -> str:
        return name if name.startswith(self.text) or any_match(self.exceptions, name) else self.text + name

    def _without(self, name: str) -> str:
        return name.removeprefix(self.text) if not any_match(self.exceptions, name) else name


@dataclass(frozen=True)
class Section:
    """The rules of a section by kind, in their order."""

    node: ast.Weights | None
    renames: tuple[tuple[Pattern, Pattern], ...] = ()
    prefixes: tuple[Prefix, ...] = ()
    rules: tuple[Rule, ...] = ()
    ignored: tuple[Pattern, ...] = ()
    fresh: tuple[Pattern, ...] = ()

    def canonical(self, name: str) -> str:
        """A file's own name as rules see it: renamed, prefixes stripped or added."""
        for old, new in self.renames:
            captures = old.match(name)
            if captures is not None:
                name = new.render(captures)
        for prefix in self.prefixes:
            name = prefix.to_model(name)
        return name

    def stored(self, name: str) -> str:
        """The inverse, for writing: prefixes as the publisher writes them, newest spelling."""
        for prefix in reversed(self.prefixes):
            name = prefix.to_file(name)
        return name


def read_section(node: ast.Weights | None, evaluate: Evaluate, collector: Collector) -> Section:
    """The section, compiled. Bad patterns and operations are collected (W340, W341) and left out."""
    return Section(None) if node is None else _Reader(node, evaluate, collector).section()


def section_path(node: ast.Weights | None, file: str = "") -> str:
    """`in weights from "hf:gpt2", model.safetensors`, as messages place themselves."""
    text = f'in weights from "{node.sources[0].value}"' if node is not None else "in weights"
    return f"{text}, {file}" if file else text


class _Reader:
    def __init__(self, node: ast.Weights, evaluate: Evaluate, collector: Collector) -> None:
        self.node, self.evaluate, self.collector = node, evaluate, collector

    def section(self) -> Section:
        rules = self.node.rules
        if len(rules) > MAX_RULES:
            self.report("W340", f"{len(rules):,} rules in one section (limit {MAX_RULES:,})", rules[MAX_RULES].span)
            rules = rules[:MAX_RULES]
        renames, prefixes, maps = [], [], []
        ignored: list[Pattern] = []
        fresh: list[Pattern] = []
        for rule in rules:
            if isinstance(rule, ast.WRename):
                renames += self.rename(rule)
            elif isinstance(rule, ast.WPrefix):
                prefixes.append(Prefix(rule.add, rule.prefix.value, tuple(self.patterns(rule.exceptions))))
            elif isinstance(rule, ast.WMap):
                maps += self.rule(rule)
            elif isinstance(rule, ast.WIgnore):
                ignored += self.patterns(rule.patterns)
            elif isinstance(rule, ast.WFresh):
                fresh += self.patterns(rule.patterns)
        return Section(self.node, tuple(renames), tuple(prefixes), tuple(maps), tuple(ignored), tuple(fresh))

    def report(self, code: str, message: str, span: Span, label: str = "", help: str = "", **notes: str) -> None:
        lines = tuple(notes.items())
        self.collector.add(Diagnostic(code, message, span, label, path=section_path(self.node), help=help, notes=lines))

    def pattern(self, text: ast.Str) -> Pattern | None:
        try:
            return pattern(text.value)
        except PatternError as error:
            self.report("W340", f'"{text.value}" is not a pattern: {error}', text.span, help='"h.{i}.attn.*"')
            return None

    def patterns(self, texts: Iterable[ast.Str]) -> list[Pattern]:
        return [p for p in map(self.pattern, texts) if p is not None]

    def rename(self, rule: ast.WRename) -> list[tuple[Pattern, Pattern]]:
        old, new = self.pattern(rule.old), self.pattern(rule.new)
        if old is None or new is None or not self.same_captures(old, new.captures, rule.new.span):
            return []
        return [(old, new)]

    def rule(self, rule: ast.WMap) -> list[Rule]:
        left = self.patterns(rule.left)
        try:
            right = self.right(rule.right)
        except (_Bad, Poisoned):
            return []
        except Fail as fail:
            self.collector.add(fail.diagnostic)
            return []
        if len(left) < len(rule.left):
            return []
        for other, node in zip(left[1:], rule.left[1:], strict=True):
            if not self.same_captures(left[0], other.captures, node.span):
                return []
        for other, over in right.patterns():
            if not self.same_captures(left[0], other.captures - {over}, rule.right.span):
                return []
        if results(right) != len(left):
            given = f"{results(right)} tensor{'s' * (results(right) != 1)}"
            message = f"the rule gives {given} to {len(left)} name{'s' * (len(left) != 1)}"
            self.report("W341", message, rule.right.span, help='["q", "k", "v"] = split("qkv", 3)')
            return []
        return [Rule(tuple(left), right, rule)]

    def same_captures(self, left: Pattern, right: frozenset[str], span: Span) -> bool:
        """Both sides must tell each other's names (W340)."""
        if left.captures == right:
            return True
        only = sorted(left.captures ^ right)
        shown = ", ".join("`*`" if name == STAR else f"{{{name}}}" for name in only)
        verb = "stands" if len(only) == 1 else "stand"
        self.report("W340", f"{shown} {verb} on one side only", span, why="each side must give the names of the other")
        return False

    # ---- operations --------------------------------------------------------------------------------------------------

    def right(self, expr: ast.Expr) -> Right:
        """A right side; raises `_Bad` after a report."""
        if isinstance(expr, ast.Paren):
            return self.right(expr.inner)
        if isinstance(expr, ast.Str):
            found = self.pattern(expr)
            if found is None:
                raise _Bad
            return Leaf(found)
        if isinstance(expr, ast.Pipe):
            first = ast.Arg(expr.value.span, None, expr.value)
            target = expr.target
            func, rest = (target.func, target.args) if isinstance(target, ast.Call) else (target, ())
            return self.operation(func, (first, *rest), expr.span)
        if isinstance(expr, ast.Call):
            return self.operation(expr.func, expr.args, expr.span)
        message = "a rule's right side is a file tensor, or an operation on some"
        raise self.bad(message, expr.span, help='"h.{i}.weight" |> transpose')

    def bad(self, message: str, span: Span, help: str = "", code: str = "W341", **notes: str) -> _Bad:
        self.report(code, message, span, help=help, **notes)
        return _Bad()

    def operation(self, func: ast.Expr, args: tuple[ast.Arg | ast.StarArg, ...], span: Span) -> Right:
        name = func.id if isinstance(func, ast.Name) else func.span.text
        if name not in _SIGNATURES:
            raise self.bad(f"unknown operation `{name}`", func.span, available=", ".join(_SIGNATURES))
        given = self.bound(name, args, span)
        return self.made(name, given, span)

    def bound(self, name: str, args: tuple[ast.Arg | ast.StarArg, ...], span: Span) -> Mapping[str, Any]:
        """Argument name -> its expression; `x` is the tensor, `parts` those of `concat`."""
        signature = _SIGNATURES[name]
        positional = [a.value for a in args if isinstance(a, ast.Arg) and a.name is None]
        given: dict[str, Any] = {a.name.id: a.value for a in args if isinstance(a, ast.Arg) and a.name is not None}
        if name == "concat":
            given["parts"], positional = positional, []
        names = [n for n in signature if n not in given]
        given |= dict(zip(names, positional, strict=False))
        extra = [n for n in given if n not in signature]
        needed = [n for n, required in signature.items() if required and not given.get(n)]
        if extra or needed or len(positional) > len(names) or any(isinstance(a, ast.StarArg) for a in args):
            what = f"missing `{needed[0]}`" if needed else "too many arguments"
            what = f"no argument `{extra[0]}`" if extra else what
            raise self.bad(f"{name}: {what}", span, expected=f"{name}({', '.join(signature)})")
        return given

    def made(self, name: str, given: Mapping[str, Any], span: Span) -> Right:
        axis = self.whole(given["axis"]) if "axis" in given else 0
        if name == "concat":
            sizes = self.wholes(given["sizes"]) if "sizes" in given else None
            items = tuple(self.right(p) for p in given["parts"])
            if sizes is not None and len(sizes) != len(items):
                raise self.bad(f"{len(sizes)} sizes for {len(items)} tensors", given["sizes"].span)
            return Joined(items, axis, sizes)
        if name == "stack":
            return self.stacked(given, axis)
        x = self.right(given["x"])
        if name == "split":
            sizes_expr = given["sizes"]
            value = self.evaluate(sizes_expr)
            return Parted(x, self.positive(sizes_expr) if isinstance(value, int) else self.wholes(sizes_expr), axis)
        if name == "transpose":
            return Step(name, x, layout.transpose, layout.transpose, span)
        if name == "permute":
            axes = self.wholes(given["axes"])
            if sorted(axes) != list(range(len(axes))):
                message = f"{layout.show(axes)} is not a permutation of the axes"
                raise self.bad(message, given["axes"].span, help="permute([1, 0, 2])")
            back = layout.inverse(axes)
            return Step(name, x, lambda e: layout.permute(e, axes), lambda e: layout.permute(e, back), span)
        if name == "reshape":
            return self.reshaped(x, given["shape"], span)
        heads = self.positive(given["heads"])
        return Step(
            name,
            x,
            lambda e: layout.rope_half_from_interleaved(e, heads),
            lambda e: layout.rope_half_from_interleaved(e, heads, back=True),
            span,
        )

    def stacked(self, given: Mapping[str, Any], axis: int) -> Right:
        leaf, over = self.right(given["x"]), given["over"]
        if not isinstance(leaf, Leaf) or not isinstance(over, ast.Str) or over.value not in leaf.pattern.captures:
            message = "`stack` takes a pattern and the capture it runs over"
            raise self.bad(message, over.span, help='stack("e.{x}.w", over = "x", axis = 0)')
        return Stacked(leaf.pattern, over.value, axis)

    def reshaped(self, x: Right, shape: ast.Expr, span: Span) -> Right:
        if not isinstance(shape, ast.Axes):
            target = self.wholes(shape)
            return Step("reshape", x, lambda e: layout.reshape(e, target), None, span)
        inner, outer = self.wholes(shape.left), self.wholes(shape.right)

        def there(e: Expr) -> Expr:
            if e.shape != inner:
                raise LayoutError(f"`reshape` is from {layout.show(inner)}, the tensor is {layout.show(e.shape)}")
            return layout.reshape(e, outer)

        return Step("reshape", x, there, lambda e: layout.reshape(e, inner), span)

    def whole(self, expr: ast.Expr) -> int:
        value = self.evaluate(expr)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.bad(f"an int is needed here, found {show(value)}", expr.span, code="E125")
        return value

    def positive(self, expr: ast.Expr) -> int:
        value = self.whole(expr)
        if value < 1:
            raise self.bad(f"a number of at least 1 is needed here, found {value}", expr.span, code="E125")
        return value

    def wholes(self, expr: ast.Expr) -> Shape:
        value = self.evaluate(expr)
        if not isinstance(value, tuple) or not value or any(type(v) is not int or v < 0 for v in value):
            raise self.bad(f"a list of ints is needed here, found {show(value)}", expr.span, code="E125")
        return value


class _Bad(Exception):
    """Reported; the rule is left out."""


# Operation -> its arguments in order, and whether they must be given.
_SIGNATURES: dict[str, dict[str, bool]] = {
    "transpose": {"x": True},
    "permute": {"x": True, "axes": True},
    "reshape": {"x": True, "shape": True},
    "concat": {"parts": True, "axis": False, "sizes": False},
    "split": {"x": True, "sizes": True, "axis": False},
    "stack": {"x": True, "over": True, "axis": False},
    "rope_half_from_interleaved": {"x": True, "heads": True},
}

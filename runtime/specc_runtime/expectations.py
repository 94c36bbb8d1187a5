"""Expressions of `expect`: the language's own evaluator, with the outputs of programs as values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specc.elaborate.evaluate import Evaluator
from specc.elaborate.names import available, closest, did_you_mean
from specc.elaborate.scopes import Scope
from specc.elaborate.values import Binding, show
from specc.syntax import ast

if TYPE_CHECKING:
    import numpy as np

    from specc_runtime.spectest import Subject

    Array = np.ndarray[Any, Any]

ATOL = RTOL = 1e-5
"""What `~=` allows when nothing is said."""


class Skip(Exception):
    """This expectation cannot be judged here; the text says why."""


@dataclass(frozen=True)
class Problem:
    """Why an expectation does not hold. `sizes`: those that it is about, None for the ones of the test."""

    message: str
    notes: tuple[tuple[str, str], ...] = ()
    sizes: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Outputs:
    """All outputs of one program, by name."""

    program: str
    values: Mapping[str, Array]


def hold(subject: Subject, expect: ast.Expect) -> tuple[str, Problem | None]:
    """(a figure to show, why it does not hold).

    Raises `Fail` for what is no expectation, `Skip` for what cannot be run.
    """
    evaluation = Evaluation(subject)
    cond = expect.cond
    if isinstance(cond, ast.Compare) and "~=" in cond.ops:
        if len(cond.ops) > 1:
            raise evaluation.fail("E100", "`~=` is not chained", cond.span)
        atol, rtol = _within(evaluation, expect)
        return _close(evaluation, cond, evaluation.value(cond.first), evaluation.value(cond.rest[0]), atol, rtol)
    if expect.within:
        raise evaluation.fail("E100", "`within` belongs to `~=`", expect.span)
    if evaluation.condition(cond):
        return "", None
    text = " ".join(cond.span.text.split())
    sizes = evaluation.counted_at if _is_contract(cond) else None
    if not isinstance(cond, ast.Compare) or len(cond.ops) > 1:
        return "", Problem(f"`{text}` does not hold", sizes=sizes)
    left, right = evaluation.value(cond.first), evaluation.value(cond.rest[0])
    return "", Problem(f"`{text}` does not hold", (("left", _shown(left)), ("right", _shown(right))), sizes)


def hf_folders(expr: ast.Expr) -> Iterator[str]:
    """The arguments of every `hf("..")` in an expression."""
    for node in _walk(expr):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hf":
            yield from (a.value.value for a in node.args if isinstance(a, ast.Arg) and isinstance(a.value, ast.Str))


def _is_contract(expr: ast.Expr) -> bool:
    """Whether it is about the model, whatever the sizes of the test are."""
    called = (node.func for node in _walk(expr) if isinstance(node, ast.Call))
    return any(isinstance(name, ast.Name) and name.id in _CONTRACTS for name in called)


_CONTRACTS = ("count_params", "flops", "nodes", "fused")


_TAKEN = {
    "count_params": "no arguments",
    "fused": "the name of an operator, as in fused(sdpa)",
    "shape": "an output",
    "hf": 'the folder of a checkpoint, as in hf("gpt2")',
}


def _walk(node: Any) -> Iterator[ast.Node]:
    if isinstance(node, ast.Node):
        yield node
        for key, child in vars(node).items():
            if key != "span":
                yield from _walk(child)
    elif isinstance(node, tuple):
        for child in node:
            yield from _walk(child)


def _within(evaluation: Evaluation, expect: ast.Expect) -> tuple[float, float]:
    """(atol, rtol); what is not said is 0 if the other is."""
    given: dict[str, float] = {}
    for arg in expect.within:
        name = arg.name.id if isinstance(arg, ast.Arg) and arg.name is not None else ""
        if not isinstance(arg, ast.Arg) or name not in ("atol", "rtol"):
            raise evaluation.fail("E120", "within takes atol = .. and rtol = ..", arg.span)
        value = evaluation.value(arg.value)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0:
            raise evaluation.fail("E125", f"`{name}` is a number >= 0", arg.span)
        given[name] = float(value)
    return (given.get("atol", 0.0), given.get("rtol", 0.0)) if given else (ATOL, RTOL)


class Evaluation(Evaluator):
    """Compile-time expressions over hyper-parameters, sizes, and the arrays that programs return."""

    def __init__(self, subject: Subject, names: Mapping[str, Any] | None = None) -> None:
        span = subject.test.span
        known = subject.names if names is None else names
        bindings = {name: Binding(value, span, f"{name} of the test") for name, value in known.items()}
        super().__init__(subject.checked.elaborator, Scope(subject.project.file, bindings))
        self.subject = subject
        self.counted_at: dict[str, int] = {}  # the sizes of `flops`

    def _Name(self, expr: ast.Name) -> Any:
        programs: dict[str, Callable[[], Mapping[str, Array]]] = {
            "torch": lambda: self.subject.torch,
            "forward": lambda: self.subject.torch,
            "onnx": lambda: self.subject.onnx,
            "incremental": lambda: self.subject.incremental,
        }
        if expr.id in programs:
            return Outputs(expr.id, programs[expr.id]())
        if expr.id in (o.name for o in self.subject.of.outputs):
            return self.subject.torch[expr.id]
        return super()._Name(expr)

    def _Call(self, expr: ast.Call) -> Any:
        name = expr.func.id if isinstance(expr.func, ast.Name) else ""
        args = [arg.value for arg in expr.args if isinstance(arg, ast.Arg) and arg.name is None]
        if name == "count_params" and not expr.args:
            return self.subject.count_params
        if name == "flops":
            return self._flops(expr)
        if name == "fused" and len(args) == 1:
            return self._fused(args[0], expr)
        if name == "nodes":
            if len(expr.args) != 1 or not args or not isinstance(args[0], ast.Name) or args[0].id != "onnx":
                raise self.fail("E125", "nodes takes `onnx`: those of the graph are counted", expr.span)
            return self.subject.nodes
        if name == "shape" and len(args) == 1:
            value = self.value(args[0])
            if is_array(value):
                return tuple(int(size) for size in value.shape)
            raise self.fail("E125", "shape(..) takes an output", expr.span)
        if name == "hf" and len(args) == 1 and isinstance(args[0], ast.Str):
            return Outputs("hf", self.subject.hf(args[0].value))
        if name in _FUNCTIONS and len(args) == len(expr.args) == 1:
            value = self.value(args[0])
            if is_array(value):
                return _FUNCTIONS[name](value)
        if name in _TAKEN:
            raise self.fail("E120", f"{name} takes {_TAKEN[name]}", expr.span)
        return super()._Call(expr)

    def _flops(self, call: ast.Call) -> int:
        """`flops(B = 1, T = 1024)`: of `forward`, two for a multiply-add; sizes that are not given are the test's."""
        from specc.inspect.reports import report

        sizes = dict(self.subject.sizes)
        for arg in call.args:
            if isinstance(arg, ast.StarArg) or arg.name is None:
                raise self.fail("E120", "flops takes sizes by name", arg.span, help="flops(B = 1, T = 1024)")
            value = self.value(arg.value)
            if arg.name.id not in sizes:
                known = available(list(sizes)) or "none"
                raise self.fail("S103", f"forward has no dim `{arg.name.id}`", arg.span, available=known)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise self.fail("E112", f"a size is an int of at least 1, found {show(value)}", arg.span)
            sizes[arg.name.id] = value
        broken = self.subject.of.facts.satisfied_by(sizes)
        if broken is not None:
            raise self.fail("S223", f"the model promises {broken}", call.span)
        self.counted_at = sizes
        found = report(self.subject.checked.model).root.flops
        if found is None:
            raise self.fail("E125", f"the FLOPs of {self.subject.test.model.id} have no formula", call.span)
        return found.evaluate(sizes)

    def _fused(self, operator: ast.Expr, call: ast.Call) -> bool:
        """Whether every call of an operator is one of ONNX that stands for it whole."""
        name = operator.id if isinstance(operator, ast.Name) else ""
        found = self.subject.lowerings
        known = dict.fromkeys(one.operator for one in found.operators if one.operator.isidentifier())
        if not found.of(name):
            guess = closest(name, known)
            raise self.fail(
                "E103",
                f"{found.model} has no operator `{operator.span.text}`",
                call.span,
                help=did_you_mean(guess),
                available=available(list(known)),
            )
        return all(one.form == "fused" for one in found.of(name))

    def _Index(self, expr: ast.Index) -> Any:
        base = self.value(expr.base)
        if not is_array(base):
            return super()._Index(expr)
        items = tuple(
            slice(*(self.value(p) if p is not None else None for p in (i.start, i.stop, i.step)))
            if isinstance(i, ast.Slice)
            else ...
            if isinstance(i, ast.EllipsisLit)
            else self.value(i)
            for i in expr.items
        )
        try:
            return base[items]
        except (IndexError, TypeError) as error:
            raise self.fail("E105", str(error), expr.span) from None

    def arithmetic(self, expr: ast.Binary, left: Any, right: Any) -> Any:
        if is_array(left) or is_array(right):
            function = _ARITHMETIC.get(expr.op)
            if function is None or isinstance(left, Outputs) or isinstance(right, Outputs):
                raise self.fail("E125", f"`{expr.op}` does not take outputs", expr.span)
            return function(left, right)
        return super().arithmetic(expr, left, right)

    def compare(self, expr: ast.Compare, op: str, left: Any, right: Any, at: ast.Expr) -> bool:
        """Of arrays: whether it holds for every element."""
        if is_array(left) or is_array(right):
            function = _RELATIONS.get(op)
            if function is None:
                raise self.fail("E125", f"`{op}` does not compare outputs", expr.span)
            return bool(function(left, right))
        return super().compare(expr, op, left, right, at)


_FUNCTIONS: Mapping[str, Callable[[Any], Any]] = {
    "abs": abs,
    "max": lambda x: x.max(),
    "min": lambda x: x.min(),
    "sum": lambda x: x.sum(),
    "mean": lambda x: x.mean(),
}
_ARITHMETIC: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}
_RELATIONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": lambda a, b: (a == b).all(),
    "!=": lambda a, b: (a != b).any(),
    "<": lambda a, b: (a < b).all(),
    "<=": lambda a, b: (a <= b).all(),
    ">": lambda a, b: (a > b).all(),
    ">=": lambda a, b: (a >= b).all(),
}


def is_array(value: Any) -> bool:
    """Whether it is an output, or a number computed from one."""
    import numpy as np

    return isinstance(value, (np.ndarray, np.generic))


def _close(
    evaluation: Evaluation, cond: ast.Compare, left: Any, right: Any, atol: float, rtol: float
) -> tuple[str, Problem | None]:
    if not isinstance(left, Outputs) and not isinstance(right, Outputs):
        return _close_arrays(evaluation, cond, "", left, right, atol, rtol)
    if not isinstance(left, Outputs) or not isinstance(right, Outputs):
        raise evaluation.fail("E125", "all outputs of a program compare with those of another", cond.span)
    shared = [name for name in right.values if name in left.values]
    if not shared:
        raise evaluation.fail("E125", f"`{left.program}` and `{right.program}` have no output in common", cond.span)
    figures = []
    for name in shared:
        figure, problem = _close_arrays(evaluation, cond, name, left.values[name], right.values[name], atol, rtol)
        if problem is not None:
            return figure, problem
        figures.append(float(figure))
    return f"{max(figures):.1e}", None


def _close_arrays(
    evaluation: Evaluation, cond: ast.Compare, name: str, left: Any, right: Any, atol: float, rtol: float
) -> tuple[str, Problem | None]:
    """|left - right| <= atol + rtol*|right|, NaN where NaN is."""
    import numpy as np

    try:
        a, b = np.broadcast_arrays(np.asarray(left, np.float64), np.asarray(right, np.float64))
    except (ValueError, TypeError):
        raise evaluation.fail("E125", "`~=` compares numbers and outputs of one shape", cond.span) from None
    what = f"{name}: " if name else ""
    text = " ".join(cond.span.text.split())
    if np.shape(left) != np.shape(right) and np.ndim(left) and np.ndim(right):
        notes = (("left", str(list(np.shape(left)))), ("right", str(list(np.shape(right)))))
        return "", Problem(f"`{text}` does not hold: {what}the shapes differ", notes)
    with np.errstate(invalid="ignore"):
        distance = np.abs(a - b)
        wrong = (distance > atol + rtol * np.abs(b)) | (np.isnan(a) != np.isnan(b))
    largest = float(np.nanmax(distance, initial=0.0))
    if not wrong.any():
        return f"{largest:.1e}", None
    excess = np.where(wrong, np.nan_to_num(distance, nan=np.inf), -1)
    at = tuple(int(i) for i in np.unravel_index(int(excess.argmax()), excess.shape))
    place = f"{name}{list(at)}" if at else name
    sides = (("left", f"{a[at]:.8g}"), ("right", f"{b[at]:.8g}"))
    message = f"`{text}` does not hold: {what}off by {largest:.2e}, allowed {atol:g} + {rtol:g}*|right|"
    return f"{largest:.1e}", Problem(message, (("at", place), *sides) if place else sides)


def _shown(value: Any) -> str:
    if is_array(value):
        return f"{value:.8g}" if not value.shape else f"an output of shape {list(value.shape)}"
    return "the outputs of " + value.program if isinstance(value, Outputs) else show(value)

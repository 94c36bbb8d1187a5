"""`route(x, weights, idx, experts)`: the one call whose work depends on data, and the one that takes parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specc.elaborate.access import Evaluated
from specc.elaborate.attributes import OpCall
from specc.elaborate.builtins import ROUTE as NAME
from specc.elaborate.mismatch import valued
from specc.elaborate.names import counted
from specc.elaborate.references import ListRef, PartRef
from specc.elaborate.values import Fail
from specc.ir.graph import Iteration, Node, PartList, Submodule, Value, dotted
from specc.ir.route import Route
from specc.op import Op, OpError
from specc.ops.routing import Combine, Dispatch, check_operands, routed
from specc.source import Span
from specc.syntax import ast
from specc.syntax.unparse import unparse

if TYPE_CHECKING:
    from specc.elaborate.calls import CallChecker

PARAMETERS = ("x", "weights", "idx", "experts")
SIGNATURE = f"{NAME}({', '.join(PARAMETERS)})"


def route(body: CallChecker, expr: ast.Call) -> Value:
    """Checks the call and appends it to the body. Raises `Fail`."""
    return _Routing(body, expr).run()


class _Routing:
    def __init__(self, body: CallChecker, expr: ast.Call) -> None:
        self.body, self.expr = body, expr
        self.args = self._arguments()

    def run(self) -> Value:
        body = self.body
        exprs = [self.args[name] for name in PARAMETERS[:3]]
        x, weights, idx = operands = tuple(body.tensor(body.value(e), e) for e in exprs)
        experts = self._experts()
        sizes = tuple(routed(self._size_name(part)) for part in experts)
        spans = tuple(e.span for e in exprs)
        dispatch, combine = Dispatch(rows=sizes), Combine()
        types = [value.type for value in operands]
        try:
            check_operands(body.facts, *types)
        except OpError as error:
            raise body.explained(OpCall(dispatch, operands, spans), error, types, self.expr.span) from None
        outer, iterations = body.nodes, []
        try:
            nodes, sent = self._apply(dispatch, (x, idx), (spans[0], spans[2]))
            iterations.append(Iteration(nodes, ()))
            results: list[Value] = []
            for part, rows in zip(experts, sent[1:], strict=True):
                body.nodes = []
                results.append(self._call(part, rows, weights, results))
                iterations.append(Iteration(tuple(body.nodes), (("expert", part.path),)))
            nodes, made = self._apply(combine, (weights, sent[0], *results), (spans[1],))
            iterations.append(Iteration(nodes, ()))
        finally:
            body.nodes = outer
        iterable = body.text_of(self.args["experts"])
        body.nodes.append(Route(("expert",), iterable, None, tuple(iterations), self.expr.span))
        return made[0]

    def _apply(
        self, op: Op, inputs: tuple[Value, ...], spans: tuple[Span, ...]
    ) -> tuple[tuple[Node, ...], tuple[Value, ...]]:
        self.body.nodes = []
        made = self.body.apply(OpCall(op, inputs, spans), self.expr.span)
        return tuple(self.body.nodes), made if isinstance(made, tuple) else (made,)

    # ---- arguments -----------------------------------------------------------------------------------------------

    def _arguments(self) -> dict[str, ast.Expr]:
        body, found = self.body, dict[str, ast.Expr]()
        for position, arg in enumerate(self.expr.args):
            if isinstance(arg, ast.StarArg):
                raise body.fail("E120", "`*` passes hyper-parameters, in declarations only", arg.span)
            if arg.name is None and position >= len(PARAMETERS):
                limit = counted(len(PARAMETERS), "argument")
                raise body.fail("E122", f"{NAME} takes {limit}", arg.span, note=SIGNATURE)
            name = arg.name.id if arg.name is not None else PARAMETERS[position]
            if arg.name is not None and name not in PARAMETERS:
                raise body.no_such("E120", f"{NAME} has no argument `{name}`", arg.name.span, name, PARAMETERS)
            if name in found:
                raise body.fail("E121", f"{NAME}: `{name}` is given twice", arg.span)
            found[name] = arg.value
        for name in PARAMETERS:
            if name not in found:
                raise body.fail("E124", f"{NAME}: missing `{name}`", self.expr.span, note=SIGNATURE)
        return found

    def _experts(self) -> tuple[PartRef, ...]:
        """The parts: a list of blocks that has at least one."""
        body, at = self.body, self.args["experts"]
        value = body.value(at)
        if isinstance(value, tuple) and all(isinstance(part, PartRef) for part in value):  # `reversed(experts)`
            value = ListRef(value)
        listed = isinstance(value, ListRef) or (isinstance(value, PartRef) and isinstance(value.member, PartList))
        if not listed:
            help = "experts: [Expert(dim) for e in range(n)]"
            found = body.kind(value)
            raise body.fail("E125", f"{NAME}: `experts` is a list of parts, found {found}", at.span, help=help)
        parts = body.part_items(value, at)
        if not parts:
            raise body.fail("E125", f"{NAME}: `{unparse(at)}` is empty: there is no expert to send to", at.span)
        for number, part in enumerate(parts):
            if not isinstance(part.member, Submodule):
                raise body.fail(
                    "E125",
                    f"{NAME}: element {number} of `{unparse(at)}` is not a block",
                    at.span,
                    help="an expert is one block: put what it consists of into a block of its own",
                )
        return tuple(parts)

    def _size_name(self, part: PartRef) -> str:
        """The name of the size that the expert's rows have; a second `route` to the same expert has another."""
        taken = sum(part.path in node.paths for node in _routes(self.body.nodes))
        return dotted(part.path) + (f", {taken + 1}" if taken else "")

    # ---- the experts' calls --------------------------------------------------------------------------------------

    def _call(self, part: PartRef, rows: Value, weights: Value, before: list[Value]) -> Value:
        body, at = self.body, self.args["x"]
        member = part.member
        assert isinstance(member, Submodule)
        argument = ast.Arg(at.span, None, Evaluated(at.span, rows, at))
        func = self.args["experts"]
        made: Any = body.call_part(ast.Call(self.expr.span, func, (argument,)), part)
        what = f"{dotted(part.path)}: {member.module.name}"
        if not isinstance(made, Value):
            raise body.fail("S150", f"{what} has several results; {NAME} sums one", func.span)
        if made.type.rank != 2 or not body.facts.equal(made.type.shape[0], rows.type.shape[0]):
            raise self._refusal("S202", f"{what} must give one row for each row that it gets", made, "one row each")
        if made.type.dtype is not weights.type.dtype:
            expected = weights.type.dtype.spec_name
            message = f"{what} gives {made.type.dtype.spec_name}, `weights` is {expected}"
            raise self._refusal("S301", message, made, expected)
        size, first = made.type.shape[1], (before[0] if before else made).type.shape[1]
        if not body.facts.equal(size, first):
            message = f"{what} gives rows of {size.plain()}, the experts before it rows of {first.plain()}"
            raise self._refusal("S201", message, made, str(first.plain()))
        return made

    def _refusal(self, code: str, message: str, made: Value, expected: str) -> Fail:
        at, rows = self.args["experts"], self.body.size_rows(made.type)
        return self.body.fail(code, message, at.span, expected=expected, found=valued(made.type), sizes=rows)


def _routes(nodes: list[Node]) -> list[Route]:
    return [node for node in nodes if isinstance(node, Route)]

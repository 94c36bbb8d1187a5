"""`route` in the IR: which rows go to which expert, the experts' calls, and the weighted sum of what they give.

A `Route` is a `Loop` over the experts, between an operator that sorts the rows by expert and one that puts the results
back. Who only wants to know what is computed need not tell it from a loop; who prints or draws it as one thing may.
"""

from __future__ import annotations

from dataclasses import dataclass

from specc.ir.graph import Apply, Call, Input, Iteration, Loop, Path, Value


@dataclass(frozen=True, eq=False)
class Route(Loop):
    """The iterations are one `= dispatch`, one call for each expert, and one `= combine`.

    Experts of equal (block, arguments) share a graph; `binds` of a call's iteration says which part it is.
    """

    @property
    def dispatch(self) -> Apply:
        """x [.., d], idx [.., k] -> the order of the pairs (token, choice), then for each expert its rows [n, d]."""
        node = self.iterations[0].nodes[0]
        assert isinstance(node, Apply)
        return node

    @property
    def experts(self) -> tuple[Iteration, ...]:
        return self.iterations[1:-1]

    @property
    def calls(self) -> tuple[Call, ...]:
        """The experts' calls, each on its rows [n, d]."""
        nodes = [iteration.nodes[0] for iteration in self.experts]
        return tuple(node for node in nodes if isinstance(node, Call))

    @property
    def combine(self) -> Apply:
        """weights [.., k], the order, each expert's results [n, e] -> [.., e]."""
        node = self.iterations[-1].nodes[0]
        assert isinstance(node, Apply)
        return node

    @property
    def operands(self) -> tuple[Input, Input, Input]:
        """x, weights, idx."""
        x, idx = self.dispatch.inputs
        return x, self.combine.inputs[0], idx

    @property
    def result(self) -> Value:
        return self.combine.outputs[0]

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where the experts are."""
        return tuple(call.path for call in self.calls)

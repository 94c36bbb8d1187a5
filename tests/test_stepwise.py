"""What operators say of themselves along an axis of positions (`Op.mixes`, `Op.stepwise`) is true of their numbers.

Every docstring example is taken along each of its dims in turn: where the operator raises no objection, a part of the
positions has to give the same part of the result.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from test_ops import ACCEPTED, SIZES, Example, _checked, data_of, folder, module_of, run_torch, spec_of

from specc.dims import Dim
from specc.ir.graph import Apply, Graph, Loop, Node
from specc.op import OpError, Step, operators
from specc.ops.state import past
from specc.passes.plain import entry_sizes
from specc.passes.steps import operand_type
from specc.types import Scalar

assert folder  # the fixture of the same name
OWN_FORM = frozenset("cached once carried positions causal_conv1d lstm gru".split())
"""What an incremental entry gives another form: tests/test_cached.py runs those."""
PLAIN = [
    e
    for e in ACCEPTED
    if e.op not in OWN_FORM and not operators()[e.op].for_training and not re.search(r"\bK\b|_like", e.text)
]
PART = 2


def applies(nodes: tuple[Node, ...]) -> Iterator[Apply]:
    for node in nodes:
        if isinstance(node, Apply):
            yield node
        elif isinstance(node, Loop):
            for iteration in node.iterations:
                yield from applies(iteration.nodes)


def objection(graph: Graph, step: Step) -> OpError | None:
    """What the operators of an example say against steps along a dim."""
    sizes = entry_sizes(graph)
    for node in applies(graph.nodes):
        operands = [operand_type(i, sizes) for i in node.inputs]
        if any(isinstance(o, Scalar) and isinstance(o.value, Dim) and step.varies(o.value) for o in operands):
            return OpError("D403", "a length as a number")
        try:
            node.op.stepwise(step, *operands)
        except OpError as error:
            return error
    return None


def cut(array: np.ndarray[Any, Any], type_: str, dim: str, count: int) -> np.ndarray[Any, Any]:
    """The first positions along every axis that is this dim."""
    axes = [part for part in type_[type_.index("[") + 1 : -1].split(", ") if part]
    for axis, size in enumerate(axes):
        array = array[(slice(None),) * axis + (slice(0, count if size == dim else None),)]
    return np.ascontiguousarray(array)


@pytest.mark.parametrize("example", PLAIN, ids=str)
def test_a_part_of_the_positions_gives_that_part_of_the_result(example: Example, folder: str) -> None:
    checked = _checked(spec_of(example), folder)
    [graph] = checked.model.entries["forward"].graphs.values()
    module, sizes = module_of(checked), SIZES[1]
    types = {a.name: str(a.type) for a in graph.inputs}
    rng = np.random.default_rng(3)
    feed = {
        name: data_of(name, example.inputs[name], sizes, rng)
        if name in example.inputs
        else np.zeros(sizes[name[-1]], int)
        for name in types
    }
    whole = run_torch(module, feed)
    for dim in graph.dims:
        step = Step(Dim.symbol(dim), past(Dim.symbol(dim)))
        shown = [value.type for _, value in graph.results]
        reached = [any(step.varies(size) for size in type_.shape) for type_ in shown]
        if objection(graph, step) is not None or not all(reached):
            continue  # a result without the axis is that of the last position
        if any(
            step.varies(d) and not d.is_symbol() for t in (*shown, *(a.type for a in graph.inputs)) for d in t.shape
        ):
            continue  # where positions of two axes are one axis, a part is no prefix
        part = run_torch(module, {name: cut(value, types[name], dim, PART) for name, value in feed.items()})
        for type_, expected, found in zip(shown, whole, part, strict=True):
            np.testing.assert_allclose(found, cut(expected, str(type_), dim, PART), atol=1e-5, err_msg=dim)


def test_objections_are_not_the_rule(folder: str) -> None:
    """Rows of a batch never mix: of all examples that have one as their first axis, few object to it."""
    asked = objected = 0
    for example in PLAIN:
        if re.search(r"\w+: Tensor\[B, ", example.text):
            [graph] = _checked(spec_of(example), folder).model.entries["forward"].graphs.values()
            asked += 1
            objected += objection(graph, Step(Dim.symbol("B"), past(Dim.symbol("B")))) is not None
    assert asked > 100 and objected < asked / 4, (asked, objected)

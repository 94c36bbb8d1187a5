"""Where do two programs first differ? Intermediate values, compared in the order of execution.

First operator by operator: a debug graph with every value as an output, against the operators' torch text run one by
one. If these agree, the fault is in how the emitted source was put together, and its modules are watched with hooks; or
in the finished graph's references to its weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc.ir.graph import Apply, Call, Graph, Model, Read, Scan, dotted
from specc.ir.graph import Path as IrPath
from specc.ir.taps import TapKeys, call_scope, executed, numbered
from specc.ops.extern import Extern
from specc.source import Span
from specc_runtime import programs, taps
from specc_runtime.compare import Figures, compare
from specc_runtime.inputs import chosen_graph
from specc_runtime.programs import OPTIMISED, PLAIN, Crash

if TYPE_CHECKING:
    import numpy as np
    import torch

    from specc_runtime.divergence import Mismatch

    Array = np.ndarray[Any, Any]

RELATIVE = 1e-5
"""A value is off if it differs by more than this times its own largest element: noise is below, a fault above."""
MAX_BYTES = 4 << 30
"""Intermediate values that are held at once; a run that needs more is not searched."""


@dataclass(frozen=True)
class Place:
    """The first value that differs.

    `span` is the line in the user's file, `inner` the line inside std where that is more exact. `what` is the operator
    or the part, `name` the value's name in the spec. `figures` are those of the value; `blame` says which program is at
    fault, where that is known.
    """

    path: str
    name: str | None
    what: str
    span: Span
    inner: Span | None
    figures: Figures
    blame: str = ""


@dataclass(frozen=True, eq=False)
class _Step:
    """One value of a run: its key, the module's path, the node, the user's line."""

    key: str
    path: str
    node: Apply | Call | Scan
    position: int
    span: Span
    call: str | None  # the state_dict path of the part whose `forward` it is the result of


def steps(graph: Graph) -> Iterator[_Step]:
    """Every value in the order of execution; what happens inside std is placed at the line that calls it."""
    yield from _steps(graph, "", (), None, TapKeys())


def _steps(graph: Graph, scope: str, path: IrPath, outer: Span | None, keys: TapKeys) -> Iterator[_Step]:
    index = numbered(graph)
    for node in executed(graph.nodes):
        if isinstance(node, Read):
            continue
        span = outer or node.span
        call = None
        if isinstance(node, Call):
            inside = (*path, *node.path)
            library = node.graph.span.source.name.startswith("std/")
            yield from _steps(node.graph, call_scope(scope, node), inside, span if library else None, keys)
            if node.path and node.graph.method == "forward":
                call = dotted(inside)
        for position in range(len(node.outputs)):
            key = keys.key(scope, index[node], node, position)
            yield _Step(key, dotted(path), node, position, span, call)


def locate(mismatch: Mismatch, model: Model, without: frozenset[str], opset: int, folder: Path) -> Place | None:
    """The first value that differs at the sizes of a mismatch; None if none is found."""
    graph = chosen_graph(model, mismatch.entry, without)
    torch_values = _torch_values(graph, mismatch)
    if torch_values is None or sum(v.nbytes for v in torch_values.values()) > MAX_BYTES:
        return _named_by(mismatch, graph, folder)
    order = list(steps(graph))
    for program in (PLAIN, OPTIMISED):
        try:
            found = _debug_values(mismatch, model, without, opset, folder, program)
        except Crash as crash:
            mismatch.crash = mismatch.crash or crash
            continue
        place = _first(order, torch_values, found)
        if place is not None:
            return place
    return _named_by(mismatch, graph, folder) or _in_source(order, torch_values, mismatch)


def _torch_values(graph: Graph, mismatch: Mismatch) -> dict[str, Array] | None:
    """By key; None where the operators do not run."""
    import torch

    inputs = {name: torch.from_numpy(value) for name, value in mismatch.feeds.items()}
    try:
        _, found = taps.run(graph, mismatch.module, inputs, mismatch.externs)
    except programs.TORCH_ERRORS:
        return None
    return {key: value.detach().numpy() for key, value in found.items()}


def _debug_values(
    mismatch: Mismatch, model: Model, without: frozenset[str], opset: int, folder: Path, program: str
) -> dict[str, Array]:
    """The values of the debug graph by key, computed from the weights that the finished graph reads."""
    import onnx

    from specc.backends.onnx.export import build_debug
    from specc.backends.onnx.target import Target

    target = Target(opset=opset, externs=mismatch.externs)
    proto, outputs = build_debug(model, target, entry=mismatch.entry, without=without)
    finished = onnx.load(folder / mismatch.file, load_external_data=False)
    state = programs.state(mismatch.module)
    wanted = {t.name: None for t in proto.graph.initializer if t.name in state}
    stored = programs.stored_weights(finished, folder, wanted) if mismatch.weights == "build" else {}
    weights = {name: stored.get(name, state[name]) for name in wanted}
    session = programs.open_session(program, proto.SerializeToString(), weights)
    given = {o.name for o in session.get_outputs()}
    names = list(dict.fromkeys(tap.output for tap in outputs if tap.output in given))
    values = programs.run_session(session, program, mismatch.feeds, names)
    return {tap.key: values[tap.output] for tap in outputs if tap.output in values}


def _first(order: list[_Step], reference: Mapping[str, Array], found: Mapping[str, Array]) -> Place | None:
    for step in order:
        if step.key in reference and step.key in found:
            figures = _difference(reference[step.key], found[step.key])
            if figures.problem:
                return _place(step, figures)
    return None


def _difference(reference: Array, found: Array) -> Figures:
    """Compared on the value's own scale: intermediate values may be small throughout."""
    figures = compare(reference, found, RELATIVE)
    if not figures.problem and figures.max_abs > RELATIVE * figures.largest:
        limit = RELATIVE * figures.largest
        problem = f"it is off by {figures.max_abs:.2e}, its largest element is {figures.largest:.2e}"
        return Figures(**{**vars(figures), "limit": limit, "problem": problem})
    return figures


def _place(step: _Step, figures: Figures, blame: str = "") -> Place:
    node = step.node
    inner = node.span if node.span.source is not step.span.source else None
    what = "`scan`"
    if isinstance(node, Apply):
        what = f"`{node.op.function if isinstance(node.op, Extern) else node.op.name}`"
    if isinstance(node, Call):
        what = f"`{dotted(node.path) or node.graph.method}`"
    return Place(step.path, node.outputs[step.position].name, what, step.span, inner, figures, blame)


# ---- other traces ----------------------------------------------------------------------------------------------------


def _named_by(mismatch: Mismatch, graph: Graph, folder: Path) -> Place | None:
    """The place of the ONNX node that a crash names: nodes carry their line as `doc_string`."""
    import onnx

    crash = mismatch.crash
    if crash is None or not crash.node:
        return None
    nodes = onnx.load(folder / mismatch.file, load_external_data=False).graph.node
    line = next((node.doc_string for node in nodes if node.name == crash.node), None)
    here = [s for s in steps(graph) if line in (s.span.where, s.node.span.where)]
    scope = crash.node.rpartition("/")[0]
    step = next((s for s in here if s.path == scope), here[0] if here else None)
    return None if step is None else _place(step, Figures(problem=str(crash)))


def _in_source(order: list[_Step], reference: Mapping[str, Array], mismatch: Mismatch) -> Place | None:
    """The first call of a part whose inputs or results in the emitted module are not what its operators give."""
    seen = _watched(mismatch)
    counts: dict[str, int] = {}
    for step in order:
        if step.call is None or step.position:
            continue
        occurrence = counts.get(step.call, 0)
        counts[step.call] = occurrence + 1
        calls = seen.get(step.call, [])
        if step.key not in reference:
            continue
        figures = Figures(problem="the emitted source does not compute it")
        if occurrence < len(calls):
            figures = _difference(reference[step.key], calls[occurrence])
        if figures.problem:
            return _place(step, figures, "the emitted source; the operators one by one agree with the graph")
    return None


def _watched(mismatch: Mismatch) -> dict[str, list[Array]]:
    """First results of every part of the emitted module, by path, in the order of its calls."""
    import torch

    seen: dict[str, list[Array]] = {}

    def record(path: str) -> Any:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, torch.Tensor):
                seen.setdefault(path, []).append(first.detach().clone().numpy())

        return hook

    handles = [part.register_forward_hook(record(path)) for path, part in mismatch.module.named_modules() if path]
    try:
        programs.run_torch(mismatch.module, mismatch.of, mismatch.feeds)
    except Crash as crash:
        mismatch.crash = mismatch.crash or crash
    finally:
        for handle in handles:
            handle.remove()
    return seen

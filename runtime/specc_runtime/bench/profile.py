"""Which parts of a model take the time: onnxruntime's own profile, node by node, told by lines of the spec.

Nodes of a finished graph carry the line that they come from. onnxruntime fuses and moves nodes before it runs them, so
a node of its profile is looked up by what it computes: fusions keep the names of their results.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime.bench.request import Case, feeds
from specc_runtime.module import Build
from specc_runtime.programs import Crash, crashing

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

RUNS = 20


@dataclass(frozen=True)
class NodeTime:
    """Seconds per run of one node that onnxruntime executed, without those of the nodes inside a loop or a branch.

    `name` is the node's in the build's graph, empty for what onnxruntime adds; `line` is where the spec says it
    (`gpt2.spec:52:9`), `scope` the part's path.
    """

    name: str
    operator: str
    line: str
    scope: str
    seconds: float


@dataclass(frozen=True)
class LineTime:
    """Seconds per run of all nodes of one line of a spec."""

    line: str
    seconds: float
    nodes: int
    operators: tuple[str, ...]


def profile(made: Build, case: Case, runs: int = RUNS) -> list[NodeTime]:
    """Seconds per run of every node, in the order of execution; raises `Rejected` as `Build.session` does, and B660
    where onnxruntime fails."""
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="specc-profile-") as work:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = case.threads
        options.log_severity_level = 4  # it warns that the optimised graph is for this machine alone
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(work) / "run")
        options.optimized_model_filepath = str(Path(work) / "optimised.onnx")
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimised.data")
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        try:
            with crashing("onnxruntime"):
                session = made.session(case.entry, options, quantized=case.quantized)
                taken = {i.name for i in session.get_inputs()}
                given = {name: value for name, value in feeds(made, case).items() if name in taken}
                for _ in range(runs):
                    session.run(None, given)
        except Crash as crash:
            raise Rejected([Diagnostic("B660", f"{case.name} does not run: {crash}")]) from None
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
        executed = onnx.load(Path(work) / "optimised.onnx", load_external_data=False)
    file = made.manifest["entries"][case.entry]["quantised" if case.quantized else "onnx"]
    graph = onnx.load(made.folder / file, load_external_data=False)
    return _nodes(events, graph, executed, runs)


def _nodes(events: Iterable[Mapping[str, Any]], graph: ModelProto, executed: ModelProto, runs: int) -> list[NodeTime]:
    made_by = {output: node for node in _every(graph.graph) for output in node.output if output}
    outputs = {node.name: list(node.output) for node in _every(executed.graph)}
    taken: dict[str, list[float]] = defaultdict(list)
    operators: dict[str, str] = {}
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        name = event["name"].removesuffix("_kernel_time")
        taken[name].append(event["dur"] / 1e6)
        operators[name] = event["args"].get("op_name", "")
    seconds = {name: _per_run(times, runs) for name, times in taken.items()}
    own = dict(seconds)
    for node in _every(executed.graph):  # the time of a loop holds that of its nodes
        inside = sum(seconds.get(inner.name, 0.0) for body in _bodies(node) for inner in body.node)
        if inside and node.name in own:
            own[node.name] = max(0.0, seconds[node.name] - inside)
    found = []
    for name in taken:
        source = next((made_by[o] for o in outputs.get(name, ()) if o in made_by), None)
        scope = source.name.rpartition("/")[0].replace("/", ".") if source is not None else ""
        line = source.doc_string if source is not None else ""
        found.append(NodeTime(source.name if source is not None else "", operators[name], line, scope, own[name]))
    return found


def _per_run(times: list[float], runs: int) -> float:
    """The first run, which also warms the caches, is left out."""
    each = len(times) // runs  # a node in a loop runs several times
    totals = [sum(times[i * each : (i + 1) * each]) for i in range(1, runs)]
    return median(totals) if len(times) == each * runs else sum(times[each:]) / (runs - 1)


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    """What a loop repeats, the branches of a choice."""
    return (attribute.g for attribute in node.attribute if attribute.HasField("g"))


def _every(graph: GraphProto) -> Iterator[NodeProto]:
    """Nodes, those inside of others included; names are unique in all of a graph."""
    for node in graph.node:
        yield node
        for body in _bodies(node):
            yield from _every(body)


def by_line(nodes: Iterable[NodeTime]) -> list[LineTime]:
    """The slowest line first; what onnxruntime added itself is the line ""."""
    groups: dict[str, list[NodeTime]] = {}
    for node in nodes:
        groups.setdefault(node.line, []).append(node)
    found = [
        LineTime(line, sum(n.seconds for n in members), len(members), tuple(dict.fromkeys(n.operator for n in members)))
        for line, members in groups.items()
    ]
    return sorted(found, key=lambda one: -one.seconds)

"""The IR as JSON (`ir.json` of a build), by the published schema `schemas/ir.schema.json`.

Modules are numbered in order of first use, graphs within their module, values within their graph; sizes are in
`Dim.to_json`'s prefix form. Everything is derived from the IR alone, so equal models give equal bytes.
"""

from __future__ import annotations

from typing import Any

from specc.dims import Dim
from specc.ir.declared import Initializer
from specc.ir.graph import (
    Absent,
    Apply,
    Argument,
    Call,
    Function,
    Graph,
    Input,
    Loop,
    Member,
    Model,
    Module,
    Node,
    Parameter,
    PartGroup,
    PartList,
    Path,
    Read,
    Scan,
    Submodule,
    Value,
    When,
)
from specc.op import Pattern
from specc.source import Span
from specc.types import DType, Scalar, TensorType

FORMAT = "specc-ir/1"
Json = dict[str, Any]


def to_json(model: Model) -> Json:
    """The whole model; nothing is lost but spans within a line."""
    return _Writer(model).document()


class _Writer:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.modules: dict[int, tuple[int, Module]] = {}
        self.graphs: dict[int, str] = {}
        self.functions: list[Graph] = []

    def document(self) -> Json:
        model = self.model
        root = self.module(model.module)
        entries = {
            name: [{"present": sorted(present), "graph": self.graph(graph)} for present, graph in entry.graphs.items()]
            for name, entry in model.entries.items()
        }
        modules = []
        done = 0
        while done < len(self.modules):  # writing one may number more
            modules.append(self.module_body(list(self.modules.values())[done][1]))
            done += 1
        functions = [self.graph_body(graph) for graph in self.functions]
        return {
            "format": FORMAT,
            "name": model.name,
            "spec": model.file,
            "preset": model.preset,
            "root": root,
            "facts": [str(fact) for fact in model.facts.statements()],
            "entries": entries,
            "modules": modules,
            "functions": functions,
        }

    # ---- modules -------------------------------------------------------------------------------------------------

    def module(self, module: Module) -> int:
        number, _ = self.modules.setdefault(id(module), (len(self.modules), module))
        return number

    def module_body(self, module: Module) -> Json:
        return {
            "id": self.module(module),
            "block": module.name,
            "at": where(module.span),
            "torch_class": module.torch_class,
            "doc": module.doc,
            "hyperparameters": {h.name: plain(h.value) for h in module.hypers if not h.is_let},
            "lets": {h.name: plain(h.value) for h in module.hypers if h.is_let},
            "members": {name: self.member(member) for name, member in module.members.items()},
            "ties": [[path(t.left), path(t.right)] for t in module.ties],
            "init": [
                {
                    "match": r.pattern if r.pattern is not None else f"{r.block}.{r.parameter}",
                    "with": initializer(r.init),
                }
                for r in module.inits
            ],
            "graphs": [self.graph_body(graph) for graph in module.graphs.values()],
        }

    def member(self, member: Member) -> Json:
        if isinstance(member, Parameter):
            kind = "buffer" if member.buffer else "parameter"
            return {
                "kind": kind,
                "type": type_json(member.type),
                "init": initializer(member.init) if member.init else None,
            }
        if isinstance(member, Submodule):
            return {"kind": "part", "module": self.module(member.module)}
        if isinstance(member, PartList):
            return {"kind": "list", "items": [self.member(item) for item in member.items]}
        if isinstance(member, PartGroup):
            return {"kind": "group", "members": {name: self.member(item) for name, item in member.members.items()}}
        assert isinstance(member, Function)
        attributes = {k: plain(v) for k, v in member.op.attributes.items()} if member.op is not None else {}
        return {"kind": "function", "name": member.name, "attributes": attributes}

    # ---- graphs --------------------------------------------------------------------------------------------------

    def graph(self, graph: Graph) -> str:
        """A reference to a graph: `module id/method/number`, or `fn/number`."""
        if id(graph) not in self.graphs:
            if graph.module is None:
                self.functions.append(graph)
                self.graphs[id(graph)] = f"fn/{len(self.functions) - 1}"
            else:
                number = list(graph.module.graphs.values()).index(graph)
                self.graphs[id(graph)] = f"{self.module(graph.module)}/{number}"
        return self.graphs[id(graph)]

    def graph_body(self, graph: Graph) -> Json:
        values: dict[int, int] = {}
        body = _Body(self, values)
        return {
            "id": self.graph(graph),
            "method": graph.method,
            "at": where(graph.span),
            "dims": list(graph.dims),
            "facts": [str(fact) for fact in graph.facts.statements()],
            "inputs": [body.argument(a) for a in graph.inputs],
            "nodes": [body.node(n) for n in graph.nodes],
            "results": [
                {"name": name, "value": body.ref(value), "type": type_json(value.type)} for name, value in graph.results
            ],
        }


class _Body:
    """Nodes of one graph; values get numbers as they appear."""

    def __init__(self, writer: _Writer, values: dict[int, int]) -> None:
        self.writer, self.values = writer, values

    def ref(self, value: Value) -> int:
        return self.values.setdefault(id(value), len(self.values))

    def define(self, value: Value) -> Json:
        return {"value": self.ref(value), "name": value.name, "type": type_json(value.type)}

    def argument(self, argument: Argument) -> Json:
        present = self.ref(argument.value) if argument.value is not None else None
        return {
            "name": argument.name,
            "type": type_json(argument.type),
            "optional": argument.optional,
            "value": present,
        }

    def input(self, value: Input) -> Json | int | None:
        if isinstance(value, Value):
            return self.ref(value)
        if isinstance(value, Absent):
            return None
        assert isinstance(value, Scalar)
        return {"scalar": plain(value.value), "label": value.label}

    def node(self, node: Node) -> Json:
        if isinstance(node, Read):
            return {"kind": "read", "path": path(node.path), "outputs": [self.define(node.output)]}
        if isinstance(node, Loop):
            iterations = [
                {
                    "binds": {k: path(v) if v is not None else None for k, v in i.binds},
                    "nodes": [self.node(n) for n in i.nodes],
                }
                for i in node.iterations
            ]
            return {
                "kind": "loop",
                "at": where(node.span),
                "fold": path(node.fold) if node.fold is not None else None,
                "iterations": iterations,
            }
        if isinstance(node, When):
            rebinds = [
                {"before": self.ref(a), "inside": self.ref(b), "after": self.define(c)} for a, b, c in node.rebinds
            ]
            nodes = [self.node(n) for n in node.nodes]
            aux = {name: self.ref(value) for name, value in node.aux}
            return {
                "kind": "when",
                "at": where(node.span),
                "mode": node.mode,
                "nodes": nodes,
                "rebinds": rebinds,
                "aux": aux,
            }
        if isinstance(node, Scan):
            return self.scan(node)
        inputs = [self.input(i) for i in node.inputs]
        outputs = [self.define(o) for o in node.outputs]
        if isinstance(node, Call):
            graph = self.writer.graph(node.graph)
            return {
                "kind": "call",
                "at": where(node.span),
                "graph": graph,
                "path": path(node.path),
                "inputs": inputs,
                "outputs": outputs,
            }
        assert isinstance(node, Apply)
        attributes = {k: plain(v) for k, v in node.op.attributes.items()}
        return {
            "kind": "op",
            "at": where(node.span),
            "op": node.op.name,
            "attributes": attributes,
            "inputs": inputs,
            "outputs": outputs,
        }

    def scan(self, node: Scan) -> Json:
        sequences = [
            {"whole": self.ref(s.whole), "axis": s.axis, "slice": self.define(s.slice)} for s in node.sequences
        ]
        before = [(self.ref(s.start), self.define(s.before)) for s in node.states]
        nodes = [self.node(n) for n in node.nodes]
        emits = [{"value": self.ref(e.value), "axis": e.axis, "stacked": self.define(e.stacked)} for e in node.emits]
        states = [
            {"start": start, "before": first, "after": self.ref(s.after), "result": self.define(s.result)}
            for (start, first), s in zip(before, node.states, strict=True)
        ]
        return {
            "kind": "scan",
            "at": where(node.span),
            "along": node.along.to_json(),
            "sequences": sequences,
            "states": states,
            "nodes": nodes,
            "emits": emits,
        }


def where(span: Span) -> str:
    return span.where


def path(segments: Path) -> list[str | int]:
    return list(segments)


def type_json(type_: TensorType) -> Json:
    return {"dtype": type_.dtype.spec_name, "shape": [d.to_json() for d in type_.shape]}


def initializer(init: Initializer) -> Json:
    return {"name": init.name, "arguments": {k: plain(v) for k, v in init.args.items()}}


def plain(value: Any) -> Any:
    """Attributes and hyper-parameters as JSON."""
    if isinstance(value, Dim):
        return value.to_json()
    if isinstance(value, DType):
        return value.spec_name
    if isinstance(value, Pattern):
        return {"from": plain(value.left), "to": plain(value.right)}
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)

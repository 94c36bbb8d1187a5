"""One part of a drawing as a drawing of its own: a block by its name, a part by its path, a function of a foreign file.

Works on the ONNX file alone, so that files which specc did not write have parts, too, as far as their nodes have names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from specc.diagnostics import Diagnostic, Rejected
from specc.elaborate.names import available, closest, did_you_mean
from specc_runtime.drawn.places import (
    Key,
    Place,
    Scope,
    base_name,
    functions,
    is_loop,
    is_own,
    key_of,
    opened,
    parse,
    scope,
    text,
    within,
)

if TYPE_CHECKING:
    from onnx import FunctionProto, ModelProto, NodeProto, ValueInfoProto

MOST_NAMES = 5_000
"""Paths that are looked through for one that is nearly what was asked for."""


@dataclass(frozen=True)
class Part:
    """A part that was found: a function of the drawing, else nodes that are side by side in one."""

    name: str
    function: FunctionProto | None = None
    nodes: Found = field(default_factory=list)

    def drawn(self, model: ModelProto, blocks: Mapping[str, ModelProto]) -> ModelProto:
        """As a drawing of its own; nodes have the names that they have in the drawing now.

        `blocks`: drawings of blocks by file name, in which weights have shapes; taken where there is one.
        """
        if self.function is None:
            return _of_nodes(model, self.name, self.nodes)
        key = self.function.domain, self.function.name, self.function.overload
        block = blocks.get(_file_name(key))
        return _of_function(model, self.function) if block is None else _renamed(block, model, self.function)


def find(model: ModelProto, wanted: str) -> Part:
    """The part `wanted` of a drawing: a path (`h.0.attn`, `h` for all of a list), or the name of a block or function.

    Nodes must have the names that they were drawn with. Raises `Rejected` (E103) with the closest name.
    """
    known = functions(model)
    named = [key for key in known if wanted in (_file_name(key), key[1], base_name(key[1]))]
    if named:
        return Part(wanted, known[min(named, key=lambda k: (k[2], k[1]))])
    found = _descend(model.graph.node, path, Scope(), known) if (path := parse(wanted)) else []
    if not found:
        raise _unknown(model, wanted)
    called = known.get(key_of(found[0][0])) if len(found) == 1 else None
    return Part(wanted, called, found)


def _file_name(key: Key) -> str:
    """As a build names the picture of a block."""
    return f"{base_name(key[1])}_{key[2]}" if key[2] else base_name(key[1])


Found = list[tuple["NodeProto", "FunctionProto | None"]]
"""Nodes with the function that they are in, None for the graph."""


def _descend(
    nodes: Sequence[NodeProto],
    wanted: Place,
    at: Scope,
    known: Mapping[Key, FunctionProto],
    inside: FunctionProto | None = None,
) -> Found:
    """The one node that is the part, else all nodes of it that are side by side."""
    side_by_side: Found = []
    for node in nodes:
        function = known.get(key_of(node))
        if function is None:
            if (label := scope(node)) and within(wanted_of(at.resolve(label), wanted), wanted):
                side_by_side.append((node, inside))
            continue
        if is_own(node):
            if found := _descend(function.node, wanted, at, known, function):
                return found
            continue
        for label in node.name.split(", "):
            place = at.resolve(label.replace("/", "."))
            if len(place) == len(wanted) and within(wanted, place) and not is_loop(node):
                return [(node, inside)]
            if within(wanted, place) and (found := _descend(function.node, wanted, opened(node, at), known, function)):
                return found
            if within(wanted_of(place, wanted), wanted):
                side_by_side.append((node, inside))
                break
    return side_by_side


def wanted_of(place: Place, wanted: Place) -> Place:
    """`place` narrowed to `wanted` where it stands for more: the part 0 of `h.0..11`."""
    pairs = zip(place, wanted, strict=False)
    narrowed = tuple(w if within((w,), (p,)) else p for p, w in pairs)
    return (*narrowed, *place[len(narrowed) :])


# ---- as a model ------------------------------------------------------------------------------------------------------


def _of_function(model: ModelProto, function: FunctionProto) -> ModelProto:
    """A graph with the function's inputs, results and nodes."""
    from onnx import ModelProto, helper

    types = {info.name: info for info in function.value_info}
    made = ModelProto(ir_version=model.ir_version)
    made.graph.name = base_name(function.name)
    made.graph.doc_string = function.doc_string
    made.graph.input.extend(_info(name, types) for name in function.input)
    made.graph.output.extend(_info(name, types) for name in function.output)
    made.graph.node.extend(function.node)
    made.graph.value_info.extend(function.value_info)
    made.functions.extend(model.functions)
    versions = {o.domain: o.version for o in (*model.opset_import, *function.opset_import)}
    made.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in versions.items())
    return made


def _renamed(block: ModelProto, model: ModelProto, function: FunctionProto) -> ModelProto:
    """The drawing of a block with its nodes' names as they are in the whole."""
    names = {node.output[0]: node.name for node in function.node}
    made = type(block)()
    made.CopyFrom(block)
    for node in made.graph.node:
        node.name = names.get(node.output[0], node.name)
    current = functions(model)
    used = [current[key] for key in functions(block)]
    del made.functions[:]
    made.functions.extend(used)
    return made


def _of_nodes(model: ModelProto, name: str, found: Found) -> ModelProto:
    """A graph of some nodes of the graph or of one function; what they read from others are its inputs."""
    from onnx import ModelProto

    inside = found[0][1]
    nodes = [node for node, of in found if of is inside]
    container = model.graph if inside is None else inside
    types = {info.name: info for info in container.value_info}
    if inside is None:
        types |= {info.name: info for info in (*model.graph.input, *model.graph.output)}
    made = {output for node in nodes for output in node.output if output}
    read = dict.fromkeys(name for node in nodes for name in _read(node) if name not in made)
    others = [node for node in container.node if not any(node is n for n in nodes)]
    used = {name for node in others for name in _read(node)}
    used |= {output if isinstance(output, str) else output.name for output in container.output}
    drawn = ModelProto(ir_version=model.ir_version)
    drawn.opset_import.extend(model.opset_import)
    drawn.functions.extend(model.functions)
    drawn.graph.name = name
    constants = {tensor.name: tensor for tensor in model.graph.initializer} if inside is None else {}
    for value in read:
        if value in constants:
            drawn.graph.initializer.append(constants[value])
        else:
            drawn.graph.input.append(_info(value, types))
    drawn.graph.node.extend(nodes)
    drawn.graph.output.extend(_info(v, types) for node in nodes for v in node.output if v in used)
    drawn.graph.value_info.extend(info for value, info in types.items() if value in made)
    return drawn


def _read(node: NodeProto) -> Iterator[str]:
    """What a node reads, in the graphs that it holds, too."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            made = {output for inner in graph.node for output in inner.output}
            made |= {i.name for i in (*graph.input, *graph.initializer)}
            yield from (name for inner in graph.node for name in _read(inner) if name not in made)
            yield from (output.name for output in graph.output if output.name not in made)


def _info(name: str, types: Mapping[str, ValueInfoProto]) -> ValueInfoProto:
    from onnx import ValueInfoProto

    return types.get(name) or ValueInfoProto(name=name)


# ---- what there is ---------------------------------------------------------------------------------------------------


def _unknown(model: ModelProto, wanted: str) -> Rejected:
    known = functions(model)
    blocks = list(dict.fromkeys(_file_name(key) for key in known))
    paths = list(dict.fromkeys(_paths(model.graph.node, Scope(), known)))
    plain = text(parse(wanted))
    guess = closest(plain, [*blocks, *paths]) or _by_ranges(plain, paths)
    top = [path for path in paths if len(parse(path)) <= 2]
    notes = (("blocks", available(blocks) or "none"), ("parts", available(top) or "none"))
    help = did_you_mean(guess)
    return Rejected([Diagnostic("E103", f"the picture has no block or part `{wanted}`", notes=notes, help=help)])


def _by_ranges(wanted: str, paths: Sequence[str]) -> str | None:
    """A guess for `h.3.atn` where the drawing has `h.0..11.attn`: with the number that was asked for."""
    numbered = {}
    for path in paths:
        place, asked = parse(path), parse(wanted)
        if len(place) == len(asked):
            numbered[text(wanted_of(place, asked))] = path
    return closest(wanted, numbered)


def _paths(nodes: Sequence[NodeProto], at: Scope, known: Mapping[Key, FunctionProto]) -> Iterator[str]:
    waiting = [(nodes, at)]
    count = 0
    while waiting and count < MOST_NAMES:
        some, where = waiting.pop(0)
        for node in some:
            function = known.get(key_of(node))
            label = scope(node) if function is None else "" if is_own(node) else node.name
            for piece in label.split(", ") if label else ():
                count += 1
                yield text(where.resolve(piece.replace("/", ".")))
            if function is not None:
                waiting.append((function.node, opened(node, where)))

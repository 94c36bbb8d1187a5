"""Which lists of parts are an `nn.Sequential`: those only ever called with one argument."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from specc.backends.torch.labels import Scope
from specc.backends.torch.optext import InitText
from specc.ir.graph import Absent, Apply, Call, Function, Loop, Model, Module, Node, PartList, Scan, Submodule, When
from specc.ir.members import member_at, walk_members


def sequential_lists(model: Model) -> frozenset[int]:
    """Identities of the lists whose every call passes one tensor through all elements, each of them a module."""
    good: set[int] = set()
    bad: set[int] = set()
    inner: dict[int, list[PartList]] = {}
    for module in _modules(model.module):
        for loop in (fold for graph in module.graphs.values() for fold in _folds(graph.nodes)):
            assert loop.fold is not None
            parts = member_at(module, loop.fold)
            assert isinstance(parts, PartList)
            inner[id(parts)] = [item for item in parts.items if isinstance(item, PartList)]
            (good if _is_chain(loop) and _are_modules(parts) else bad).add(id(parts))
    good -= bad
    while failing := {one for one in good if any(id(p) not in good and p.items for p in inner[one])}:
        good -= failing
    return frozenset(good)


def _modules(top: Module) -> list[Module]:
    found = [top, *(m.module for _, m, _ in walk_members(top) if isinstance(m, Submodule))]
    return list(dict.fromkeys(found))


def _folds(nodes: Sequence[Node]) -> Iterator[Loop]:
    for node in nodes:
        if isinstance(node, Loop):
            if node.fold is not None:
                yield node
            for iteration in node.iterations:
                yield from _folds(iteration.nodes)
        elif isinstance(node, (When, Scan)):
            yield from _folds(node.nodes)


def _is_chain(loop: Loop) -> bool:
    """Whether every element is one call with one argument."""
    for iteration in loop.iterations:
        if len(iteration.nodes) != 1:
            return False
        node = iteration.nodes[0]
        if isinstance(node, Call):
            rest = node.inputs[1:]
            if node.graph.method != "forward" or not all(isinstance(i, Absent) and i.label is None for i in rest):
                return False
        elif isinstance(node, Apply):
            if len(node.inputs) != 1:
                return False
        elif not isinstance(node, Loop) or node.fold is None or not _is_chain(node):
            return False
    return True


def _are_modules(parts: PartList) -> bool:
    """Whether every element can stand in an `nn.Sequential`."""
    for item in parts.items:
        if isinstance(item, Function):
            node = Apply(item.op, (), (), item.span, item.labels) if item.op is not None else None
            if node is None or node.op.module(InitText(node, Scope(None), lambda name, source: name)) is None:
                return False
        elif not isinstance(item, (Submodule, PartList)):
            return False
    return True

"""One Python function out of the statements of its variants: one variant for each set of given optional inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

from specc.backends.torch.labels import python_name
from specc.backends.torch.signatures import argument_text, ellipsis_rank, list_lengths
from specc.backends.torch.statements import Block, Statement
from specc.ir.graph import Graph

Variants = Mapping[frozenset[str], tuple[Statement, ...]]


def merge(variants: Variants, optional: Sequence[str]) -> tuple[Statement, ...]:
    """Equal statements once, the others under `if mask is not None`.

    `optional`: the inputs that tell variants apart, in order. Nothing tests for a variant that no call uses.
    """
    if len(variants) == 1 or not optional:
        return next(iter(variants.values()))
    name, rest = optional[0], optional[1:]
    given = {present: s for present, s in variants.items() if name in present}
    absent = {present: s for present, s in variants.items() if name not in present}
    if not given or not absent:
        return merge(given or absent, rest)
    return tuple(_join(f"{name} is not None", merge(given, rest), merge(absent, rest)))


def by_ranks(bodies: Sequence[tuple[Graph, tuple[Statement, ...]]]) -> tuple[Statement, ...]:
    """One body for every rank of `...` and every length of a list of tensors: mostly they are the same, else that is
    tested.
    """
    (graph, body), rest = bodies[0], [(g, b) for g, b in bodies[1:] if b != bodies[0][1]]
    if not rest:
        return body
    lengths = list_lengths(graph)
    tests = [f"len({python_name(name)}) == {n}" for name, n in lengths.items() if _differs(name, n, rest)]
    if any(ellipsis_rank(other) != ellipsis_rank(graph) for other, _ in rest):
        given = [(a, a.value) for a in graph.inputs if a.value is not None]
        argument, value = next((a, v) for a, v in given if any("..." in str(d) for d in v.type.shape))
        tests.append(f"{argument_text(argument)}.ndim == {value.type.rank}")
    return (Block(f"if {' and '.join(tests)}", body, by_ranks(rest)),)


def _differs(name: str, length: int, others: Sequence[tuple[Graph, tuple[Statement, ...]]]) -> bool:
    """Whether a list has another length in another variant."""
    return any(list_lengths(graph)[name] != length for graph, _ in others)


def _join(condition: str, given: tuple[Statement, ...], absent: tuple[Statement, ...]) -> list[Statement]:
    joined: list[Statement] = []
    matcher = SequenceMatcher(None, given, absent, autojunk=False)
    for tag, i, j, k, m in matcher.get_opcodes():
        if tag == "equal":
            joined += given[i:j]
        else:
            joined.append(_choice(condition, given[i:j], absent[k:m]))
    return joined


def _choice(condition: str, given: tuple[Statement, ...], absent: tuple[Statement, ...]) -> Statement:
    if len(given) == len(absent) == 1:
        a, b = given[0], absent[0]
        same_header = isinstance(a, Block) and isinstance(b, Block) and a.header == b.header and a.orelse == b.orelse
        if same_header and isinstance(a, Block) and isinstance(b, Block):  # one loop, with the choice inside
            return Block(a.header, tuple(_join(condition, a.body, b.body)), a.orelse)
    if not given:
        return Block(f"if {condition.replace('is not None', 'is None')}", absent)
    return Block(f"if {condition}", given, absent)

"""The first lines of a method: runtime sizes get names, the model's facts are checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from specc.backends.torch.labels import Scope
from specc.backends.torch.signatures import argument_text, plain_sizes, size_names, size_symbols
from specc.backends.torch.statements import Block, Line, Statement, assign
from specc.dims import Dim, Fact, Facts
from specc.ir.graph import Argument, Graph, Module
from specc.op import Step


@dataclass(frozen=True)
class Check:
    """A fact as a statement; `dims` are the sizes that it reads."""

    statement: Statement
    dims: tuple[str, ...]


def size_bindings(
    graph: Graph, arguments: Sequence[Argument], dims: Iterable[str], step: Step | None = None
) -> tuple[list[Statement], list[str]]:
    """`B, T, _ = x.shape` for the sizes that these arguments have, and the sizes that they do not."""
    plain, names = plain_sizes(graph, step), size_names(graph, step)
    wanted = [d for d in size_symbols(graph) if d in set(dims)]
    done: list[Statement] = []
    for argument in arguments:
        shape = _shape(argument, plain)
        axes: dict[str, int] = {}
        for axis, dim in enumerate(shape):
            if dim.is_symbol() and dim.symbols[0] in wanted:
                axes.setdefault(dim.symbols[0], axis)
        wanted = [d for d in wanted if d not in axes]
        if axes:
            done.append(_binding(argument_text(argument), shape, {names[d]: axis for d, axis in axes.items()}))
    for argument in arguments:
        shape = _shape(argument, plain)
        for axis, dim in enumerate(shape):
            name = next((d for d in wanted if dim.symbols == (d,)), None)
            solved = _solved(dim, f"{argument_text(argument)}.shape[{axis}]") if name is not None else None
            if name is not None and solved is not None:
                done.append(assign(names[name], solved))
                wanted.remove(name)
    return done, wanted


def _shape(argument: Argument, plain: Mapping[str, Dim | int]) -> list[Dim]:
    type_ = argument.type if argument.value is None else argument.value.type
    return [d.substitute(plain) for d in type_.shape]


def _binding(name: str, shape: Sequence[Dim], axes: Mapping[str, int]) -> Statement:
    variable = any(d.is_symbol() and d.symbols[0].startswith("...") for d in shape)
    if len(axes) == 1 or variable:
        indices = {}
        for dim, axis in axes.items():
            from_end = any(d.is_symbol() and d.symbols[0].startswith("...") for d in shape[:axis])
            indices[dim] = axis - len(shape) if from_end else axis
        values = ", ".join(f"{name}.shape[{i}]" for i in indices.values())
        return assign(tuple(indices), values)
    targets = ["_"] * len(shape)
    for dim, axis in axes.items():
        targets[axis] = dim
    return assign(tuple(targets), f"{name}.shape")


def _solved(dim: Dim, axis: str) -> str | None:
    """The symbol of `c*Y + a`, from the axis that has this size."""
    terms = dict(dim.terms())
    a = terms.pop((), 0)
    if len(terms) != 1:
        return None
    ((monomial, c),) = terms.items()
    if len(monomial) != 1 or monomial[0][1] != 1 or not isinstance(monomial[0][0], str):
        return None
    text = axis if not a else f"({axis} {'-' if a > 0 else '+'} {abs(a)})"
    return text if c == 1 else f"{text} // {c}"


def checks(graph: Graph, facts: Facts, scope: Scope, module: Module | None, step: Step | None = None) -> list[Check]:
    """One `if` per fact whose sizes the method has."""
    earlier = step.past.symbols if step is not None else ()
    pasts = (s for f in facts.statements() for s in f.dim.symbols if s.startswith("past("))
    plain = {s: 0 for s in pasts if s not in earlier}
    done: list[Check] = []
    for fact in facts.statements():
        dim = fact.dim.substitute(plain)
        if dim.value is None and all(s in graph.dims or s in earlier for s in dim.symbols):
            check = Check(_check(fact, dim, size_names(graph, step), scope, module), dim.symbols)
            if check not in done:
                done.append(check)
    return done


def _check(fact: Fact, dim: Dim, names: Mapping[str, str], scope: Scope, module: Module | None) -> Statement:
    size = dim.python(names)
    size = size if dim.is_symbol() or fact.kind != "div" else f"({size})"
    bound = _bound(fact, scope, module)
    number, shown = (bound, "{" + bound + "}") if bound.startswith("self.") else (bound, bound)
    test, rule = {
        "le": (f"{size} > {number}", f"at most {shown}"),
        "ge": (f"{size} < {number}", f"at least {shown}"),
        "div": (f"{size} % {number} != 0", f"a multiple of {shown}"),
    }[fact.kind]
    message = f'f"{size} must be {rule}, found {{{size}}}"'
    return Block(f"if {test}", (Line("raise", (), f"ValueError({message})"),))


def _bound(fact: Fact, scope: Scope, module: Module | None) -> str:
    """The number of a fact: the hyper-parameter that its `dim` line names and that has this value, else the literal."""
    text = module.span.source.text[module.span.start :] if module is not None else ""
    for hyper in scope.hypers.values():
        stated = re.search(rf"^\s*dim\b[^\n]*[<>=%]\s*{re.escape(hyper.name)}\b", text, re.MULTILINE)
        if stated and hyper.value == fact.n and not isinstance(hyper.value, bool):
            return scope.forward(hyper.name, fact.n) or str(fact.n)
    return str(fact.n)

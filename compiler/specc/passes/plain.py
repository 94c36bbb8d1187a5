"""The plain entry: nothing has been cached yet, so `past(X)` is 0 and every cache is the identity.

Bodies are checked with `past(T)` opaque (LANGUAGE 13). A backend that builds the plain entry rewrites sizes and types
with the `Sizes` of the graph it walks; what a call binds is `call_sizes`.
"""

from __future__ import annotations

from collections.abc import Sequence

from specc.dims import Dim, Facts
from specc.ir.graph import Argument, Graph, Input, Model, Value
from specc.types import Operand, Scalar, TensorType

IDENTITIES = frozenset({"cached", "once", "carried"})
"""Operators that keep state between steps; outside incremental entries their results are their operands."""


def is_past(symbol: str) -> bool:
    """Whether a symbol is a number of cached positions."""
    return symbol.startswith("past(")


class Sizes(dict[str, Dim]):
    """What each symbol of one graph stands for; every `past(..)` is 0.

    A symbol that the signature does not bind has no meaning: using it raises, instead of leaking a callee's name.
    """

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> Dim:
        if is_past(name):
            return Dim.const(0)
        if name.startswith("routed("):  # known at run time only: it stands for itself
            return Dim.symbol(name)
        raise AssertionError(f"the size {name} is not bound by the signature")

    def empty(self) -> Sizes:
        """Sizes of the same kind, in which nothing is bound yet."""
        return Sizes()

    def type(self, type_: TensorType) -> TensorType:
        return TensorType(type_.dtype, tuple(size.substitute(self) for size in type_.shape))

    def operand(self, input_: Input) -> Operand:
        """What an operator gets to know of an input; None of one that is not given."""
        if isinstance(input_, Value):
            return self.type(input_.type)
        if isinstance(input_, Scalar):
            return Scalar(input_.value.substitute(self)) if isinstance(input_.value, Dim) else input_
        return None


def entry_sizes(graph: Graph) -> Sizes:
    """The sizes of an entry: its own dims under their own names."""
    symbols = dict.fromkeys(graph.dims)
    for argument in graph.inputs:
        for size in argument.type.shape:
            symbols.update(dict.fromkeys(size.symbols))
    return Sizes({name: Dim.symbol(name) for name in symbols if not is_past(name)})


def entry_facts(model: Model, graph: Graph) -> Facts:
    """What an entry promises about its dims; a promise about a dim that only other entries have says nothing of it."""
    sizes = entry_sizes(graph)
    named = set(sizes)
    stated = graph.facts.union(model.facts).statements()
    own = Facts(tuple(f for f in stated if all(is_past(s) or s in named for s in f.dim.symbols)))
    return own.rename(sizes)


def call_sizes(arguments: Sequence[Argument], operands: Sequence[Operand], caller: Sizes | None = None) -> Sizes:
    """What the dims of a callee stand for in the caller's sizes: an axis that is a bare name binds it."""
    sizes = Sizes() if caller is None else caller.empty()
    for argument, operand in zip(arguments, operands, strict=True):
        if argument.value is None or not isinstance(operand, TensorType):
            continue
        for declared, actual in zip(argument.value.type.shape, operand.shape, strict=True):
            if declared.is_symbol():
                sizes.setdefault(declared.symbols[0], actual)
    return sizes

"""What an entry keeps between decoding steps, in bytes: the states of its incremental form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from specc.dims import Dim
from specc.inspect.counts import BYTES
from specc.inspect.formulas import ZERO, Formula, total
from specc.ir.graph import Model
from specc.op import numel
from specc.passes.incremental import Incremental, derive, innermost, keeps_state
from specc.types import DType, TensorType


@dataclass(frozen=True)
class Cache:
    """`grown`: bytes after the positions of `along`; `token`: of each further one; `constant`: recurrent states and
    what is computed once a sequence. `incremental` is the entry that continues.
    """

    entry: str
    along: str
    grown: Formula
    token: Formula
    constant: Formula
    incremental: Incremental

    @property
    def bytes(self) -> Formula:
        """All of it."""
        return total((self.grown, self.constant))


def cache(model: Model, entry: str, width: int, without: frozenset[str] = frozenset()) -> Cache | None:
    """None for an entry that keeps nothing, or cannot be continued. `width`: bytes of the compute dtype."""
    if not keeps_state(model, entry):
        return None
    inner = innermost(model, entry)
    found = derive(model, inner, without & model.entries[inner].full.present)
    if isinstance(found, list):
        return None
    nothing: dict[str, Dim | int] = dict.fromkeys(found.step.past.symbols, ZERO)
    along = found.sizes.step
    bytes_of = {**BYTES, DType.COMPUTE: width}

    def bytes(types: Iterable[TensorType]) -> Formula:
        sizes = (t.with_shape(tuple(d.substitute(nothing) for d in t.shape)) for t in types)
        return total(numel(t) * bytes_of[t.dtype] for t in sizes)

    grown = bytes(state.after for group in found.states for state in group)
    constant = bytes(state.after for group in (*found.carried, *found.once) for state in group)
    token = None
    if grown is not None:
        token = grown.substitute({along.symbols[0]: along + 1}) - grown if along.symbols else grown
    return Cache(inner, str(along), grown, token, constant, found)

"""Symbolic sizes: a small algebra with a normal form, and proofs about it under assumptions.

`Dim` is an integer polynomial over named sizes and floor quotients. `Facts` holds what is known about the names
(bounds, divisibility) and answers questions with a proof, a counter-example, or `Unknown`; it never guesses.
"""

from __future__ import annotations

from specc.dims.algebra import Dim, ceil_div
from specc.dims.facts import Facts
from specc.dims.monomials import DimError, DivisionError, Factor, Floor, Monomial
from specc.dims.statements import Fact, Proof, Proved, Refuted, Unknown

__all__ = [
    "Dim",
    "DimError",
    "DivisionError",
    "Fact",
    "Factor",
    "Facts",
    "Floor",
    "Monomial",
    "Proof",
    "Proved",
    "Refuted",
    "Unknown",
    "ceil_div",
]

"""An entry as a `torch.export` program: every runtime size dynamic, within the facts that the model states."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Rejected
from specc.dims import Dim, Facts
from specc_runtime.inputs import Interface, draw
from specc_runtime.sizes import admissible, prime

if TYPE_CHECKING:
    import torch

Shapes = dict[str, dict[int, Any]]
"""Argument -> axis -> `torch.export.Dim`, or what is derived from one; sizes that cannot change are left out."""

_LEAST = 2  # of a size while torch exports: it takes 1 for a constant; the finished program admits 1 again
_AMPLE = 3  # times its lower bound a size is large enough that strided layers do not shrink it to 1


def exported(module: torch.nn.Module, of: Interface) -> torch.export.ExportedProgram:
    """The entry's program: one graph for all sizes that the facts admit, the weights within.

    Raises `Rejected` (B660) if no sizes satisfy the facts; what `torch.export` itself raises is not caught.
    """
    import torch
    from torch.fx.experimental import _config as config
    from torch.utils._sympy.value_ranges import ValueRanges

    sizes = _example(of)
    feeds = draw(of, sizes, masks="all true")
    arguments = {i.argument: torch.from_numpy(feeds[i.name]) for i in of.inputs}
    if of.method != "forward":
        module = copy.copy(module)
        module.forward = getattr(module, of.method)
    with config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]  # put there when it is imported
        program = torch.export.export(
            module,
            (),
            arguments,
            dynamic_shapes=_shapes(of),
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    for symbol, bounds in program.range_constraints.items():
        if bounds.lower == _LEAST:
            program.range_constraints[symbol] = ValueRanges(1, bounds.upper)
    return program


def _shapes(of: Interface) -> Shapes:
    """What `torch.export.export` takes as `dynamic_shapes` beside the entry's arguments.

    `dim T <= 1024` is `Dim("T", min=2, max=1024)`, `dim Y % 32 == 0` is `32 * Dim("Y_32")`; equal sizes are one Dim. A
    size that is no linear expression of one dim is left for torch to derive (`Dim.AUTO`).
    """
    roots: dict[str, Any] = {}
    shapes: Shapes = {}
    for item in of.inputs:
        axes = {axis: _axis(dim, of.facts, roots) for axis, dim in enumerate(item.shape) if dim.value is None}
        shapes[item.argument] = {axis: dim for axis, dim in axes.items() if dim is not None}
    return shapes


def _axis(dim: Dim, facts: Facts, roots: dict[str, Any]) -> Any:
    """The Dim of one axis; None if the facts leave one value to it."""
    from torch.export import Dim as Root

    linear = _linear(dim)
    if linear is None:
        return Root.AUTO
    symbol, scale, shift = linear
    if symbol not in roots:
        roots[symbol] = _root(symbol, facts)
    if roots[symbol] is None:
        return None
    root, step, first = roots[symbol]
    step, first = scale * step, scale * first + shift
    whole = root if step == 1 else step * root
    return whole + first if first else whole


def _linear(dim: Dim) -> tuple[str, int, int] | None:
    """(T, a, c) if the size is a*T + c."""
    terms = dict(dim.terms())
    shift = terms.pop((), 0)
    ((monomial, scale),) = terms.items() if len(terms) == 1 else (((), 0),)
    if len(monomial) != 1 or monomial[0][1] != 1 or not isinstance(monomial[0][0], str):
        return None
    return monomial[0][0], scale, shift


def _root(symbol: str, facts: Facts) -> tuple[Any, int, int] | None:
    """(k, n, r) with the size n*k + r, k within its bounds."""
    from torch.export import Dim as Root

    (low, high), (r, n) = facts.bounds_of(symbol), facts.residue_of(symbol)
    if low == high:
        return None
    name = symbol if n == 1 else f"{symbol}_{n}"
    return Root(name, min=max(_LEAST, (low - r) // n), max=None if high is None else (high - r) // n), n, r


def _example(of: Interface) -> dict[str, int]:
    """Distinct sizes, none of them one that torch takes for a constant (0 and 1)."""
    wanted = {}
    for i, name in enumerate(of.dims, 1):
        (low, high), (r, n) = of.facts.bounds_of(name), of.facts.residue_of(name)
        value = max(prime(i) * n + r, _AMPLE * low + i)
        value += (r - value) % n
        wanted[name] = value if high is None else min(value, high)
    sizes = admissible(of, wanted)
    if sizes is None:
        raise Rejected([Diagnostic("B660", f"no sizes of `{of.method}` satisfy the model's facts")])
    return sizes

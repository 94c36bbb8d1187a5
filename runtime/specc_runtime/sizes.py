"""At which sizes two programs are compared: 1, distinct primes, each bound; as far as memory allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import log

from specc.dims import DimError
from specc_runtime.inputs import Interface

MEMORY_BUDGET = 1 << 30
"""Bytes that the values of one run may take by estimate."""

_AT_BOUND = "at its bound"
_SLACK = 2  # an operator's values, and what is alive beside them
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53)


@dataclass(frozen=True)
class Case:
    """One choice of sizes. `skipped` says why it is not run, empty if it is."""

    sizes: Mapping[str, int]
    purpose: str
    skipped: str = ""

    @property
    def at_bound(self) -> bool:
        return self.purpose.endswith(_AT_BOUND)


def plan(of: Interface, budget: int = MEMORY_BUDGET) -> list[Case]:
    """Distinct admissible sizes, the smallest first, those at a bound last."""
    cases: list[Case] = []
    seen: set[tuple[int, ...]] = set()
    for wanted, purpose in _wishes(of):
        sizes = admissible(of, wanted)
        if sizes is None:
            cases.append(Case(wanted, purpose, "no sizes like these satisfy the model's facts"))
            continue
        key = tuple(sizes.values())
        if key not in seen:
            seen.add(key)
            cases.append(Case(sizes, purpose, too_large(of, sizes, budget)))
    return cases


def _wishes(of: Interface) -> Iterator[tuple[dict[str, int], str]]:
    dims = of.dims
    count = len(dims)
    small = {name: prime(i) for i, name in enumerate(dims)}
    yield dict.fromkeys(dims, 1), "every size 1"
    if not dims:
        return
    yield small, "distinct primes"
    yield {name: prime(2 * count - i) for i, name in enumerate(dims)}, "other primes"
    if count > 1:
        for name in dims:
            yield {**small, name: 1}, f"{name} = 1"
    for name in dims:
        _, high = of.facts.bounds_of(name)
        if high is not None:
            yield {**dict.fromkeys(dims, 1), name: high}, f"{name} {_AT_BOUND}"


def prime(i: int) -> int:
    """2, 3, 5, .. for 0, 1, 2, ..; starts over after 53."""
    return _PRIMES[i % len(_PRIMES)]


def admissible(of: Interface, wanted: Mapping[str, int]) -> dict[str, int] | None:
    """The sizes nearest to `wanted` (by ratio) that satisfy the facts, in the order of `wanted`; None if there are
    none.
    """
    clamped = {}
    for name, value in wanted.items():
        low, high = of.facts.bounds_of(name)
        clamped[name] = max(low, value if high is None else min(value, high))
    if of.facts.satisfied_by(clamped) is None:
        return clamped

    def distance(env: Mapping[str, int]) -> tuple[float, ...]:
        # earlier positions may be none at all, which is as far from one as one is from two
        ratios = (max(env[name], 0.5) / max(wanted[name], 0.5) for name in wanted)
        return (sum(abs(log(ratio)) for ratio in ratios), *env.values())

    best = min(of.facts.sample(wanted, near=tuple(wanted.values())), key=distance, default=None)
    return None if best is None else {name: best[name] for name in wanted}


def too_large(of: Interface, sizes: Mapping[str, int], budget: int) -> str:
    """Why a run at these sizes takes too much memory; empty if it does not."""
    try:
        bytes_ = _SLACK * max((formula.evaluate(sizes) for formula in of.memory), default=0)
    except DimError as error:
        return str(error)
    return f"needs about {bytes_ / 1e9:.1f} GB, the budget is {budget / 1e9:.1f} GB" if bytes_ > budget else ""

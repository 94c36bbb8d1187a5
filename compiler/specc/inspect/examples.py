"""Sizes that a user may give: small ones that the entry takes."""

from __future__ import annotations

from collections.abc import Sequence

from specc.dims import Facts


def example(dims: Sequence[str], facts: Facts, shown: Sequence[str] | None = None) -> str:
    """`--at B=1,Y=32,X=32`: of `shown` alone if they are given; "" without any."""
    sizes = {name: facts.bounds_of(name)[0] for name in dims}
    if facts.satisfied_by(sizes) is not None:
        found = facts.sample(dims, near=sizes.values())
        sizes = min(found, key=lambda env: sum(env[name] for name in dims), default=sizes)
    names = dims if shown is None else shown
    return f"--at {','.join(f'{name}={sizes[name]}' for name in names)}" if names else ""

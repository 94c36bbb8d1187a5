"""Writes constraints.txt: the exact versions of specc's dependencies, development tools included, as installed here."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEADER = "# The exact versions `make setup` installs. Written by scripts/freeze.py: see CONTRIBUTING.md.\n"


def wanted(dist: Distribution, extra: str) -> list[Requirement]:
    """The requirements of `dist` that hold on this machine with `extra` chosen ("" for none)."""
    requirements = [Requirement(text) for text in dist.requires or []]
    return [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": extra})]


def closure(name: str, extras: set[str]) -> dict[str, str]:
    """Every distribution that `name[extras]` needs, itself left out: name -> public version."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = [(name, extra) for extra in ("", *sorted(extras))]
    while queue:
        current, extra = queue.pop()
        if (current, extra) in seen:
            continue
        seen.add((current, extra))
        dist = distribution(current)
        # torch calls its CPU build 2.13.0+cpu; the pin is the public version, whichever build an index offers.
        versions[canonicalize_name(dist.metadata["Name"])] = re.sub(r"\+.*", "", dist.version)
        for requirement in wanted(dist, extra):
            queue += [(canonicalize_name(requirement.name), e) for e in ("", *sorted(requirement.extras))]
    del versions[canonicalize_name(name)]
    return versions


if __name__ == "__main__":
    pins = closure("specc-ml", {"dev"})
    target = Path(__file__).resolve().parent.parent / "constraints.txt"
    target.write_text(HEADER + "".join(f"{name}=={pins[name]}\n" for name in sorted(pins)), "utf-8")
    print(f"{target.name}: {len(pins)} versions")

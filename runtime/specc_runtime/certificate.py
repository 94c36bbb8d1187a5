"""The record of a proof: sizes, figures, versions, hashes. It becomes `certificate` in manifest.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from specc_runtime.compare import Figures
from specc_runtime.loss import Loss

FORMAT = "specc-certificate/1"


@dataclass(frozen=True)
class Run:
    """One set of inputs through every program. `figures`: program -> output -> figures against torch."""

    sizes: dict[str, int]
    purpose: str
    masks: str | None
    weights: str  # build | perturbed
    figures: dict[str, dict[str, Figures]]


@dataclass(frozen=True)
class Skipped:
    """Sizes that were not run, and why."""

    sizes: dict[str, int]
    purpose: str
    reason: str


@dataclass
class Entry:
    """What was compared of one entry. `tolerance` is relative to max(1, max|reference|).

    `padded`: of an entry that goes on, output -> a row of a padded batch against what it gives alone.
    """

    depth: int
    tolerance: float
    runs: list[Run] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    padded: Mapping[str, Figures] = field(default_factory=dict)


@dataclass(frozen=True)
class Half:
    """Of a build in f16 or bf16, whose `runs` are those of its fp32 form. `direct`: each graph as it is stored -> by
    output, how far it is from fp32; or why it does not run on a CPU.
    """

    dtype: str
    direct: Mapping[str, str | dict[str, Figures]]

    def to_json(self) -> dict[str, Any]:
        found = {
            file: {"runs": False, "why": made}
            if isinstance(made, str)
            else {"runs": True, "figures": {name: figures.to_json() for name, figures in made.items()}}
            for file, made in self.direct.items()
        }
        return {"dtype": self.dtype, "proved_through": "f32", "direct": found}

    def summary(self) -> str:
        ran = [
            f"{file} in {self.dtype} is within its roundings of it"
            for file, m in self.direct.items()
            if not isinstance(m, str)
        ]
        left = [
            f"{file} in {self.dtype} does not run on this CPU ({why})"
            for file, why in self.direct.items()
            if isinstance(why, str)
        ]
        return "\n".join(["that is their fp32 form, with the weights as they are stored", *ran, *left])


@dataclass(frozen=True)
class Certificate:
    """`files`: name -> SHA-256 of the source, the weights and the graphs that were compared."""

    seed: int
    files: Mapping[str, str]
    versions: Mapping[str, str]
    entries: Mapping[str, Entry]
    half: Half | None = None
    quantised: Mapping[str, Loss] = field(default_factory=dict)  # file -> what the few bits cost

    def to_json(self) -> dict[str, Any]:
        """The content of manifest.json's `certificate`; see schemas/certificate.schema.json."""
        return {
            "format": FORMAT,
            "seed": self.seed,
            "reference": "torch, eager, eval",
            "files": dict(self.files),
            "versions": dict(self.versions),
            "entries": {name: _entry(entry) for name, entry in self.entries.items()},
            **({"half": self.half.to_json()} if self.half is not None else {}),
            **self._quantised(),
        }

    def _quantised(self) -> dict[str, Any]:
        losses = {file: loss.to_json() for file, loss in self.quantised.items()}
        return {"quantised": losses} if losses else {}

    def _padded(self) -> list[str]:
        """A line for each entry whose results depend on padding."""
        return [
            f"{name}: `{output}` of a padded row is off by {found.max_abs:.2g} from what it is alone: "
            "no mask keeps padding out of all that reads it"
            for name, entry in self.entries.items()
            for output, found in list(entry.padded.items())[:1]
            if found.problem
        ]

    def worst(self) -> tuple[float, float]:
        """(largest difference, its limit), by the share of the limit that it uses."""
        found = [
            figures
            for entry in self.entries.values()
            for run in entry.runs
            for outputs in run.figures.values()
            for figures in outputs.values()
        ]
        top = max(found, key=lambda f: f.max_abs / f.limit if f.limit else 0.0, default=Figures())
        return top.max_abs, top.limit

    def summary(self) -> str:
        """One line for a person."""
        count = sum(len(entry.runs) for entry in self.entries.values())
        skipped = sum(len(entry.skipped) for entry in self.entries.values())
        largest, limit = self.worst()
        text = f"torch and onnxruntime agree in {count} runs: largest difference {largest:.1e}, limit {limit:.1e}"
        text = f"{text} ({skipped} sizes skipped)" if skipped else text
        text = f"{text}\n{self.half.summary()}" if self.half is not None else text
        return "\n".join(
            [text, *self._padded(), *(f"{file}: {loss.summary()}" for file, loss in self.quantised.items())]
        )


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "depth": entry.depth,
        "tolerance": entry.tolerance,
        "runs": [
            {
                "sizes": run.sizes,
                "purpose": run.purpose,
                "masks": run.masks,
                "weights": run.weights,
                "figures": {
                    program: {name: figures.to_json() for name, figures in outputs.items()}
                    for program, outputs in run.figures.items()
                },
            }
            for run in entry.runs
        ],
        "skipped": [{"sizes": s.sizes, "purpose": s.purpose, "reason": s.reason} for s in entry.skipped],
        **({"padded": {name: found.to_json() for name, found in entry.padded.items()}} if entry.padded else {}),
    }


@cache
def schema() -> dict[str, Any]:
    """The published JSON Schema of a certificate."""
    text = (resources.files("specc_runtime") / "schemas" / "certificate.schema.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded

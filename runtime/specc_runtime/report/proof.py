"""The certificate of a build as rows of tables: every run, what was skipped, what few bits cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from specc_runtime.report.figures import Fact


@dataclass(frozen=True)
class Run:
    """One program on one set of inputs. `used`: the share of the limit that the largest difference takes."""

    entry: str
    sizes: str
    purpose: str
    weights: str
    program: str
    output: str
    difference: str
    limit: str
    used: float


@dataclass(frozen=True)
class Proof:
    """`worst`: the run that is nearest to its limit."""

    worst: Run | None
    count: int
    runs: tuple[Run, ...]
    skipped: tuple[str, ...]
    facts: tuple[Fact, ...]
    half: tuple[Fact, ...]
    quantised: tuple[Fact, ...]
    files: tuple[Fact, ...]


def proof(certificate: Mapping[str, Any]) -> Proof:
    """Of manifest.json's `certificate`."""
    entries: Mapping[str, Any] = certificate["entries"]
    runs = tuple(run for name, entry in entries.items() for run in _runs(name, entry))
    skipped = tuple(
        f"{name}, {_sizes(s['sizes'])} ({s['purpose']}): {s['reason']}"
        for name, entry in entries.items()
        for s in entry["skipped"]
    )
    versions = ", ".join(f"{name} {version}" for name, version in certificate["versions"].items())
    return Proof(
        worst=max(runs, key=lambda run: run.used, default=None),
        count=sum(len(entry["runs"]) for entry in entries.values()),
        runs=runs,
        skipped=skipped,
        facts=(
            Fact("reference", certificate["reference"]),
            Fact("seed of inputs and weights", str(certificate["seed"])),
            Fact("versions", versions),
        ),
        half=tuple(_half(certificate["half"])) if "half" in certificate else (),
        quantised=tuple(_quantised(certificate.get("quantised", {}))),
        files=tuple(Fact(name, digest) for name, digest in certificate["files"].items()),
    )


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {size}" for name, size in sizes.items()) or "fixed sizes"


def _runs(entry: str, found: Mapping[str, Any]) -> Iterator[Run]:
    for run in found["runs"]:
        masks = f", masks {run['masks']}" if run["masks"] else ""
        for program, outputs in run["figures"].items():
            for output, figures in outputs.items():
                limit = figures["limit"]
                yield Run(
                    entry=entry,
                    sizes=_sizes(run["sizes"]),
                    purpose=f"{run['purpose']}{masks}",
                    weights=run["weights"],
                    program=program,
                    output=output,
                    difference=f"{figures['max_abs']:.1e}",
                    limit=f"{limit:.1e}",
                    used=figures["max_abs"] / limit if limit else 0.0,
                )


def _half(half: Mapping[str, Any]) -> Iterator[Fact]:
    yield Fact("stored in", f"{half['dtype']}; the runs are those of its fp32 form, with the weights as stored")
    for file, made in half["direct"].items():
        if not made["runs"]:
            yield Fact(file, f"does not run on this CPU: {made['why']}")
            continue
        for output, figures in made["figures"].items():
            yield Fact(file, f"{output}: off by {figures['max_abs']:.1e} at most, limit {figures['limit']:.1e}")


def _quantised(losses: Mapping[str, Any]) -> Iterator[Fact]:
    for file, loss in losses.items():
        exact = max((f["max_abs"] for f in loss["exact"].values()), default=0.0)
        yield Fact(file, f"{loss['scheme']}, packed exactly: {exact:.1e} at most in {loss['runs']} runs")
        for output, figures in loss["outputs"].items():
            text = f"off by {figures['rms']:.2%} (rms), {figures['max_abs']:.2g} at most"
            if "kl" in figures:
                text += f"; KL {figures['kl']:.2g}, same top token {figures['top1']:.1%}"
            yield Fact(output, text)
        perplexity = loss["perplexity"]
        if perplexity is not None:
            text = f"{perplexity['before']:.4g} -> {perplexity['after']:.4g} on {perplexity['text']}"
            yield Fact("perplexity", f"{text}, {perplexity['tokens']:,} tokens")

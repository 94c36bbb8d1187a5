"""How fast a device could be at most: the larger of the time for the arithmetic and the time for the memory.

A forward pass reads the weights that it uses (`reads`) once and writes the cache; a decoding step reads them and the
whole cache for one position of each sequence. What lies between operators is taken to stay on the chip, kernels to
reach their peaks: real programs are slower.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from specc.diagnostics import Diagnostic, Rejected
from specc.inspect.bits import read_bytes, weights
from specc.inspect.caches import Cache
from specc.inspect.devices import Device
from specc.inspect.formulas import Formula
from specc.inspect.numbers import byte_text, rounded
from specc.inspect.reads import read_weights
from specc.inspect.reports import Report
from specc.inspect.spending import Spendings
from specc.ir.graph import Graph, Model
from specc.passes.plain import entry_sizes
from specc.quantisation import Scheme


@dataclass(frozen=True)
class Phase:
    """`flops` and `bytes` of one pass over `samples` tokens (or samples, of a model without positions)."""

    name: str
    unit: str
    samples: int
    flops: int
    bytes: int
    device: Device
    dtype: str

    @property
    def compute(self) -> float:
        """Seconds of arithmetic at the peak."""
        return self.flops / self.device.peak(self.dtype)

    @property
    def memory(self) -> float:
        """Seconds for the bytes at the bandwidth."""
        return self.bytes / self.device.bandwidth

    @property
    def seconds(self) -> float:
        return max(self.compute, self.memory)

    @property
    def bound(self) -> str:
        return "arithmetic" if self.compute >= self.memory else "memory"

    @property
    def rate(self) -> float:
        """Tokens or samples a second."""
        return self.samples / self.seconds

    def to_json(self) -> dict[str, Any]:
        return {
            "phase": self.name,
            "unit": self.unit,
            "flops": self.flops,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "bound": self.bound,
            "rate": self.rate,
        }


@dataclass(frozen=True)
class Estimate:
    """The phases of a model on one device at given sizes."""

    device: Device
    dtype: str
    stored: str  # how weights are stored
    at: Mapping[str, int]
    phases: tuple[Phase, ...]
    needed: int  # bytes of weights and cache

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "device": self.device.name,
            "source": self.device.source,
            "measured": self.device.measured,
            "bandwidth": self.device.bandwidth,
            "flops": self.device.peak(self.dtype),
            "dtype": self.dtype,
            "weights": self.stored,
            "at": dict(self.at),
            "phases": [phase.to_json() for phase in self.phases],
        }

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def estimate(
    device: Device, model: Model, graph: Graph, found: Report, at: Mapping[str, int], scheme: Scheme | None = None
) -> Estimate:
    """Of the entry of `model` that `graph` is of, which `found` reports; `scheme`: weights in few bits.

    Raises `Rejected` (E009) for formulas that are too long to be written.
    """
    kept, dtype, spent = found.cache, found.dtype, found.spent
    stored = weights(model, [scheme]).schemes[scheme.text] if scheme is not None else found.weights.dtypes[dtype]
    each = read_bytes(model, dtype, scheme)
    read = read_weights(model, graph, entry_sizes(graph), at, each)
    cached = _number(kept.bytes, at) if kept is not None and _known(kept, at) else 0
    phases: list[Phase] = []
    if kept is not None and _known(kept, at):
        positions, batch = at[kept.along], kept.batch.evaluate(at)
        tokens = batch * positions
        flops = _number(spent.flops, at)
        phases.append(Phase("prefill", "tokens", tokens, flops, read + cached, device, dtype))
        step = Spendings(found.width).entry(kept.graph, kept.sizes).spent
        sizes = {**at, kept.along: 1, **dict.fromkeys(kept.sizes.earlier.symbols, positions)}
        flops = _number(step.flops, sizes)
        read = read_weights(model, kept.graph, kept.sizes, sizes, each)
        phases.append(Phase("decode", "tokens", batch, flops, read + cached, device, dtype))
    else:
        flops = _number(spent.flops, at)
        phases.append(Phase("forward", "passes", 1, flops, read + cached, device, dtype))
    return Estimate(device, dtype, scheme.text if scheme else dtype, at, tuple(phases), stored + cached)


def _known(kept: Cache, at: Mapping[str, int]) -> bool:
    symbols = kept.bytes.symbols if kept.bytes is not None else ()
    return kept.along in at and all(name in at for name in symbols)


def _number(formula: Formula, at: Mapping[str, int]) -> int:
    if formula is None:
        raise Rejected([Diagnostic("E009", "a formula of this model is too long to be written: there is no estimate")])
    return formula.evaluate(at)


def _lines(found: Estimate) -> Iterator[str]:
    one = found.device
    peak = f"{byte_text(round(one.bandwidth))}/s, {rounded(round(one.peak(found.dtype)))}FLOP/s in {found.dtype}"
    said = "measured here" if one.measured else "published, not measured"
    yield f"{one.name}: {peak} ({f'{said}: {one.source}' if one.source else 'as given, not measured'})"
    for phase in found.phases:
        speed = f"{phase.rate:,.0f}" if phase.rate >= 100 else f"{phase.rate:,.3g}"
        took = f"{phase.seconds:,.3g} s" if phase.seconds >= 1 else f"{phase.seconds * 1e3:,.3g} ms"
        what = f"{rounded(phase.flops)}FLOP" if phase.bound == "arithmetic" else byte_text(phase.bytes)
        time = f"{took}, bound by {phase.bound}: {what}"
        yield f"  {phase.name:<8} at most {speed} {phase.unit} a second  ({time})"
    if one.memory is not None and found.needed > one.memory:
        yield f"  its {byte_text(one.memory)} do not hold {byte_text(found.needed)} of weights and cache"

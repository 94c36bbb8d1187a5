"""What few bits cost: figures of the quantised graph's outputs against those of the fp32 graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from specc_runtime.compare import Figures

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


@dataclass
class Deviation:
    """Of one output, over every run.

    `rms` is relative to the reference's; `max_abs` and `largest` as in `Figures`. Of outputs that are next-token
    distributions: `kl` is the mean Kullback-Leibler divergence from the fp32 model's in nats, `top1` the share of
    positions where both find the same token most likely.
    """

    max_abs: float = 0.0
    largest: float = 0.0
    positions: int = 0
    is_distribution: bool = False
    _off: float = 0.0
    _size: float = 0.0
    _kl: float = 0.0
    _same: int = 0

    def add(self, reference: Array, found: Array, *, is_distribution: bool) -> None:
        import numpy as np

        x, y = reference.astype(np.float64), found.astype(np.float64)
        known = np.isfinite(x)
        off = np.where(known, y - np.where(known, x, 0), 0)
        x = np.where(known, x, 0)
        self._off += float((off**2).sum())
        self._size += float((x**2).sum())
        self.max_abs = max(self.max_abs, float(np.abs(off).max(initial=0)))
        self.largest = max(self.largest, float(np.abs(x).max(initial=0)))
        if is_distribution and known.all():
            self.is_distribution = True
            p, q = (log_softmax(v.reshape(-1, v.shape[-1])) for v in (x, y))
            self.positions += len(p)
            self._kl += float((np.exp(p) * (p - q)).sum())
            self._same += int((p.argmax(-1) == q.argmax(-1)).sum())

    @property
    def rms(self) -> float:
        return (self._off / self._size) ** 0.5 if self._size else float(self._off > 0)

    @property
    def kl(self) -> float:
        return max(self._kl / max(self.positions, 1), 0.0)

    @property
    def top1(self) -> float:
        return self._same / max(self.positions, 1)

    def to_json(self) -> dict[str, Any]:
        """For the certificate, to four digits."""
        figures: dict[str, Any] = {"rms": self.rms, "max_abs": self.max_abs, "largest": self.largest}
        if self.is_distribution:
            figures |= {"kl": self.kl, "top1": self.top1}
        found: dict[str, Any] = {name: float(f"{value:.3e}") for name, value in figures.items()}
        return found | ({"positions": self.positions} if self.is_distribution else {})


@dataclass(frozen=True)
class Perplexity:
    """Of a text of `tokens` predicted tokens: by the fp32 graph, and by the one in few bits."""

    text: str
    tokens: int
    before: float
    after: float

    def to_json(self) -> dict[str, Any]:
        """For the certificate."""
        before, after = (float(f"{x:.6g}") for x in (self.before, self.after))
        return {"text": self.text, "tokens": self.tokens, "before": before, "after": after}


@dataclass
class Loss:
    """Of one quantised graph.

    `exact`: output -> how far it is, its activations unrounded, from the fp32 graph with the weights that the bits
    stand for; within `Figures.limit`, or there would be no certificate. `outputs`: how far it is, as it runs, from the
    fp32 graph with its own weights.
    """

    scheme: str
    exact: dict[str, Figures] = field(default_factory=dict)
    outputs: dict[str, Deviation] = field(default_factory=dict)
    runs: int = 0
    perplexity: Perplexity | None = None

    def to_json(self) -> dict[str, Any]:
        """For the certificate."""
        return {
            "scheme": self.scheme,
            "runs": self.runs,
            "exact": {name: figures.to_json() for name, figures in self.exact.items()},
            "outputs": {name: deviation.to_json() for name, deviation in self.outputs.items()},
            "perplexity": self.perplexity.to_json() if self.perplexity is not None else None,
        }

    def summary(self) -> str:
        """One line for a person: the first output's figures."""
        parts = ["packed exactly"]
        for name, deviation in list(self.outputs.items())[:1]:
            parts.append(f"{name} off by {deviation.rms:.2%} (rms), {deviation.max_abs:.2g} at most")
            if deviation.is_distribution:
                parts.append(f"KL {deviation.kl:.2g}, same top token {deviation.top1:.1%}")
        if self.perplexity is not None:
            parts.append(f"perplexity {self.perplexity.before:.4g} -> {self.perplexity.after:.4g}")
        return "; ".join(parts)


def log_softmax(logits: Array) -> Array:
    """Of the last axis."""
    import numpy as np

    shifted: Array = logits - logits.max(axis=-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result

"""How the next token is chosen from logits: repetition penalty, temperature, top-k, top-p, in this order, as
transformers does it; then the largest, or one drawn by a seeded generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Rejected

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


_SORTED = 1024
"""Tokens that are sorted at first: nearly always the rest is not among what is drawn from."""


@dataclass(frozen=True)
class Sampling:
    """Settings of the choice. Without temperature, top-k and top-p the most likely token is taken (greedy).

    `repetition_penalty` divides the positive logits of tokens that the text has, and multiplies the negative ones (1:
    none). Then all are divided by `temperature`; then the `top_k` largest are left (0: all), and of these the fewest
    whose probabilities add up to `top_p`. The same `seed` draws the same tokens; without one it is drawn too. Raises
    `Rejected` (G707) for a value out of range.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        wrong = [
            Diagnostic("G707", f"{name} is {value}: expected {range_}")
            for name, value, good, range_ in (
                ("temperature", self.temperature, _within(self.temperature, 0, math.inf), "a number of at least 0"),
                ("top-k", self.top_k, _is_count(self.top_k), "an int of at least 0 (0: all tokens)"),
                ("top-p", self.top_p, _within(self.top_p, 0, 1) and self.top_p != 0, "a number above 0, at most 1"),
                (
                    "repetition-penalty",
                    self.repetition_penalty,
                    _within(self.repetition_penalty, 0, math.inf) and self.repetition_penalty not in (0, None),
                    "a number above 0 (1: no penalty)",
                ),
                ("seed", self.seed, _is_count(self.seed), "an int of at least 0"),
            )
            if not good
        ]
        if wrong:
            raise Rejected(wrong)

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn: a temperature of 0 is the limit of low ones."""
        return self.temperature == 0 or (self.temperature, self.top_k, self.top_p) == (None, None, None)


def _within(value: object, low: float, high: float) -> bool:
    return value is None or (isinstance(value, Real) and math.isfinite(value) and low <= float(value) <= high)


def _is_count(value: object) -> bool:
    return value is None or (isinstance(value, Integral) and int(value) >= 0)


class Sampler:
    """Chooses the tokens of one text; every row of a batch has its own, so that rows do not depend on each other."""

    def __init__(self, settings: Sampling, row: int, seed: int) -> None:
        import numpy as np

        self.settings = settings
        self.random = np.random.default_rng([seed, row])

    def choose(self, logits: Array, text: Sequence[int]) -> int:
        """The next token: `logits` is f32[vocab], `text` what there is so far, prompt included."""
        import numpy as np

        scores = process(logits, text, self.settings)
        if self.settings.greedy:
            return int(scores.argmax())
        possible = np.flatnonzero(scores > -np.inf)
        weights = np.exp(scores[possible].astype(np.float64) - float(scores.max())).cumsum()
        return int(possible[np.searchsorted(weights, self.random.random() * weights[-1], side="right")])


def process(logits: Array, text: Sequence[int], settings: Sampling) -> Array:
    """f32[vocab] after the settings; a token that is out of the question is -inf. Raises `Rejected` (B660) for logits
    that are no numbers."""
    import numpy as np

    scores = logits.astype(np.float32)
    largest = float(scores.max())
    if not math.isfinite(largest):
        help = "f16 overflows where f32 does not: build it with --dtype f32; or the checkpoint itself has such values"
        raise Rejected([Diagnostic("B660", f"the largest logit of the model is {largest}", help=help)])
    if settings.repetition_penalty != 1.0:
        scores = penalised(scores, text, settings.repetition_penalty)
    if settings.greedy:
        return scores
    if settings.temperature is not None and settings.temperature != 1.0:
        scores = scores / np.float32(settings.temperature)
    if settings.top_k:
        scores = most_likely(scores, settings.top_k)
    if settings.top_p is not None and settings.top_p < 1.0:
        scores = nucleus(scores, settings.top_p)
    return scores


def penalised(scores: Array, text: Sequence[int], penalty: float) -> Array:
    """Tokens that the text has become less likely (Keskar et al., "CTRL", 2019)."""
    import numpy as np

    seen = np.unique(np.asarray(text, np.int64))
    found = scores[seen]
    factor = np.float32(penalty)
    scores[seen] = np.where(found < 0, found * factor, found / factor)
    return scores


def most_likely(scores: Array, count: int) -> Array:
    """The `count` largest scores, and others as large as the last of them."""
    import numpy as np

    if count >= scores.size:
        return scores
    return np.where(scores < np.partition(scores, -count)[-count], np.float32(-np.inf), scores)


def nucleus(scores: Array, share: float) -> Array:
    """The smallest set of tokens whose probabilities sum to `share` or more (Holtzman et al., 2019), one at least."""
    import numpy as np

    possible = np.flatnonzero(scores > -np.inf)
    left = scores[possible]
    weights = np.exp(left - left.max())
    shares = weights / weights.sum()
    among, rest = _likely(left, shares, 1.0 - share)
    order = among[np.argsort(left[among], kind="stable")]
    below = rest + shares[order].cumsum(dtype=np.float32)  # a token's own share, and that of all less likely ones
    kept = possible[np.append(order[:-1][below[:-1] > np.float32(1.0 - share)], order[-1])]
    found = np.full_like(scores, -np.inf)
    found[kept] = scores[kept]
    return found


def _likely(scores: Array, shares: Array, least: float) -> tuple[Array, np.float32]:
    """Some of the likeliest tokens, and the share of all others, which is at most `least`: sorting a whole vocabulary
    takes longer than a step of a small model."""
    import numpy as np

    count = _SORTED
    while count < scores.size:
        among = np.argpartition(scores, -count)[-count:]
        rest = np.float32(1.0 - float(shares[among].sum(dtype=np.float64)))
        if rest <= least:
            return among, rest
        count *= 8
    return np.arange(scores.size), np.float32(0)

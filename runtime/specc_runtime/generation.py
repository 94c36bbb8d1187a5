"""What comes of generating: rows of tokens and text, why they ended, and how long it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from specc_runtime.sampling import Sampler
from specc_runtime.tokens import Detokenizer, Ending

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

Reason = Literal["", "eos", "stop", "length", "context"]


@dataclass
class Statistics:
    """Positions that went in and tokens that came out, of all rows together, and the seconds it took."""

    prompt: int = 0
    prefill: float = 0.0
    steps: int = 0
    decode: float = 0.0

    @property
    def prefill_rate(self) -> float:
        """Tokens of prompts per second."""
        return self.prompt / self.prefill if self.prefill else 0.0

    @property
    def decode_rate(self) -> float:
        """Tokens per second, without the first of each row, which the prefill gives."""
        return self.steps / self.decode if self.decode else 0.0


@dataclass(frozen=True)
class Row:
    """One text: the new tokens, an ending one included, and their text without it or a stop string.

    `reason` it ended: "eos", "stop" (a stop string), "length" (of `max_new_tokens`), "context" (nothing more fits).
    """

    tokens: tuple[int, ...]
    text: str
    reason: Reason


@dataclass(frozen=True)
class Generation:
    """What was generated, a row for each prompt. `seed` gives it again."""

    rows: tuple[Row, ...]
    statistics: Statistics
    seed: int

    @property
    def tokens(self) -> tuple[int, ...]:
        """The new tokens of the one prompt."""
        [row] = self.rows
        return row.tokens

    @property
    def text(self) -> str:
        """The text of the one prompt."""
        [row] = self.rows
        return row.text


@dataclass(frozen=True)
class Piece:
    """A token as it comes, and the text that it completes, which is often none."""

    token: int
    text: str


@dataclass
class Text:
    """One row while it is generated."""

    prompt: Sequence[int]
    limit: int
    eos: Sequence[int]
    sampler: Sampler
    detokenizer: Detokenizer | None
    ending: Ending
    tokens: list[int] = field(default_factory=list)
    whole: list[int] = field(init=False)
    shown: list[str] = field(default_factory=list)
    reason: Reason = ""

    def __post_init__(self) -> None:
        self.whole = list(self.prompt)

    def take(self, logits: Array, last: bool) -> Piece:
        """The next token from its logits; `last`: there is room for no other."""
        token = self.sampler.choose(logits, self.whole)
        self.tokens.append(token)
        self.whole.append(token)
        text = ""
        if token in self.eos:
            self.reason = "eos"
        elif self.detokenizer is not None:
            text = self.ending.push(self.detokenizer.push(token))
            if self.ending.found:
                self.reason = "stop"
        if not self.reason:
            self.reason = "length" if len(self.tokens) >= self.limit else "context" if last else ""
        if self.reason not in ("", "stop") and self.detokenizer is not None:
            text += self.ending.push(self.detokenizer.finish()) + self.ending.finish()
            self.reason = "stop" if self.ending.found else self.reason
        self.shown.append(text)
        return Piece(token, text)

    @property
    def row(self) -> Row:
        return Row(tuple(self.tokens), "".join(self.shown), self.reason)

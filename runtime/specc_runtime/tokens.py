"""Text and tokens: a `tokenizer.json`, and turning tokens into text while they come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from specc.diagnostics import Diagnostic, Rejected

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
_LONGEST_RUN = 16
"""Tokens that are held back for the rest of a character; more of them are no character's bytes."""
WITHOUT = "give tokens with  --ids 1,2,3  or a tokenizer with  --tokenizer DIR"


def load_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json, or the one in a folder. Raises `Rejected` (G702) where there is none or it is damaged."""
    from tokenizers import Tokenizer

    file = path / TOKENIZER if path.is_dir() else path
    if not file.is_file():
        raise Rejected([no_tokenizer(f"there is no {file}")])
    try:
        tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise Rejected([Diagnostic("G702", f"cannot read {file}: {error}", help=WITHOUT)]) from None
    except Exception as error:  # the library raises the class itself, whatever is wrong with a file
        raise Rejected([Diagnostic("G702", f"{file} is not a tokenizer: {error}", help=WITHOUT)]) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def no_tokenizer(message: str) -> Diagnostic:
    saved = 'AutoTokenizer.from_pretrained("DIR").save_pretrained("DIR") of transformers writes a tokenizer.json'
    return Diagnostic("G702", message, help=WITHOUT, note=saved)


def check_fit(tokenizer: Tokenizer, rows: int | None, source: str) -> None:
    """Every token has a row in the model; raises `Rejected` (G703). More rows than there are tokens are usual."""
    if rows is None:
        return
    token, index = max(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1], default=("", -1))
    if index >= rows:
        message = f"the tokenizer does not fit the model: its {token!r} is token {index}, the model has {rows:,} tokens"
        help = "use the tokenizer that the checkpoint came with"
        raise Rejected([Diagnostic("G703", message, notes=(("tokenizer", source),), help=help)])


class Detokenizer:
    """Text from tokens as they come. What was given out is never taken back: a character whose bytes are not all
    there yet waits for the rest, and a token is decoded beside those before it, on which its space may depend."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        """`prompt`: the tokens that the text continues; they are not given out."""
        self.tokenizer = tokenizer
        self.tokens = list(prompt)
        self.start = 0  # of the tokens that are decoded together
        self.mark = len(self.tokens)  # up to here everything was given out
        self.shown = len(self._decode(0, self.mark))  # characters of `start` .. `mark`

    def push(self, token: int) -> str:
        """The text that a token adds; often none, if it is part of a character."""
        self.tokens.append(token)
        return self._take(held=len(self.tokens) - self.mark > _LONGEST_RUN)

    def finish(self) -> str:
        """What was held back: bytes of a character that never became whole."""
        return self._take(held=True)

    def _take(self, held: bool) -> str:
        text = self._decode(self.start, len(self.tokens))
        if text.endswith(_UNFINISHED) and not held:
            return ""
        new = text[self.shown :]
        self.start, self.mark = self.mark, len(self.tokens)
        self.shown = len(self._decode(self.start, self.mark))
        return new

    def _decode(self, start: int, end: int) -> str:
        return self.tokenizer.decode(self.tokens[start:end], skip_special_tokens=True)


class Ending:
    """Gives a text out up to the first of some strings; the beginning of one is held back until it is told apart."""

    def __init__(self, strings: Sequence[str]) -> None:
        self.strings = [s for s in strings if s]
        self.held = ""
        self.found = False

    def push(self, text: str) -> str:
        """What may be given out."""
        self.held += text
        places = [at for at in (self.held.find(s) for s in self.strings) if at >= 0]
        if places:
            self.found = True
            keep = min(places)
        else:
            keep = len(self.held) - self._begun()
        if self.found:
            given, self.held = self.held[:keep], ""
        else:
            given, self.held = self.held[:keep], self.held[keep:]
        return given

    def finish(self) -> str:
        """The rest, of a text that ended without any of the strings."""
        given, self.held = self.held, ""
        return given

    def _begun(self) -> int:
        """Characters at the end that one of the strings begins with."""
        return max(
            (n for s in self.strings for n in range(1, len(s)) if self.held.endswith(s[:n])),
            default=0,
        )

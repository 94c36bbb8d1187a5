"""Text from tokens as they come: whole characters, spaces in their places, nothing of a stop string."""

from __future__ import annotations

import json
from typing import Any

import pytest

from specc_runtime.tokens import Detokenizer, Ending

tokenizers = pytest.importorskip("tokenizers")

TEXT = "The quick brown fox jumps over the lazy dog: naïve café, 日本語, 😀 and 🦊.\n"


def bpe(vocab: int) -> Any:
    """A byte-level BPE tokenizer of a few lines."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocab, special_tokens=["<eos>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    return tokenizer


@pytest.mark.parametrize("kind", ["bytes", "words"])
def test_text_comes_in_whole_characters(kind: str) -> None:
    """Of a tokenizer of bytes, and of one whose words begin with a mark that is a space except in front."""
    tokenizer = bpe(300)
    if kind == "words":
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
        tokenizer.decoder = tokenizers.decoders.Sequence(
            [tokenizers.decoders.ByteFallback(), tokenizers.decoders.Metaspace()]
        )
        units = [f"<0x{n:02X}>" for n in range(256)]
        trainer = tokenizers.trainers.BpeTrainer(vocab_size=330, special_tokens=units, limit_alphabet=20)
        tokenizer.train_from_iterator([TEXT], trainer)
        tokenizer = tokenizers.Tokenizer.from_str(
            json.dumps({**json.loads(tokenizer.to_str()), "added_tokens": []})  # its bytes are tokens like others
        )
    tokens = tokenizer.encode(TEXT * 2).ids
    for start in (0, 5):
        stream = Detokenizer(tokenizer, tokens[:start])
        pieces = [stream.push(token) for token in tokens[start:]] + [stream.finish()]
        assert "".join(pieces) == tokenizer.decode(tokens)[len(tokenizer.decode(tokens[:start])) :]
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
        assert sum(map(bool, pieces)) > len(tokens) // 4


def test_a_character_that_never_ends_is_given_out() -> None:
    tokenizer = bpe(300)
    broken = tokenizer.token_to_id("ð")  # the first byte of four
    stream = Detokenizer(tokenizer, [])
    assert stream.push(broken) == ""
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"
    pieces = [Detokenizer.push(stream, broken) for _ in range(40)]
    assert "".join(pieces).count("\N{REPLACEMENT CHARACTER}") >= 20


def test_stop_strings_end_the_text_before_them() -> None:
    ending = Ending(["END", "\n\n"])
    shown = [ending.push(text) for text in ("one E", "N", "ough\n", "two EN", "D three")]
    assert shown == ["one ", "", "ENough", "\ntwo ", ""] and ending.found
    assert Ending(["x"]).push("axb") == "a"
    rest = Ending(["END"])
    assert (rest.push("the EN"), rest.finish()) == ("the ", "EN")

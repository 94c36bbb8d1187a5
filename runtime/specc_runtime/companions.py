"""What a checkpoint's folder says of generating text: tokenizer files, and the tokens that begin and end a text."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime.checkpoint import Checkpoint, read_json
from specc_runtime.tokens import TOKENIZER

GENERATION_CONFIG = "generation_config.json"
FILES = (TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", GENERATION_CONFIG)
"""What is copied beside a build that continues texts."""


@dataclass(frozen=True)
class SpecialTokens:
    """Tokens by their parts in a text. `start`: what a decoder begins with, where an encoder reads the prompt."""

    bos: int | None = None
    eos: tuple[int, ...] = ()
    pad: int | None = None
    start: int | None = None

    def to_json(self) -> dict[str, Any]:
        """For manifest.json."""
        return {"bos": self.bos, "eos": list(self.eos), "pad": self.pad, "decoder_start": self.start}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SpecialTokens:
        """Reads what `to_json` wrote."""
        return cls(data["bos"], tuple(data["eos"]), data["pad"], data["decoder_start"])


def copy_companions(checkpoint: Checkpoint, work: Path) -> None:
    """Copy the files that there are into a build."""
    for name in FILES:
        source = folder_of(checkpoint) / name
        if source.is_file():
            shutil.copyfile(source, work / name)


def special_tokens(checkpoint: Checkpoint) -> SpecialTokens:
    """As generation_config.json says, and config.json where that has no value. Raises `Rejected` (E006)."""
    file = folder_of(checkpoint) / GENERATION_CONFIG
    generation = read_json(file) if file.is_file() else {}
    config = checkpoint.config or {}
    bos, eos, pad, start = (
        _tokens(key, generation if generation.get(key) is not None else config, file)
        for key in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    )
    return SpecialTokens(*(next(iter(bos), None), eos), *(next(iter(one), None) for one in (pad, start)))


def _tokens(key: str, config: Mapping[str, Any], file: Path) -> tuple[int, ...]:
    found = config.get(key)
    several = found if isinstance(found, list) else [] if found is None else [found]
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in several):
        message = f"{file.parent}: `{key}` is {found!r}: expected an int or a list of ints"
        raise Rejected([Diagnostic("E006", message, help=f"correct it in {GENERATION_CONFIG} or config.json")])
    return tuple(token for token in several if token >= 0)


def folder_of(checkpoint: Checkpoint) -> Path:
    """Where the files lie."""
    return checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent

"""Tokenizers of a section: bytes, a byte-level BPE trained on the data, a tokenizer.json of a file or the hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from specc.diagnostics import Rejected
from specc.source import Span
from specc.syntax import ast
from specc.syntax.unparse import unparse
from specc_runtime.tokens import TOKENIZER, load_tokenizer
from specc_runtime.training.data.asked import Asked
from specc_runtime.training.data.columns import Data, bad
from specc_runtime.training.section import evaluated, failed

SPECIAL = ("<pad>", "<s>", "</s>")
"""Ids 0, 1, 2 of a BPE that is trained on columns: filling, begin and end of a text."""
BEGIN, END = 2, 3
"""Begin and end of a text in bytes: the control characters STX and ETX; NUL fills up."""
FILLING = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>", "<unk>")
"""What fills up rows, by the names that tokenizers give it, the best first."""
HELP = 'tokenizer = "bytes", bpe(8000), "weights", "hf:NAME" or "path/to/tokenizer.json"'


Kept = Callable[[str, Callable[[], str]], str]


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer. `pad` is the id that fills up rows, None if it has none."""

    tokenizer: Tokenizer
    pad: int | None
    bytes: bool = False

    @property
    def size(self) -> int:
        """Every id is less."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def json(self) -> str:
        found: str = self.tokenizer.to_str()
        return found


def vocabulary(asked: Asked, texts: Iterable[str], rows: bool, kept: Kept = lambda name, make: make()) -> Vocabulary:
    """The tokenizer that a source asks for. `texts` train a BPE; `rows`: each text is a row, with begin and end.

    `kept(name, make)` is what `make` gives, or gave before.
    """
    expr = asked.named().get("tokenizer")
    if asked.like is not None and asked.like.tokenizer is not None:
        if expr is None or _same(asked, expr):
            found = Tokenizer.from_str(asked.like.tokenizer)
            return Vocabulary(found, _filling(asked, found), _is_bytes(expr))
        raise bad("`val` has another tokenizer than `data`", expr.span, "leave it out: that of `data` is used")
    if expr is None or (isinstance(expr, ast.Str) and expr.value == "bytes"):
        made = in_bytes(rows)
        return Vocabulary(made, _filling(asked, made), bytes=True)
    if isinstance(expr, ast.Call) and isinstance(expr.func, ast.Name) and expr.func.id == "bpe":
        size = _size(asked, expr)
        made = Tokenizer.from_str(kept(f"bpe {size}", lambda: trained(texts, size, rows).to_str()))
    elif isinstance(expr, ast.Str):
        made = loaded(asked, expr.value, expr.span)
    else:
        raise failed("E125", f"`tokenizer` cannot be {unparse(expr)}", expr.span, HELP)
    return Vocabulary(made, _filling(asked, made))


def _is_bytes(expr: ast.Expr | None) -> bool:
    return isinstance(expr, ast.Str) and expr.value == "bytes"


def _same(asked: Asked, expr: ast.Expr) -> bool:
    """Whether data to validate on asks for the tokenizer of the data to train on."""
    data = asked.section.settings.get("data")
    given = (a for a in data.args if isinstance(a, ast.Arg)) if isinstance(data, ast.Call) else ()
    return any(a.name is not None and a.name.id == "tokenizer" and unparse(a.value) == unparse(expr) for a in given)


def _size(asked: Asked, expr: ast.Call) -> int:
    args = [evaluated(asked.section, a.value) for a in expr.args if isinstance(a, ast.Arg) and a.name is None]
    size = args[0] if len(args) == len(expr.args) == 1 else None
    if not isinstance(size, int) or isinstance(size, bool) or size < 256 + len(SPECIAL):
        least = 256 + len(SPECIAL)
        message = f"bpe takes the number of its ids, at least {least}: single bytes, filling, begin and end"
        raise failed("E125", message, expr.span)
    return size


def _filling(asked: Asked, tokenizer: Tokenizer) -> int | None:
    """The id that fills up rows: `pad = ..` of the source, else what the tokenizer has for it."""
    expr = asked.named().get("pad")
    if expr is not None:
        given = evaluated(asked.section, expr)
        found = tokenizer.token_to_id(given) if isinstance(given, str) else given
        if type(found) is not int or found < 0:
            raise failed("E125", f"`pad` is an id or a token of the tokenizer, found {unparse(expr)}", expr.span)
        return found
    if tokenizer.padding is not None:
        return int(tokenizer.padding["pad_id"])
    if isinstance(tokenizer.model, models.BPE) and tokenizer.token_to_id("Ā") == 0:
        return 0  # NUL of bytes
    ids = [tokenizer.token_to_id(token) for token in FILLING]
    return next((i for i in ids if i is not None), None)


# ---- made here -------------------------------------------------------------------------------------------------------


def in_bytes(rows: bool) -> Tokenizer:
    """The bytes of UTF-8 as their own ids; rows stand between STX and ETX."""
    signs = {byte: sign for sign, byte in _bytes_of_signs().items()}
    made = Tokenizer(models.BPE(vocab={signs[byte]: byte for byte in range(256)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    if rows:
        made.post_processor = _between((signs[BEGIN], BEGIN), (signs[END], END))
    return made


def _bytes_of_signs() -> dict[str, int]:
    """The printable signs that stand for bytes in byte-level tokenizers (Radford et al., 2019)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


def trained(texts: Iterable[str], size: int, rows: bool) -> Tokenizer:
    """A byte-level BPE of at most `size` ids; for rows the first three are `SPECIAL`."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL] if rows else [],
    )
    made.train_from_iterator(texts, trainer)
    if rows:
        made.post_processor = _between((SPECIAL[1], 1), (SPECIAL[2], 2))
    return made


def _between(begin: tuple[str, int], end: tuple[str, int]) -> processors.TemplateProcessing:
    """Texts stand between two tokens, pairs as begin, first, end, second, end."""
    return processors.TemplateProcessing(
        single=f"{begin[0]} $A {end[0]}",
        pair=f"{begin[0]} $A {end[0]} $B:1 {end[0]}:1",
        special_tokens=[begin, end],
    )


def generation_config(data: Data) -> dict[str, int]:
    """What rows of text begin and end with, by the names of transformers' generation_config.json.

    Empty for data without a tokenizer, and for running text, which has neither.
    """
    rows = [name for name in data.ids if name in data.columns]
    if data.tokenizer is None or not rows:
        return {}
    tokenizer = Tokenizer.from_str(data.tokenizer)
    whole, bare = (tokenizer.encode("a", add_special_tokens=special).ids for special in (True, False))
    at = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    found = {"bos_token_id": whole[0]} if at else {}
    if at and any(name.startswith("decoder_") for name in rows):
        found["decoder_start_token_id"] = whole[0]
    if at + len(bare) < len(whole):
        found["eos_token_id"] = whole[-1]
    if data.padded:
        found["pad_token_id"] = next(iter(data.padded.values()))
    return found


# ---- from elsewhere --------------------------------------------------------------------------------------------------


def loaded(asked: Asked, name: str, span: Span) -> Tokenizer:
    """`"weights"`, `"hf:NAME"`, a folder with a tokenizer.json or such a file; T531 where there is none."""
    if name == "weights":
        return _opened(_with_weights(asked, span), span)
    plain = name.removeprefix("hf:")
    path: Path = asked.section.folder / plain
    if path.exists() or plain == name:
        if not path.exists():
            raise bad(f"there is no tokenizer {name}", span, HELP)
        return _opened(path, span)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", plain):
        raise bad(f"there is no folder {plain}, and it is no name on the hub", span, HELP)
    return _opened(_fetched(plain, span), span)


def _with_weights(asked: Asked, span: Span) -> Path:
    """The folder of the weights that the run begins with: an earlier run, or a checkpoint."""
    given = asked.section.weights
    if given is None:
        message = 'the tokenizer is that of the "weights" which the run begins with: it has none'
        raise failed("E124", message, span, 'weights = "DIR" in the section, or --weights DIR')
    path = Path(given)
    return path.parent if path.is_file() else path


def _opened(path: Path, span: Span) -> Tokenizer:
    try:
        return load_tokenizer(path)
    except Rejected as error:  # G702 tells what to do where text is generated
        raise bad(error.diagnostics[0].message, span, HELP) from None


def _fetched(name: str, span: Span) -> Path:
    """The tokenizer.json of a repository of the hub, from the library's cache if it is there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, TOKENIZER))
    except LocalEntryNotFoundError:
        save = f'AutoTokenizer.from_pretrained("{name}").save_pretrained("DIR")'
        help = f'where there is a network, run  {save}  of transformers; then  tokenizer = "hf:DIR"'
        raise bad(f"cannot reach the tokenizer of {name} on the hub", span, help) from None
    except EntryNotFoundError:
        raise bad(f"{name} on the hub has no {TOKENIZER}", span, HELP) from None
    except (HfHubHTTPError, OSError) as error:
        first = str(error).strip().partition("\n")[0]
        raise bad(f"cannot fetch the tokenizer of {name} from the hub: {first}", span) from None

"""The perplexity of a text by two graphs of one entry, its windows side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime.inputs import Input, Interface, Output, draw
from specc_runtime.loss import Perplexity, log_softmax
from specc_runtime.programs import Outputs
from specc_runtime.sizes import admissible
from specc_runtime.tokens import TOKENIZER, check_fit, load_tokenizer

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

Program = Callable[[Mapping[str, Any]], Outputs]
WINDOW = 512
"""Tokens of a window, where the context has room for as many. Each begins anew: its first token is not predicted."""


def predicts(of: Interface) -> tuple[Input, Output] | None:
    """The tokens [B, T] that an entry reads and the distribution [B, T, vocab] that it gives of the next ones."""
    for item in of.inputs:
        for output in of.outputs:
            same = len(output.shape) == 3 and output.shape[:2] == item.shape and output.shape[2] in item.high
            if item.dtype == "i64" and same:
                return item, output
    return None


def perplexity(of: Interface, programs: tuple[Program, Program], text: Path, tokenizer: Path) -> Perplexity:
    """Of a text file in UTF-8, by the tokenizer.json in a folder.

    Raises `Rejected`: E006 for a file that is not text, B670 without a tokenizer and where there is nothing to predict,
    G702, G703 for a tokenizer that is damaged or does not fit.
    """
    import numpy as np

    found = predicts(of)
    assert found is not None, f"{of.method} predicts no tokens"
    item, output = found
    content = read(text, tokenizer)
    tokens = load_tokenizer(tokenizer)
    check_fit(tokens, output.shape[2].value, TOKENIZER)
    ids = np.array(tokens.encode(content).ids, np.int64)
    lost = [0.0, 0.0]
    count = 0
    for window in _windows(ids, of, item):
        sizes = _sizes(of, item, len(window))
        assert sizes is not None
        feeds = draw(of, sizes, masks="all true") | {item.name: window[None]}
        for i, program in enumerate(programs):
            logits = program(feeds)[output.name][0, :-1]
            likely = log_softmax(logits.astype(np.float64))
            lost[i] -= float(np.take_along_axis(likely, window[1:, None], axis=1).sum())
        count += len(window) - 1
    if not count:
        message = f"{text} has {len(ids)} tokens: there is no next one to predict"
        raise Rejected([Diagnostic("B670", message, help="give a longer text")])
    before, after = (float(np.exp(value / count)) for value in lost)
    return Perplexity(text.name, count, before, after)


def read(text: Path, tokenizer: Path | None) -> str:
    """A text whose perplexity the tokenizer.json of a folder allows to tell.

    Raises `Rejected`: E006 for a file that is not text, B670 without a tokenizer.
    """
    try:
        content = text.read_text(encoding="utf-8")
    except OSError as error:
        raise Rejected([Diagnostic("E006", f"cannot read {text}: {(error.strerror or str(error)).lower()}")]) from None
    except UnicodeDecodeError as error:
        message = f"{text} is not text: byte {error.start} is not UTF-8"
        raise Rejected([Diagnostic("E006", message, help="give a text file in UTF-8")]) from None
    if tokenizer is None or not (tokenizer / TOKENIZER).is_file():
        message = f"the perplexity of {text} needs a tokenizer, and the build has no {TOKENIZER}"
        help = f"--weights DIR, a checkpoint with one; or copy one into the build:  specc verify BUILD --text {text}"
        raise Rejected([Diagnostic("B670", message, help=help)])
    return content


def _windows(ids: Array, of: Interface, item: Input) -> Iterator[Array]:
    """The tokens in order, as many at a time as there is room for."""
    length = WINDOW
    while length > 2 and _sizes(of, item, length) is None:
        length //= 2
    for first in range(0, len(ids), length):
        window = ids[first : first + length]
        if len(window) > 1 and _sizes(of, item, len(window)) is not None:
            yield window


def _sizes(of: Interface, item: Input, length: int) -> dict[str, int] | None:
    """One text of that length, if the model's facts admit it."""
    wanted = dict.fromkeys(of.dims, 1) | dict.fromkeys(item.shape[1].symbols, length)
    found = admissible(of, wanted)
    return found if found is not None and [d.evaluate(found) for d in item.shape] == [1, length] else None

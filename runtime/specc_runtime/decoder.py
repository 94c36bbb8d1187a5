"""A cached entry as a decoder of text: which of its inputs are the tokens and their masks, which output the logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from specc.diagnostics import Diagnostic, Rejected
from specc.dims import Dim
from specc.elaborate.positions import POSITION_IDS
from specc_runtime.cache import PAST_LENGTH, Cache
from specc_runtime.inputs import Input, Interface, Output


@dataclass(frozen=True)
class Decoder:
    """`tokens`: the input of new tokens, int[B, T]; `masks`: those that say which positions are text, each with whether
    it is of all positions so far or of the new ones; `logits`: the output float[B, T, vocab].
    `positions`: the input of the positions of the new tokens, int[B, T], if they are one (`--position-ids`).
    `rows`: how many tokens the model has an embedding of. `more`: inputs of something else, of an encoder for example.
    """

    tokens: str
    masks: Mapping[str, bool]
    logits: str
    rows: int | None
    more: tuple[str, ...]
    positions: str | None = None


def decoder_of(name: str, cache: Cache, of: Interface) -> Decoder:
    """The roles in a cached entry; raises `Rejected` (G705) where it does not continue texts."""
    step = Dim.symbol(cache.step)
    states = {state.input for state in (*cache.flat, *(cache.once.flat if cache.once is not None else ()))}
    own = [i for i in of.inputs if i.name not in states and i.name != PAST_LENGTH]
    texts = [i for i in own if i.dtype in ("i64", "i32") and len(i.shape) == 2 and i.shape[1] == step]
    positions = next((i for i in texts if i.name == POSITION_IDS), None)
    tokens = [i for i in texts if i is not positions]
    logits = [o for o in of.outputs if _is_logits(o, step)]
    if len(tokens) != 1 or not logits:
        wanted = "one input of tokens, Int[B, T], and a result of logits, Tensor[B, T, vocab]"
        kept = {state.output for state in cache.flat}
        taken, given = ", ".join(i.name for i in own), ", ".join(o.name for o in of.outputs if o.name not in kept)
        notes = (("expected", wanted), ("found", f"inputs {taken}; results {given}"))
        raise Rejected([Diagnostic("G705", f"`{name}` does not continue texts", notes=notes)])
    masks = {i.name: i.name in (cache.mask, *cache.wide) for i in own if _is_mask(i, tokens[0], cache)}
    high = [dim.evaluate({}) for dim in tokens[0].high if not dim.symbols]
    return Decoder(
        tokens[0].name,
        masks,
        logits[0].name,
        min(high, default=None),
        tuple(i.name for i in own if i not in (tokens[0], positions) and i.name not in masks),
        positions.name if positions is not None else None,
    )


def _is_logits(output: Output, step: Dim) -> bool:
    """Of every new position, or of the last one alone."""
    return "f" in output.dtype and len(output.shape) == 3 and output.shape[1] in (step, Dim.const(1))


def _is_mask(item: Input, tokens: Input, cache: Cache) -> bool:
    if item.name == cache.mask:
        return True
    if item.dtype != "bool" or len(item.shape) != 2 or item.shape[0] != tokens.shape[0]:
        return False
    return cache.wide.get(item.name) == 1 or item.shape[1] == tokens.shape[1]

"""The incremental entry with buffers that attention itself writes into, as onnxruntime-genai runs it.

The package feeds tokens and a mask, keeps keys and values in buffers as long as the context, and reads logits; what
needs anything else is refused here, attention that `GroupQueryAttention` cannot express by its own lowering.
"""

from __future__ import annotations

from dataclasses import replace

from specc.diagnostics import Diagnostic
from specc.dims import Dim
from specc.ir.graph import Model
from specc.passes.incremental import Incremental, derive
from specc.passes.steps import State, resized
from specc.types import DType

LENGTHS = "attention_mask"
"""The input of lengths where an entry has no mask of its own."""


def derive_buffered(model: Model, entry: str, without: frozenset[str] = frozenset()) -> Incremental | list[Diagnostic]:
    """The incremental entry with buffers, or why there is none: B620, B621, D401 to D408."""
    found = derive(model, entry, without)
    if isinstance(found, list):
        return found
    reason = _refusal(found, context(model, found))
    if reason is not None:
        message, help = reason
        message = f"onnxruntime-genai cannot run `{found.entry}` of {model.module.name}: {message}"
        return [Diagnostic("B621", message, found.graph.span.head(), help=help)]
    return [*found.outside_sdpa] or _buffered(found)


def _buffered(found: Incremental) -> Incremental:
    """Past and present have any length; how much of them holds keys is in the sizes of the entry alone, which a mask of
    all positions has."""
    length = Dim.symbol(f"buffer({found.sizes.step})")

    def roomy(state: State) -> State:
        before, after = (resized(type_, state.axis, length) for type_ in (state.before, state.after))
        return replace(state, before=before, after=after)

    return replace(found, states=tuple(tuple(map(roomy, group)) for group in found.states), buffered=True)


def _refusal(found: Incremental, context: int | None) -> tuple[str, str] | None:
    """What there is that the package does not feed, or keep, or read: a message and the way out."""
    step, concat = found.step, "--cache concat, for specc generate"
    if found.once:
        return "it continues from an encoder's output", concat
    if found.carried or any(len(group) != 2 or group[0].axis != 2 for group in found.states):
        return "it keeps other things than keys and values [B, heads, T, channels]", concat
    if context is None:
        return "nothing limits how long a text may be, and it makes room for the longest", "dim S <= context"
    inputs = [a for a in found.graph.inputs if a.value is not None and a.name in found.needs]
    tokens = [a for a in inputs if a.type.dtype.is_int and a.type.rank == 2 and a.type.shape[1] == step.size]
    more = [a.name for a in inputs if a not in tokens[:1] and a.name != text_input(found)]
    if not tokens or more:
        message = f"it would have to be given `{more[0]}`" if more else "it takes no tokens, Int[B, T]"
        return message, f"--without {more[0]}, if it is optional" if more else ""
    first = found.sizes.type(found.graph.results[0][1].type)
    if first.rank != 3 or first.shape[1] != step.size or first.shape[2].value is None:
        return f"its first result {first} is not of logits [B, T, vocab]", ""
    return None


def text_mask(found: Incremental) -> str | None:
    """The Bool[B, S] input that says which of all positions are text, if the entry has one."""
    step = found.step
    for argument in found.graph.inputs:
        type_ = found.sizes.type(argument.type)
        is_whole = type_.rank == 2 and type_.shape[1] == step.past + step.size
        if argument.value is not None and type_.dtype is DType.BOOL and is_whole:
            return argument.name
    return None


def text_input(found: Incremental) -> str:
    """The input of a graph with buffers that says how long the text of each row is: the entry's own mask, or one more
    input."""
    return text_mask(found) or LENGTHS


def context(model: Model, found: Incremental) -> int | None:
    """The largest number of positions that the model's promises admit."""
    whole = Dim.symbol(str(found.step.size)) + Dim.symbol(f"past({found.step.size})")
    stated = found.graph.facts.union(model.facts).statements()
    limits = [fact.n for fact in stated if fact.kind == "le" and fact.dim in (whole, found.step.size)]
    return min(limits, default=None)

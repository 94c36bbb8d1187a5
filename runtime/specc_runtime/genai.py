"""`--target genai`: what a folder has to be that onnxruntime-genai loads and generates from.

The package reads `genai_config.json`: the graph's file, the names of its inputs and outputs, sizes of what is kept,
special tokens, defaults of the search. The architecture is "decoder", its name for any decoder with these inputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc.dims import Dim
from specc.passes.buffered import text_input
from specc.passes.incremental import Incremental
from specc.types import DType
from specc_runtime.checkpoint import read_json
from specc_runtime.companions import GENERATION_CONFIG, SpecialTokens
from specc_runtime.inputs import Input

if TYPE_CHECKING:
    from specc_runtime.cache import CachedEntry

CONFIG = "genai_config.json"
OPERATOR = "GroupQueryAttention"
_SEARCH = (
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "num_beams",
    "length_penalty",
    "repetition_penalty",
    "diversity_penalty",
    "no_repeat_ngram_size",
)
"""What a generation_config.json says that genai calls the same."""


def with_lengths(found: Incremental, inputs: Sequence[Input]) -> list[Input]:
    """The inputs of a graph with buffers: its mask is of integers, drawn as ones."""
    name, step = text_input(found), found.step
    shape = (found.flat[0].before.shape[0], step.past + step.size)
    mask = Input(name, name, DType.I64.value, shape, (Dim.const(1),), (Dim.const(2),))
    own = [i.name for i in inputs]
    return [mask if i.name == name else i for i in inputs] if name in own else [*inputs, mask]


def write_config(work: Path, file: str, entry: CachedEntry, special: SpecialTokens) -> None:
    """Write `genai_config.json` beside a finished graph of an entry."""
    import onnx

    graph = onnx.load(work / file, load_external_data=False).graph
    attention = next(node for node in graph.node if node.op_type == OPERATOR)
    heads = next(attribute.i for attribute in attention.attribute if attribute.name == "num_heads")
    generation = work / GENERATION_CONFIG
    content = config(file, entry, heads, special, read_json(generation) if generation.is_file() else {})
    (work / CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def config(
    file: str, entry: CachedEntry, heads: int, special: SpecialTokens, generation: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of `genai_config.json`. `heads`: of queries; `generation`: that of a generation_config.json.

    Without a token that pads texts it is one that ends them. Without that either genai takes token 0 for both.
    """
    cache, of = entry.cache, entry.of
    (key, value), *_ = cache.states
    ids = next(i for i in of.inputs if i.name != cache.mask)
    end = list(special.eos) or None
    pad = special.pad if special.pad is not None or end is None else end[0]
    tokens = {"bos_token_id": special.bos, "eos_token_id": end, "pad_token_id": pad}
    return {
        "model": {
            "type": "decoder",
            "context_length": cache.context,
            "vocab_size": _known(of.outputs[0].shape[2]),
            **{name: token for name, token in tokens.items() if token is not None},
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": file,
                "head_size": _known(key.before[3]),
                "num_attention_heads": heads,
                "num_hidden_layers": len(cache.states),
                "num_key_value_heads": _known(key.before[1]),
                "inputs": {
                    "input_ids": ids.name,
                    "attention_mask": cache.mask,
                    "past_key_names": _numbered(key.input),
                    "past_value_names": _numbered(value.input),
                },
                "outputs": {
                    "logits": of.outputs[0].name,
                    "present_key_names": _numbered(key.output),
                    "present_value_names": _numbered(value.output),
                },
            },
        },
        "search": {
            "max_length": cache.context,
            "past_present_share_buffer": True,
            **{name: generation[name] for name in _SEARCH if generation.get(name) is not None},
        },
    }


def _numbered(name: str) -> str:
    """`past_key_values.0.key` as a pattern of every layer's."""
    return name.replace(".0.", ".%d.", 1)


def _known(dim: Dim) -> int:
    assert dim.value is not None
    return dim.value

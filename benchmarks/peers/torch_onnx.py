"""`torch.onnx.export(dynamo=True)` of the transformers model: CHECKPOINT FILE [--cache].

Prints the seconds without imports. With `--cache` keys and values go in and come out, as a DynamicCache holds them.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.onnx
from transformers import AutoModelForCausalLM, DynamicCache

checkpoint, file = Path(sys.argv[1]), sys.argv[2]
has_cache = "--cache" in sys.argv
start = time.perf_counter()
model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="sdpa")
model.eval()
config = model.config
layers, heads = config.num_hidden_layers, getattr(config, "num_key_value_heads", None) or config.num_attention_heads
width = config.hidden_size // config.num_attention_heads


class Whole(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor) -> Any:
        return self.model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits


class Cached(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, past: Any
    ) -> Any:
        cache: Any = DynamicCache(past)
        found = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        return found.logits, [(layer.keys, layer.values) for layer in cache.layers]


batch, length, past = 2, 5, 7
ids = torch.zeros(batch, length, dtype=torch.int64)
B, T = torch.export.Dim("batch"), torch.export.Dim("length")
if has_cache:
    positions = torch.arange(past, past + length).expand(batch, length).contiguous()
    mask = torch.ones(batch, past + length, dtype=torch.int64)
    pairs = [tuple(torch.randn(batch, heads, past, width) for _ in range(2)) for _ in range(layers)]
    auto = torch.export.Dim.DYNAMIC
    torch.onnx.export(
        Cached(),
        (ids, mask, positions, pairs),
        file,
        dynamo=True,
        input_names=["input_ids", "attention_mask", "position_ids"]
        + [f"past_key_values.{i}.{kind}" for i in range(layers) for kind in ("key", "value")],
        output_names=["logits"] + [f"present.{i}.{kind}" for i in range(layers) for kind in ("key", "value")],
        dynamic_shapes=(
            {0: auto, 1: auto},
            {0: auto, 1: auto},
            {0: auto, 1: auto},
            [({0: auto, 2: auto}, {0: auto, 2: auto}) for _ in range(layers)],
        ),
    )
else:
    positions = torch.arange(length).expand(batch, length).contiguous()
    torch.onnx.export(
        Whole(),
        (ids, positions),
        file,
        dynamo=True,
        input_names=["input_ids", "position_ids"],
        output_names=["logits"],
        dynamic_shapes=({0: B, 1: T}, {0: B, 1: T}),
    )
print(json.dumps({"seconds": time.perf_counter() - start, "version": torch.__version__}))

"""The peer without a graph: the transformers model in torch, as it is and compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.driving import Array, ids


class Torch:
    """`prefill` and `decode` are as those of `Decoder`; `is_compiled` runs it through torch.compile."""

    def __init__(self, checkpoint: Path, *, vocab: int, is_compiled: bool = False) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.torch, self.vocab = torch, vocab
        self.model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="sdpa")
        self.model.eval()
        self.called: Any = torch.compile(self.model) if is_compiled else self.model

    def logits(self, given: Array) -> Array:
        """[batch, length, vocab]"""
        found: Array = self._whole(self.torch.from_numpy(given)).numpy()
        return found

    def prefill(self, batch: int, length: int) -> Callable[[], Any]:
        given = self.torch.from_numpy(ids(batch, length, self.vocab))
        return lambda: self._whole(given)

    def decode(self, past: int) -> Callable[[], Any]:
        from transformers import DynamicCache

        given = self.torch.from_numpy(ids(1, 1, self.vocab))
        config = self.model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        shape = (1, heads, past, config.hidden_size // config.num_attention_heads)
        pairs = [tuple(self.torch.randn(shape) for _ in "kv") for _ in range(config.num_hidden_layers)]

        def run() -> Any:
            with self.torch.inference_mode():
                return self.called(given, past_key_values=DynamicCache(pairs), use_cache=True).logits

        return run

    def _whole(self, given: Any) -> Any:
        with self.torch.inference_mode():
            return self.called(given, use_cache=False).logits

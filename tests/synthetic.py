"""Checkpoints of any size in the shape of a Hugging Face Llama, written a few megabytes at a time.

Their numbers are a few million random ones again and again: what is measured with them is bytes, not logits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 1 << 22  # elements
ITEM = {"F32": 4, "BF16": 2}


@dataclass(frozen=True)
class Llama:
    """Sizes of a model without ties. `shards`: files of about equal size."""

    dim: int
    layers: int
    hidden: int
    vocab: int = 32_000
    head_dim: int = 64
    shards: int = 1
    dtype: str = "F32"

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, in the order of the file."""
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.dim)}
        narrow = self.dim // 4  # four query heads share a key head
        for i in range(self.layers):
            at = f"model.layers.{i}"
            shapes |= {f"{at}.{name}.weight": (self.dim,) for name in ("input_layernorm", "post_attention_layernorm")}
            shapes |= {f"{at}.self_attn.{name}_proj.weight": (self.dim, self.dim) for name in "qo"}
            shapes |= {f"{at}.self_attn.{name}_proj.weight": (narrow, self.dim) for name in "kv"}
            shapes |= {f"{at}.mlp.{name}_proj.weight": (self.hidden, self.dim) for name in ("gate", "up")}
            shapes[f"{at}.mlp.down_proj.weight"] = (self.dim, self.hidden)
        return shapes | {"model.norm.weight": (self.dim,), "lm_head.weight": (self.vocab, self.dim)}

    def nbytes(self) -> int:
        return sum(prod(shape) for shape in self.tensors().values()) * ITEM[self.dtype]

    def largest(self) -> int:
        """Bytes of the largest tensor."""
        return max(prod(shape) for shape in self.tensors().values()) * ITEM[self.dtype]

    def config(self) -> dict[str, Any]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab,
            "max_position_embeddings": 2048,
            "hidden_size": self.dim,
            "intermediate_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.dim // self.head_dim,
            "num_key_value_heads": self.dim // self.head_dim // 4,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": False,
        }

    def write(self, folder: Path) -> Path:
        """The folder: config.json and one file, or shards with their index."""
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(self.config(), indent=1))
        shapes = self.tensors()
        if self.shards == 1:
            self.file(folder / "model.safetensors", shapes)
            return folder
        where = {name: self._shard(at) for name, at in zip(shapes, self._starts(), strict=True)}
        for shard, names in groupby(shapes, where.__getitem__):
            self.file(folder / shard, {name: shapes[name] for name in names})
        index = {"metadata": {"total_size": self.nbytes()}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder

    def _starts(self) -> Iterator[int]:
        at = 0
        for shape in self.tensors().values():
            yield at
            at += prod(shape) * ITEM[self.dtype]

    def _shard(self, at: int) -> str:
        number = at * self.shards // self.nbytes()
        return f"model-{number + 1:05}-of-{self.shards:05}.safetensors"

    def file(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name, shape in shapes.items():
            size = prod(shape) * ITEM[self.dtype]
            header[name] = {"dtype": self.dtype, "shape": list(shape), "data_offsets": [at, at + size]}
            at += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        block = _block(self.dtype)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            while at:
                at -= file.write(block[:at])


def _block(dtype: str) -> memoryview:
    """Small normal numbers; as bf16 the upper halves of the same."""
    values = np.random.default_rng(0).standard_normal(BLOCK, dtype=np.float32) * np.float32(0.02)
    upper = (values.view("<u4") >> 16).astype("<u2")
    return (upper if dtype == "BF16" else values).data.cast("B")

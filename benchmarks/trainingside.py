"""GPT-2 in torch as a person writes it for training, one file and no options; and one step of training anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        parts = self.c_attn(x).split(width, dim=2)
        q, k, v = (p.view(batch, length, self.heads, width // self.heads).transpose(1, 2) for p in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(batch, length, width))


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.gelu = nn.GELU(approximate="tanh")
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    """What is added is normed before, and the stream is not (Radford et al., 2019)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class ByHand(nn.Module):
    """GPT-2 without dropout, its weights named as everywhere; ids [B, T] -> logits [B, T, vocab]."""

    def __init__(self, vocab: int, context: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocab, width)
        self.wpe = nn.Embedding(context, width)
        self.h = nn.ModuleList([Block(width, heads) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocab, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def transformers_gpt2(weights: Mapping[str, torch.Tensor], sizes: Mapping[str, int]) -> Any:
    """transformers' module with these weights, of which it has matrices the other way round."""
    from transformers import AutoModelForCausalLM, GPT2Config

    config = GPT2Config(
        vocab_size=sizes["vocab"],
        n_positions=sizes["context"],
        n_embd=sizes["dim"],
        n_layer=sizes["layers"],
        n_head=sizes["heads"],
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    made = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    turned = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
    named = {
        f"transformer.{n}": t.t() if n.endswith(turned) else t for n, t in weights.items() if n != "lm_head.weight"
    }
    made.load_state_dict({**named, "lm_head.weight": weights["wte.weight"]})
    return made


def loss_of(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Each position tells the next one."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def step(call: Callable[[Any], Any], module: nn.Module, batches: Iterator[torch.Tensor]) -> Callable[[], float]:
    """One step of AdamW, by torch's own kernel, with the next batch: forward, backward, update; the loss before it."""
    optimiser = torch.optim.AdamW(module.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def work() -> float:
        ids = next(batches)
        optimiser.zero_grad(set_to_none=True)
        loss = loss_of(call(ids), ids)
        loss.backward()
        optimiser.step()
        found = float(loss.detach())
        assert math.isfinite(found)
        return found

    return work

"""Did-you-mean: the closest existing name, or a known alias from the field's other vocabularies."""

from __future__ import annotations

import re
from collections.abc import Iterable

from specc.diagnostics import Edit
from specc.source import Span

# What people bring from torch and from config.json files -> what specs call it.
_ALIASES = {
    "n_head": "heads", "n_heads": "heads", "num_heads": "heads", "num_attention_heads": "heads", "nhead": "heads",
    "n_layer": "layers", "n_layers": "layers", "num_layers": "layers", "num_hidden_layers": "layers", "depth": "layers",
    "n_embd": "dim", "d_model": "dim", "hidden_size": "dim", "embed_dim": "dim", "model_dim": "dim",
    "n_inner": "hidden", "d_ff": "hidden", "ffn_dim": "hidden", "intermediate_size": "hidden",
    "dim_feedforward": "hidden",
    "vocab_size": "vocab", "n_positions": "context", "max_position_embeddings": "context", "block_size": "context",
    "p": "dropout", "resid_pdrop": "dropout", "hidden_dropout_prob": "dropout", "layer_norm_epsilon": "eps",
    "rms_norm_eps": "eps",
    "num_key_value_heads": "kv_heads", "n_kv_heads": "kv_heads", "activation": "act", "hidden_act": "act",
    "dim": "axis", "cat": "concat", "masked_fill": "where", "view": "reshape", "scaled_dot_product_attention": "sdpa",
    "learning_rate": "lr", "wd": "weight_decay",
    "CrossEntropyLoss": "cross_entropy", "NLLLoss": "nll", "nll_loss": "nll", "MSELoss": "mse", "mse_loss": "mse",
    "L1Loss": "l1", "l1_loss": "l1", "HuberLoss": "huber", "huber_loss": "huber", "KLDivLoss": "kl_div",
    "CTCLoss": "ctc", "ctc_loss": "ctc", "BCELoss": "binary_cross_entropy", "bce": "binary_cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits", "bce_with_logits": "binary_cross_entropy_with_logits",
    "CosineAnnealingLR": "cosine", "StepLR": "step", "OneCycleLR": "one_cycle", "ReduceLROnPlateau": "plateau",
    "acc": "accuracy", "mse": "mean_squared_error", "mae": "mean_absolute_error", "r2_score": "r2", "ppl": "perplexity",
    "wer": "word_error_rate", "cer": "character_error_rate", "jaccard": "iou", "matthews_corrcoef": "matthews",
    "gelu_new": "gelu_tanh", "swish": "silu", "matmul": "@", "num_classes": "classes",
}  # fmt: skip


def distance(a: str, b: str, limit: int = 2) -> int:
    """Letters to insert, delete, replace or swap with their neighbour (optimal string alignment), or limit + 1 as soon
    as it must exceed the limit.
    """
    if abs(len(a) - len(b)) > limit:
        return limit + 1
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row, before = before, [i], row
        for j, y in enumerate(b, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y)))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                row[j] = min(row[j], last[j - 2] + 1)
        if min(row) > limit:
            return limit + 1
    return row[-1]


def closest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate a person most likely meant, or None."""
    known = list(dict.fromkeys(candidates))
    alias = _ALIASES.get(name)
    if alias in known:
        return alias
    limit = (0, 0, 1, 1)[len(name)] if len(name) <= 3 else 2  # of one letter nothing can be guessed
    ranked = sorted((distance(name.lower(), c.lower(), limit), i) for i, c in enumerate(known))
    return known[ranked[0][1]] if ranked and ranked[0][0] <= limit else None


def available(candidates: Iterable[str], most: int = 12) -> str:
    """At most `most` names for an `available:` line."""
    names = list(dict.fromkeys(candidates))
    return ", ".join(names[:most]) + (", .." if len(names) > most else "")


def fold(names: Iterable[str]) -> list[str]:
    """Paths with their indices folded: `h.{i}.attn.c_proj.weight`."""
    return list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "{i}", name) for name in names))


def did_you_mean(guess: str | None) -> str:
    """The help that names what was meant; none if nothing is known."""
    return f"did you mean `{guess}`?" if guess else ""


def replaced(span: Span, guess: str | None) -> tuple[Edit, ...]:
    """The edit that writes what was meant; none if nothing is known, or it is no name (`@`)."""
    return (Edit(span, guess),) if guess and guess.replace(".", "").isidentifier() else ()


def counted(n: int, noun: str) -> str:
    """`1 argument`, `3,000 arguments`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"

"""The models of `specs/` written by hand from torch.nn's own layers, with the names that the specs use."""

from __future__ import annotations

import math

import torch
from torch import nn


def sinusoids(positions: torch.Tensor, dim: int) -> torch.Tensor:
    """Vaswani et al. (2017), section 3.5: PE(p, 2i) = sin(p / 10000^(2i/dim)), PE(p, 2i+1) = cos of the same."""
    table = torch.empty(*positions.shape, dim)
    for i in range(dim):
        angles = positions.double() / 10_000.0 ** ((i - i % 2) / dim)
        table[..., i] = (angles.cos() if i % 2 else angles.sin()).float()
    return table


def positions_of(mask: torch.Tensor) -> torch.Tensor:
    """How many visible tokens come before each; what precedes the first one counts as position 0."""
    rows = [[max(sum(row[: i + 1]) - 1, 0) for i in range(len(row))] for row in mask.int().tolist()]
    return torch.tensor(rows)


class GPT(nn.Module):
    """nn.TransformerEncoder (post-norm, relu) under a causal mask, with sinusoidal positions and a linear generator.

    Dropout also acts on the sums of embeddings and positions (Vaswani et al., section 5.4), here and below.
    """

    def __init__(self, vocab: int, dim: int, layers: int, heads: int, hidden: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dim = dim
        self.dropout = nn.Dropout(dropout)
        self.embedding = nn.Embedding(vocab, dim)
        layer = nn.TransformerEncoderLayer(dim, heads, hidden, dropout, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.generator = nn.Linear(dim, vocab)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        # input_ids int [B, T], attention_mask bool [B, T] -> logits [B, T, vocab]
        batch, length = input_ids.shape
        visible = attention_mask if attention_mask is not None else torch.ones(batch, length, dtype=torch.bool)
        x = self.embedding(input_ids) * math.sqrt(self.dim) + sinusoids(positions_of(visible), self.dim)
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        return self.generator(self.transformer(self.dropout(x), mask=future, src_key_padding_mask=~visible))


class Transformer(nn.Module):
    """nn.TransformerEncoder and nn.TransformerDecoder (post-norm, relu) around one embedding, without last norms."""

    def __init__(self, vocab: int, dim: int, layers: int, heads: int, hidden: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dim = dim
        self.dropout = nn.Dropout(dropout)
        self.embed = nn.Embedding(vocab, dim)
        inner = nn.TransformerEncoderLayer(dim, heads, hidden, dropout, batch_first=True)
        outer = nn.TransformerDecoderLayer(dim, heads, hidden, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(inner, layers, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(outer, layers)
        self.generator = nn.Linear(dim, vocab, bias=False)
        self.generator.weight = self.embed.weight

    def embedded(self, ids: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.embed(ids) * math.sqrt(self.dim) + sinusoids(torch.arange(ids.shape[1]), self.dim))

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, decoder_input_ids: torch.Tensor
    ) -> torch.Tensor:
        # input_ids int [B, N], attention_mask bool [B, N], decoder_input_ids int [B, T] -> logits [B, T, vocab]
        memory = self.encoder(self.embedded(input_ids), src_key_padding_mask=~attention_mask)
        length = decoder_input_ids.shape[1]
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        y = self.decoder(
            self.embedded(decoder_input_ids), memory, tgt_mask=future, memory_key_padding_mask=~attention_mask
        )
        return self.generator(y)


class MLP(nn.Module):
    """The layers of a perceptron in nested Sequentials."""

    def __init__(self, inputs: int, hidden: list[int], classes: int, dropout: float = 0.2) -> None:
        super().__init__()
        sizes = [inputs, *hidden]
        layers = [
            nn.Sequential(nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout))
            for before, after in zip(sizes, hidden, strict=False)
        ]
        self.net = nn.Sequential(*layers)
        self.head = nn.Linear(sizes[-1], classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.net(image))


class LinearModel(nn.Module):
    """A logistic unit."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.linear(x))

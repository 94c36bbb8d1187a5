"""Batches of a data set, in an order that the seed and the epoch alone decide: a run finds its place in it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from specc.diagnostics import Rejected
from specc_runtime.training.data.loading import ByTokens, Rows, as_it_is, workers_for
from specc_runtime.training.data.order import order
from specc_runtime.training.sources import Data

Batch = Mapping[str, torch.Tensor]


class Order(Sampler[int]):
    """Rows as they stand, or with a seed shuffled anew for each epoch; the next pass leaves out the first `skipped`.

    `part` is which of how many processes: each takes every so manieth row, and the first rows come again where the last
    ones are too few for all.
    """

    def __init__(self, rows: int, seed: int | None, part: tuple[int, int] = (0, 1)) -> None:
        self.rows, self.seed, self.epoch, self.skipped, self.part = rows, seed, 0, 0, part

    def set_epoch(self, epoch: int) -> None:
        """Lightning says which epoch begins."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.rows // self.part[1])

    def __iter__(self) -> Iterator[int]:
        skipped, self.skipped = self.skipped, 0
        own, of = self.part
        drawn = order(self.rows, self.seed, self.epoch)
        return iter(np.resize(drawn, len(self) * of)[own::of][skipped:].tolist())


class Batches(DataLoader[Any]):
    """A loader that Lightning can resume within an epoch. `trained` is how many batches of it are done with."""

    def __init__(
        self, data: Data, size: int, seed: int | None, tokens: int | None, workers: int | None, part: tuple[int, int]
    ) -> None:
        count = workers_for(data, workers)
        how: dict[str, Any] = {"collate_fn": as_it_is, "num_workers": count, "persistent_workers": count > 0}
        self.trained = 0
        if tokens is not None:
            self.order: Order | ByTokens = ByTokens(data, tokens, seed, part)
            super().__init__(Rows(data), batch_sampler=self.order, **how)
        else:
            self.order = Order(len(data), seed, part)
            super().__init__(Rows(data), size, sampler=self.order, **how)

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            if isinstance(batch, tuple):
                raise Rejected(batch)
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.order.epoch, "batches": self.trained}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.order.epoch = state["epoch"]
        self.order.skipped = state["batches"] * (self.batch_size or 1)


def loader(
    data: Data,
    batch: int,
    seed: int | None,
    tokens: int | None = None,
    workers: int | None = 0,
    part: tuple[int, int] = (0, 1),
) -> Batches:
    """Batches of so many rows, or of at most `tokens` ids; with a seed in an order that each epoch draws anew.

    `part` is which of how many processes these are for.
    """
    return Batches(data, batch, seed, tokens, workers, part)

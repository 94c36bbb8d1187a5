"""Batches of a data set, in an order that the seed and the epoch alone decide: a run finds its place in it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from specc_runtime.training.sources import Data

Batch = Mapping[str, torch.Tensor]


class Order(Sampler[int]):
    """Rows as they stand, or with a seed shuffled anew for each epoch; the next pass leaves out the first `skipped`."""

    def __init__(self, rows: int, seed: int | None) -> None:
        self.rows, self.seed, self.epoch, self.skipped = rows, seed, 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning says which epoch begins."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        skipped, self.skipped = self.skipped, 0
        if self.seed is None:
            return iter(range(skipped, self.rows))
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.rows)
        return iter(order[skipped:].tolist())


class Batches(DataLoader[Any]):
    """A loader that Lightning can resume within an epoch. `trained` is how many batches of it are done with."""

    def __init__(self, data: Data, size: int, seed: int | None) -> None:
        fields = {name: torch.from_numpy(values) for name, values in data.fields.items()}

        def collate(rows: list[int]) -> Batch:
            index = torch.tensor(rows)
            return {name: values[index] for name, values in fields.items()}

        self.order = Order(len(data), seed)
        self.trained = 0
        rows: Any = range(len(data))
        super().__init__(rows, size, sampler=self.order, collate_fn=collate)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.order.epoch, "batches": self.trained}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        assert self.batch_size is not None
        self.order.epoch = state["epoch"]
        self.order.skipped = state["batches"] * self.batch_size


def loader(data: Data, batch: int, seed: int | None) -> Batches:
    """Batches of a data set; with a seed in an order that each epoch draws anew."""
    return Batches(data, batch, seed)

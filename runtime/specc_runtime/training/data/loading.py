"""Rows of a data set as tensors, for torch's loader."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime.training.data.columns import Array, Data
from specc_runtime.training.data.order import batches_by_tokens, order, row_lengths

WORKERS = 4
"""Processes that decode images and sounds, where nothing else is asked for and there are as many processors."""


Batch = dict[str, torch.Tensor] | tuple[Diagnostic, ...]
"""Tensors by field, or what was wrong with a row."""


class Rows(Dataset[Any]):
    """The rows of a data set, several at a time: a batch is one indexing of each field."""

    def __init__(self, data: Data) -> None:
        self.fields = data.fields
        self.count = len(data)

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, rows: list[int]) -> Batch:
        """A batch. What went wrong, maybe in a worker process, is handed over as a value: an exception would lose its
        parts.
        """
        index = np.asarray(rows)
        try:
            return {name: tensor(column.take(index)) for name, column in self.fields.items()}
        except Rejected as error:
            return error.diagnostics

    def __getitem__(self, row: int) -> Batch:
        return self.__getitems__([row])


def tensor(values: Array) -> torch.Tensor:
    """An array of the batch as a tensor; one that cannot be written to is copied."""
    return torch.from_numpy(values if values.flags.writeable else values.copy())


class ByTokens(Sampler[list[int]]):
    """Batches of rows of about one length with at most `most` ids; the next pass leaves out the first `skipped`.

    `part` is which of how many processes: each takes every so manieth batch, and the first ones come again where the
    last ones are too few for all.
    """

    def __init__(self, data: Data, most: int, seed: int | None, part: tuple[int, int] = (0, 1)) -> None:
        self.lengths, self.starts = row_lengths(data), batches_by_tokens(data, most)
        self.seed, self.epoch, self.skipped, self.part = seed, 0, 0, part

    @property
    def sampler(self) -> ByTokens:
        """Where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.starts) // self.part[1])

    def __iter__(self) -> Iterator[list[int]]:
        skipped, self.skipped = self.skipped, 0
        drawn = order(len(self.lengths), self.seed, self.epoch)
        rows = drawn[np.argsort(self.lengths[drawn], kind="stable")]
        batches = np.split(rows, self.starts[1:])
        own, of = self.part
        turns = np.resize(order(len(batches), self.seed, self.epoch), len(self) * of)
        for at in turns[own::of][skipped:].tolist():
            yield batches[at].tolist()


def workers_for(data: Data, asked: int | None) -> int:
    """Worker processes: none for what is in memory, a few for what has to be decoded."""
    if asked is not None:
        return asked
    decoded = any(column.decoded for column in data.fields.values())
    return min(WORKERS, max((os.cpu_count() or 1) - 1, 1)) if decoded else 0


def as_it_is(batch: Any) -> Any:
    """`Rows` gives whole batches: nothing is left to collate."""
    return batch

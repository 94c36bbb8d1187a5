"""Which rows come when: a function of the seed and the epoch alone, so that a run finds its place again."""

from __future__ import annotations

import numpy as np

from specc_runtime.training.data.columns import Array, Data


def order(count: int, seed: int | None, epoch: int) -> Array:
    """Numbers 0 .. count - 1 in the order of an epoch; without a seed as they stand."""
    if seed is None:
        return np.arange(count)
    found: Array = np.random.default_rng((seed, epoch)).permutation(count)
    return found


def row_lengths(data: Data) -> Array:
    """Ids of each row, of the longest of its fields."""
    found = data.lengths()
    if found is not None:
        return found
    same = [n for c in data.fields.values() if c.ndim == 2 and c.dtype.kind in "iu" and (n := c.row[0]) is not None]
    return np.full(len(data), max(same, default=1), np.int64)


def batches_by_tokens(data: Data, most: int) -> list[int]:
    """Where batches of at most `most` ids begin among the rows sorted by length; padding counts.

    The rows of one length are in an order that each epoch draws anew, and so are the batches: there are as many of them
    in each epoch.
    """
    starts = [0]
    for at, length in enumerate(np.sort(row_lengths(data)).tolist()):
        if (at - starts[-1] + 1) * length > most and at > starts[-1]:
            starts.append(at)
    return starts

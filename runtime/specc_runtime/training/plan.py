"""What a run will do, known before it starts: data, steps, parameters, where it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path

import numpy as np

from specc.ir.graph import Apply, Value
from specc.ops.losses import BinaryCrossEntropy, BinaryCrossEntropyWithLogits, CrossEntropy, Ctc, KlDiv, Nll
from specc.source import Span
from specc_runtime.inputs import Interface
from specc_runtime.training.data.checks import check_lengths, check_padding, fed
from specc_runtime.training.data.columns import Array
from specc_runtime.training.data.order import batches_by_tokens
from specc_runtime.training.section import Section, failed
from specc_runtime.training.sources import Data, bad, read, validation

Probable = BinaryCrossEntropy | BinaryCrossEntropyWithLogits | KlDiv
"""Losses whose target is probabilities."""


@dataclass(frozen=True)
class Plan:
    """Counts of a run. `steps` are steps of the optimiser; `limit` those of `--max-steps`.

    `batch` is how many rows a batch has; with `tokens`, the most ids of one, it is how many they have on average.
    """

    train: Data
    val: Data | None
    batch: int
    accumulate: int
    steps: int
    epochs: int | None
    limit: int | None
    seed: int
    tokens: int | None
    workers: int | None
    batches: int
    """Of an epoch."""
    processes: int = 1
    """Each has batches of its own: a step is of all of them."""

    @property
    def ending(self) -> int:
        """Rows of the last batch of an epoch; of batches of so many ids it is not known."""
        return -(-len(self.train) // self.processes) % self.batch or self.batch

    @property
    def last(self) -> int:
        """The step that ends the run, if nothing stops it before."""
        return self.steps if self.limit is None else min(self.steps, self.limit)


def plan(section: Section, limit: int | None) -> Plan:
    """Read the data and count; raises `Rejected`."""
    data = read(section, "data")
    seed = section.value("seed", 0)
    train, val = validation(section, data, seed)
    batch, most = section.batch
    accumulate, epochs = section.value("accumulate", 1), section.value("epochs", None)
    processes = section.value("devices", 1)
    processes = 1 if processes == "auto" else processes
    if most:
        for part in (train, val) if val is not None else (train,):
            check_lengths(part, most, section.span("batch"))
        every = len(batches_by_tokens(train, most))
        batch, batches = ceil(len(train) / every), ceil(every / processes)
    else:
        batches = ceil(len(train) / (batch * processes))
    if processes > len(train):
        message = f"`devices = {processes}`: there are {len(train):,} rows to train on"
        raise failed("E125", message, section.span("devices"), "as many processes as there are rows at most")
    if accumulate > batches:  # a step ends with the epoch: its gradients would be divided by batches that were not
        message = f"`accumulate` is {accumulate:,} batches, an epoch has {batches:,}"
        raise failed("E125", message, section.span("accumulate"), f"accumulate = {batches}")
    steps = section.value("steps", None) if epochs is None else epochs * ceil(batches / accumulate)
    workers = section.value("workers", None)
    return Plan(train, val, batch, accumulate, steps, epochs, limit, seed, most or None, workers, batches, processes)


# ---- data against the model ------------------------------------------------------------------------------------------


def check_data(section: Section, data: Data, of: Interface) -> Data:
    """The data with inputs in the dtypes that the model takes; raises `Rejected` (T531) with the first wrong row."""
    fields = dict(data.fields)
    for item in of.inputs:
        if item.name in fields and item.name not in section.bound:
            fields[item.name] = fed(data, item, of)
    check_padding(section, data)
    _check_labels(section, data)
    return replace(data, fields=fields)


def _check_labels(section: Section, data: Data) -> None:
    """Fields that a loss takes for classes, or for probabilities, hold such (T531)."""
    place = section.checker.place
    fields = {value: name for (name, _), value in place.read.items()}
    for node in place.nodes:
        if not isinstance(node, Apply) or not isinstance(node.op, CrossEntropy | Nll | Ctc | Probable):
            continue
        scores, target = node.inputs[:2]
        assert isinstance(scores, Value) and isinstance(target, Value)
        field, classes = fields.get(target, ""), scores.type.shape[-1].value
        if field not in data.fields or data.fields[field].ndim != target.type.rank:
            continue  # what it was taken for before it was read
        if target.type.dtype.is_float:
            _check_within(data, field, target.span, lambda x: (x >= 0) & (x <= 1), "expected 0 to 1")
        elif classes is not None and isinstance(node.op, CrossEntropy | Nll | Ctc):
            blank = node.op.blank if isinstance(node.op, Ctc) else None
            fits = partial(_is_class, classes=classes, ignored=node.op.ignore_index, blank=blank)
            but = f", {blank} is the blank" if blank is not None else ""
            _check_within(data, field, target.span, fits, f"the classes are 0 to {classes - 1}{but}")


def _is_class(values: Array, classes: int, ignored: int | None, blank: int | None) -> Array:
    within: Array = (values >= 0) & (values < classes) & (values == np.round(values)) & (values != blank)
    kept: Array = values == ignored
    return within | kept


def _check_within(data: Data, field: str, span: Span, fits: Callable[[Array], Array], what: str) -> None:
    for start, values in data.fields[field].parts():
        wrong = np.argwhere(~fits(values))
        if len(wrong):
            row, *inside = wrong[0].tolist()
            name = data.columns.get(field)
            column = f", `{field}`{inside}" if inside else f", column `{name}`" if name else ""
            message = f"{data.place(start + row)}{column}: the label is {values[tuple(wrong[0])]:.12g}, {what}"
            raise bad(message, span)


def folder(out: Path | None, section: Section) -> Path:
    """Where the run is written: `out`, else the first free `runs/<model>-<name>-<n>`. B660 if it is in use."""
    if out is None:
        from specc_runtime.destination import folder_name

        stem = folder_name(f"{section.model}-{section.name}")
        number = 1
        while (Path("runs") / f"{stem}-{number}").exists():
            number += 1
        return Path("runs") / f"{stem}-{number}"
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise failed("B660", f"`{out}` exists: nothing was written", None, "choose another place with --out DIR")
    return out

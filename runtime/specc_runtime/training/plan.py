"""What a run will do, known before it starts: data, steps, parameters, where it is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

from specc.ir.graph import Apply, Value
from specc.ops.losses import CrossEntropy, Nll
from specc_runtime.inputs import Interface
from specc_runtime.training.data.checks import check_lengths, check_padding, fed
from specc_runtime.training.data.order import batches_by_tokens
from specc_runtime.training.section import Section, failed
from specc_runtime.training.sources import Data, bad, read, validation


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
    _check_labels(section, data)
    check_padding(section, data)
    return replace(data, fields=fields)


def _check_labels(section: Section, data: Data) -> None:
    """Fields that a loss takes for classes hold such (T531)."""
    import numpy as np

    place = section.checker.place
    fields = {value: name for (name, _), value in place.read.items()}
    for node in place.nodes:
        if not isinstance(node, Apply) or not isinstance(node.op, CrossEntropy | Nll):
            continue
        scores, target = node.inputs[:2]
        assert isinstance(scores, Value) and isinstance(target, Value)
        field, classes = fields.get(target, ""), scores.type.shape[-1].value
        if field not in data.fields or classes is None or target.type.dtype.is_float:
            continue
        if data.fields[field].ndim != target.type.rank:  # what it was taken for before it was read
            continue
        column = f", column `{data.columns[field]}`" if data.columns.get(field) else ""
        for start, values in data.fields[field].parts():
            fits = (values >= 0) & (values < classes) & (values == np.round(values))
            wrong = np.argwhere(~fits & (values != node.op.ignore_index))
            if len(wrong):
                label, place_ = values[tuple(wrong[0])], data.place(start + int(wrong[0][0]))
                message = f"{place_}{column}: the label is {label:.12g}, the classes are 0 to {classes - 1}"
                raise bad(message, target.span)


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

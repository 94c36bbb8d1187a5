"""What a run will do, known before it starts: data, steps, parameters, where it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

from specc.elaborate.sections import names_of
from specc.syntax import ast
from specc_runtime.inputs import Interface
from specc_runtime.training.data.checks import calls, check_lengths, check_padding, fed
from specc_runtime.training.data.order import batches_by_tokens
from specc_runtime.training.section import Section, evaluated, failed
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
    if most:
        for part in (train, val) if val is not None else (train,):
            check_lengths(part, most, section.span("batch"))
        batches = len(batches_by_tokens(train, most))
        batch = ceil(len(train) / batches)
    else:
        batches = ceil(len(train) / batch)
    steps = section.value("steps", None) if epochs is None else epochs * ceil(batches / accumulate)
    workers = section.value("workers", None)
    return Plan(train, val, batch, accumulate, steps, epochs, limit, seed, most or None, workers, batches)


# ---- data against the model ------------------------------------------------------------------------------------------


def bound(section: Section) -> dict[str, ast.Expr]:
    """`inputs = bind(name = ..)`."""
    expr = section.settings.get("inputs")
    args = expr.args if isinstance(expr, ast.Call) else ()
    return {a.name.id: a.value for a in args if isinstance(a, ast.Arg) and a.name is not None}


def check_data(section: Section, data: Data, of: Interface) -> Data:
    """The data with inputs in the dtypes that the model takes; raises `Rejected` (T531) with the first wrong row."""
    fields = dict(data.fields)
    for item in of.inputs:
        if item.name in fields and item.name not in bound(section):
            fields[item.name] = fed(section, data, item, of)
    _check_labels(section, data, of)
    check_padding(section, data)
    return replace(data, fields=fields)


def _check_labels(section: Section, data: Data, of: Interface) -> None:
    """Labels of `cross_entropy(output, data.field)` are classes of the output."""
    import numpy as np

    sizes = {o.name: o.shape[-1].value for o in of.outputs if o.shape}
    for call in calls(section.settings["loss"]):
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        args = [a.value for a in call.args if isinstance(a, ast.Arg) and a.name is None]
        if name not in ("cross_entropy", "nll") or len(args) != 2:
            continue
        output, target = args
        field = target.name.id if isinstance(target, ast.Attr) else ""
        classes = sizes.get(output.id) if isinstance(output, ast.Name) else None
        found = data.fields.get(field)
        if classes is None or found is None or found.ndim != 1:
            continue
        values = found.array()
        if values.dtype.kind == "f":
            raise bad(f"`{field}` of {data.name} has fractions, {name} takes classes 0 to {classes - 1}", target.span)
        ignored = next(
            (evaluated(section, a.value) for a in call.args
             if isinstance(a, ast.Arg) and a.name is not None and a.name.id == "ignore_index"), -100,
        )  # fmt: skip
        wrong = np.argwhere(((values < 0) | (values >= classes)) & (values != ignored))
        if len(wrong):
            row = int(wrong[0][0])
            column = f", column `{data.columns[field]}`" if data.columns.get(field) else ""
            message = f"{data.place(row)}{column}: the label is {values[row]}, the classes are 0 to {classes - 1}"
            raise bad(message, target.span)


def lets_of(section: Section, outputs: Mapping[str, object]) -> tuple[list[ast.Let], list[ast.Let]]:
    """The section's lets: those that need no output of the model, and those that do."""
    late: set[str] = set(outputs)
    before: list[ast.Let] = []
    after: list[ast.Let] = []
    for let in section.lets:
        if any(name.id in late for name, _ in names_of(let.value)):
            late.add(let.name.id)
            after.append(let)
        else:
            before.append(let)
    return before, after


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

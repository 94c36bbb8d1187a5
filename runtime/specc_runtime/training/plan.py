"""What a run will do, known before it starts: data, steps, parameters, where it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc.dims import Dim
from specc.elaborate.sections import names_of
from specc.syntax import ast
from specc_runtime.inputs import NUMPY, Interface
from specc_runtime.training.section import Called, Section, evaluated, failed, unsupported
from specc_runtime.training.sources import Data, bad, read

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Plan:
    """Counts of a run. `steps` are steps of the optimiser; `limit` those of `--max-steps`."""

    train: Data
    val: Data | None
    batch: int
    accumulate: int
    steps: int
    epochs: int | None
    limit: int | None
    seed: int

    @property
    def batches(self) -> int:
        """Of an epoch."""
        return ceil(len(self.train) / self.batch)

    @property
    def last(self) -> int:
        """The step that ends the run, if nothing stops it before."""
        return self.steps if self.limit is None else min(self.steps, self.limit)


def plan(section: Section, limit: int | None) -> Plan:
    """Read the data and count; raises `Rejected`."""
    data = read(section, "data")
    seed = section.value("seed", 0)
    train, val = _split(section, data, seed)
    batch, accumulate = section.value("batch", 32), section.value("accumulate", 1)
    epochs = section.value("epochs", None)
    per_epoch = ceil(ceil(len(train) / batch) / accumulate)
    steps = section.value("steps", None) if epochs is None else epochs * per_epoch
    return Plan(train, val, batch, accumulate, steps, epochs, limit, seed)


def _split(section: Section, data: Data, seed: int) -> tuple[Data, Data | None]:
    """The rows to train on and those to validate on."""
    import numpy as np

    expr = section.settings.get("val")
    if not isinstance(expr, ast.Call):
        return data, None
    if not (isinstance(expr.func, ast.Name) and expr.func.id == "split"):
        val = read(section, "val")
        lacking = next((name for name in data.fields if name not in val.fields), None)
        if lacking is not None:
            raise bad(f"`val` has no field `{lacking}`, which `data` has", expr.span)
        return data, val
    call = section.call("val")
    assert isinstance(call, Called)
    part = call.arguments(("part",), 1)["part"]
    if isinstance(part, str):
        raise unsupported(f'`val = split("{part}")`', expr.span, "val = split(0.1), or a data source")
    if not isinstance(part, float) or not 0 < part < 1:
        raise failed("E125", "split takes a part of the rows, between 0.0 and 1.0", expr.span)
    count = round(len(data) * part)
    if not 0 < count < len(data):
        raise bad(f"split({part}) of {len(data)} rows leaves none to train or none to validate on", expr.span)
    order = np.random.default_rng(seed).permutation(len(data))
    return data.chosen(np.sort(order[count:])), data.chosen(np.sort(order[:count]))


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
            fields[item.name] = _fed(section, data, item.name, item.dtype, item.shape, item.low, item.high)
    _check_labels(section, data, of)
    return replace(data, fields=fields)


def _fed(
    section: Section,
    data: Data,
    name: str,
    dtype: str,
    shape: tuple[Dim, ...],
    low: tuple[Dim, ...],
    high: tuple[Dim, ...],
) -> np.ndarray[Any, Any]:
    """One field as the input of its name."""
    import numpy as np

    values = data.fields[name]
    span = section.span("data")
    expected = f"[{', '.join(map(str, shape))}]"
    if values.ndim != len(shape) or any(
        d.value is not None and d.value != n for d, n in zip(shape[1:], values.shape[1:], strict=True)
    ):
        found = f"[{len(values)}{''.join(f', {n}' for n in values.shape[1:])}]"
        help = f'{name} = ["column"]  is a field with two axes' if values.ndim == 1 and len(shape) == 2 else ""
        raise bad(f"the field `{name}` does not fit the input `{name}`", span, help, expected=expected, found=found)
    wanted = np.dtype(NUMPY[dtype])
    if wanted.kind in "iu" and values.dtype.kind == "f":
        raise bad(f"the input `{name}` takes integers, the field has fractions", span)
    bottom = max((d.value for d in low if d.value is not None), default=None)
    top = min((d.value for d in high if d.value is not None), default=None)
    if wanted.kind in "iu" and bottom is not None and top is not None:
        wrong = np.argwhere((values < bottom) | (values >= top))
        if len(wrong):
            at = tuple(wrong[0])
            message = f"{data.place(int(at[0]))}: `{name}` is {values[at]}, the model takes {bottom} to {top - 1}"
            raise bad(message, span)
    return values.astype(wanted)


def _check_labels(section: Section, data: Data, of: Interface) -> None:
    """Labels of `cross_entropy(output, data.field)` are classes of the output."""
    import numpy as np

    sizes = {o.name: o.shape[-1].value for o in of.outputs if o.shape}
    for call in _calls(section.settings["loss"]):
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        args = [a.value for a in call.args if isinstance(a, ast.Arg) and a.name is None]
        if name not in ("cross_entropy", "nll") or len(args) != 2:
            continue
        output, target = args
        field = target.name.id if isinstance(target, ast.Attr) else ""
        classes = sizes.get(output.id) if isinstance(output, ast.Name) else None
        values = data.fields.get(field)
        if classes is None or values is None or values.ndim != 1:
            continue
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


def _calls(expr: Any) -> list[ast.Call]:
    """Every call in an expression."""
    if isinstance(expr, tuple):
        return [call for item in expr for call in _calls(item)]
    if not isinstance(expr, ast.Node):
        return []
    inside = [call for key, child in vars(expr).items() if key != "span" for call in _calls(child)]
    return [expr, *inside] if isinstance(expr, ast.Call) else inside


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

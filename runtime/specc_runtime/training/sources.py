"""Data of `train` sections: what `data` and `val` name; mistakes are told by file, row and column."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from specc.syntax import ast
from specc_runtime.libraries import needs
from specc_runtime.training.data import folders, tables
from specc_runtime.training.data.asked import Asked
from specc_runtime.training.data.columns import Data as Data
from specc_runtime.training.data.columns import bad as bad
from specc_runtime.training.data.fields import Table
from specc_runtime.training.data.text import read_text
from specc_runtime.training.data.tokens import table_data
from specc_runtime.training.section import Called, Section, failed


def _parquet(asked: Asked) -> Table:
    needs("this data", "pyarrow", span=asked.span)
    from specc_runtime.training.data.arrow import read_parquet

    return read_parquet(asked)


def _hf_dataset(asked: Asked) -> Table:
    needs("this data", "datasets", span=asked.span)
    from specc_runtime.training.data.arrow import read_hf_dataset

    return read_hf_dataset(asked)


TABLES: Mapping[str, tuple[Callable[[Asked], Table], tuple[str, ...]]] = {
    "csv": (tables.read_csv, ()),
    "jsonl": (tables.read_jsonl, ()),
    "json": (tables.read_json, ()),
    "npz": (tables.read_npz, ()),
    "parquet": (_parquet, ()),
    "hf_dataset": (_hf_dataset, ("name", "split")),
    "image_folder": (folders.read_folder, ("split",)),
    "audio_folder": (folders.read_folder, ("split",)),
}
"""How a source is read, and its own options."""


def read(section: Section, setting: str, like: Data | None = None) -> Data:
    """The data of `data` or `val`; raises `Rejected` (T531). `like`: the data to train on, for data to validate on."""
    call = section.settings[setting]
    assert isinstance(call, ast.Call)
    return _read(Asked(section, setting, call, like))


def _read(asked: Asked) -> Data:
    if asked.kind != "hf_dataset":
        asked.positional(0)
    if asked.kind == "text":
        return read_text(asked)
    reader, options = TABLES[asked.kind]
    return table_data(asked, reader(asked), options)


def validation(section: Section, data: Data, seed: int) -> tuple[Data, Data | None]:
    """The rows to train on and those to validate on: `val = split(0.1)`, `split("validation")`, or a data source."""
    expr = section.settings.get("val")
    if not isinstance(expr, ast.Call):
        return data, None
    if isinstance(expr.func, ast.Name) and expr.func.id == "split":
        call = section.call("val")
        assert isinstance(call, Called)
        part = call.arguments(("part",), 1)["part"]
        found = _named(section, data, part, expr) if isinstance(part, str) else None
        return (data, found) if found is not None else _drawn(data, part, seed, expr)
    val = read(section, "val", data)
    lacking = next((name for name in data.fields if name not in val.fields), None)
    if lacking is not None:
        raise bad(f"`val` has no field `{lacking}`, which `data` has", expr.span)
    return data, val


def _named(section: Section, data: Data, name: str, expr: ast.Call) -> Data:
    """Another split of the same source."""
    call = section.settings["data"]
    assert isinstance(call, ast.Call)
    asked = Asked(section, "data", call, data, name)
    if asked.kind not in ("hf_dataset", "image_folder", "audio_folder"):
        help = f"val = split(0.1), or val = {asked.kind}(..)"
        raise failed("E125", f'{asked.kind} has no split "{name}": only data sets and folders have', expr.span, help)
    if asked.kind != "hf_dataset" and "split" not in asked.named():
        first = asked.path[0].rstrip("/")
        help = f'data = {asked.kind}("{first}", split = "train", ..)  trains on the folder {first}/train'
        raise failed("E125", f'`data` has no `split` beside which there could be "{name}"', expr.span, help)
    return _read(asked)


def _drawn(data: Data, part: object, seed: int, expr: ast.Call) -> tuple[Data, Data]:
    """A part of the rows, which the seed decides."""
    if not isinstance(part, float) or not 0 < part < 1:
        raise failed("E125", "split takes a part of the rows, between 0.0 and 1.0", expr.span)
    count = round(len(data) * part)
    if not 0 < count < len(data):
        raise bad(f"split({part}) of {len(data)} rows leaves none to train or none to validate on", expr.span)
    order = np.random.default_rng(seed).permutation(len(data))
    return data.chosen(np.sort(order[count:])), data.chosen(np.sort(order[:count]))

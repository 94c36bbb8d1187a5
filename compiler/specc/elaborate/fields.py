"""What the fields of a section's data are before it is read: shapes and dtypes as far as the source tells them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from specc.dims import Dim
from specc.elaborate import settings as known
from specc.elaborate.values import Fail, Poisoned
from specc.syntax import ast
from specc.types import DType

if TYPE_CHECKING:
    from specc.elaborate.losses import LossChecker

Shape = tuple[Dim, ...]


@dataclass(frozen=True)
class Field:
    """`shape` is None where the rank is not known, `dtype` where the use decides: whole numbers as classes and
    indices, Tensor elsewhere.
    """

    shape: Shape | None = None
    dtype: DType | None = None


def fields_of(place: LossChecker, data: ast.Expr | None) -> Mapping[str, Field]:
    """The fields of a data source, by its keyword arguments; the first axis of each is that of the batch."""
    if not isinstance(data, ast.Call) or not isinstance(data.func, ast.Name):
        return {}
    source = data.func.id
    given = {a.name.id: a.value for a in data.args if isinstance(a, ast.Arg) and a.name is not None}
    found = {n: _column(place, source, n, e) for n, e in given.items() if n not in known.NOT_FIELDS}
    if source == "text":
        found["input_ids"] = Field((place.batch, _size(place, given.get("length"), "input_ids", 1)), DType.I64)
    elif "tokenizer" in given and found.pop("text", None) is not None:
        found |= _tokenized(place, "input_ids")
    for name, expr in given.items():
        if isinstance(expr, ast.Call) and isinstance(expr.func, ast.Name) and expr.func.id == "tokens":
            found |= _tokenized(place, name)
    if source in ("image_folder", "audio_folder"):
        found.setdefault("label", Field((place.batch,), DType.I64))
    for name in known.GIVEN_FIELDS.get(source, ()):
        found.setdefault(name, Field())
    return found


def _tokenized(place: LossChecker, name: str) -> dict[str, Field]:
    """A field of ids, with its mask and which of a pair they belong to: `attention_mask` of `input_ids`,
    `decoder_attention_mask` of `decoder_input_ids`.
    """
    shape = (place.batch, place.fresh_size(name, 1))
    prefix = name.removesuffix("input_ids") if name.endswith("input_ids") else f"{name}_"
    beside = {f"{prefix}{end}": Field(shape) for end in known.TOKENIZED[1:]}
    return {name: Field(shape, DType.I64), **beside}


def _column(place: LossChecker, source: str, name: str, expr: ast.Expr) -> Field:
    """One field, from what the section says of it."""
    if isinstance(expr, ast.ListExpr):
        return Field((place.batch, Dim.const(len(expr.elements)))) if source == "csv" else Field()
    if isinstance(expr, ast.Call) and isinstance(expr.func, ast.Name):
        args = {a.name.id: a.value for a in expr.args if isinstance(a, ast.Arg) and a.name is not None}
        if expr.func.id == "classes":
            return Field((place.batch,), DType.I64)
        if expr.func.id == "pixels":
            channels = _size(place, args["channels"], name, 1) if "channels" in args else Dim.const(3)
            sides = (_size(place, args.get("size"), name, 2), _size(place, args.get("size"), name, 3))
            return Field((place.batch, channels, *sides), DType.COMPUTE)
        return Field()
    scalar = source == "csv" or (source == "audio_folder" and name == "label")
    return Field((place.batch,), DType.I64 if source == "audio_folder" else None) if scalar else Field()


def _size(place: LossChecker, expr: ast.Expr | None, name: str, axis: int) -> Dim:
    """The size that an argument says, else one that nothing is known of."""
    try:
        value = place.value(expr) if expr is not None else None
    except (Fail, Poisoned):  # reported with the settings
        value = None
    whole = isinstance(value, int) and not isinstance(value, bool)
    return Dim.const(value) if whole and value is not None else place.fresh_size(name, axis)

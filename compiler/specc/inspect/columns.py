"""What a table of blocks can say of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from specc.inspect.formulas import Formula
from specc.inspect.numbers import byte_text, formula, rounded
from specc.inspect.storages import Spent
from specc.inspect.tree import Block
from specc.types import DType, TensorType, show_axes

if TYPE_CHECKING:
    from specc.inspect.reports import Report

SORTS = ("params", "flops", "activation", "name")
"""What blocks side by side can be sorted by."""


@dataclass(frozen=True)
class Column:
    """`cell` of a block; `left`: text, which is aligned so; `formula`: a formula where no sizes are given."""

    heading: str
    cell: Callable[[Report, Block], str]
    about: str
    left: bool = False
    formula: bool = False


def default_columns(report: Report) -> tuple[str, ...]:
    """Numbers are narrower than formulas."""
    return (
        ("result", "params", "flops") if report.at is None else ("result", "params", "flops", "training", "activation")
    )


def title(block: Block) -> str:
    """`12 x GPT2Block`, `Attention.attend`; a loop of several blocks has no name of its own."""
    name = block.name if block.method in ("forward", "") else f"{block.name}.{block.method}"
    return _times(block) + (name or f"loop of {len(block.children)}")


def _times(block: Block) -> str:
    return f"{block.count} x " if block.count > 1 else ""


def result(report: Report, block: Block) -> str:
    """The types of what a block gives, with the sizes asked for."""
    return ", ".join(_type(report, name, type_, len(block.results)) for name, type_ in block.results)


def _type(report: Report, name: str | None, type_: TensorType, results: int) -> str:
    dtype = "" if type_.dtype is DType.COMPUTE else type_.dtype.spec_name
    sizes = show_axes(type_.shape) if report.at is None else [str(report.number(size)) for size in type_.shape]
    shown = f"{dtype}[{', '.join(sizes)}]"
    return f"{name}: {shown}" if name and results > 1 else shown


def parameters(report: Report, block: Block) -> str:
    """Of one of the equal blocks; where another row has them, that."""
    if block.use == "again":
        return "(again)"
    if block.use == "inside":
        return "(part)"
    mark = " (tied)" if block.tied else ""
    if not block.parameters:
        return mark.strip() or "0"
    times = f"{block.parts} x " if block.parts > 1 else ""
    return f"{times}{block.parameters:,}{mark}"


def _weights(report: Report, block: Block) -> str:
    if not block.parameters:
        return ""
    times = f"{block.parts} x " if block.parts > 1 else ""
    return times + byte_text(block.parameters * report.width)


def _training(spent: Spent) -> Formula:
    return spent.training


def _saved(spent: Spent) -> Formula:
    return spent.saved


def _of(take: Callable[[Spent], Formula], text: Callable[[int], str]) -> Callable[[Report, Block], str]:
    """A formula, or its number at the sizes asked for."""

    def cell(report: Report, block: Block) -> str:
        if block.spent is None:
            return ""
        number = report.number(take(block.spent))
        least = "up to " if block.uneven and take in (_training, _saved) else ""
        return least + _times(block) + (formula(take(block.spent)) if number is None else text(number))

    return cell


def _peak(report: Report, block: Block) -> str:
    if block.spent is None:
        return ""
    number = report.largest(block.spent.peak)
    return ", ".join(map(formula, block.spent.peak)) if number is None else byte_text(number)


def _intensity(report: Report, block: Block) -> str:
    if block.spent is None:
        return ""
    number = report.intensity(block.spent)
    if number is None:
        return f"({formula(block.spent.flops)})/({formula(block.spent.moved)})" if report.at is None else ""
    return f"{number:,.1f}"


def _formula(report: Report, block: Block) -> str:
    return _times(block) + formula(block.spent.flops) if block.spent is not None else ""


COLUMNS = {
    "result": Column("result", result, "shapes of the results", left=True),
    "params": Column("parameters", parameters, "trainable elements"),
    "weights": Column("weights", _weights, "bytes of the parameters in the dtype"),
    "flops": Column("FLOPs", _of(lambda s: s.flops, rounded), "of the forward pass", formula=True),
    "products": Column("products", _of(lambda s: s.products, rounded), "FLOPs of matrix products", formula=True),
    "training": Column("training", _of(_training, rounded), "FLOPs with gradients", formula=True),
    "activation": Column("activation", _of(_saved, byte_text), "bytes kept for gradients", formula=True),
    "live": Column("live", _peak, "bytes alive at most in inference", formula=True),
    "moved": Column("moved", _of(lambda s: s.moved, byte_text), "bytes read and written", formula=True),
    "intensity": Column("FLOPs/byte", _intensity, "FLOPs for each byte moved", formula=True),
    "formula": Column("formula", _formula, "FLOPs as a formula", left=True),
}
"""By the names that `--columns` takes."""

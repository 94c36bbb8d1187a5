"""Calls of operators as the language writes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from specc.dims import Dim
from specc.op import Op, Pattern
from specc.types import DType

from .values import Number, Value

if TYPE_CHECKING:
    from .body import Body


def operand_text(operand: Value | Number | None) -> str:
    if isinstance(operand, Value):
        return operand.atom
    text = number_text(operand)
    return text if re.fullmatch(r"\w[\w.]*", text) else f"({text})"


def call_text(body: Body, op: Op, operands: Sequence[Value | Number | None], attributes: dict[str, Any]) -> str:
    """`f(x, w, k = 2)`: operands by position as long as nothing is left out, attributes by name."""
    words: list[str] = []
    rest = list(operands)
    by_name = False
    for param in op.params:
        if param.kind == "list":
            texts = [o.text for o in rest if isinstance(o, Value)]
            words.extend(texts if op.name in ("cached", "once") else [f"[{', '.join(texts)}]"])
            by_name = True
        elif param.is_operand:
            operand = rest.pop(0)
            if operand is None:
                by_name = True
            else:
                text = operand.text if isinstance(operand, Value) else operand_text(operand)
                words.append(f"{param.name} = {text}" if by_name else text)
        elif param.name in attributes:
            value = attributes[param.name]
            text = attribute_text(body, value)
            axis = _over(body, op, param.kind, value, operands)
            words.append(
                f"over = {axis}" if axis else f"{param.name} = {text}" if not isinstance(value, Pattern) else text
            )
            by_name = True
        else:
            by_name = True
    first = next((o for o in operands if isinstance(o, Value)), None)
    if first is not None and words and words[0] == first.text and body.chance(4):
        return f"{first.atom} |> {op.name}" + (f"({', '.join(words[1:])})" if len(words) > 1 else "")
    return f"{op.name}({', '.join(words)})"


def _over(body: Body, op: Op, kind: str, value: Any, operands: Sequence[Any]) -> str:
    """`over = T` for an axis that is a declared dim and stands once in the tensor."""
    if not kind.startswith(("Axis", "Axes")) or value is None or op.name in ("stack", "unsqueeze", "transpose"):
        return ""
    assert isinstance(operands[0], Value)
    axes = value if isinstance(value, tuple) else (value,)
    shape = operands[0].shape
    dims = [shape[a] for a in axes]
    if not all(d.is_symbol() and list(shape).count(d) == 1 for d in dims) or body.chance(2):
        return ""
    texts = [str(d) for d in dims]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def attribute_text(body: Body, value: Any) -> str:
    """An attribute as the language writes it."""
    if isinstance(value, Pattern):
        sides = (", ".join(_axis(axis) for axis in side) for side in (value.left, value.right))
        return "[{}] -> [{}]".format(*sides)
    if isinstance(value, tuple):
        return f"[{', '.join(body.size(v) if isinstance(v, Dim) else attribute_text(body, v) for v in value)}]"
    if isinstance(value, DType):
        return value.value
    if isinstance(value, str):
        return f'"{value}"'
    return body.size(value) if isinstance(value, Dim) else number_text(value)


def _axis(factors: Sequence[Dim]) -> str:
    texts = [str(f) if f.value is not None or f.is_symbol() else f"({f})" for f in factors]
    return "*".join(texts)


def number_text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = repr(value)
        return text if "e" in text or "." in text else f"{text}.0"
    return str(value)

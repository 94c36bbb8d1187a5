"""Which `weights` section reads a checkpoint, and what the model asks of it."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from specc.diagnostics import Collector, Diagnostic
from specc.ir.graph import Module, Parameter, Path, Submodule, dotted
from specc.ir.members import walk_members
from specc.syntax import ast
from specc.types import DType, TensorType, show_axes
from specc.weights.layout import TensorInfo

STORED = {
    DType.F64: "F64",
    DType.F32: "F32",
    DType.F16: "F16",
    DType.BF16: "BF16",
    DType.I64: "I64",
    DType.I32: "I32",
    DType.I16: "I16",
    DType.I8: "I8",
    DType.U8: "U8",
    DType.BOOL: "BOOL",
}
"""Element type -> how safetensors files spell it."""


def model_tensors(module: Module, compute: DType = DType.F32) -> dict[str, TensorInfo]:
    """Every name of the state_dict, ties included, in its order, with its static shape. `compute`: what `Tensor` is."""
    parts: dict[Path, Submodule] = {}
    found: dict[str, TensorInfo] = {}
    known: dict[tuple[int, int], TensorInfo] = {}
    for path, member, _ in walk_members(module):
        if isinstance(member, Submodule):
            parts[path] = member
        elif isinstance(member, Parameter):
            enclosing = next((parts[path[:n]] for n in range(len(path) - 1, 0, -1) if path[:n] in parts), None)
            key = id(member), id(enclosing)  # equal parts, as layers are, are one
            if key not in known:
                shape = tuple(dim.value or 0 for dim in member.type.shape)
                dtype = STORED[compute if member.type.dtype is DType.COMPUTE else member.type.dtype]
                known[key] = TensorInfo(shape, dtype, _formula(member.type, enclosing))
            found[dotted(path)] = known[key]
    return found


def _formula(type_: TensorType, part: Submodule | None) -> str:
    """The shape in the words of the block that makes the part: `[3*dim, dim]`, not `[out_features, in_features]`."""
    labels = {name: label for name, _, label in part.args if label is not None} if part is not None else {}
    return f"[{', '.join(labels.get(axis, axis) for axis in show_axes(type_.shape))}]"


def sections(file: ast.File, model: str) -> list[ast.Weights]:
    """The sections of a model."""
    return [item for item in file.items if isinstance(item, ast.Weights) and item.model.id == model]


def choose(
    found: Sequence[ast.Weights],
    collector: Collector,
    *,
    model_type: str | None = None,
    format: str | None = None,
    path: str = "",
) -> ast.Weights | None:
    """The section for a checkpoint whose config.json has this `model_type`, or that `--weights-format` names.

    None if nothing tells (the file is taken to have the model's own names), or after W350. `path` is how messages call
    the checkpoint.
    """
    if format is not None:
        wanted = format
        chosen = [s for s in found if any(_same(source.value, format) for source in s.sources)]
    elif model_type is not None:
        wanted = f"hf:{model_type}"
        chosen = [s for s in found if any(source.value == wanted for source in s.sources)]
    else:
        return None
    if chosen:
        return chosen[0]
    known = ", ".join(f'"{source.value}"' for s in found for source in s.sources)
    why = f"config.json of {path} says model_type = {model_type}" if format is None and path else ""
    collector.add(
        Diagnostic(
            "W350",
            f'no weights section for "{wanted}"',
            notes=tuple(
                (key, text) for key, text in (("why", why), ("available", known or "no weights sections")) if text
            ),
            help="specc build --weights-format NAME  chooses one of them" if known and format is None else "",
        )
    )
    return None


def _same(source: str, format: str) -> bool:
    """`hf:gpt2`, or what stands after the colon; a source may end in `*`."""
    return fnmatchcase(format, source) or fnmatchcase(format, source.partition(":")[2])

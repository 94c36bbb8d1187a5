"""The quantised graphs of a build and their weights: `model.int8.onnx` beside `model.int8.safetensors`.

The two are all that running them takes; the fp32 graph and its weights stay as the reference. Weights are packed a
block of rows at a time on their way from the one file to the other. Matrices that a graph reads as one lie one below
the other there, each under its own name.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Rejected
from specc.quantisation import BLOCKS, SCALE, ZERO, Scheme, joined, members, part, whole
from specc.weights.layout import TensorInfo
from specc_runtime.checkpoint import Checkpoint
from specc_runtime.tensor_file import TensorEntry
from specc_runtime.weights_writer import NewTensor, Place, copy_range, layout, new_file, write_at

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto

    Array = np.ndarray[Any, np.dtype[Any]]

BLOCK = 1 << 20  # elements that are packed at a time

_SYNTAX = "int8[:embed,head]  or  int4[:block=32|64|128,sym|asym,embed,head]"


def parse(text: str) -> Scheme:
    """What `--quant` asks for; raises `Rejected` (B670)."""
    kind, _, rest = text.partition(":")
    if kind not in ("int8", "int4"):
        raise _unknown(f"--quant {text}: there is no `{kind}`")
    given: dict[str, Any] = {}
    for option in rest.split(",") if rest else ():
        name, _, value = option.strip().partition("=")
        if name in ("embed", "head") and not value:
            found: dict[str, Any] = {name: True}
        elif kind == "int4" and name in ("sym", "asym") and not value:
            found = {"symmetric": name == "sym"}
        elif kind == "int4" and name == "block" and value.isdecimal() and int(value) in BLOCKS:
            found = {"block": int(value)}
        elif kind == "int4" and name == "block":
            known = ", ".join(map(str, BLOCKS))
            raise _unknown(f"--quant {text}: a block has {known} elements, not `{value}`")
        else:
            raise _unknown(f"--quant {text}: {kind} has no option `{option.strip()}`")
        if found.keys() & given.keys():
            raise _unknown(f"--quant {text}: `{option.strip()}` says again what an option before it says")
        given |= found
    return Scheme(8 if kind == "int8" else 4, **given)


def _unknown(message: str) -> Rejected:
    return Rejected([Diagnostic("B670", message, help=f"--quant {_SYNTAX}")])


def refuse(scheme: Scheme, *, weights: bool, onnx: bool) -> None:
    """Raises `Rejected` (B670) for a build that has nothing to quantise, whatever its model."""
    if not weights:
        message, help = "there are no weights to quantise", "leave --no-weights out, or --quant"
    elif not onnx:
        message, help = "weights in few bits are of ONNX graphs", "--emit torch,onnx"
    else:
        return
    raise Rejected([Diagnostic("B670", f"--quant {scheme.text}: {message}", help=help)])


def weights_file(scheme: Scheme) -> str:
    return f"model.{scheme.kind}.safetensors"


def graph_file(file: str, scheme: Scheme) -> str:
    """The quantised graph's file for that of an fp32 graph: `model.onnx` -> `model.int8.onnx`."""
    return f"{file.removesuffix('.onnx')}.{scheme.kind}.onnx"


@dataclass(frozen=True)
class Quantised:
    """What was written. `products`, `tables`: the tensors in few bits that are multiplied with, and looked up; `steps`:
    the largest rounding error of a weight, in steps of its scale; `before`, `after`: bytes of these tensors in fp32 and
    as they are stored."""

    scheme: Scheme
    products: tuple[str, ...]
    tables: tuple[str, ...]
    steps: float
    before: int
    after: int

    def to_json(self) -> dict[str, Any]:
        """For manifest.json."""
        return {
            "scheme": self.scheme.text,
            "weights": weights_file(self.scheme),
            "products": list(self.products),
            "tables": list(self.tables),
            "steps": float(f"{self.steps:.3g}"),
            "bytes": {"before": self.before, "after": self.after},
        }


def write(folder: Path, weights: Path, graphs: Mapping[str, ModelProto], scheme: Scheme, model: str) -> Quantised:
    """Write the graphs, by file name, and the one file of weights that they read; `weights` is the fp32 file, `model`
    what the model is called.

    Raises `Rejected` (B670) where no graph reads a packed weight, `OSError` where a file cannot be written.
    """
    wanted = {t.name: _info(t) for proto in graphs.values() for t in external(proto)}
    packed, apart = one_below_the_other([members(whole(name)[0]) for name in wanted if whole(name)[1]])
    if not packed:
        message = f"--quant {scheme.text}: {model} has no linear layer whose weight could be stored in few bits"
        kept = [name for name in _optional(graphs.values()) if not getattr(scheme, name)]
        help = f"layers that give results and tables are packed where asked:  --quant {scheme.kind}:{','.join(kept)}"
        raise Rejected([Diagnostic("B670", message, help=help if kept else "leave --quant out")])
    file = folder / weights_file(scheme)
    with Checkpoint.open(weights) as source:
        entries = source.tensors
        heights = {name: entries[name].shape[0] for name in packed}
        header, places = layout(_tensors(wanted, packed, heights, scheme))
        steps = _fill(file, header, places, source, packed, scheme)
    for name, proto in graphs.items():
        take_apart(proto, apart, heights)
        _place(proto, file.name, places)
        (folder / name).write_bytes(proto.SerializeToString(deterministic=True))
    before = sum(entries[name].nbytes for name in packed)
    after = sum(place.nbytes for name, place in places.items() if whole(name)[1])
    products, tables = ({name for proto in graphs.values() for name in uses(proto)[i]} for i in (0, 1))
    return Quantised(scheme, tuple(sorted(products)), tuple(sorted(tables)), steps, before, after)


def _optional(graphs: Iterable[ModelProto]) -> list[str]:
    """The options that would find a weight in these graphs: products with one, tables that are looked up."""
    found = set()
    for proto in graphs:
        stored = {tensor.name for tensor in external(proto)}
        stored |= {n.output[0] for n in proto.graph.node if n.op_type == "Transpose" and n.input[0] in stored}
        found |= {node.op_type for node in proto.graph.node if stored.intersection(node.input)}
    return [name for name, kinds in (("head", {"MatMul", "Gemm"}), ("embed", {"Gather"})) if found & kinds]


def one_below_the_other(groups: Iterable[Sequence[str]]) -> tuple[list[str], set[str]]:
    """The order in which matrices lie in the file so that those of each group are neighbours, and the `joined` names of
    groups for which there is no room: a matrix has two neighbours at most."""
    place: dict[str, int] = {}
    apart: set[str] = set()
    for group in sorted(dict.fromkeys(map(tuple, groups)), key=len, reverse=True):
        known = [name for name in group if name in place]
        first = place.get(group[0], 0)
        if known and [place.get(name) for name in group] != [*range(first, first + len(group))]:
            apart.add(joined(group))
        for name in group:
            place.setdefault(name, len(place))
    return [*place], apart


def _tensors(
    wanted: Mapping[str, TensorInfo], packed: Sequence[str], heights: Mapping[str, int], scheme: Scheme
) -> list[NewTensor]:
    """The tensors of the file, in order: the parts of packed ones first."""
    infos: dict[str, TensorInfo] = {}
    plain: list[NewTensor] = []
    for name, info in wanted.items():
        tensor, what = whole(name)
        if not what:
            plain.append(NewTensor(name, info))
            continue
        for one in members(tensor):
            infos[part(one, what)] = TensorInfo((heights[one], *info.shape[1:]), info.dtype)
    return [NewTensor(part(n, what), infos[part(n, what)]) for what in _parts(scheme) for n in packed] + plain


def _fill(
    file: Path, header: bytes, places: Mapping[str, Place], source: Checkpoint, packed: Sequence[str], scheme: Scheme
) -> float:
    """Write the file; the largest rounding error, in steps."""
    out = new_file(file)
    steps = 0.0
    try:
        write_at(out, header, 0)
        for name, place in places.items():
            if not whole(name)[1]:
                entry = source.tensors[name]
                copy_range(source.descriptor(entry.file), entry.offset, out, place.offset, entry.nbytes, entry.file)
        for name in packed:
            parts = {what: places[part(name, what)] for what in _parts(scheme)}
            for off in _pack(source.array(name), scheme, out, parts):
                steps = max(steps, off)
                source.release(name)  # what was read of it: pages count as memory until then
    finally:
        os.close(out)
    return steps


def _parts(scheme: Scheme) -> tuple[str, ...]:
    return (scheme.kind, SCALE) if scheme.bits == 8 or scheme.symmetric else (scheme.kind, SCALE, ZERO)


def _pack(matrix: Array, scheme: Scheme, out: int, places: Mapping[str, Place]) -> Iterator[float]:
    """Write the parts of one tensor a block of rows at a time; the largest rounding error of each block, in steps."""
    import numpy as np

    from specc_runtime import packing

    at = {what: place.offset for what, place in places.items()}
    for rows in blocks_of_rows(matrix):
        made = packing.pack(np.ascontiguousarray(rows, dtype=np.float32), scheme)
        for what, array in ((scheme.kind, made.data), (SCALE, made.scale), (ZERO, made.zero)):
            if array is not None:
                at[what] += write_at(out, np.ascontiguousarray(array).reshape(-1).data.cast("B"), at[what])
        yield packing.steps_off(rows, made)


def blocks_of_rows(matrix: Array) -> Iterator[Array]:
    count = max(1, BLOCK // max(matrix.shape[1], 1))
    for first in range(0, len(matrix), count):
        yield matrix[first : first + count]


# ---- the graphs ------------------------------------------------------------------------------------------------------


def external(proto: ModelProto) -> Iterator[Any]:
    """The initializers whose bytes are in another file."""
    from onnx import TensorProto

    yield from (t for t in proto.graph.initializer if t.data_location == TensorProto.EXTERNAL)


def uses(proto: ModelProto) -> tuple[set[str], set[str]]:
    """The packed tensors that a graph multiplies with, and those that it looks rows up in."""
    found: tuple[set[str], set[str]] = set(), set()
    reshaped = {n.output[0]: n.input[0] for n in proto.graph.node if n.op_type == "Reshape"}
    for node in proto.graph.node:
        for name in (reshaped.get(name, name) for name in node.input):
            if whole(name)[1] in ("int8", "int4") and node.op_type != "Reshape":
                found["Gather" in node.op_type].update(members(whole(name)[0]))
    return found


def take_apart(proto: ModelProto, names: Collection[str], heights: Mapping[str, int]) -> None:
    """Make the joined matrices named of their members, which do not lie one below the other: a `Concat`, folded when a
    session is loaded."""
    from onnx import helper

    found = [t for t in external(proto) if whole(t.name)[0] in names]
    known = {t.name for t in external(proto)}
    for tensor in found:
        name, what = whole(tensor.name)
        parts = {part(one, what): heights[one] for one in members(name)}
        node = helper.make_node("Concat", [*parts], [tensor.name], name=tensor.name, axis=0)
        proto.graph.node.insert(0, node)
        for one, rows in parts.items():
            if one not in known:
                known.add(one)
                new = proto.graph.initializer.add()
                new.CopyFrom(tensor)
                new.name, new.dims[0] = one, rows
        proto.graph.initializer.remove(tensor)


def _info(tensor: Any) -> TensorInfo:
    from onnx import TensorProto

    names = {
        TensorProto.FLOAT: "F32",
        TensorProto.INT8: "I8",
        TensorProto.UINT8: "U8",
        TensorProto.INT64: "I64",
        TensorProto.INT32: "I32",
        TensorProto.BOOL: "BOOL",
        TensorProto.DOUBLE: "F64",
    }
    return TensorInfo(tuple(tensor.dims), names[tensor.data_type])


def _place(proto: ModelProto, location: str, places: Mapping[str, Place]) -> None:
    """Say where the bytes of each initializer are."""
    for tensor in external(proto):
        del tensor.external_data[:]
        name, what = whole(tensor.name)
        parts = [places[part(one, what) if what else one] for one in members(name)]
        assert all(a.offset + a.nbytes == b.offset for a, b in pairwise(parts)), f"{tensor.name} is in pieces"
        found = {
            "location": location,
            "offset": str(parts[0].offset),
            "length": str(sum(place.nbytes for place in parts)),
        }
        for key, value in found.items():
            tensor.external_data.add(key=key, value=value)


# ---- reading them back -----------------------------------------------------------------------------------------------


class PackedFile:
    """A file of packed weights, mapped into memory. Use it in a `with` statement, or `close` it."""

    def __init__(self, path: Path) -> None:
        self._file = Checkpoint.open(path)
        self.entries: Mapping[str, TensorEntry] = self._file.tensors

    def names(self) -> list[str]:
        """The tensors that are packed."""
        return sorted({tensor for tensor, what in map(whole, self.entries) if what})

    def unpacked(self, name: str, width: int) -> Array:
        """A tensor [rows, width] as the bits say it."""
        import numpy as np

        from specc_runtime import packing

        kinds = [what for what in ("int8", "int4", SCALE, ZERO) if part(name, what) in self.entries]
        parts = {what: self._array(part(name, what)) for what in kinds}
        data = parts.get("int8", parts.get("int4"))
        assert data is not None
        result = np.empty((len(data), width), np.float32)
        count = max(1, BLOCK // max(width, 1))
        for first in range(0, len(data), count):
            rows = slice(first, first + count)
            zero = parts[ZERO][rows] if ZERO in parts else None
            result[rows] = packing.unpack(packing.Packed(data[rows], parts[SCALE][rows], zero), width)
        return result

    def _array(self, name: str) -> Array:
        return self._file.array(name)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> PackedFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

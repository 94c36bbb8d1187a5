"""What inputs an entry takes, and how to draw them: seeded, within the ranges that the entry's indexing admits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from zlib import crc32

from specc.backends.torch.labels import python_name
from specc.diagnostics import Diagnostic, Rejected
from specc.dims import Dim, Fact, Facts
from specc.elaborate.positions import POSITION_IDS
from specc.ir.graph import Graph, Model
from specc.passes.plain import entry_facts, entry_sizes
from specc.types import DType, TensorType
from specc_runtime.demands import demands

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

Masks = Literal["random", "all true"]
Sizes = Mapping[str, int]

FREE_RANGE = 4
"""Integer inputs that index nothing are drawn from 0 .. 3."""

NUMPY: Mapping[str, str] = {
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "i64": "int64",
    "i32": "int32",
    "i16": "int16",
    "i8": "int8",
    "u8": "uint8",
    "bool": "bool",
}
"""Element type of an interface -> numpy's name for it."""


@dataclass(frozen=True)
class Input:
    """One tensor that an entry takes.

    `argument` is its name in Python; `low` <= values < `high`, each for all listed.
    """

    name: str
    argument: str
    dtype: str
    shape: tuple[Dim, ...]
    low: tuple[Dim, ...] = ()
    high: tuple[Dim, ...] = ()


@dataclass(frozen=True)
class Output:
    """One tensor that an entry returns."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]


@dataclass(frozen=True)
class Interface:
    """An entry for one choice of optional inputs; see `demands.Demands` for the last three."""

    method: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    facts: Facts
    depth: int
    visible_every: int | None
    memory: tuple[Dim, ...]

    @property
    def dims(self) -> tuple[str, ...]:
        """The sizes that a call chooses, in the order of the signature."""
        return tuple(dict.fromkeys(s for i in self.inputs for dim in i.shape for s in dim.symbols))

    @property
    def has_masks(self) -> bool:
        return any(i.dtype == "bool" for i in self.inputs)

    def to_json(self) -> dict[str, Any]:
        """For manifest.json; sizes as `Dim.to_json`."""
        return {
            "method": self.method,
            "inputs": [
                {
                    "name": i.name,
                    "argument": i.argument,
                    "dtype": i.dtype,
                    "shape": _written(i.shape),
                    "low": _written(i.low),
                    "high": _written(i.high),
                }
                for i in self.inputs
            ],
            "outputs": [{"name": o.name, "dtype": o.dtype, "shape": _written(o.shape)} for o in self.outputs],
            "facts": [{"kind": f.kind, "dim": f.dim.to_json(), "n": f.n} for f in self.facts.statements()],
            "depth": self.depth,
            "visible_every": self.visible_every,
            "memory": _written(self.memory),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Interface:
        """Reads what `to_json` wrote. Raises KeyError, TypeError or DimError for anything else."""
        return cls(
            method=data["method"],
            inputs=tuple(
                Input(i["name"], i["argument"], i["dtype"], _read(i["shape"]), _read(i["low"]), _read(i["high"]))
                for i in data["inputs"]
            ),
            outputs=tuple(Output(o["name"], o["dtype"], _read(o["shape"])) for o in data["outputs"]),
            facts=Facts(tuple(Fact(f["kind"], Dim.from_json(f["dim"]), f["n"]) for f in data["facts"])),
            depth=data["depth"],
            visible_every=data["visible_every"],
            memory=_read(data["memory"]),
        )


def _written(dims: Sequence[Dim]) -> list[Any]:
    return [dim.to_json() for dim in dims]


def _read(dims: Sequence[Any]) -> tuple[Dim, ...]:
    return tuple(Dim.from_json(dim) for dim in dims)


def describe(
    model: Model, entry: str = "forward", without: frozenset[str] = frozenset(), compute: DType = DType.F32
) -> dict[str, Any]:
    """The interface of an entry as JSON: all that a later check needs to know of the spec."""
    return interface(model, entry, without, compute).to_json()


def interface(
    model: Model, entry: str = "forward", without: frozenset[str] = frozenset(), compute: DType = DType.F32
) -> Interface:
    """The interface of an entry without the optional inputs named. `compute`: what `Tensor` is."""
    graph = chosen_graph(model, entry, without)
    sizes = entry_sizes(graph)
    asked = demands(graph)
    inputs = []
    for argument in graph.inputs:
        if argument.value is None:
            continue
        bounds = asked.ranges.get(argument.name, [])
        low, high = (tuple(dict.fromkeys(side)) for side in zip(*bounds, strict=True)) if bounds else ((), ())
        type_ = sizes.type(argument.type)
        dtype = dtype_name(type_, compute)
        inputs.append(Input(argument.name, python_name(argument.name), dtype, type_.shape, low, high))
    outputs = []
    for name, (_, value) in zip(graph.output_names, graph.results, strict=True):
        type_ = sizes.type(value.type)
        outputs.append(Output(name, dtype_name(type_, compute), type_.shape))
    facts = entry_facts(model, graph)
    return Interface(
        method=entry,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        facts=facts,
        depth=asked.depth,
        visible_every=asked.visible_every,
        memory=tuple(asked.memory),
    )


def chosen_graph(model: Model, entry: str, without: frozenset[str]) -> Graph:
    """The graph of an entry with every optional input but those in `without`."""
    found = model.entries[entry]
    return found.graphs[found.full.present - without]


def dtype_name(type_: TensorType, compute: DType = DType.F32) -> str:
    """`f32`, `i64`, `bool`: the compute dtype by what it is in a build."""
    return (compute if type_.dtype is DType.COMPUTE else type_.dtype).value


# ---- drawing ---------------------------------------------------------------------------------------------------------


def draw(of: Interface, sizes: Sizes, *, seed: int = 0, masks: Masks = "random") -> dict[str, Array]:
    """One set of inputs by name. The same interface, sizes and seed give the same numbers.

    With masks of all true, `position_ids` count from 0 as they do of whole texts; otherwise they are any.
    """
    import numpy as np

    feeds: dict[str, Array] = {}
    for item in of.inputs:
        rng = np.random.default_rng([seed, crc32(item.name.encode()), *sizes.values()])
        feeds[item.name] = _draw_one(item, of, sizes, masks, rng)
    return feeds


def positions_of(mask: Array) -> Array:
    """The position of every column [B, S] among what is text: what `positions(T, mask = m)` gives."""
    found: Array = (mask.cumsum(1) - 1).clip(min=0)
    return found


def _draw_one(item: Input, of: Interface, sizes: Sizes, masks: Masks, rng: np.random.Generator) -> Array:
    import numpy as np

    shape = tuple(dim.evaluate(sizes) for dim in item.shape)
    if item.dtype == "bool":
        return _draw_mask(shape, masks, of.visible_every, rng)
    if item.dtype not in NUMPY:
        message = f"verifying an input of type {item.dtype} is not supported yet (`{item.name}`)"
        raise Rejected([Diagnostic("B650", message, help="specc build --no-verify")])
    if item.dtype.startswith("f"):
        return rng.standard_normal(shape).astype(NUMPY[item.dtype])
    low = max((dim.evaluate(sizes) for dim in item.low), default=0)
    placed = item.name == POSITION_IDS and bool(shape)
    high = min((dim.evaluate(sizes) for dim in item.high), default=shape[-1] if placed else FREE_RANGE)
    if placed and masks == "all true":  # those of whole texts, up to the last
        row = np.arange(shape[-1]).clip(low, max(high - 1, low))
        return np.array(np.broadcast_to(row, shape), NUMPY[item.dtype])
    return rng.integers(low, max(high, low + 1), shape).astype(NUMPY[item.dtype])


def _draw_mask(shape: tuple[int, ...], masks: Masks, every: int | None, rng: np.random.Generator) -> Array:
    """Random, but true in the first column (and in as many more as a sliding window needs): an attention row that sees
    no key has no specified result (LANGUAGE 11)."""
    import numpy as np

    if masks == "all true":
        return np.ones(shape, dtype=np.bool_)
    mask = np.asarray(rng.random(shape) < 0.6)
    if shape:
        mask[..., :: every or shape[-1] or 1] = True
    return mask

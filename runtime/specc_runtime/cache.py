"""What a cached entry keeps between its calls: the description that a manifest holds and that decoding goes by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from specc.diagnostics import Diagnostic, Rejected
from specc.dims import Dim
from specc.ir.graph import Model
from specc.passes.buffered import context, derive_buffered, text_input
from specc.passes.fused import fuse
from specc.passes.incremental import Incremental, derive, static, step_facts
from specc.passes.last import last_only
from specc.passes.plain import is_past
from specc.passes.steps import State
from specc.types import DType, TensorType
from specc_runtime.genai import with_lengths
from specc_runtime.inputs import Input, Interface, Output, dtype_name, interface

PAST_LENGTH = "past_length"
"""The input of a static cache that says how many of its rows are valid."""


@dataclass(frozen=True)
class Request:
    """What `--cache` asked for: a growing cache, or (`length`) one of fixed length; or (`genai`) what `--target genai`
    needs, buffers that attention itself writes into.

    `innermost`: of the entry that contains the calls rather than of one that calls it. `logits`: "last" for results of
    the last new position alone, "all" for those of every one; None chooses by what the positions are (`incremental`).
    """

    length: int | None = None
    innermost: bool = True
    logits: Literal["all", "last"] | None = None
    genai: bool = False
    fuse_once: str | None = None  # the entry that the values computed once are appended to

    @property
    def text(self) -> str:
        if self.genai:
            return "genai"
        return "concat" if self.length is None else f"static={self.length}"


def parse(text: str) -> Request | None:
    """`concat` or `static=N`; None for anything else."""
    if text == "concat":
        return Request()
    kind, _, number = text.partition("=")
    return Request(int(number)) if kind == "static" and number.isdecimal() and 0 < int(number) < 2**31 else None


@dataclass(frozen=True)
class Kept:
    """One tensor that is kept: how it comes in and goes out, and the axis that is of positions."""

    input: str
    output: str
    dtype: str
    before: tuple[Dim, ...]
    after: tuple[Dim, ...]
    axis: int


@dataclass(frozen=True)
class Once:
    """A graph that runs once a sequence: the inputs of the entry that it computes from, and what it gives for every
    step to take in.

    `of`: the entry whose graph it is part of (`--fuse-once`), which gives these inputs; None where it is a graph of its
    own, which takes them.
    """

    file: str
    inputs: tuple[str, ...]
    states: tuple[tuple[Kept, ...], ...]
    of: Interface | None = None

    @property
    def fed(self) -> tuple[str, ...]:
        """What its graph takes."""
        return self.inputs if self.of is None else tuple(i.name for i in self.of.inputs)

    @property
    def flat(self) -> tuple[Kept, ...]:
        return tuple(kept for group in self.states for kept in group)


@dataclass(frozen=True)
class Cache:
    """`of`: the entry that this one continues. `step` and `past` are the names of the sizes of a step: its own
    positions and those before it. `wide`: inputs that are of all positions so far -> the axis. `states`: a group for
    each `cached` call in the order of execution. `context`: the most positions there can be, None if nothing limits
    them. `last`: outputs that are of the last new position alone. `mask`: of a cache in buffers, the input that says
    how long each row's text is."""

    of: str
    length: int | None
    step: str
    past: str
    wide: Mapping[str, int]
    states: tuple[tuple[Kept, ...], ...]
    context: int | None
    once: Once | None = None
    last: tuple[str, ...] = ()
    mask: str | None = None

    @property
    def flat(self) -> tuple[Kept, ...]:
        return tuple(kept for group in self.states for kept in group)

    @property
    def room(self) -> int | None:
        """How many positions fit: the context, or the length of a static cache if that is less."""
        return min((n for n in (self.context, self.length) if n is not None), default=None)

    def to_json(self) -> dict[str, Any]:
        """For manifest.json."""
        return {
            "of": self.of,
            "kind": "genai" if self.mask is not None else "concat" if self.length is None else "static",
            "length": self.length,
            "step": self.step,
            "past": self.past,
            "wide": dict(self.wide),
            "context": self.context,
            "last": list(self.last),
            "mask": self.mask,
            "states": _written(self.states),
            "once": None
            if self.once is None
            else {
                "onnx": self.once.file,
                "inputs": list(self.once.inputs),
                "states": _written(self.once.states),
                **({"of": self.once.of.to_json()} if self.once.of is not None else {}),
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cache:
        """Reads what `to_json` wrote."""
        return cls(
            data["of"],
            data["length"],
            data["step"],
            data["past"],
            data["wide"],
            _read(data["states"]),
            data["context"],
            data["once"] and _read_once(data["once"]),
            tuple(data["last"]),
            data["mask"],
        )


def _read_once(data: Mapping[str, Any]) -> Once:
    of = Interface.from_json(data["of"]) if "of" in data else None
    return Once(data["onnx"], tuple(data["inputs"]), _read(data["states"]), of)


def _written(states: tuple[tuple[Kept, ...], ...]) -> list[list[dict[str, Any]]]:
    return [
        [
            {
                "input": kept.input,
                "output": kept.output,
                "dtype": kept.dtype,
                "before": [dim.to_json() for dim in kept.before],
                "after": [dim.to_json() for dim in kept.after],
                "axis": kept.axis,
            }
            for kept in group
        ]
        for group in states
    ]


def _read(states: list[list[dict[str, Any]]]) -> tuple[tuple[Kept, ...], ...]:
    return tuple(
        tuple(
            Kept(
                k["input"],
                k["output"],
                k["dtype"],
                tuple(map(Dim.from_json, k["before"])),
                tuple(map(Dim.from_json, k["after"])),
                k["axis"],
            )
            for k in group
        )
        for group in states
    )


@dataclass(frozen=True)
class CachedEntry:
    """A cached entry of a build: its graph, the interfaces of the entry that it continues and of its own."""

    file: str
    plain: Interface
    of: Interface
    cache: Cache

    @property
    def name(self) -> str:
        return self.of.method

    @property
    def files(self) -> tuple[str, ...]:
        """Its graphs."""
        return (self.file, *([self.cache.once.file] if self.cache.once is not None else []))


def cached_entry(
    model: Model, found: Incremental, file: str, without: frozenset[str], compute: DType = DType.F32
) -> CachedEntry:
    plain = interface(model, found.entry, without, compute)
    return CachedEntry(file, plain, cached_interface(model, found, without, compute), describe(model, found, compute))


def every_choice(model: Model, entry: str, asked: Request) -> list[Incremental]:
    """The incremental entry for every choice of optional inputs: the emitted method takes them all."""
    full = model.entries[entry].full.present
    growing = Request(logits=asked.logits)
    return [incremental(model, entry, full - present, growing) for present in model.entries[entry].graphs]


def incremental(model: Model, entry: str, without: frozenset[str], asked: Request) -> Incremental:
    """The incremental entry as asked for; raises `Rejected` (B620, D401 to D408).

    Where its new positions are integers, tokens that a text is continued by, its results are of the last one unless
    `logits` says otherwise: the others would only be thrown away. Of frames or pixels every position counts.
    """
    found = derive(model, entry, without) if not asked.genai else derive_buffered(model, entry, without)
    if isinstance(found, list):
        raise Rejected(found)
    if asked.fuse_once is not None:
        fused = fuse(model, found, asked.fuse_once, without & model.entries[asked.fuse_once].full.present)
        if isinstance(fused, Diagnostic):
            raise Rejected([fused])
        found = fused
    step = found.step.size
    tokens = all(a.type.dtype.is_int for a in found.graph.inputs if a.value is not None and step in a.type.shape)
    if (asked.logits or ("last" if tokens else "all")) == "last":
        found = last_only(found)
    if asked.length is None or found.buffered:
        return found
    if not found.states:
        message = f"`{entry}` of {model.module.name} keeps states of one size: there is nothing to make room for"
        raise Rejected([Diagnostic("B620", message, found.graph.span.head(), help="--cache concat")])
    room = context(model, found)
    if room is not None and asked.length > room:
        message = f"a cache of {asked.length} positions is longer than the context of {model.module.name}: {room}"
        raise Rejected([Diagnostic("S223", message, found.graph.span.head(), help=f"--cache static={room}")])
    if found.outside_sdpa:
        raise Rejected(found.outside_sdpa)
    return static(found, asked.length)


def describe(model: Model, found: Incremental, compute: DType = DType.F32) -> Cache:
    """What the manifest says of an incremental entry."""
    growing = found.step.past.symbols
    wide = {
        argument.name: axis
        for argument in found.graph.inputs
        if argument.value is not None
        for axis, size in enumerate(argument.type.shape)
        if any(is_past(symbol) for symbol in size.symbols)
    }
    once = None
    if found.first:
        of = None
        if found.into is not None:
            absent = model.entries[found.into.method].full.present - found.into.present
            of = interface(model, found.into.method, absent, compute)
        inputs = tuple(a.name for a in found.graph.inputs if a.name in found.once_needs and a.value is not None)
        once = Once(once_file(found), inputs, _kept(found.first, compute), of)
    past = growing[0] if found.length is None else f"past({found.step.size})"
    return Cache(
        found.entry,
        found.length,
        str(found.step.size),
        past,
        wide,
        _kept((*found.states, *found.carried), compute),
        context(model, found),
        once,
        found.last,
        text_input(found) if found.buffered else None,
    )


def once_file(found: Incremental) -> str:
    """The file of the graph that computes what is the same in every step."""
    return f"model.{found.once_name}.onnx" if found.into is None else entry_file(found.into.method)


def entry_file(entry: str) -> str:
    """The file of an entry's graph."""
    return "model.onnx" if entry == "forward" else f"model.{entry}.onnx"


def _kept(groups: tuple[tuple[State, ...], ...], compute: DType) -> tuple[tuple[Kept, ...], ...]:
    def kept(s: State) -> Kept:
        return Kept(s.input, s.output, dtype_name(s.before, compute), s.before.shape, s.after.shape, s.axis)

    return tuple(tuple(map(kept, group)) for group in groups)


def cached_interface(
    model: Model, found: Incremental, without: frozenset[str], compute: DType = DType.F32
) -> Interface:
    """The inputs and outputs of an incremental entry: the plain ones in the sizes of a step, then what is kept."""
    plain = interface(model, found.entry, without, compute)
    types = {a.name: found.sizes.type(a.type) for a in found.graph.inputs}
    read = [i for i in plain.inputs if i.name in found.needs]
    inputs = [Input(i.name, i.argument, i.dtype, types[i.name].shape, i.low, i.high) for i in read]
    if found.buffered:
        inputs = with_lengths(found, inputs)
    if found.length is not None:
        inputs.append(Input(PAST_LENGTH, PAST_LENGTH, DType.I64.value, ()))
    constant = [state for group in found.once for state in group]
    inputs += [Input(s.input, s.input, dtype_name(s.before, compute), s.before.shape) for s in (*found.flat, *constant)]
    results = [found.sizes.type(value.type) for _, value in found.graph.results]
    outputs = [_output(o.name, type_, compute) for o, type_ in zip(plain.outputs, results, strict=True)]
    outputs += [_output(s.output, s.after, compute) for s in found.flat]
    return Interface(
        method=found.name,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        facts=step_facts(model, found),
        depth=plain.depth,
        visible_every=plain.visible_every,
        memory=plain.memory,
    )


def _output(name: str, type_: TensorType, compute: DType) -> Output:
    return Output(name, dtype_name(type_, compute), type_.shape)

"""The typed IR: a tree of modules, and per module one graph for each way its methods are called.

Hierarchical on purpose (DECISIONS 1): emitted Python, the Netron picture and cost formulas read the hierarchy; only the
executed ONNX is flattened. Everything here is frozen and shared: equal (block, arguments) are one `Module`, so a
48-layer model has one graph per distinct block.

Values are single-assignment. A `Loop` groups the nodes of an unrolled compile-time loop: its meaning is the
concatenation of its iterations, whose nodes refer to each other's values directly; the grouping lets backends print a
loop and draw a block once. A `Scan` is the one loop of run time: its nodes run once for every index of an axis.

*Labels* keep how the spec wrote a number: text over the hyper-parameters and lets of the module that owns the line, in
Python's expression syntax (exact int division already `//`). A label is None where the number depends on something
else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from specc.dims import Dim, Facts
from specc.ir.declared import Hyper, Initializer, InitRule
from specc.op import Op
from specc.source import Span
from specc.types import Scalar, TensorType

Path = tuple[str | int, ...]
"""Segments of a state_dict name, relative to the module whose text names it: ("h", 0, "attn")."""


def dotted(path: Path) -> str:
    return ".".join(str(segment) for segment in path)


# ---- values and nodes ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Value:
    """One tensor. `name` is the spec's local name, None for an unnamed intermediate."""

    name: str | None
    type: TensorType
    span: Span


@dataclass(frozen=True)
class Absent:
    """An optional argument that is not given in this graph; `label` is the local name it was passed as, if any."""

    label: str | None = None


Input = Value | Scalar | Absent


@dataclass(frozen=True, eq=False)
class Read:
    """A parameter or buffer of this module (or of a part of it)."""

    path: Path
    output: Value
    span: Span

    @property
    def inputs(self) -> tuple[Input, ...]:
        return ()

    @property
    def outputs(self) -> tuple[Value, ...]:
        return (self.output,)


@dataclass(frozen=True, eq=False)
class Apply:
    """One operator. `labels`: attribute name -> how the spec wrote it."""

    op: Op
    inputs: tuple[Input, ...]
    outputs: tuple[Value, ...]
    span: Span
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Call:
    """A call of a part's method (`path` names the part), of this module's own method (`path` is ()), or of a file-level
    `fn`
    (`graph.module` is None). `inputs` are in the order of `graph.inputs`, Absent where the graph has no value."""

    graph: Graph
    path: Path
    inputs: tuple[Input, ...]
    outputs: tuple[Value, ...]
    span: Span


@dataclass(frozen=True, eq=False)
class Iteration:
    """`binds`: loop variable -> the part it stands for, as a path of this module, or None if it is no part."""

    nodes: tuple[Node, ...]
    binds: tuple[tuple[str, Path | None], ...]


@dataclass(frozen=True, eq=False)
class Loop:
    """An unrolled `for`, or the fold of a list of parts.

    `fold` is the list's path when a list was called (`layers(x, mask)`), None for a `for` statement; `names` and
    `iterable` are the loop's header as the spec wrote it (label syntax), for a fold a made-up singular.
    """

    names: tuple[str, ...]
    iterable: str | None
    fold: Path | None
    iterations: tuple[Iteration, ...]
    span: Span

    @property
    def inputs(self) -> tuple[Input, ...]:
        return ()

    @property
    def outputs(self) -> tuple[Value, ...]:
        return ()


@dataclass(frozen=True, eq=False)
class When:
    """A `when train` (or `when infer`) region. `rebinds`: (value before, value at the end of the region, value after).

    Outside the mode, *after* is *before*. `aux`: training-only scalars by name.
    """

    mode: str
    nodes: tuple[Node, ...]
    rebinds: tuple[tuple[Value, Value, Value], ...]
    aux: tuple[tuple[str, Value], ...]
    span: Span

    @property
    def inputs(self) -> tuple[Input, ...]:
        return tuple(before for before, _, _ in self.rebinds)

    @property
    def outputs(self) -> tuple[Value, ...]:
        return tuple(after for _, _, after in self.rebinds)

    @property
    def kept(self) -> tuple[Value, ...]:
        """What outlives the region."""
        return (*(end for _, end, _ in self.rebinds), *(value for _, value in self.aux))


@dataclass(frozen=True, eq=False)
class Slices:
    """A sequence of a scan: `slice` is `whole` at the step's index on `axis`, and lacks that axis."""

    whole: Value
    axis: int
    slice: Value


@dataclass(frozen=True, eq=False)
class State:
    """What one step of a scan hands to the next: `before` is `start` in the first step, then the last step's `after`.

    `result` is `after` of the last step. All have one type.
    """

    start: Value
    before: Value
    after: Value
    result: Value


@dataclass(frozen=True, eq=False)
class Emitted:
    """A result of every step of a scan: `stacked` holds them along `axis`."""

    value: Value
    axis: int
    stacked: Value


@dataclass(frozen=True, eq=False)
class Scan:
    """`nodes` run once for every index of an axis of size `along`, which is at least 1.

    They may read values from outside; outside, only the results can be read: what was emitted, then the last states.
    """

    along: Dim
    sequences: tuple[Slices, ...]
    states: tuple[State, ...]
    nodes: tuple[Node, ...]
    emits: tuple[Emitted, ...]
    span: Span

    @property
    def inputs(self) -> tuple[Input, ...]:
        return (*(s.whole for s in self.sequences), *(s.start for s in self.states))

    @property
    def outputs(self) -> tuple[Value, ...]:
        return (*(e.stacked for e in self.emits), *(s.result for s in self.states))

    @property
    def bound(self) -> tuple[Value, ...]:
        """What each step begins with."""
        return (*(s.slice for s in self.sequences), *(s.before for s in self.states))

    @property
    def kept(self) -> tuple[Value, ...]:
        """What outlives a step."""
        return (*(e.value for e in self.emits), *(s.after for s in self.states))


Node = Read | Apply | Call | Loop | When | Scan


@dataclass(frozen=True, eq=False)
class Argument:
    """A declared tensor argument of a method. `value` is None in a graph where the optional argument is absent.

    Each element of a list of tensors is an argument, `of` the list: the first of `skips` is called `skips[0]`.
    """

    name: str
    type: TensorType
    optional: bool
    value: Value | None
    span: Span
    of: str | None = None


@dataclass(frozen=True, eq=False)
class Graph:
    """One method of one module, for one set of present optional arguments and one meaning of `...`.

    `dims` are the symbols of its signature in order; `facts` what may be assumed of them. `results` are (name, value),
    the name None if the signature gives none.
    """

    module: Module | None
    method: str
    inputs: tuple[Argument, ...]
    results: tuple[tuple[str | None, Value], ...]
    nodes: tuple[Node, ...]
    dims: tuple[str, ...]
    facts: Facts
    doc: str
    span: Span

    @property
    def present(self) -> frozenset[str]:
        """The optional arguments that are given."""
        return frozenset(a.name for a in self.inputs if a.optional and a.value is not None)

    @property
    def output_names(self) -> tuple[str, ...]:
        """What an entry calls its results: one without a name is `output`, of several `output0`, `output1`, .."""
        several = len(self.results) > 1
        return tuple(name or (f"output{i}" if several else "output") for i, (name, _) in enumerate(self.results))


# ---- modules ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Parameter:
    """A `param` or `buffer`; the type is static."""

    name: str
    type: TensorType
    init: Initializer | None  # the declared one; None if only an `init` section gives it
    buffer: bool
    span: Span


@dataclass(frozen=True, eq=False)
class Submodule:
    """A part. `args`: hyper-parameter -> (value, label in the enclosing module's scope)."""

    module: Module
    args: tuple[tuple[str, Any, str | None], ...]
    span: Span


@dataclass(frozen=True, eq=False)
class Function:
    """A named function as an element of a list of parts: `relu`, `dropout(p = 0.1)`, or a user `fn` (then `graph` per
    call).
    """

    name: str
    op: Op | None
    labels: Mapping[str, str]
    span: Span


@dataclass(frozen=True, eq=False)
class PartList:
    """`names`/`iterable`: the header of the comprehension it was written as, else None."""

    items: tuple[Member, ...]
    names: tuple[str, ...] | None
    iterable: str | None
    span: Span


@dataclass(frozen=True, eq=False)
class PartGroup:
    """A namespace of parts and parameters."""

    members: Mapping[str, Member]
    span: Span


Member = Parameter | Submodule | Function | PartList | PartGroup


@dataclass(frozen=True)
class Tie:
    """`left` is an alias of `right`; both relative to the module that states it."""

    left: Path
    right: Path
    span: Span


GraphKey = tuple[str, frozenset[str], tuple[str, ...], tuple[int, ...]]
"""(method, present optional arguments, the axes that `...` stands for, the lengths of its lists of tensors): see
`Module.graphs`.
"""


@dataclass(eq=False)
class Module:
    """One distinct (block, arguments).

    Filled by the elaborator, frozen in use; `graphs` grows as its methods are called.
    """

    name: str
    file: str
    hypers: tuple[Hyper, ...]
    members: Mapping[str, Member]
    ties: tuple[Tie, ...]
    inits: tuple[InitRule, ...]
    torch_class: str | None  # "torch.nn.Linear" for a leaf of std
    doc: str
    span: Span
    graphs: dict[GraphKey, Graph] = field(default_factory=dict)

    def method(self, name: str) -> list[Graph]:
        """All graphs of a method, in the order of their making."""
        return [graph for key, graph in self.graphs.items() if key[0] == name]


@dataclass(frozen=True, eq=False)
class Entry:
    """A separately buildable method of a model. `graphs`: present optional inputs -> graph, every combination."""

    name: str
    graphs: Mapping[frozenset[str], Graph]

    @property
    def full(self) -> Graph:
        """The graph with every optional input present."""
        return self.graphs[max(self.graphs, key=len)]


@dataclass(frozen=True, eq=False)
class Model:
    """A checked model, ready for the backends. `name` is the build's name: the preset, else the file's stem."""

    name: str
    file: str
    preset: str | None
    module: Module
    entries: Mapping[str, Entry]
    facts: Facts  # the model's promises about its dims

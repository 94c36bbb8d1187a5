"""`report`: the tree of an entry with its totals, checked against the sizes that the user asks about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from specc.diagnostics import Diagnostic, Rejected
from specc.dims import Dim, Facts
from specc.inspect.bits import Weights, weights
from specc.inspect.caches import Cache, cache
from specc.inspect.columns import SORTS as SORTS
from specc.inspect.counts import WIDTHS, Counts
from specc.inspect.examples import example
from specc.inspect.formulas import Formula, Largest, evaluate
from specc.inspect.reads import unchosen_parameters
from specc.inspect.spending import Spendings
from specc.inspect.storages import Spent
from specc.inspect.text import table
from specc.inspect.tree import Block, Trees
from specc.ir.graph import Graph, Model, dotted
from specc.passes.plain import entry_facts, entry_sizes
from specc.quantisation import Scheme
from specc.types import TensorType


@dataclass(frozen=True)
class Report:
    """The blocks of one entry. `at`: the sizes that numbers are wanted for, None if only formulas are.

    Bytes of activations and of the cache are those of a build of `dtype`.
    """

    name: str
    model: str
    preset: str | None
    entry: str
    inputs: tuple[tuple[str, TensorType], ...]
    facts: tuple[str, ...]  # what the entry promises about its dims
    dims: tuple[str, ...]
    root: Block
    unused: tuple[Block, ...]  # parts of the model that this entry does not reach
    ties: tuple[tuple[str, str], ...]
    parameters: int  # of the whole model, tied ones once
    unchosen: int  # of them in experts that one token does not choose
    weight_bytes: int  # parameters and buffers, the compute dtype being f32
    weights: Weights  # the same in every dtype, and in few bits
    cache: Cache | None
    dtype: str
    at: dict[str, int] | None

    @property
    def spent(self) -> Spent:
        """Of the whole entry."""
        assert self.root.spent is not None  # it runs
        return self.root.spent

    @property
    def width(self) -> int:
        """Bytes of an element of the compute dtype."""
        return WIDTHS[self.dtype]

    def intensity(self, spent: Spent) -> float | None:
        """FLOPs for each byte that operators read and write, at the sizes asked for."""
        flops, moved = self.number(spent.flops), self.number(spent.moved)
        return None if flops is None or not moved else flops / moved

    def largest(self, formulas: Largest) -> int | None:
        """The number, at the sizes asked for."""
        return None if self.at is None else evaluate(formulas, self.at)

    def number(self, size: Dim | None) -> int | None:
        """A formula's value at the sizes asked for; None without them, or without a formula."""
        return None if size is None or self.at is None else size.evaluate(self.at)

    def __str__(self) -> str:
        return table(self).rstrip("\n")

    def to_json(self) -> dict[str, Any]:
        """Plain data: formulas as text, numbers beside them where sizes were given."""
        return {
            "name": self.name,
            "model": self.model,
            "preset": self.preset,
            "entry": self.entry,
            "dims": list(self.dims),
            "facts": list(self.facts),
            "at": self.at,
            "inputs": [{"name": name, **self._type(type_)} for name, type_ in self.inputs],
            "parameters": self.parameters,
            "active_parameters": self.parameters - self.unchosen,
            "weight_bytes": self.weight_bytes,
            "weights": {**self.weights.dtypes, **self.weights.schemes},
            "dtype": self.dtype,
            "flops": _text(self.root.flops),
            "cache": self._cache(),
            "ties": [list(tie) for tie in self.ties],
            "tree": self._block(self.root),
            "unused": [self._block(block) for block in self.unused],
        }

    def _block(self, block: Block) -> dict[str, Any]:
        data: dict[str, Any] = {
            "path": block.path,
            "block": block.name,
            "method": block.method,
            "count": block.count,
            "parts": block.parts,
            "use": block.use,
            "results": [{"name": name, **self._type(type_)} for name, type_ in block.results],
            "parameters": block.parameters,
            "tied": list(block.tied),
            "flops": _text(block.flops),
        }
        if self.at is not None:
            data["flops_at"] = self.number(block.flops)
        if block.spent is not None:
            data |= self._spent(block.spent)
        data["children"] = [self._block(child) for child in block.children]
        return data

    def _spent(self, spent: Spent) -> dict[str, Any]:
        """FLOPs and bytes; `_at` are numbers."""
        formulas = {
            "products": spent.products,
            "training_flops": spent.training,
            "training_products": spent.training_products,
            "moved_bytes": spent.moved,
            "saved_bytes": spent.saved,
        }
        data: dict[str, Any] = {name: _text(formula) for name, formula in formulas.items()}
        data["peak_bytes"] = [str(formula) for formula in spent.peak]
        if self.at is not None:
            data |= {f"{name}_at": self.number(formula) for name, formula in formulas.items()}
            data["peak_bytes_at"] = self.largest(spent.peak)
            data["intensity"] = self.intensity(spent)
        return data

    def _cache(self) -> dict[str, Any] | None:
        if self.cache is None:
            return None
        formulas = {"bytes": self.cache.bytes, "token": self.cache.token, "constant": self.cache.constant}
        data: dict[str, Any] = {"entry": self.cache.entry, "along": self.cache.along}
        data |= {name: _text(formula) for name, formula in formulas.items()}
        if self.at is not None and all(
            name in self.at for f in formulas.values() if f is not None for name in f.symbols
        ):
            data |= {f"{name}_at": self.number(formula) for name, formula in formulas.items()}
        return data

    def _type(self, type_: TensorType) -> dict[str, Any]:
        data: dict[str, Any] = {"dtype": type_.dtype.spec_name, "shape": [_json(size) for size in type_.shape]}
        if self.at is not None:
            data["shape_at"] = [self.number(size) for size in type_.shape]
        return data


def _text(formula: Formula) -> str | None:
    return None if formula is None else str(formula)


def _json(size: Dim) -> int | str:
    return size.value if size.value is not None else str(size)


def report(
    model: Model,
    entry: str = "forward",
    *,
    without: frozenset[str] = frozenset(),
    at: Mapping[str, int] | None = None,
    depth: int | None = None,
    dtype: str = "f32",
    schemes: Sequence[Scheme] = (Scheme(8), Scheme(4)),
    sort: str | None = None,
) -> Report:
    """The tree of an entry, with every optional input but those in `without`.

    `at` gives every dim of the entry a size; `depth` leaves out what is nested deeper. `dtype`: one of `WIDTHS`;
    `schemes`: in which few bits weights are counted; `sort`: one of `SORTS`, the order of blocks side by side, else
    that in which they run. Raises `Rejected` (E103, E009)
    for an entry, an input or a size that the model does not have.
    """
    graph = chosen_graph(model, entry, without)
    sizes = entry_sizes(graph)
    facts = entry_facts(model, graph)
    if at is not None:
        _check_sizes(entry, tuple(sizes), facts, at)
    counts = Counts()
    trees = Trees(counts)
    spending = Spendings(WIDTHS[dtype]).entry(graph, sizes)
    body = trees.body(graph, sizes, spending)
    count = counts.of(model.module)
    name = model.module.name
    root = Block("", name, entry, 1, 1, body.results, count.parameters, (), spending.spent, "called", body.children)
    return Report(
        name=model.name,
        model=model.module.name,
        preset=model.preset,
        entry=entry,
        inputs=tuple((a.name, sizes.type(a.type).plain()) for a in graph.inputs if a.value is not None),
        facts=tuple(str(fact) for fact in facts.statements()),
        dims=tuple(sizes),
        root=_sorted(root if depth is None else _cut(root, depth), sort, at),
        unused=trees.unused(graph),
        ties=tuple((dotted(left), dotted(right)) for left, right in counts.aliases(model.module)),
        parameters=count.parameters,
        unchosen=unchosen_parameters(graph),
        weight_bytes=count.bytes,
        weights=weights(model, schemes),
        cache=cache(model, entry, WIDTHS[dtype], without),
        dtype=dtype,
        at=None if at is None else {name: at[name] for name in sizes},
    )


def chosen_graph(model: Model, entry: str, without: frozenset[str] = frozenset()) -> Graph:
    """An entry's graph, by names that a user gave; raises `Rejected` (E103) for those that do not exist."""
    if entry not in model.entries:
        known = (("available", ", ".join(model.entries)),)
        raise Rejected([Diagnostic("E103", f"{model.module.name} has no entry `{entry}`", notes=known)])
    found = model.entries[entry]
    optional = found.full.present
    unknown = sorted(without - optional)
    if unknown:
        known = (("available", ", ".join(sorted(optional)) or "none"),)
        raise Rejected([Diagnostic("E103", f"{entry} has no optional input `{unknown[0]}`", notes=known)])
    return found.graphs[optional - without]


def _check_sizes(entry: str, dims: tuple[str, ...], facts: Facts, at: Mapping[str, int]) -> None:
    known = (("available", ", ".join(dims) or "none: every size is fixed"),)
    help = example(dims, facts)
    found = [
        Diagnostic("E009", f"{entry} has no dim `{name}`", notes=known, help=help) for name in at if name not in dims
    ]
    missing = [name for name in dims if name not in at]
    if missing:
        what = ", ".join(f"`{name}`" for name in missing)
        found.append(Diagnostic("E009", f"no size is given for {what}", notes=known, help=help))
    given = {name: at[name] for name in dims if name in at}
    broken = facts.satisfied_by(given)
    if broken is not None and not found:
        sizes = ", ".join(f"{name} = {value}" for name, value in given.items())
        found.append(Diagnostic("E009", f"{sizes}: {entry} needs {broken}", help=help))
    if found:
        raise Rejected(found)


def _cut(block: Block, depth: int) -> Block:
    children = tuple(_cut(child, depth - 1) for child in block.children) if depth > 0 else ()
    return replace(block, children=children)


def _sorted(block: Block, sort: str | None, at: Mapping[str, int] | None) -> Block:
    """Largest first, by formulas at the sizes asked for, or at sizes that are all large; names by the alphabet."""
    if sort is None:
        return block

    def number(formula: Formula) -> int:
        if formula is None:
            return 0
        return formula.evaluate(at if at is not None else dict.fromkeys(formula.symbols, LARGE))

    def key(child: Block) -> tuple[int, str]:
        if sort == "name":
            return 0, child.path
        spent = child.spent
        parts = {
            "params": child.parameters * child.parts,
            "flops": number(spent.flops) * child.count if spent is not None else 0,
            "activation": number(spent.saved) * child.count if spent is not None else 0,
        }
        return -parts[sort], child.path

    children = sorted((_sorted(child, sort, at) for child in block.children), key=key)
    return replace(block, children=tuple(children))


LARGE = 1_024
"""In place of each dim where blocks are sorted by formulas."""

"""What memory inference and training take, term by term, and the largest size with which that fits into so much."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from specc.diagnostics import Diagnostic, Rejected
from specc.dims import Facts
from specc.inspect.bits import flat, lora_parameters, weights
from specc.inspect.caches import cache
from specc.inspect.counts import WIDTHS, Counts
from specc.inspect.examples import example
from specc.inspect.formulas import Formula, evaluate, total
from specc.inspect.numbers import byte_text
from specc.inspect.spending import Spendings
from specc.ir.graph import Call, Graph, Model, Module
from specc.op import numel
from specc.passes.plain import entry_facts, entry_sizes
from specc.quantisation import Scheme
from specc.types import TensorType

STATES = {"sgd": 0, "momentum": 1, "adam": 2, "adamw": 2, "lion": 1, "rmsprop": 1, "adagrad": 1}
"""Numbers that an optimiser keeps for each parameter, in its dtype as torch does, by the names that `--optimizer`
takes; `momentum` is sgd with one.
"""

LIMIT = 2**40  # the largest size that is tried


@dataclass(frozen=True)
class Setup:
    """How a model is run. `scheme`: weights in few bits, of inference; `optimizer`: of training, else None; `lora`: the
    rank of adapters on every linear layer, the rest frozen; `devices`: among which weights, gradients and the
    optimiser's numbers are divided (FSDP), each with its own batch.
    """

    dtype: str = "f32"
    scheme: Scheme | None = None
    optimizer: str | None = None
    checkpointing: bool = False
    lora: int | None = None
    devices: int = 1


@dataclass(frozen=True)
class Term:
    """`bytes` at given sizes; `about` says of what."""

    name: str
    about: str
    bytes: Callable[[Mapping[str, int]], int]


@dataclass(frozen=True)
class Fit:
    """`found`: the largest size of the dim that was left `free`; None where even the smallest takes too much. `next`:
    bytes of the next larger one, None if something else than memory ended the search: `limit` says what. Without a
    free dim: whether it fits.
    """

    model: str
    setup: Setup
    budget: int
    free: str | None
    found: int | None
    sizes: Mapping[str, int]
    terms: tuple[tuple[str, str, int], ...]
    next: tuple[int, int] | None
    limit: str | None

    @property
    def bytes(self) -> int:
        return sum(size for _, _, size in self.terms)

    @property
    def fits(self) -> bool:
        return self.found is not None if self.free is not None else self.bytes <= self.budget

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        terms = [{"name": name, "about": about, "bytes": size} for name, about, size in self.terms]
        return {
            "model": self.model,
            "for": "training" if self.setup.optimizer else "inference",
            "dtype": self.setup.dtype,
            "quant": self.setup.scheme.text if self.setup.scheme else None,
            "optimizer": self.setup.optimizer,
            "checkpointing": self.setup.checkpointing,
            "lora": self.setup.lora,
            "devices": self.setup.devices,
            "budget": self.budget,
            "free": self.free,
            "found": self.found,
            "fits": self.fits,
            "at": dict(self.sizes),
            "bytes": self.bytes,
            "terms": terms,
        }

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def fit(
    model: Model,
    entry: str,
    graph: Graph,
    budget: int,
    at: Mapping[str, int],
    setup: Setup,
    without: frozenset[str] = frozenset(),
) -> Fit:
    """The largest size of the one dim that `at` leaves out with which a model fits into `budget` bytes of each device.

    Raises `Rejected` (E009) for dims that are not there, more than one left out, sizes that the model refuses.
    """
    facts, dims = entry_facts(model, graph), tuple(entry_sizes(graph))
    free = _free(entry, dims, facts, at)
    terms = list(_training(model, graph, setup) if setup.optimizer else _inference(model, entry, graph, setup, without))

    def taken(sizes: Mapping[str, int]) -> int:
        return sum(term.bytes(sizes) for term in terms)

    found, after, limit, sizes = None, None, None, dict(at)
    if free is None:
        _admitted(entry, facts, sizes)
    else:
        found, limit, beyond = _solve(entry, facts, free, at, budget, taken)
        least = _choices(facts, free)
        sizes[free] = found if found is not None else least[0]
        after = (beyond, taken({**at, free: beyond})) if beyond is not None else None
    named = tuple((term.name, term.about, term.bytes(sizes)) for term in terms)
    ordered = {name: sizes[name] for name in dims}
    return Fit(model.module.name, setup, budget, free, found, ordered, named, after, limit)


# ---- terms -----------------------------------------------------------------------------------------------------------


def _number(formula: Formula, what: str) -> Callable[[Mapping[str, int]], int]:
    if formula is None:
        raise Rejected([Diagnostic("E009", f"the formula of {what} is too long to be written, and cannot be solved")])
    return formula.evaluate


def _inference(model: Model, entry: str, graph: Graph, setup: Setup, without: frozenset[str]) -> Iterator[Term]:
    width = WIDTHS[setup.dtype]
    stored = weights(model, [setup.scheme] if setup.scheme else [])
    if setup.scheme:
        size, how = stored.schemes[setup.scheme.text], f"in {setup.scheme.text}, the rest in f32"
    else:
        size, how = stored.dtypes[setup.dtype], f"in {setup.dtype}"
    count = Counts().of(model.module).parameters
    yield Term("weights", f"{count:,} parameters {how}", lambda at: size)
    kept = cache(model, entry, width, without)
    if kept is not None:
        cached = _number(kept.bytes, "the cache")
        known = set(entry_sizes(graph))
        if kept.bytes is not None and known.issuperset(kept.bytes.symbols):
            yield Term("cache", f"what decoding keeps of all positions, in {setup.dtype}", cached)
    spent = Spendings(width).entry(graph, entry_sizes(graph)).spent
    peak = spent.peak
    yield Term("activations", "alive at once when all positions are computed", lambda at: evaluate(peak, at))


def _training(model: Model, graph: Graph, setup: Setup) -> Iterator[Term]:
    """As `specc train` steps: gradients of the step before are there while the next forward pass runs."""
    assert setup.optimizer is not None
    width, n = WIDTHS[setup.dtype], setup.devices
    sizes = entry_sizes(graph)
    stored = weights(model, []).dtypes[setup.dtype]
    count = Counts().of(model.module).parameters
    adapters = lora_parameters(model, setup.lora) if setup.lora is not None else 0
    trained = adapters if setup.lora is not None else count
    share = f", a share of {n}" if n > 1 else ""
    about = f"{count:,} parameters in {setup.dtype}" + (f", {adapters:,} of adapters" if adapters else "")
    whole = stored + adapters * width
    yield Term("weights", about + share, lambda at: -(-whole // n))
    if n > 1:
        largest = max((Counts().of(part).parameters for part in _units(graph)), default=0) * width
        yield Term("gathered", "the weights of two units, one in use and one on its way", lambda at: 2 * largest)
    states = STATES[setup.optimizer]
    if states:
        about = f"{states} for each of {trained:,} trained, of {setup.optimizer}{share}"
        yield Term("optimizer", about, lambda at: -(-states * trained * width // n))
    gradients = -(-trained * width // n)
    yield Term("gradients", f"of {trained:,} trained{share}", lambda at: gradients)
    spending = Spendings(width, checkpoint=setup.checkpointing).entry(graph, sizes)
    saved, again = _number(spending.spent.saved, "activations"), spending.again
    extra = f", in {setup.dtype}"
    if setup.checkpointing:
        extra = ": inputs of repeated blocks, one computed again" + extra
    yield Term("activations", "kept for the gradients" + extra, lambda at: saved(at) + evaluate(again, at))
    results = _number(_results(graph), "the results")
    yield Term(
        "results",
        "in f32, log-probabilities, and gradients of both beyond those above",
        lambda at: 2 * results(at) + max(0, 2 * results(at) - gradients),
    )


def _results(graph: Graph) -> Formula:
    """Bytes of what the entry gives, in f32, in which losses are computed."""
    types: list[TensorType] = [entry_sizes(graph).type(value.type) for _, value in graph.results]
    return total(numel(t) * 4 for t in types if t.dtype.is_float)


def _units(graph: Graph) -> Iterator[Module]:
    """The modules that are gathered one at a time: each part that the entry calls, of a list each element."""
    for node in flat(graph.nodes):
        if isinstance(node, Call) and node.graph.module is not None:
            if node.path:
                yield node.graph.module
            else:
                yield from _units(node.graph)


# ---- solving ---------------------------------------------------------------------------------------------------------


def _free(entry: str, dims: tuple[str, ...], facts: Facts, at: Mapping[str, int]) -> str | None:
    missing = [name for name in dims if name not in at]
    known = (("available", ", ".join(dims) or "none: every size is fixed"),)
    unknown = [name for name in at if name not in dims]
    if unknown:
        raise Rejected([Diagnostic("E009", f"{entry} has no dim `{unknown[0]}`", notes=known)])
    if len(missing) > 1:
        names = ", ".join(f"`{name}`" for name in missing)
        message = f"--fit solves for one size, {names} are free"
        help = f"{example(dims, facts, missing[1:])} leaves `{missing[0]}` free"
        raise Rejected([Diagnostic("E009", message, notes=known, help=help)])
    return missing[0] if missing else None


def _admitted(entry: str, facts: Facts, sizes: Mapping[str, int]) -> None:
    broken = facts.satisfied_by(dict(sizes))
    if broken is not None:
        shown = ", ".join(f"{name} = {value}" for name, value in sizes.items())
        help = example(tuple(sizes), facts)
        raise Rejected([Diagnostic("E009", f"{shown}: {entry} needs {broken}", help=help)])


def _choices(facts: Facts, free: str) -> tuple[int, int]:
    """The smallest size that is admitted by itself, and the step to the next."""
    low, _ = facts.bounds_of(free)
    rest, modulus = facts.residue_of(free)
    low = max(low, 1)
    return low + (rest - low) % modulus, modulus


def _solve(
    entry: str,
    facts: Facts,
    free: str,
    at: Mapping[str, int],
    budget: int,
    taken: Callable[[Mapping[str, int]], int],
) -> tuple[int | None, str | None, int | None]:
    """The largest admitted size that fits, what ended the search if not memory, and the next size, which does not fit.
    More memory for larger sizes is taken for granted.
    """
    first, step = _choices(facts, free)
    said: list[str] = []

    def size(k: int) -> int:
        return first + k * step

    def fits(k: int) -> bool:
        sizes = {**at, free: size(k)}
        broken = facts.satisfied_by(sizes)
        if broken is not None:
            said.append(str(broken))
            return False
        return size(k) <= LIMIT and taken(sizes) <= budget

    _admitted(entry, facts, {**at, free: first})
    if not fits(0):
        return None, None, first
    high = 1
    while fits(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    broken = facts.satisfied_by({**at, free: size(high)})
    if broken is not None:
        return size(low), f"The model promises {broken}", None
    if size(high) > LIMIT:
        return size(low), f"No size beyond {LIMIT:,} is tried", None
    return size(low), None, size(high)


# ---- text ------------------------------------------------------------------------------------------------------------


def parse_bytes(text: str) -> int:
    """`24GiB`, `80GB`, `512MB`; raises `Rejected` (E009)."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if found is None or float(found.group(1)) <= 0:
        raise Rejected([Diagnostic("E009", f"--fit {text}: that is no amount of memory", help="--fit 24GiB")])
    base = 1024.0 if found.group(3) else 1000.0
    return round(float(found.group(1)) * base ** " KMGT".index(found.group(2).upper() or " "))


def _lines(fit: Fit) -> Iterator[str]:
    setup = fit.setup
    what = f"training in {setup.dtype} with {setup.optimizer}" if setup.optimizer else "inference"
    if not setup.optimizer:
        what += f" in {setup.scheme.text if setup.scheme else setup.dtype}"
    extras = [
        *(["checkpointing"] if setup.checkpointing else []),
        *([f"LoRA of rank {setup.lora}"] if setup.lora is not None else []),
        *([f"FSDP over {setup.devices} devices"] if setup.devices > 1 else []),
    ]
    yield f"{fit.model}, {what}{''.join(', ' + e for e in extras)}, within {byte_text(fit.budget)}" + (
        " on each" if setup.devices > 1 else ""
    )
    yield ""
    yield from _verdict(fit)
    yield ""
    shown = [(name, byte_text(size), about) for name, about, size in fit.terms]
    shown.append(("in all", byte_text(fit.bytes), "at " + ", ".join(f"{n} = {v:,}" for n, v in fit.sizes.items())))
    width = max(len(size) for _, size, _ in shown)
    for name, size, about in shown:
        yield f"  {name:<11}  {size:>{width}}  {about}"
    yield ""
    yield "Not counted: what the framework, kernels and fragments of free memory take beside tensors."


def _verdict(fit: Fit) -> Iterator[str]:
    if fit.free is None:
        yield "It fits." if fit.fits else f"It does not fit: {byte_text(fit.bytes - fit.budget)} too much."
    elif fit.found is None:
        yield f"Nothing fits: {fit.free} = {fit.sizes[fit.free]} takes {byte_text(fit.bytes)}."
    else:
        yield f"{fit.free} = {fit.found:,} is the largest that fits."
        if fit.limit is not None:
            yield f"{fit.limit}: memory is not what limits it."
        elif fit.next is not None:
            size, budget = byte_text(fit.next[1]), byte_text(fit.budget)
            more = f", {byte_text(fit.next[1] - fit.budget)} too much" if size == budget else ""
            yield f"{fit.free} = {fit.next[0]:,} would take {size}{more}."

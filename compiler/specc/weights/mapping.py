"""Plans: which tensors of one side make which of the other, over header data alone (LANGUAGE 15).

A section is tried in the order rename, strip and add, rules, equal names. Every model tensor has exactly one source and
every file tensor exactly one use, or `ignore`, `fresh` or a tie says otherwise; whatever else is found is a diagnostic,
grouped by repetition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

from specc.diagnostics import Collector, Diagnostic
from specc.source import Span
from specc.syntax import ast
from specc.weights.findings import Findings, Mismatch
from specc.weights.layout import Expr, LayoutError, Read, Shape, TensorInfo, reads
from specc.weights.operations import Missing, OneWay
from specc.weights.patterns import Captures, any_match
from specc.weights.rules import Evaluate, Rule, Section, read_section, section_path

Anew = Callable[[str], bool]
"""Whether training draws a tensor of the model anew."""

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True)
class Duplicate:
    """A tied tensor that the file also holds under its other name: the two must hold the same values (W312)."""

    name: str
    source: Expr
    target: str
    target_source: Expr
    span: Span | None = None  # of the section's source, for a message


@dataclass(frozen=True)
class Plan:
    """How to make the tensors of one side (`sources`: name -> expression) from those of the other.

    `fresh`: model tensors that are initialised instead; `ignored`: file tensors that are not read; `duplicates`: to be
    compared; `replaced`: fresh tensors that the file has too, with its shape. Tied names have no source of their own.
    """

    sources: Mapping[str, Expr]
    fresh: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()
    replaced: Mapping[str, Shape] = field(default_factory=dict)


@dataclass(frozen=True)
class Binding:
    """One application of a rule (None: equal names) to the model tensors `names`."""

    rule: Rule | None
    names: tuple[str, ...]
    captures: Captures

    def forward(self, file: Mapping[str, Read]) -> list[Expr]:
        if self.rule is not None:
            return self.rule.right.forward(self.captures, file.get)
        found = file.get(self.names[0])
        if found is None:
            raise Missing(self.names[0])
        return [found]

    def backward(self, values: list[Expr]) -> Iterator[tuple[str, Expr]]:
        if self.rule is None:
            yield self.names[0], values[0]
        else:
            yield from self.rule.right.backward(self.captures, values)


def plan_import(
    node: ast.Weights | None,
    model: Mapping[str, TensorInfo],
    tied: Mapping[str, str],
    file: Mapping[str, TensorInfo],
    evaluate: Evaluate,
    collector: Collector,
    *,
    file_name: str = "",
    renamed: Mapping[str, str] | None = None,
    anew: Anew | None = None,
) -> Plan | None:
    """Model tensors made of file tensors; None after an error.

    `model`: every tensor of the state_dict, tied names included, in order; `tied`: tied name -> the name it stands for;
    `node` None: the file has the model's own names, or `renamed` says what the model calls them now (file name ->
    model's). `file_name` is how messages call the file. `anew`: training begins with these weights, so a tensor that it
    names is initialised whatever the file has, and one that the section calls fresh where the file has another size.
    """
    section = _section(node, evaluate, collector)
    if section is None:
        return None
    return _Import(section, model, tied, file, collector, file_name, renamed or {}, anew).plan()


def plan_export(
    node: ast.Weights | None,
    model: Mapping[str, TensorInfo],
    tied: Mapping[str, str],
    evaluate: Evaluate,
    collector: Collector,
) -> Plan | None:
    """File tensors made of model tensors: the inverse of `plan_import`.

    Tied names are not written. None after an error.
    """
    section = _section(node, evaluate, collector)
    if section is None:
        return None
    sources: dict[str, Expr] = {}
    before = len(collector.errors)
    for binding in bindings(section, model, collector):
        if all(name in tied for name in binding.names):
            continue
        values: list[Expr] = [Read(name, model[name].shape, model[name].dtype) for name in binding.names]
        try:
            sources |= {section.stored(name): expr for name, expr in binding.backward(values)}
        except OneWay as one:
            path = section_path(node)
            collector.add(
                Diagnostic("W341", f"{one.message}, so it cannot be written back", one.span, path=path, help=one.help)
            )
        except LayoutError as error:
            Findings(section, collector).wrong_shape(
                [Mismatch(binding.names, binding.rule, model[binding.names[0]], str(error))]
            )
    return Plan(sources) if len(collector.errors) == before else None


def _section(node: ast.Weights | None, evaluate: Evaluate, collector: Collector) -> Section | None:
    before = len(collector.errors)
    section = read_section(node, evaluate, collector)
    return section if len(collector.errors) == before else None


def bindings(section: Section, model: Mapping[str, TensorInfo], collector: Collector) -> list[Binding]:
    """Who provides which model tensor, in the model's order.

    A tensor of two rules is reported (W312) and stays with the first.
    """
    claims: dict[str, Binding] = {}
    twice: dict[tuple[Rule, Rule], list[str]] = {}
    for rule in section.rules:
        for name in model:
            captures = rule.left[0].match(name)
            if captures is None:
                continue
            names = tuple(p.render(captures) for p in rule.left)
            absent = [n for n in names if n not in model]
            if absent:
                Findings(section, collector).no_such_tensor(rule, absent[0])
            binding = Binding(rule, names, captures)
            for one in names:
                first = claims.setdefault(one, binding)
                if first is not binding and first.rule is not None:
                    twice.setdefault((first.rule, rule), []).append(one)
    for (first_rule, rule), doubled in twice.items():
        Findings(section, collector).mapped_twice(first_rule, rule, doubled)
    found = (claims.get(name) or Binding(None, (name,), {}) for name in model)
    return list({id(b): b for b in found}.values())


@dataclass
class _Import:
    section: Section
    model: Mapping[str, TensorInfo]
    tied: Mapping[str, str]
    file: Mapping[str, TensorInfo]
    collector: Collector
    file_name: str
    renamed: Mapping[str, str]
    anew: Anew | None = None
    sources: dict[str, Expr] = field(default_factory=dict)
    users: dict[str, Binding] = field(default_factory=dict)  # the file's own name -> who reads it
    # model name, binding, name wanted in the file
    missing: list[tuple[str, Binding, str]] = field(default_factory=list)
    mismatches: list[Mismatch] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    replaced: dict[str, Shape] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.findings = Findings(self.section, self.collector, self.file_name, self.anew is not None)

    def plan(self) -> Plan | None:
        before = len(self.collector.errors)
        tensors, ignored = self.canonical()
        found = bindings(self.section, self.model, self.collector)
        for binding in found:
            self.read(binding, tensors)
        duplicates = self.resolve_ties()
        unused = {name: read for name, read in tensors.items() if read.name not in self.users}
        self.findings.wrong_shape(self.mismatches)
        mapped = len(self.file) - len(unused)
        meant = self.findings.no_source([(n, b.rule, want) for n, b, want in self.missing], self.model, unused)
        self.findings.unused({n: r for n, r in unused.items() if n not in meant}, mapped, len(self.file))
        self.findings.square(self.sources, {n: b.rule for b in found for n in b.names}, self.model)
        if len(self.collector.errors) > before:
            return None
        ordered = {name: self.sources[name] for name in self.model if name in self.sources}
        replaced = {name: self.replaced[name] for name in self.fresh if name in self.replaced}
        return Plan(ordered, tuple(self.fresh), tuple(ignored), tuple(duplicates), replaced)

    def canonical(self) -> tuple[dict[str, Read], list[str]]:
        """The file's tensors by the names that rules use, and the ignored ones."""
        tensors: dict[str, Read] = {}
        ignored = []
        for raw, info in self.file.items():
            name = self.renamed.get(raw) or self.section.canonical(raw)
            if any_match(self.section.ignored, name):
                ignored.append(raw)
            elif name in tensors:
                self.findings.same_name(tensors[name].name, raw, name)
            else:
                tensors[name] = Read(raw, info.shape, info.dtype)
        return tensors, ignored

    def read(self, binding: Binding, tensors: Mapping[str, Read]) -> None:
        """Try one binding against the file."""
        known = tuple(name for name in binding.names if name in self.model)
        try:
            values = binding.forward(tensors)
        except Missing as missing:
            for name in known:
                if any_match(self.section.fresh, name) or self.drawn(name):
                    self.fresh.append(name)
                elif name not in self.tied:
                    self.missing.append((name, binding, missing.name))
            self.mark_used(binding, tensors)
            return
        except LayoutError as error:
            self.mismatches.append(Mismatch(known, binding.rule, self.model[known[0]], str(error)))
            self.mark_used(binding, tensors)
            return
        for name, value in zip(binding.names, values, strict=True):
            for leaf in reads(value):
                self.use(leaf, binding)
            if name not in self.model:
                continue
            problem = _problem(self.model[name], value)
            if self.drawn(name) or (problem == "" and self.anew is not None and any_match(self.section.fresh, name)):
                self.replace(name, value)
            elif problem is None:
                self.sources[name] = value
            else:
                self.mismatches.append(Mismatch((name,), binding.rule, self.model[name], problem, value))

    def drawn(self, name: str) -> bool:
        """Whether training draws the tensor whatever the file has; a tied one is drawn as what it stands for."""
        return self.anew is not None and self.anew(self.tied.get(name, name))

    def replace(self, name: str, value: Expr) -> None:
        if name not in self.tied:
            self.fresh.append(name)
            self.replaced[name] = value.shape

    def mark_used(self, binding: Binding, tensors: Mapping[str, Read]) -> None:
        """What a rule that failed would have read is not unused as well: one cause, one message."""
        for pattern, over in binding.rule.right.patterns() if binding.rule is not None else ():
            for x in count() if over else (0,):
                found = tensors.get(pattern.render({**binding.captures, over: x} if over else binding.captures))
                if found is None:
                    break
                self.users.setdefault(found.name, binding)

    def use(self, leaf: Read, binding: Binding) -> None:
        first = self.users.setdefault(leaf.name, binding)
        twins = {self.tied.get(n, n) for n in first.names} == {self.tied.get(n, n) for n in binding.names}
        if first is not binding and not twins:
            self.findings.used_twice(leaf.name, first.rule, first.names, binding.rule, binding.names)

    def resolve_ties(self) -> list[Duplicate]:
        """Tied names give up their sources: to their target if it has none, else to a comparison."""
        duplicates = []
        for name, target in self.tied.items():
            source = self.sources.pop(name, None)
            if source is None:
                continue
            if target not in self.sources:
                self.sources[target] = source
                self.missing = [m for m in self.missing if m[0] != target]
                self.fresh = [f for f in self.fresh if f != target]
            elif self.sources[target] != source:
                span = self.findings.at(None)
                duplicates.append(Duplicate(name, source, target, self.sources[target], span))
        return duplicates


def _problem(info: TensorInfo, value: Expr) -> str | None:
    """Why a tensor of the file cannot be this one of the model."""
    if value.shape != info.shape:
        return ""
    dtypes = {leaf.dtype for leaf in reads(value)}
    if dtypes <= _FLOATS and info.dtype in _FLOATS:
        return None
    if dtypes == {info.dtype}:
        return None
    return f"the file has {', '.join(sorted(dtypes))}, the model {info.dtype}"

"""The IR as text: what a golden `ir.txt` holds, and what a person reads to see what the elaborator made of a spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from specc.dims import Dim
from specc.initializers import REQUIRED, SIGNATURES
from specc.ir.declared import Initializer
from specc.ir.graph import (
    Absent,
    Apply,
    Call,
    Function,
    Graph,
    Input,
    Loop,
    Member,
    Model,
    Module,
    Node,
    Parameter,
    PartGroup,
    PartList,
    Read,
    Scan,
    Submodule,
    Value,
    When,
    dotted,
)
from specc.ir.members import parameter_count
from specc.types import ELLIPSIS, Scalar, TensorType


def model_text(model: Model) -> str:
    """Every distinct module of a model with its parts and graphs, the model first, parts in order of declaration."""
    names = _Names(model.module)
    preset = f', preset "{model.preset}"' if model.preset else ""
    lines = [
        f"model {model.module.name}{preset}: {parameter_count(model.module):,} parameters",
        *(f"fact {fact}" for fact in model.facts.statements()),
    ]
    for name, entry in model.entries.items():
        lines.append(f"entry {name}: " + "; ".join(_signature(graph) for graph in entry.graphs.values()))
    for module in names.modules:
        lines += ["", *_module(module, names)]
    return "\n".join(lines) + "\n"


class _Names:
    """Modules and file-level functions by name; those that share one are numbered in order of appearance."""

    def __init__(self, root: Module) -> None:
        self.modules: list[Module] = []
        self._names: dict[int, str] = {}
        self._taken: dict[str, int] = {}
        self._visit(root)

    def _visit(self, module: Module) -> None:
        if id(module) in self._names:
            return
        self.modules.append(module)
        count = self._taken[module.name] = self._taken.get(module.name, 0) + 1
        self._names[id(module)] = module.name if count == 1 else f"{module.name}#{count}"
        for member in module.members.values():
            self._visit_member(member)

    def _visit_member(self, member: Member) -> None:
        if isinstance(member, Submodule):
            self._visit(member.module)
        elif isinstance(member, PartList):
            for item in member.items:
                self._visit_member(item)
        elif isinstance(member, PartGroup):
            for item in member.members.values():
                self._visit_member(item)

    def of(self, module: Module) -> str:
        return self._names.get(id(module), module.name)


# ---- modules ---------------------------------------------------------------------------------------------------------


def _module(module: Module, names: _Names) -> Iterator[str]:
    torch = f"  = {module.torch_class}" if module.torch_class else ""
    yield f"block {names.of(module)}{torch}"
    for hyper in module.hypers:
        name = f"let {hyper.name}" if hyper.is_let else f"{hyper.name}: {hyper.kind}"
        written = f"  # {hyper.label}" if hyper.label and hyper.label != str(hyper.value) else ""
        yield f"  {name} = {_plain(hyper.value)}{written}"
    for name, member in module.members.items():
        yield from _member(name, member, names, "  ")
    for tie in module.ties:
        yield f"  tie {dotted(tie.left)} = {dotted(tie.right)}"
    for rule in module.inits:
        key = f'"{rule.pattern}"' if rule.pattern else f"{rule.block}.{rule.parameter}"
        yield f"  init {key} = {_init(rule.init)}"
    for (_, _, axes, _), graph in module.graphs.items():
        yield from _graph(graph, names, axes)


def _member(name: str, member: Member, names: _Names, indent: str) -> Iterator[str]:
    if isinstance(member, Parameter):
        init = f" = {_init(member.init)}" if member.init else ""
        yield f"{indent}{'buffer' if member.buffer else 'param'} {name}: {_type(member.type)}{init}"
    elif isinstance(member, Submodule):
        arguments = ", ".join(_argument(key, label, value) for key, value, label in member.args)
        yield f"{indent}{name}: {names.of(member.module)}({arguments})"
    elif isinstance(member, Function):
        yield f"{indent}{name}: {member.op if member.op is not None else member.name}"
    elif isinstance(member, PartList):
        yield from _list(name, member, names, indent)
    else:
        yield f"{indent}{name}: group"
        for key, item in member.members.items():
            yield from _member(key, item, names, indent + "  ")


def _init(init: Initializer) -> str:
    """As the spec writes it: without what is left at its default."""
    defaults = SIGNATURES.get(init.name, {})
    given = {
        key: value for key, value in init.args.items() if key in init.labels or value != defaults.get(key, REQUIRED)
    }
    return f"{init.name}({', '.join(_argument(key, init.labels.get(key), value) for key, value in given.items())})"


def _list(name: str, member: PartList, names: _Names, indent: str) -> Iterator[str]:
    """The items; equal neighbours are shown once with their range."""
    header = f" for {', '.join(member.names)} in {member.iterable}" if member.names else ""
    yield f"{indent}{name}: list of {len(member.items)}{header}"
    shown = [list(_member("", item, names, indent + "    ")) for item in member.items]
    at = 0
    while at < len(shown):
        end = at + 1
        while end < len(shown) and shown[end] == shown[at]:
            end += 1
        index = str(at) if end == at + 1 else f"{at}..{end - 1}"
        first = shown[at][0].strip()
        yield f"{indent}  {index}{first}"
        yield from shown[at][1:]
        at = end


# ---- graphs ----------------------------------------------------------------------------------------------------------


def _graph(graph: Graph, names: _Names, axes: Sequence[str]) -> Iterator[str]:
    yield f"  {_signature(graph)}" + (f"  # ... is {_axes(axes)}" if axes else "")
    for fact in graph.facts.statements():
        yield f"    fact {fact}"
    writer = _Writer(names)
    for argument in graph.inputs:
        if argument.value is not None:
            writer.define(argument.value)
    yield from writer.nodes(graph.nodes, "    ")
    yield "    return " + ", ".join(writer.use(value) for _, value in graph.results)


def _axes(axes: Sequence[str]) -> str:
    """How many axes `...` stands for, and which ones where they are dims that the signature names too."""
    count = f"{len(axes)} {'axis' if len(axes) == 1 else 'axes'}"
    return count if all(axis.startswith(ELLIPSIS) for axis in axes) else f"{count} ({', '.join(axes)})"


def _signature(graph: Graph) -> str:
    arguments = []
    for argument in graph.inputs:
        absent = " absent" if argument.value is None else ""
        arguments.append(f"{argument.name}: {_type(argument.type)}{'?' if argument.optional else ''}{absent}")
    results = ", ".join((f"{name}: " if name else "") + _type(value.type) for name, value in graph.results)
    return f"{graph.method}({', '.join(arguments)}) -> {results}"


class _Writer:
    """One graph's nodes; values are `name` or `%n`, numbered where a name comes again."""

    def __init__(self, names: _Names) -> None:
        self._modules = names
        self._shown: dict[Value, str] = {}
        self._taken: dict[str, int] = {}

    def define(self, value: Value) -> str:
        base = value.name or "%"
        count = self._taken.get(base, 0)
        self._taken[base] = count + 1
        self._shown[value] = f"%{count}" if not value.name else base if not count else f"{base}.{count}"
        return self._shown[value]

    def use(self, input_: Input) -> str:
        if isinstance(input_, Absent):
            return f"none({input_.label})" if input_.label else "none"
        if isinstance(input_, Scalar):
            return _labelled(input_.label, input_.value)
        return self._shown[input_]

    def nodes(self, nodes: Sequence[Node], indent: str) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, Loop):
                yield from self._loop(node, indent)
            elif isinstance(node, When):
                yield from self._when(node, indent)
            elif isinstance(node, Scan):
                yield from self._scan(node, indent)
            else:
                text = self._right_side(node)
                names = ", ".join(self.define(value) for value in node.outputs)
                types = ", ".join(_type(value.type) for value in node.outputs)
                yield f"{indent}{names} = {text}: {types}  @{node.span.where}"

    def _right_side(self, node: Read | Apply | Call) -> str:
        if isinstance(node, Read):
            return f"read {dotted(node.path)}"
        arguments = [self.use(i) for i in node.inputs]
        if isinstance(node, Call):
            where = dotted(node.path) or "self"
            callee = f"{where}.{node.graph.method}" if node.graph.module is not None else node.graph.method
            kind = f" [{self._modules.of(node.graph.module)}]" if node.graph.module is not None and node.path else ""
            return f"call {callee}({', '.join(arguments)}){kind}"
        defaults = {p.name: p.default for p in node.op.params if not p.is_operand and not p.required}
        for key, value in node.op.attributes.items():
            if key in node.labels or key not in defaults or defaults[key] != value:
                arguments.append(_argument(key, node.labels.get(key), value))
        return f"{node.op.name.removeprefix('= ')}({', '.join(arguments)})"

    def _loop(self, loop: Loop, indent: str) -> Iterator[str]:
        what = (
            f"fold {dotted(loop.fold)}" if loop.fold is not None else f"for {', '.join(loop.names)} in {loop.iterable}"
        )
        yield f"{indent}{what}  @{loop.span.where}"
        for number, iteration in enumerate(loop.iterations):
            binds = ", ".join(f"{name} = {dotted(path) if path is not None else '-'}" for name, path in iteration.binds)
            yield f"{indent}  [{number}] {binds}".rstrip()
            yield from self.nodes(iteration.nodes, indent + "    ")

    def _when(self, when: When, indent: str) -> Iterator[str]:
        yield f"{indent}when {when.mode}  @{when.span.where}"
        yield from self.nodes(when.nodes, indent + "  ")
        for name, value in when.aux:
            yield f"{indent}  aux {name} = {self.use(value)}"
        for before, end, after in when.rebinds:
            shown = self.use(before), self.use(end)
            yield f"{indent}  {self.define(after)} = {shown[1]} or {shown[0]}: {_type(after.type)}"

    def _scan(self, scan: Scan, indent: str) -> Iterator[str]:
        yield f"{indent}scan along {_size(scan.along)}  @{scan.span.where}"
        for one in scan.sequences:
            whole = self.use(one.whole)
            yield f"{indent}  each {self.define(one.slice)} = {whole} on axis {one.axis}: {_type(one.slice.type)}"
        for state in scan.states:
            start = self.use(state.start)
            yield f"{indent}  with {self.define(state.before)} = {start}: {_type(state.before.type)}"
        yield from self.nodes(scan.nodes, indent + "    ")
        for emitted in scan.emits:
            value = self.use(emitted.value)
            stacked = f"{self.define(emitted.stacked)} = {value} stacked on axis {emitted.axis}"
            yield f"{indent}  emit {stacked}: {_type(emitted.stacked.type)}"
        for state in scan.states:
            after = self.use(state.after)
            yield f"{indent}  next {self.use(state.before)} = {after}; last {self.define(state.result)}"


# ---- numbers and types -----------------------------------------------------------------------------------------------


def _type(type_: TensorType) -> str:
    """As the spec writes it, with the value behind what is written over hyper-parameters."""
    axes: list[str] = []
    for size in type_.shape:
        text = _size(size)
        if text.startswith(ELLIPSIS):
            text = ELLIPSIS
        if text != ELLIPSIS or axes[-1:] != [ELLIPSIS]:
            axes.append(text)
    return f"{type_.dtype.spec_name}[{', '.join(axes)}]"


def _size(size: Dim) -> str:
    text = "unit" if size.unit else str(size)
    return text if size.label is None or size.label == text else f"{size.label}={text}"


def _labelled(label: str | None, value: Any) -> str:
    text = _plain(value)
    return text if label in (None, text, str(value)) else f"{label}={text}"


def _argument(key: str, label: str | None, value: Any) -> str:
    """`heads=4` where the value is the enclosing module's own `heads`, else `dim = 4*heads=16`."""
    return f"{key}={_plain(value)}" if label == key else f"{key} = {_labelled(label, value)}"


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{k}: {_plain(v)}' for k, v in value.items())}}}"
    left, right = getattr(value, "left", None), getattr(value, "right", None)
    if left is not None and right is not None:
        return f"{_side(left)} -> {_side(right)}"
    return str(getattr(value, "spec_name", value))


def _side(axes: Sequence[Sequence[Dim]]) -> str:
    return "[" + ", ".join("*".join(_size(factor) for factor in axis) or "1" for axis in axes) + "]"

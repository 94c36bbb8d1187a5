"""One module of the IR becomes a class draft: its methods from their graphs, then the constructor that they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from specc.backends.torch.cached import CACHE, CachedMethod, Stepping
from specc.backends.torch.classes import ClassDraft, FunctionDraft, Param
from specc.backends.torch.construct import Constructor
from specc.backends.torch.entry import checks, size_bindings
from specc.backends.torch.labels import Scope, python_name
from specc.backends.torch.merge import by_ranks, merge
from specc.backends.torch.methods import Method
from specc.backends.torch.optext import InitText, is_identity, without_device
from specc.backends.torch.printer import literal, names_in, protected, tidy
from specc.backends.torch.signatures import (
    argument_defaults,
    argument_text,
    ellipsis_rank,
    given_always,
    list_lengths,
    parameters_of,
)
from specc.backends.torch.statements import Line, Remark, Statement, all_names, assign
from specc.backends.torch.weights import InitSection
from specc.dims import Facts
from specc.ir.declared import Hyper
from specc.ir.graph import Apply, Argument, Graph, Loop, Module, Node, Parameter, PartList, Path, Scan, Value, When
from specc.ir.members import member_at, walk_members
from specc.types import DType, Scalar

TENSOR = "torch.Tensor"


class File(Protocol):
    """What a module must know of the file it goes to."""

    def class_of(self, module: Module) -> str: ...

    def arguments_of(self, module: Module) -> Sequence[str]: ...

    def scope_of(self, module: Module) -> Scope: ...

    def sequential(self, parts: PartList) -> bool: ...

    def helper(self, name: str, source: str) -> str: ...

    def extern(self, file: str) -> str: ...

    def method_of(self, graph: Graph) -> str: ...

    def trains(self, function: str) -> bool: ...

    def function_names(self) -> frozenset[str]: ...


class Function:
    """A graph's surroundings outside any class: a file-level `fn`. A base for those inside one."""

    def __init__(self, file: File, scope: Scope, module: Module | None = None) -> None:
        self.file, self.scope, self.module = file, scope, module
        self.optional: frozenset[str] = frozenset()
        self.reserved: frozenset[str] = frozenset()

    def is_sequential(self, path: Path) -> bool:
        parts = self._list(path)
        return parts is not None and self.file.sequential(parts)

    def list_length(self, path: Path) -> int | None:
        parts = self._list(path)
        return len(parts.items) if parts is not None else None

    def _list(self, path: Path) -> PartList | None:
        found = member_at(self.module, path) if self.module is not None else None
        return found if isinstance(found, PartList) else None

    def constant(self, value: Value) -> str | None:
        return None

    def method_name(self, graph: Graph) -> str:
        return self.file.method_of(graph)

    def trains(self, function: str) -> bool:
        """Whether a function of the file computes something else in training."""
        return self.file.trains(function)

    def helper(self, name: str, source: str) -> str:
        return self.file.helper(name, source)

    def extern(self, file: str) -> str:
        return self.file.extern(file)

    def floating_source(self) -> str | None:
        """A parameter in the compute dtype."""
        if self.module is not None:
            for path, member, _ in walk_members(self.module):
                if isinstance(member, Parameter) and member.type.dtype is DType.COMPUTE:
                    return "self" + "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in path)
        return None

    def draft(
        self,
        name: str,
        graphs: Sequence[Graph],
        facts: Facts | None,
        *,
        is_method: bool,
        stepping: Stepping | None = None,
    ) -> FunctionDraft:
        """One Python function for all graphs of a method; `facts` are checked on entry. `stepping`: as a step of
        decoding."""
        full = max(graphs, key=lambda g: len(g.present))
        inputs = parameters_of(full)
        always = [a for a in inputs if not a.optional or a.name in given_always(full)]
        self.optional = frozenset(a.name for a in inputs if a not in always)
        methods = [CachedMethod(g, self, stepping) if stepping is not None else Method(g, self) for g in graphs]
        texts = [method.statements() for method in methods]
        hidden = {n for text in texts for n in all_names(text, bound_only=True)} & self.file.function_names()
        if hidden - self.reserved:  # a local would hide a function that the file has: choose other names
            self.reserved |= hidden
            return self.draft(name, graphs, facts, is_method=is_method, stepping=stepping)
        by_rank: dict[tuple[int, ...], list[tuple[Method, tuple[Statement, ...]]]] = {}
        for method, text in zip(methods, texts, strict=True):
            lengths = list_lengths(method.graph).values()
            by_rank.setdefault((ellipsis_rank(method.graph), *lengths), []).append((method, text))
        bodies = [(some[0][0].graph, self._body(some, facts, stepping)) for some in by_rank.values()]
        fixed = {python_name(a.of or a.name) for a in inputs if a not in always or a.of or not a.type.dtype.is_float}
        fixed |= {CACHE} if stepping is not None else set()
        return FunctionDraft(
            name=name,
            params=stepping.params(self._params(full)) if stepping is not None else self._params(full),
            returns=stepping.returns(self._returns(full)) if stepping is not None else self._returns(full),
            doc=stepping.doc(full) if stepping is not None else full.doc,
            remarks=self._remarks(methods[graphs.index(full)], inputs),
            body=by_ranks(bodies),
            fixed=frozenset(fixed.union(*(method.size_names.values() for method in methods))),
            is_method=is_method,
        )

    def _body(
        self,
        variants: Sequence[tuple[Method, tuple[Statement, ...]]],
        facts: Facts | None,
        stepping: Stepping | None,
    ) -> tuple[Statement, ...]:
        """The statements for one rank of `...`: sizes, checks, and what differs by the optional inputs given."""
        full = max((method.graph for method, _ in variants), key=lambda g: len(g.present))
        inputs = parameters_of(full)
        step = stepping.steps[full] if stepping is not None else None
        guards = checks(full, facts, self.scope, self.module, step) if facts is not None else []
        dims = dict.fromkeys(d for method, _ in variants for d in method.dims)
        dims.update(dict.fromkeys(d for guard in guards for d in guard.dims))
        always = [a for a in inputs if a.name not in self.optional]
        header, rest = size_bindings(full, always, dims, step)
        if step is not None and stepping is not None:
            header = [*stepping.prelude(used=step.past.symbols[0] in dims), *header]
        header += [g.statement for g in guards if not set(g.dims) & set(rest)]
        bodies: dict[frozenset[str], tuple[Statement, ...]] = {}
        for method, text in variants:
            present = method.graph.present
            extra, missing = size_bindings(full, [a for a in inputs if a.name in present & self.optional], rest, step)
            extra += [g.statement for g in guards if set(g.dims) & set(rest) and not set(g.dims) & set(missing)]
            bodies[present] = (*extra, *text)
        return (*header, *merge(bodies, [python_name(a.name) for a in inputs if a.name in self.optional]))

    def _params(self, graph: Graph) -> tuple[Param, ...]:
        lists = list_lengths(graph)
        return tuple(
            Param(
                python_name(name),
                f"{TENSOR} | None" if name in self.optional else f"list[{TENSOR}]" if name in lists else TENSOR,
                "None" if default else "",
            )
            for name, default in argument_defaults(graph).items()
        )

    def _returns(self, graph: Graph) -> str:
        return TENSOR if len(graph.results) == 1 else f"tuple[{', '.join([TENSOR] * len(graph.results))}]"

    def _remarks(self, method: Method, arguments: Sequence[Argument]) -> tuple[str, ...]:
        """Shapes of arguments and results, on a line of their own."""
        graph = method.graph

        def typed(name: str | None, type_: object, shape: str) -> str:
            kind = "" if type_ is DType.COMPUTE else f"{getattr(type_, 'spec_name', '').lower()} "
            return f"{name + ' ' if name else ''}{kind}{shape}"

        inputs = [typed(argument_text(a), a.type.dtype, method.shape(a.type)) for a in arguments]
        results = [typed(name, v.type.dtype, method.shape(v.type)) for name, v in graph.results]
        line = f"{', '.join(inputs)} -> {', '.join(results)}"
        if len(line) <= 90:
            return (line,)
        together = f"-> {', '.join(results)}"
        return (*inputs, *([together] if len(together) <= 90 else [f"-> {result}" for result in results]))


class ModuleBuilder(Function):
    """One module. `entries`: names of methods that check the model's facts; `stepping`: of methods that have an
    incremental form."""

    def __init__(
        self,
        module: Module,
        file: File,
        entries: frozenset[str],
        facts: Facts | None,
        stepping: Mapping[str, Stepping],
    ) -> None:
        super().__init__(file, Scope(module, frozenset(module.members)), module)
        self.target: Module = module
        self.entries, self.facts, self.stepping = entries, facts, stepping
        self.constants: dict[Value, str] = {}
        self.buffers: dict[str, str] = {}  # name -> expression

    def build(self) -> ClassDraft:
        names = dict.fromkeys(key[0] for key in self.target.graphs)
        drafts = {name: self._method(name) for name in names}
        order = {g.method: g.span.start for g in self.target.graphs.values()}
        methods = [
            draft
            for name in sorted(names, key=lambda n: order[n])
            for draft in (drafts[name], *([self._cached(name)] if name in self.stepping else []))
        ]
        body = self._constructor(methods)
        params = tuple(
            Param(python_name(h.name), annotation(h))
            for h in self.target.hypers
            if h.name in self.scope.arguments and not h.is_let
        )
        return ClassDraft(self.target.name, self.target.doc, params, tuple(body), tuple(methods))

    def _method(self, name: str) -> FunctionDraft:
        graphs = self.target.method(name)
        for graph in graphs:
            self._find_constants(graph.nodes)
        return self.draft(name, graphs, self.facts if name in self.entries else None, is_method=True)

    def _cached(self, name: str) -> FunctionDraft:
        """A method as a step of decoding."""
        stepping = self.stepping[name]
        graphs = [stepping.cut.get(g, g) for g in self.target.method(name) if g in stepping.steps]
        facts = self.facts if name in self.entries else None
        return self.draft(f"{name}_cached", graphs, facts, is_method=True, stepping=stepping)

    # ---- constants -----------------------------------------------------------------------------------------------

    def constant(self, value: Value) -> str | None:
        return self.constants.get(value)

    def _find_constants(self, nodes: Sequence[Node]) -> None:
        """Values that depend on no input and no parameter: non-persistent buffers (LANGUAGE 9)."""
        texts: dict[Value, str] = {}
        found: list[tuple[Value, Apply]] = []
        used: set[Value] = set()
        for node in _flat(nodes):
            if isinstance(node, Apply) and len(node.outputs) == 1 and self._is_constant(node, texts):
                operands = [
                    None
                    if not isinstance(i, (Value, Scalar))
                    else texts[i]
                    if isinstance(i, Value)
                    else self._literal(i)
                    for i in node.inputs
                ]
                text = node.op.torch(InitText(node, self.scope, self.helper), *operands)
                texts[node.outputs[0]] = f"({without_device(text)})"
                found.append((node.outputs[0], node))
            else:
                used.update(i for i in node.inputs if isinstance(i, Value))
                used.update(node.kept if isinstance(node, (When, Scan)) else ())
        results = {v for g in self.target.graphs.values() for _, v in g.results}
        for value, node in found:
            if value in used | results:
                self.constants[value] = f"self.{self._buffer(value, node, tidy(texts[value]))}"
            else:
                self.constants[value] = ""

    def _literal(self, scalar: Scalar) -> str:
        return protected(self.scope.init(scalar.label, scalar.value) or literal(scalar.value))

    def _is_constant(self, node: Apply, known: Mapping[Value, str]) -> bool:
        tensors = [i for i in node.inputs if isinstance(i, Value)]
        sizes = [d for v in node.outputs for d in v.type.shape]
        numbers = [i.value for i in node.inputs if isinstance(i, Scalar)]
        static = all(d.value is not None for d in sizes) and all(isinstance(n, (int, float, bool)) for n in numbers)
        if node.op.for_training or node.op.train_only or is_identity(node):  # what passes a table on is a user of it
            return False
        return static and all(v in known for v in tensors)

    def _hint(self, value: Value, node: Apply) -> str:
        """The spec's name for a table, or for what it is computed from."""
        names = [value.name, *(i.name for i in node.inputs if isinstance(i, Value)), node.op.name]
        return next(name for name in names if name is not None)

    def _buffer(self, value: Value, node: Apply, text: str) -> str:
        hint = self._hint(value, node)
        hint = hint if hint.isidentifier() else "table"
        number, name = 2, hint
        while (name in self.buffers and self.buffers[name] != text) or name in self.scope.taken | set(
            self.scope.hypers
        ):
            name = f"{hint}{number}"
            number += 1
        self.buffers[name] = text
        return name

    # ---- the constructor -----------------------------------------------------------------------------------------

    def _constructor(self, methods: Sequence[FunctionDraft]) -> list[Statement]:
        scope = self.scope
        parts = Constructor(self.target, scope, self.file).statements()
        buffers: list[Statement] = [
            Line("", (), tidy(f'self.register_buffer("{name}", {text}, persistent=False)'))
            for name, text in self.buffers.items()
        ]
        weights = InitSection(self.target, scope, self.file.class_of, self.helper).statements()
        ties: list[Statement] = [
            assign(f"self{_access(t.left)}", f"self{_access(t.right)}", "tied") for t in self.target.ties
        ]
        names: list[Statement] = []
        read = {name for text in self.buffers.values() for name in names_in(text)}  # written before the methods are
        for hyper in self.target.hypers:
            name = hyper.name
            if hyper.is_let and name in scope.attributes and python_name(name) in read:
                names.append(assign(python_name(name), scope.let(name)))
                names.append(assign(f"self.{name}", python_name(name)))
            elif hyper.is_let and name in scope.attributes:
                names.append(assign(f"self.{name}", scope.let(name)))
            elif hyper.is_let and name in scope.locals:
                names.append(assign(python_name(name), scope.let(name)))
            elif name in scope.attributes:
                names.append(assign(f"self.{name}", python_name(name)))
        if any("self.aux[" in line for method in methods for line in method.lines({}, 4)):
            remark = Remark("Training-only scalars of the latest forward; sum each name over all modules.")
            names += [remark, assign("self.aux: dict[str, torch.Tensor]", "{}")]
        gap: list[Statement] = [Remark("")] if weights else []
        return [*names, *parts, *buffers, *gap, *weights, *gap * bool(ties), *ties]


def _flat(nodes: Sequence[Node]) -> list[Node]:
    flat: list[Node] = []
    for node in nodes:
        if isinstance(node, Loop):
            for iteration in node.iterations:
                flat += _flat(iteration.nodes)
        elif isinstance(node, (When, Scan)):
            flat += _flat(node.nodes)
            flat.append(node)
        else:
            flat.append(node)
    return flat


def _access(path: Path) -> str:
    return "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in path)


def annotation(hyper: Hyper) -> str:
    """The Python type of a constructor argument."""
    kind = hyper.kind.strip()
    optional = kind.endswith("?")
    kind = kind.rstrip("?").strip()
    text = kind if kind in ("int", "float", "bool", "str") else "str"
    if kind.startswith("["):
        inner = annotation(Hyper("", None, None, False, kind[1:-1], ""))
        text = f"tuple[{inner}, ...]"
    elif kind == "dtype":
        text = "torch.dtype"
    return f"{text} | None" if optional else text

"""The emitted file: classes, children before parents, each once; the functions they call; names for all."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import replace

from specc.backends.torch.cached import CACHE_CLASS, EACH, FRAMES, GROWN, ONCE, STATES, Stepping
from specc.backends.torch.classes import ClassDraft, FunctionDraft, Param, docstring
from specc.backends.torch.labels import PYTHON_NAMES, Scope
from specc.backends.torch.layout import signature
from specc.backends.torch.leaves import leaf_of
from specc.backends.torch.modules import Function, ModuleBuilder
from specc.backends.torch.printer import literal, show
from specc.backends.torch.sequential import sequential_lists
from specc.ir.graph import Apply, Graph, Model, Module, PartList
from specc.passes.externs import extern_modules
from specc.passes.incremental import Incremental
from specc.passes.variants import children_first, variant_names

TRAINING = Param("training", "bool", "False")
"""What a function takes from the module that calls it, if it has something to do in training."""


class FileBuilder:
    """Collects drafts while modules are built from the leaves up."""

    def __init__(self, model: Model, version: str, incremental: Sequence[Incremental]) -> None:
        self.model, self.version, self.incremental = model, version, incremental
        self.steps = {graph: step for one in incremental for graph, step in one.steps.items()}
        self.sequential_ids = sequential_lists(model)
        self.helpers: dict[str, str] = {}
        self.externs = extern_modules(model)  # file of an extern function -> the module that the emitted file imports
        self.scopes: dict[Module, Scope] = {}
        self.tokens: dict[Module, str] = {}
        self.drafts: dict[str, ClassDraft] = {}  # token -> draft
        self.bare: dict[str, ClassDraft] = {}  # the same without comments
        self.members: dict[str, list[Module]] = {}  # token -> modules that it stands for
        self.fns: dict[Graph, str] = {}  # file-level functions that are called
        self.functions: dict[FunctionDraft, str] = {}

    # ---- what builders ask ---------------------------------------------------------------------------------------

    def class_of(self, module: Module) -> str:
        return self.tokens[module]

    def arguments_of(self, module: Module) -> Sequence[str]:
        return [p.name for p in self.drafts[self.tokens[module]].params]

    def scope_of(self, module: Module) -> Scope:
        if module not in self.scopes:
            self.scopes[module] = Scope(module)
        return self.scopes[module]

    def sequential(self, parts: PartList) -> bool:
        return id(parts) in self.sequential_ids

    def helper(self, name: str, source: str) -> str:
        self.helpers.setdefault(name, _laid_out(source.strip("\n")))
        return name

    def extern(self, file: str) -> str:
        return self.externs[file]

    def method_of(self, graph: Graph) -> str:
        if graph.module is not None:
            return graph.method
        if graph not in self.fns:
            self.fns[graph] = self._function(graph)
        return self.fns[graph]

    def trains(self, function: str) -> bool:
        return any(named == function and TRAINING in draft.params for draft, named in self.functions.items())

    def function_names(self) -> frozenset[str]:
        cache = ["Cache"] if self.incremental else []
        return frozenset({*self.helpers, *self.functions.values(), *self.externs.values(), *cache})

    def _function(self, graph: Graph) -> str:
        draft = Function(self, Scope(None)).draft(graph.method, [graph], None, is_method=False)
        if any("self.training" in line for line in draft.lines({}, 0)):
            draft = replace(draft, params=(*draft.params, TRAINING))
        if draft not in self.functions:
            taken = set(self.functions.values())
            number, name = 2, graph.method
            while name in taken or name in self.helpers or name in PYTHON_NAMES or name in self.externs.values():
                name = f"{graph.method}{number}"
                number += 1
            self.functions[draft] = name
        return self.functions[draft]

    # ---- building ------------------------------------------------------------------------------------------------

    def build(self) -> str:
        top = self.model.module
        for module in children_first(top):
            if leaf_of(module) is None or module is top:
                entries = frozenset(self.model.entries) if module is top else frozenset()
                facts = self.model.facts if module is top else None
                builder = ModuleBuilder(module, self, entries, facts, self._stepping(module))
                self.scopes[module] = builder.scope
                self._add(module, builder.build())
        values = {h.name: literal(h.value) for h in top.hypers}
        token = self.tokens[top]
        self.drafts[token] = self.drafts[token].with_defaults(
            {p.name: values[p.name] for p in self.drafts[token].params}
        )
        return self.text(_first_sentence(top.doc) or f"{top.name}.")

    def _stepping(self, module: Module) -> dict[str, Stepping]:
        """The methods of a module that have an incremental form."""
        names = dict.fromkeys(g.method for g in module.graphs.values() if g in self.steps)
        entries = {one.entry: one.start for one in self.incremental if one.graph.module is module}
        carriers = {node: k for one in self.incremental for node, k in one.carriers.items()}
        consumers = {node: n for one in self.incremental for node, n in one.consumers.items()}
        calls = frozenset(node for one in self.incremental for node in one.calls)
        cut = {one.whole: one.graph for one in self.incremental if one.whole is not None}
        return {
            name: Stepping(self.steps, carriers, consumers, calls, name in entries, entries.get(name), cut)
            for name in names
        }

    def _add(self, module: Module, draft: ClassDraft) -> None:
        bare = draft.bare()
        token = next((t for t, known in self.bare.items() if known == bare), None)
        if token is None:
            token = f"__Class{len(self.drafts)}__"
            self.drafts[token], self.bare[token] = draft, bare
        else:
            self.drafts[token] = self.drafts[token].general(draft)
        self.tokens[module] = token
        self.members.setdefault(token, []).append(module)

    # ---- names ---------------------------------------------------------------------------------------------------

    def _class_names(self) -> dict[str, str]:
        taken = {*self.function_names(), *PYTHON_NAMES}
        blocks: dict[str, list[list[Module]]] = {}
        for token, draft in self.drafts.items():
            blocks.setdefault(draft.block, []).append(self.members[token])
        wishes = variant_names(blocks)
        names: dict[str, str] = {}
        for token in self.drafts:
            wish, number = wishes[self.members[token][0]], 2
            name = wish
            while name in taken or name in names.values():
                name = f"{wish}{number}"
                number += 1
            names[token] = name
        return names

    # ---- text ----------------------------------------------------------------------------------------------------

    def text(self, title: str) -> str:
        """The file, its docstring beginning with `title`."""
        names = self._class_names()
        sections: list[list[str]] = [source.splitlines() for source in self.helpers.values()]
        readers = [node for one in self.incremental for node in one.consumers]
        frames = any(isinstance(node, Apply) and node.op.name == "causal_conv1d" for node in readers)
        apart = [len({state.axis for state in group}) > 1 for one in self.incremental for group in one.states]
        more = (GROWN if not all(apart) else "") + (EACH if any(apart) else "")
        more += ONCE if any(one.once for one in self.incremental) else ""
        more += STATES if any(one.carriers for one in self.incremental) else ""
        more += FRAMES if frames else ""
        sections += [f"{CACHE_CLASS}{more}".splitlines()] if self.incremental else []
        for draft, name in self.functions.items():
            lines = draft.lines({**names, draft.name: name}, 0)
            sections.append([line.replace("self.training", TRAINING.name) for line in lines])  # it has no self
        for token, draft_ in self.drafts.items():
            sections.append(draft_.lines(names[token], names))
        body = "\n\n\n".join("\n".join(_trimmed(lines)) for lines in sections)
        return f"{self._header(body, title)}\n\n\n{body}\n"

    def _header(self, body: str, title: str) -> str:
        spec, maker = self.model.file, f"specc {self.version}".strip()
        preset = f', preset "{self.model.preset}"' if self.model.preset else ""
        beside = ", ".join(f"{name}.py" for name in sorted(self.externs.values()))
        needs = f" It imports {beside}, which lies beside it." if beside else ""
        lines = docstring(f"{title}\n\nGenerated by {maker} from {spec}{preset}.{needs}", 0)
        own = ["import math"] if re.search(r"\bmath\.", body) else []
        own += ["from collections.abc import Callable"] if re.search(r"\bCallable\[", body) else []
        lines += ["", *([*own, ""] if own else []), "import torch"]
        if re.search(r"\bF\.", body):
            lines.append("import torch.nn.functional as F")
        if re.search(r"\bnn\.", body):
            lines.append("from torch import nn")
        if self.externs:
            lines += ["", *(f"import {name}" for name in sorted(self.externs.values()))]
        return "\n".join(lines)


def _first_sentence(doc: str) -> str:
    return re.split(r"(?<=[a-z)]\.)\s", " ".join(doc.split()), maxsplit=1)[0]


def _laid_out(source: str) -> str:
    """A function's source with its signature laid out as everything else is."""
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    args = function.args
    first_default = len(args.args) - len(args.defaults)
    params = [
        _parameter(a, args.defaults[i - first_default] if i >= first_default else None) for i, a in enumerate(args.args)
    ]
    if args.vararg is not None:
        params.append("*" + _parameter(args.vararg, None))
    returns = ast.unparse(function.returns) if function.returns is not None else "None"
    body = source.splitlines()[function.body[0].lineno - 1 :]
    return "\n".join([*signature(function.name, params, returns, 0), *body])


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    annotation = f": {ast.unparse(argument.annotation)}" if argument.annotation is not None else ""
    if default is None:
        return argument.arg + annotation
    return f"{argument.arg}{annotation}{' = ' if annotation else '='}{show(default)}"


def _trimmed(lines: list[str]) -> list[str]:
    while lines and not lines[-1]:
        lines.pop()
    return lines

"""The emitted file: classes, children before parents, each once; the functions they call; names for all."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from specc.backends.torch.cached import CACHE_CLASS, ONCE, Stepping
from specc.backends.torch.classes import ClassDraft, FunctionDraft, Param, docstring
from specc.backends.torch.labels import PYTHON_NAMES, Scope
from specc.backends.torch.layout import signature
from specc.backends.torch.leaves import leaf_of
from specc.backends.torch.modules import Function, ModuleBuilder
from specc.backends.torch.printer import literal, show
from specc.backends.torch.sequential import sequential_lists
from specc.ir.graph import Graph, Model, Module, PartList, Submodule, walk_members
from specc.passes.externs import extern_modules
from specc.passes.incremental import Incremental

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
        for module in _children_first(top):
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
        return self._text()

    def _stepping(self, module: Module) -> dict[str, Stepping]:
        """The methods of a module that have an incremental form."""
        names = dict.fromkeys(g.method for g in module.graphs.values() if g in self.steps)
        entries = {one.entry: one.start for one in self.incremental if one.graph.module is module}
        return {name: Stepping(self.steps, entries.get(name)) for name in names}

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
        by_block: dict[str, list[str]] = {}
        for token, draft in self.drafts.items():
            by_block.setdefault(draft.block, []).append(token)
        names: dict[str, str] = {}
        for block, tokens in by_block.items():
            for token, wish in zip(tokens, self._variants(block, tokens), strict=True):
                name, number = wish, 2
                while name in taken or name in names.values():
                    name = f"{wish}{number}"
                    number += 1
                names[token] = name
        return names

    def _variants(self, block: str, tokens: list[str]) -> list[str]:
        """The block's name for the plainest class; the others say in what they differ: `CausalAttention`."""
        if len(tokens) == 1:
            return [block]
        settings = [{h.name: h.value for h in self.members[t][0].hypers} for t in tokens]
        differing = [n for n in settings[0] if len({repr(s.get(n)) for s in settings}) > 1]
        switches = [n for n in differing if any(isinstance(s[n], (bool, str)) or s[n] is None for s in settings)]
        base = min(range(len(tokens)), key=lambda i: (sum(bool(settings[i][n]) for n in switches), i))
        wishes = []
        for i, setting in enumerate(settings):
            marks = [_mark(n, setting[n]) for n in switches if setting[n] != settings[base][n]]
            mark = next((m for m in marks if m), "")
            wishes.append(block if i == base or not mark else f"{mark}{block}")
        return wishes

    # ---- text ----------------------------------------------------------------------------------------------------

    def _text(self) -> str:
        names = self._class_names()
        sections: list[list[str]] = [source.splitlines() for source in self.helpers.values()]
        more = ONCE if any(one.once for one in self.incremental) else ""
        sections += [f"{CACHE_CLASS}{more}".splitlines()] if self.incremental else []
        for draft, name in self.functions.items():
            lines = draft.lines({**names, draft.name: name}, 0)
            sections.append([line.replace("self.training", TRAINING.name) for line in lines])  # it has no self
        for token, draft_ in self.drafts.items():
            sections.append(draft_.lines(names[token], names))
        body = "\n\n\n".join("\n".join(_trimmed(lines)) for lines in sections)
        return f"{self._header(body)}\n\n\n{body}\n"

    def _header(self, body: str) -> str:
        spec, maker = self.model.file, f"specc {self.version}".strip()
        preset = f', preset "{self.model.preset}"' if self.model.preset else ""
        title = _first_sentence(self.model.module.doc) or f"{self.model.module.name}."
        beside = ", ".join(f"{name}.py" for name in sorted(self.externs.values()))
        needs = f" It imports {beside}, which lies beside it." if beside else ""
        lines = docstring(f"{title}\n\nGenerated by {maker} from {spec}{preset}.{needs}", 0)
        own = ["import math"] if re.search(r"\bmath\.", body) else []
        own += ["from collections.abc import Callable"] if re.search(r"\bCallable\[", body) else []
        lines += ["", *([*own, ""] if own else []), "import torch"]
        if re.search(r"\bF\.", body):
            lines.append("import torch.nn.functional as F")
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


def _mark(name: str, value: object) -> str:
    """A word for how a class differs: `Causal`, `Gelu`, `WithoutBias`."""
    words = "".join(part.capitalize() for part in name.split("_"))
    if value is True:
        return words
    if value is False or value is None:
        return f"No{words}"
    text = "".join(part.capitalize() for part in re.findall(r"[A-Za-z0-9]+", str(value))[:2])
    return text if isinstance(value, str) and text else ""


def _children_first(top: Module) -> Iterator[Module]:
    """Every distinct module below and with `top`, parts before what contains them."""
    seen: set[Module] = set()

    def visit(module: Module) -> Iterator[Module]:
        if module in seen:
            return
        seen.add(module)
        for _, member, owner in walk_members(module):
            if owner is module and isinstance(member, Submodule):
                yield from visit(member.module)
        yield module

    return visit(top)

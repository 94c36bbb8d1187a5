"""Static checks of `train`, `test` and `weights` sections: names, settings, shapes.

Nothing is run (LANGUAGE 16, 17).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from specc.diagnostics import Diagnostic, Edit
from specc.elaborate.builtins import COMPILE_TIME
from specc.elaborate.elaborator import Elaborator
from specc.elaborate.evaluate import Evaluator
from specc.elaborate.files import FileScope
from specc.elaborate.instances import Instance
from specc.elaborate.models import Given, Options, given_arguments, presets
from specc.elaborate.names import available, closest, did_you_mean, replaced
from specc.elaborate.scopes import Scope
from specc.elaborate.training import TrainChecker, kept
from specc.elaborate.values import BlockDecl, Fail, Poisoned, describe
from specc.ir.graph import Model
from specc.op import operators
from specc.source import Span
from specc.syntax import ast
from specc.syntax.preset_tests import tests_of

Configured = Callable[[Options], "tuple[Model, Elaborator] | None"]
"""Elaborates a configuration; None if it has errors, which were reported."""

TEST_SETTINGS = ("preset", "model", "seed", "inputs")
TEST_VALUES = ("torch", "onnx", "forward", "incremental")
TEST_FUNCTIONS = ("shape", "count_params", "flops", "hf", "fused", "nodes")


def check_sections(file: FileScope, elab: Elaborator, configured: Configured) -> None:
    """Add the findings about the sections of a file to the elaborator's collector."""
    others = (item for item in file.tree.items if isinstance(item, (ast.Weights, ast.Train)))
    for item in (*others, *tests_of(file.tree)):
        with elab.collecting():
            decl = model_of_section(file, item.model)
            if decl.file is not file or isinstance(item, ast.Weights):
                continue  # an imported model is elaborated where it is declared
            if isinstance(item, ast.Test):
                TestSection(elab, file, decl, item, configured).check()
            else:
                _train(elab, file, decl, item, configured)
    elab.context = ""


def model_of_section(file: FileScope, name: ast.Ident) -> BlockDecl:
    """The model that a section is about (E010)."""
    if name.id in file.broken:
        raise Poisoned
    found = file.find(name.id)
    if found is not None and isinstance(found[1], BlockDecl) and found[1].node.is_model:
        return found[1]
    models = [d.name for d in file.models()]
    guess = closest(name.id, models)
    is_block = found is not None and isinstance(found[1], BlockDecl)
    message = f"`{name.id}` is a block, not a model" if is_block else f"no model `{name.id}` in {file.source.name}"
    raise Fail(
        Diagnostic(
            "E010",
            message,
            name.span,
            help=did_you_mean(guess),
            edits=replaced(name.span, guess),
            notes=(("available", available(models) or "none"),),
        )
    )


def _train(elab: Elaborator, file: FileScope, decl: BlockDecl, item: ast.Train, configured: Configured) -> None:
    elab.context = f'train {decl.name} "{item.name.value}"' if item.name is not None else f"train {decl.name}"
    settings = kept({s.name.id: s.value for s in item.items if isinstance(s, ast.Setting)})
    options = Options(model=decl.name, preset=chosen_preset(elab, file, settings.get("preset")))
    found = configured(runnable(file, decl, options))
    context = elab.context
    if found is None:
        raise Poisoned
    model, own = found
    own.collector, own.context, own.trail = elab.collector, context, []
    TrainChecker(own, model, item, settings).check()


def chosen_preset(elab: Elaborator, file: FileScope, setting: ast.Expr | None) -> str | None:
    """The preset that a section names (E008)."""
    if setting is None:
        return None
    place = Evaluator(elab, Scope(file))
    known = presets(file)
    if not isinstance(setting, ast.Str):
        raise place.fail("E125", "a preset is named by a string", setting.span, available=available(known))
    if setting.value not in known:
        guess = closest(setting.value, known)
        raise place.fail(
            "E008",
            f'no preset "{setting.value}" in {file.source.name}',
            setting.span,
            help=f'did you mean "{guess}"?' if guess else "",
            edits=(Edit(setting.span, f'"{guess}"'),) if guess else (),
            available=available(known) or "none",
        )
    return setting.value


def runnable(file: FileScope, decl: BlockDecl, options: Options) -> Options:
    """These options, with the model's first preset where a hyper-parameter has no default."""
    missing = [p for p in decl.node.params if p.default is None and not p.type.optional]
    if options.preset is not None or options.sets or options.config or not missing:
        return options
    own = [p.name.value for p in presets(file).values() if isinstance(p.base, ast.Ident) and p.base.id == decl.name]
    if not own:
        raise Poisoned  # there is no configuration to check
    return Options(model=options.model, preset=own[0])


class TestSection(Evaluator):
    """Checks one `test` section."""

    def __init__(
        self, elab: Elaborator, file: FileScope, decl: BlockDecl, node: ast.Test, configured: Configured
    ) -> None:
        super().__init__(elab, Scope(file))
        self.decl, self.node, self.configured = decl, node, configured
        elab.context = f'test {decl.name} "{node.name.value}"'

    def check(self) -> None:
        settings: dict[str, ast.Expr] = {}
        for item in self.node.items:
            if isinstance(item, ast.Setting):
                with self.elab.collecting():
                    self._setting(item, settings)
        context = self.elab.context
        found = self.configured(self._options(settings))
        self.elab.context = context
        if found is None:
            raise Poisoned
        model, own = found
        instance = own.bodies.root
        assert instance is not None
        self.scope = Scope(self.scope.file, instance.scope.names, dims=instance.dims)
        self._dims(model)
        known = self._values(model, instance)
        for item in self.node.items:
            if isinstance(item, ast.Expect):
                with self.elab.collecting():
                    self._expectation(item, known)

    def _setting(self, item: ast.Setting, settings: dict[str, ast.Expr]) -> None:
        name = item.name.id
        if name not in TEST_SETTINGS:
            raise self.no_such("T501", f"unknown setting `{name}`", item.name.span, name, TEST_SETTINGS)
        if name in settings:
            raise self.fail("E121", f"`{name}` is given twice", item.name.span)
        settings[name] = item.value

    def _options(self, settings: Mapping[str, ast.Expr]) -> Options:
        """The configuration that the section tests."""
        preset = chosen_preset(self.elab, self.file, settings.get("preset"))
        model = settings.get("model")
        if model is None:
            return runnable(self.file, self.decl, Options(model=self.decl.name, preset=preset))
        if preset is not None:
            raise self.fail("E121", "a test has a `preset` or a `model`, not both", model.span)
        if not (isinstance(model, ast.Call) and isinstance(model.func, ast.Name) and model.func.id == self.decl.name):
            raise self.fail(
                "E125",
                f"`model` is a configuration of {self.decl.name}",
                model.span,
                help=f"model = {self.decl.name}()",
            )
        origin = f'test "{self.node.name.value}"'
        sets: dict[str, Given] = given_arguments(self.elab, self.decl, model.args, origin, self)
        return Options(model=self.decl.name, sets=sets)

    def _dims(self, model: Model) -> None:
        """`with B = 2`: sizes of the model's dims."""
        dims = list(dict.fromkeys(d for e in model.entries.values() for d in e.full.dims if not d.startswith("...")))
        for bind in self.node.dims:
            with self.elab.collecting():
                if bind.name.id not in dims:
                    message = f"{self.decl.name} has no dimension `{bind.name.id}`"
                    raise self.no_such("S103", message, bind.name.span, bind.name.id, dims)
                value = self.value(bind.value)
                if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                    raise self.fail("E112", f"a size is an int of at least 1, found {describe(value)}", bind.value.span)

    def _values(self, model: Model, instance: Instance) -> set[str]:
        """Names that expectations may use as values."""
        known = {*TEST_VALUES, *instance.scope.names, *instance.dims, *model.entries, *self.file.visible()}
        for entry in model.entries.values():
            known |= {a.name for a in entry.full.inputs}
            known |= set(entry.full.output_names)
        return known

    def _expectation(self, item: ast.Expect, known: set[str]) -> None:
        operands = {id(name) for name in operators_named(item.cond)}
        for name, called in names_of(item.cond):
            if name.id in self.file.broken:
                raise Poisoned
            if called and (name.id in TEST_FUNCTIONS or name.id in COMPILE_TIME or name.id in operators()):
                continue
            if name.id in known or id(name) in operands:
                continue
            candidates = [*TEST_FUNCTIONS] if called else sorted(known)
            what = "function" if called else "name"
            raise self.no_such("E103", f"unknown {what} `{name.id}`", name.span, name.id, candidates)
        for arg in item.within:
            if isinstance(arg, ast.StarArg) or arg.name is None or arg.name.id not in ("atol", "rtol"):
                span: Span = arg.span if isinstance(arg, ast.StarArg) or arg.name is None else arg.name.span
                raise self.fail(
                    "E120", "a tolerance is `atol` or `rtol`", span, help="within (atol = 1e-4, rtol = 1e-3)"
                )
            self.value(arg.value)


def operators_named(expr: Any) -> Iterator[ast.Name]:
    """The argument of every `fused(sdpa)`: an operator's name, which is no value."""
    if isinstance(expr, ast.Call) and isinstance(expr.func, ast.Name) and expr.func.id == "fused":
        for arg in expr.args:
            if isinstance(arg, ast.Arg) and isinstance(arg.value, ast.Name) and arg.value.id in operators():
                yield arg.value
    for child in vars(expr).values() if isinstance(expr, ast.Node) else expr if isinstance(expr, tuple) else ():
        if isinstance(child, (ast.Node, tuple)):
            yield from operators_named(child)


def names_of(expr: Any, called: bool = False) -> Iterator[tuple[ast.Name, bool]]:
    """Every name of an expression, and whether it is called."""
    if isinstance(expr, ast.Name):
        yield expr, called
    elif isinstance(expr, ast.Call):
        yield from names_of(expr.func, called=True)
        yield from names_of(expr.args)
    elif isinstance(expr, ast.Pipe):
        yield from names_of(expr.value)
        yield from names_of(expr.target, called=not isinstance(expr.target, ast.Call))
    elif isinstance(expr, ast.Attr):
        yield from names_of(expr.base)
    elif isinstance(expr, ast.Node):
        for key, child in vars(expr).items():
            if key != "span":
                yield from names_of(child)
    elif isinstance(expr, tuple):
        for child in expr:
            yield from names_of(child)

"""Which model of a file, which preset, with which arguments (LANGUAGE 12, 14)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from specc.diagnostics import Diagnostic, Edit
from specc.elaborate.elaborator import Elaborator
from specc.elaborate.evaluate import Evaluator
from specc.elaborate.files import FileScope
from specc.elaborate.names import available, closest, counted, did_you_mean, replaced
from specc.elaborate.scopes import Scope
from specc.elaborate.values import POISON, Binding, BlockDecl, Fail, FnValue, coerced, fits, show, type_text
from specc.op import operators
from specc.source import Span
from specc.syntax import ast


@dataclass(frozen=True)
class Given:
    """A hyper-parameter given from outside: an expression, or a ready value (from config.json)."""

    expr: ast.Expr | None
    value: Any
    origin: str
    text: str = ""  # the raw text of --set, for strings without quotes


@dataclass(frozen=True)
class Options:
    """What is to be built. `sets` win over the preset, the preset over `config`, that over defaults."""

    model: str | None = None
    preset: str | None = None
    sets: Mapping[str, Given] = field(default_factory=dict)
    config: Mapping[str, Given] = field(default_factory=dict)
    name: str | None = None
    position_ids: bool = False  # positions are an input (`--position-ids`)


def choose_model(file: FileScope, options: Options) -> BlockDecl:
    """The model to build: the only one, the preset's, or the one named."""
    models = {d.name: d for d in file.models()}
    if options.model is not None:
        if options.model not in models:
            guess = closest(options.model, models)
            raise _fail(
                "E010",
                f"{file.source.name} has no model `{options.model}`",
                help=did_you_mean(guess),
                available=available(models),
            )
        return models[options.model]
    if options.preset is not None:
        return models[preset_chain(file, options.preset)[0]]
    if not models:
        raise _fail(
            "E007",
            f"{file.source.name} declares no model",
            help="a model is a block that can be built:  model Name { .. }",
            available=available(d.name for d in file.blocks()),
        )
    if len(models) > 1:
        raise _fail(
            "E007",
            f"{file.source.name} declares {len(models)} models",
            help="name one:  --model NAME",
            available=available(models),
        )
    return next(iter(models.values()))


def presets(file: FileScope) -> dict[str, ast.Preset]:
    """Presets by name, in order."""
    return {item.name.value: item for item in file.tree.items if isinstance(item, ast.Preset)}


def preset_chain(file: FileScope, name: str) -> tuple[str, list[ast.Preset]]:
    """(model, presets from base to derived)."""
    known = presets(file)
    chain: list[ast.Preset] = []
    at: Span | None = None
    while True:
        if name not in known:
            guess = closest(name, known)
            help = f'did you mean "{guess}"?' if guess else ""
            raise _fail(
                "E008",
                f'no preset "{name}" in {file.source.name}',
                at,
                help=help,
                edits=(Edit(at, f'"{guess}"'),) if at is not None and guess else (),
                available=available(known) or "none",
            )
        preset = known[name]
        if preset in chain:
            cycle = [preset, *chain[: chain.index(preset)][::-1]]
            first = min(cycle, key=lambda p: p.name.span.start)  # one cycle is one finding, whoever meets it
            start = cycle.index(first)
            shown = " -> ".join(f'"{p.name.value}"' for p in [*cycle[start:], *cycle[:start], first])
            raise _fail("E150", f"presets derive from each other: {shown}", first.name.span)
        chain.insert(0, preset)
        if isinstance(preset.base, ast.Ident):
            model = preset.base.id
            if model not in {d.name for d in file.models()}:
                guess = closest(model, [d.name for d in file.models()])
                raise _fail(
                    "E010",
                    f"no model `{model}` in {file.source.name}",
                    preset.base.span,
                    help=did_you_mean(guess),
                    edits=replaced(preset.base.span, guess),
                    available=available(d.name for d in file.models()) or "none",
                )
            return model, chain
        name, at = preset.base.value, preset.base.span


def _fail(
    code: str, message: str, span: Span | None = None, *, help: str = "", edits: tuple[Edit, ...] = (), **notes: str
) -> Fail:
    return Fail(Diagnostic(code, message, span, help=help, edits=edits, notes=tuple(notes.items())))


def configurations(elab: Elaborator, file: FileScope, options: Options, *, all_presets: bool) -> list[Options]:
    """What a check elaborates: per model its defaults, if every hyper-parameter has one, and presets as asked for.

    Findings on the way (a preset of an unknown model, an unknown argument) go to the collector.
    """
    names = [d.name for d in file.models()]
    with elab.collecting():
        if options.model is not None or options.preset is not None:
            names = [choose_model(file, options).name]
    by_model: dict[str, list[str]] = {name: [] for name in names}
    seen: dict[str, Span] = {}
    broken: set[str] = set()  # presets whose arguments are findings: what would follow from them is none
    for preset in (item for item in file.tree.items if isinstance(item, ast.Preset)):
        name = preset.name.value
        with elab.collecting():
            if name in seen:
                why = f"first declared at {seen[name].where}"
                raise _fail("E104", f'preset "{name}" is declared twice', preset.name.span, why=why)
            seen[name] = preset.name.span
            model, chain = preset_chain(file, name)
            decl = next(d for d in file.models() if d.name == model)
            elab.context = f'preset "{name}"'
            before = len(elab.collector.errors)
            _preset_args(elab, decl, preset, Evaluator(elab, Scope(file)))
            if len(elab.collector.errors) > before or any(one.name.value in broken for one in chain):
                broken.add(name)
            else:
                by_model.get(model, []).append(name)
    elab.context = ""
    for decl_of in file.names.values():
        if isinstance(decl_of, ast.Let):
            with elab.collecting():
                elab.file_let(file, decl_of)
    wanted: list[Options] = []
    for name, presets_of in by_model.items():
        decl = next(d for d in file.models() if d.name == name)
        params = {p.name.id for p in decl.node.params if p.default is None and not p.type.optional}
        first = [options.preset] if options.preset is not None else [None] if params <= set(options.sets) else []
        chosen: list[str | None] = [*first, *(presets_of if all_presets or not first else [])]
        wanted += [Options(model=name, preset=p, sets=options.sets) for p in dict.fromkeys(chosen or [None])]
    return wanted


def bind_model(elab: Elaborator, decl: BlockDecl, options: Options) -> dict[str, Binding]:
    """Hyper-parameters of the model: every argument is evaluated in the scope of the parameters before it (late
    binding).
    """
    given: dict[str, Given] = dict(options.config)
    caller = Evaluator(elab, Scope(decl.file))
    if options.preset is not None:
        _, chain = preset_chain(decl.file, options.preset)
        for preset in chain:
            given.update(_preset_args(elab, decl, preset, caller))
    given.update(options.sets)
    params = {p.name.id: p for p in decl.node.params}
    for name, value in given.items():
        if name not in params:
            guess = closest(name, params)
            help = did_you_mean(guess)
            code = "E009" if value.text else "E120"
            span = value.expr.span if value.expr is not None and code == "E120" else None
            elab.collector.add(
                Diagnostic(
                    code,
                    f"{decl.name} has no hyper-parameter `{name}`",
                    span,
                    path=value.origin if span is None else "",
                    help=help,
                    notes=(("available", available(params) or "none"),),
                )
            )
    scope = Scope(decl.file)
    for name, param in params.items():
        scope.names[name] = Binding(POISON, param.span, "")
        with elab.collecting():
            if name in given:
                binding = _given(elab, decl, param, given[name], Scope(decl.file, _before(scope.names, name)))
            else:
                binding = elab.blocks.default(
                    decl, param, Scope(decl.file, _before(scope.names, name)), caller, param.span
                )
            scope.names[name] = elab.blocks.typed(decl, param, binding, caller)
    return scope.names


def _before(names: dict[str, Binding], name: str) -> dict[str, Binding]:
    """The parameters before this one."""
    return {key: binding for key, binding in names.items() if key != name}


def _preset_args(elab: Elaborator, decl: BlockDecl, preset: ast.Preset, caller: Evaluator) -> dict[str, Given]:
    return given_arguments(elab, decl, preset.args, f'preset "{preset.name.value}"', caller)


def given_arguments(
    elab: Elaborator, decl: BlockDecl, args: tuple[ast.Arg | ast.StarArg, ...], origin: str, caller: Evaluator
) -> dict[str, Given]:
    """Arguments of a model outside of any block, by hyper-parameter; they are evaluated later."""
    params = [p.name.id for p in decl.node.params]
    given: dict[str, Given] = {}
    for position, arg in enumerate(args):
        with elab.collecting():
            if isinstance(arg, ast.StarArg):
                raise caller.fail("E100", "`*` has nothing to pass on here", arg.span)
            if arg.name is not None:
                name = arg.name.id
                if name not in params:
                    raise elab.blocks.unknown(decl, arg.name, caller)
            elif position >= len(params):
                raise caller.fail(
                    "E122",
                    f"{decl.name} takes {counted(len(params), 'argument')}",
                    arg.span,
                    note=elab.blocks.signature(decl),
                )
            else:
                name = params[position]
            if name in given:
                raise caller.fail("E121", f"{decl.name}: `{name}` is given twice", arg.span)
            given[name] = Given(arg.value, None, f"{origin} ({arg.span.where})")
    return given


def _given(elab: Elaborator, decl: BlockDecl, param: ast.Param, given: Given, scope: Scope) -> Binding:
    evaluator = Evaluator(elab, scope)
    if given.expr is None:
        value = given.value
        if isinstance(value, str) and isinstance(param.type, ast.NamedType) and param.type.name == "fn":
            value = FnValue(value, operators()[value], None)
        if not fits(value, param.type):  # what the file asks for is not described here: its key says where
            raise evaluator.fail(
                "E125",
                f"{decl.name}: `{param.name.id}` cannot be {show(value)}",
                param.span.head(),
                expected=f"{type_text(param.type)}   ({param.span.where})",
                found=f"{show(value)}   ({given.origin})",
            )
        return Binding(value, param.span, given.origin)
    from_command = given.origin.startswith("--set ")
    try:
        value = evaluator.value(given.expr)
    except Fail:
        word = from_command and isinstance(given.expr, ast.Name) and not _takes_names(param.type)
        if not word and not fits(given.text, param.type):
            raise
        value = given.text  # --set pool=mean
    if from_command and not fits(value, param.type) and fits(given.text, param.type):
        value = given.text  # `--set pool=mean`: also the name of a function
    if from_command and not fits(value, param.type):
        options: tuple[str, ...] = ("true", "false") if fits(True, param.type) else ()
        if isinstance(param.type, ast.EnumType):
            options = param.type.options
        guess = closest(given.text, options)
        raise _fail(
            "E009",
            f"--set {param.name.id}: {show(value)} is not of its type",
            expected=f"{param.type.span.text}   ({param.span.where})",
            found=show(value),
            help=did_you_mean(guess),
        )
    return Binding(coerced(value, param.type), given.expr.span, given.origin)


def _takes_names(type_: ast.TypeExpr) -> bool:
    """Whether values of a type are written as names: functions, blocks, dtypes."""
    return isinstance(type_, ast.NamedType) and type_.name in ("fn", "block", "dtype")

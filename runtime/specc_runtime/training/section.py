"""One `train` section as it is run: which one, with which overrides, what it asks for that this version has."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specc import driver
from specc.diagnostics import Collector, Diagnostic, Rejected
from specc.elaborate import settings as known
from specc.elaborate.models import Given, Options
from specc.elaborate.names import available, closest, did_you_mean
from specc.elaborate.partwise import keyword
from specc.elaborate.sections import chosen_preset, model_of_section, runnable
from specc.elaborate.training import TrainChecker, kept
from specc.elaborate.values import POISON, Fail, Poisoned
from specc.ir.graph import Value
from specc.source import Span
from specc.syntax import ast
from specc.syntax.unparse import unparse
from specc_runtime.training.initial import configured, texts_of, weights_of

OTHER_NAMES = {"learning_rate": "lr", "wd": "weight_decay"}
"""Arguments of the optimiser, as they are called elsewhere."""


@dataclass(frozen=True)
class Section:
    """A checked section. `settings` has the `overrides` in it, `sets` are the hyper-parameters that were overridden."""

    project: driver.Project
    node: ast.Train
    checked: driver.Checked
    settings: Mapping[str, ast.Expr]
    preset: str | None
    sets: Mapping[str, str]
    overrides: Mapping[str, str]
    weights: str | None  # what it begins with
    config: Mapping[str, str]  # hyper-parameters of that
    without: tuple[str, ...]  # settings that are `none`
    checker: TrainChecker = field(repr=False)

    @property
    def model(self) -> str:
        return self.node.model.id

    @property
    def name(self) -> str:
        """What the section is called: its name, or `train` if it has none."""
        return self.node.name.value if self.node.name is not None else "train"

    @property
    def given(self) -> dict[str, str]:
        """The hyper-parameters that neither a preset nor a default gives, as `--set` takes them."""
        return {**self.config, **self.sets}

    @property
    def folder(self) -> Path:
        """What paths of the section are relative to."""
        return self.project.path.parent

    @property
    def entry(self) -> str:
        """The entry that is trained."""
        return str(self.value("entry", "forward"))

    @property
    def bound(self) -> dict[str, ast.Expr]:
        """`inputs = bind(name = ..)`."""
        expr = self.settings.get("inputs")
        args = expr.args if isinstance(expr, ast.Call) else ()
        return {a.name.id: a.value for a in args if isinstance(a, ast.Arg) and a.name is not None}

    @property
    def lets(self) -> tuple[ast.Let, ...]:
        return tuple(item for item in self.node.items if isinstance(item, ast.Let))

    def span(self, setting: str) -> Span:
        found = self.settings.get(setting)
        return found.span if found is not None else self.node.span.head()

    def value(self, setting: str, default: Any) -> Any:
        """A setting's compile-time value."""
        expr = self.settings.get(setting)
        return default if expr is None else evaluated(self, expr)

    @property
    def batch(self) -> tuple[int, int]:
        """Rows of a batch, or 0 and the most ids of one, `batch = tokens(25_000)`; E125 for anything else."""
        expr = self.settings.get("batch")
        if not isinstance(expr, ast.Call):
            return self.value("batch", 32), 0
        call = self.call("batch")
        if call is None or call.name != "tokens":
            raise failed("E125", f"`batch` cannot be {unparse(expr)}", expr.span, "batch = 32,  or tokens(25_000)")
        count = call.arguments(("count",), 1)["count"]
        if type(count) is not int or count < 1:
            raise failed("E125", "tokens takes the most ids of a batch, at least 1", expr.span)
        return 0, count

    def call(self, setting: str) -> Called | None:
        """A setting that is a call, its arguments evaluated; None if it is not given or `none`."""
        expr = self.settings.get(setting)
        if not isinstance(expr, ast.Call) or not isinstance(expr.func, ast.Name):
            return None
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for arg in expr.args:
            if isinstance(arg, ast.StarArg):
                raise failed("E120", "`*` has nothing to pass on in a train section", arg.span)
            value = evaluated(self, arg.value)
            if arg.name is None:
                positional.append(value)
            else:
                named[arg.name.id] = value
        return Called(expr.func.id, expr, tuple(positional), named)


@dataclass(frozen=True)
class Called:
    """A call of a section, `cosine(warmup = 500)`."""

    name: str
    expr: ast.Call
    positional: tuple[Any, ...]
    named: Mapping[str, Any]

    def arguments(self, names: Sequence[str], required: int = 0) -> dict[str, Any]:
        """Values by name, positional ones as in `names`; raises `Rejected` (E120, E124)."""
        if len(self.positional) > len(names):
            raise failed("E120", f"{self.name} takes {len(names)} arguments", self.expr.span)
        found = {**dict(zip(names, self.positional, strict=False)), **self.named}
        strange = next((name for name in found if name not in names), None)
        if strange is not None:
            guess = closest(strange, names)
            help = did_you_mean(guess)
            notes = (("available", available(names)),)
            message = f"{self.name} has no argument `{strange}`"
            raise Rejected([Diagnostic("E120", message, self.expr.span, help=help, notes=notes)])
        missing = next((name for name in names[:required] if name not in found), None)
        if missing is not None:
            raise failed("E124", f"{self.name} needs `{missing}`", self.expr.span)
        return found


def failed(code: str, message: str, span: Span | None = None, help: str = "") -> Rejected:
    return Rejected([Diagnostic(code, message, span, help=help)])


def unsupported(what: str, span: Span | None = None, help: str = "") -> Rejected:
    """What the language has and this version does not run (B650)."""
    return failed("B650", f"{what} is not supported yet in `specc train`", span, help)


def evaluated(section: Section, expr: ast.Expr) -> Any:
    """A compile-time value over the model's hyper-parameters; raises `Rejected`."""
    try:
        found = section.checker.place.value(expr)
    except Fail as fail:
        raise Rejected([fail.diagnostic]) from None
    except Poisoned:
        found = POISON
    if found is POISON or isinstance(found, Value):
        raise failed("E125", f"`{unparse(expr)}` is not known before training", expr.span)
    return found


def open_section(target: str, name: str | None, sets: Mapping[str, str], weights: str | None = None) -> Section:
    """The section of a spec, checked with its overrides, in the configuration of the `weights` that it begins with.

    Raises `Rejected` with what is wrong.
    """
    project = driver.open_project(target)
    node = _chosen(project, target, name)
    settings = {s.name.id: s.value for s in node.items if isinstance(s, ast.Setting)}
    try:
        decl = model_of_section(project.file, node.model)
        settings, own = _overridden(settings, driver.parse_sets(sets), {p.name.id for p in decl.node.params})
        settings, every = kept(settings), settings
        preset = chosen_preset(project.elaborator, project.file, settings.get("preset"))
        first = weights_of(project.path.parent, settings, weights)
        texts = {key: sets[key] for key in own}
        options, earlier = configured(project, Options(decl.name, preset, own), first, texts)
        options = runnable(project.file, decl, options)
    except Fail as fail:
        raise Rejected([fail.diagnostic]) from None
    checked = project.check(options)
    collector = Collector()
    elab = checked.elaborator
    elab.collector, elab.trail = collector, []
    elab.context = f'train {decl.name} "{node.name.value}"' if node.name is not None else f"train {decl.name}"
    checker = TrainChecker(elab, checked.model, node, settings)
    checker.check()
    collector.stop_on_errors()
    config = {**earlier, **texts_of(checked.model.module, options.config)}
    overrides = {key: text for key, text in sets.items() if key not in own}
    without = tuple(name for name in every if name not in settings)
    section = Section(
        project, node, checked, settings, options.preset, texts, overrides, first, config, without, checker
    )
    _refuse(section)
    return section


def _chosen(project: driver.Project, target: str, name: str | None) -> ast.Train:
    found = [item for item in project.file.tree.items if isinstance(item, ast.Train)]
    if not found:
        help = 'train Net "name" { data = csv(..); loss = ..; optim = adamw(lr = 1e-3); batch = 32; epochs = 3 }'
        raise failed("T530", f"{target} has no train section", None, help)
    names = [item.name.value if item.name is not None else item.model.id for item in found]
    notes = (("available", available(names)),)
    if name is None:
        if len(found) == 1:
            return found[0]
        help = f"specc train {target} {names[0]}"
        raise Rejected([Diagnostic("T530", f"{target} has several train sections", help=help, notes=notes)])
    if name not in names:
        guess = closest(name, names)
        help = did_you_mean(guess)
        raise Rejected([Diagnostic("T530", f"{target} has no train section `{name}`", help=help, notes=notes)])
    return found[names.index(name)]


def _overridden(
    settings: dict[str, ast.Expr], sets: Mapping[str, Given], params: Collection[str]
) -> tuple[dict[str, ast.Expr], dict[str, Given]]:
    """`--set`: a setting, an argument of the optimiser, or else a hyper-parameter of the model.

    Raises `Rejected`: T501 for what is called otherwise here.
    """
    own: dict[str, Given] = {}
    if {"epochs", "steps"} <= sets.keys():
        raise failed("T502", "both `epochs` and `steps` are given by --set", None, "keep one of them")
    for key, given in sets.items():
        assert given.expr is not None
        if key in known.SETTINGS:
            if key in ("epochs", "steps"):
                settings.pop("epochs" if key == "steps" else "steps", None)
            expr = _worded(key, given)
            if key not in settings or unparse(settings[key]) != unparse(expr):
                settings[key] = expr  # what the section says itself is told where it stands
        elif key.partition(".")[0] in known.FUNCTIONS:
            setting, _, argument = key.partition(".")
            if not isinstance(settings.get(setting), ast.Call):
                raise failed("T501", f"--set {key}: the section has no `{setting}`")
            settings[setting] = _with(settings[setting], argument, given.expr)
        elif key == "lr" or keyword(settings.get("optim"), key) is not None:
            settings["optim"] = _with(settings.get("optim"), key, given.expr)
        elif key in params:
            own[key] = given
        elif key in _arguments(settings.get("optim")):
            settings["optim"] = _with(settings.get("optim"), key, given.expr)
        elif other := known.ALIASES.get(key) or OTHER_NAMES.get(key) or _meant(key, params):
            raise failed("T501", f"--set {key}: no setting is called so", None, f"--set {other}={given.text}")
        else:
            own[key] = given
    return settings, own


def _arguments(optim: ast.Expr | None) -> tuple[str, ...]:
    """What the optimiser of a section takes."""
    name = optim.func.id if isinstance(optim, ast.Call) and isinstance(optim.func, ast.Name) else ""
    return (*known.ARGUMENTS.get(name, ()), *known.OPTIMISER)


def _meant(key: str, params: Collection[str]) -> str | None:
    """The setting that a name is nearly that of, if no hyper-parameter is as near."""
    return closest(key, known.SETTINGS) if "." not in key and closest(key, params) is None else None


def _worded(key: str, given: Given) -> ast.Expr:
    """The value of a setting; a shell has taken the quotes of one that is a word: `--set precision="bf16-mixed"`."""
    assert given.expr is not None
    word = key in (*known.CHOICES, *known.TEXTS) or given.text in ("auto", "epoch")
    bare = word and not isinstance(given.expr, ast.Str | ast.NoneLit | ast.ListExpr)
    return ast.Str(given.expr.span, given.text) if bare else given.expr


def _with(call: ast.Expr | None, key: str, value: ast.Expr) -> ast.Expr:
    """A call with one keyword argument replaced or added: `--set sched.warmup=0.1`."""
    if not isinstance(call, ast.Call):
        raise failed("T501", f"--set {key}: the section has no `optim`")
    given = ast.Arg(value.span, ast.Ident(value.span, key), value)
    same = [isinstance(a, ast.Arg) and a.name is not None and a.name.id == key for a in call.args]
    args = [given if found else a for a, found in zip(call.args, same, strict=True)]
    return ast.Call(call.span, call.func, (*args, *(() if any(same) else (given,))))


def _refuse(section: Section) -> None:
    """E125 for numbers that no run can have, E124 for what every run needs."""
    for name, value in section.settings.items():
        count = section.value("devices", "auto") if name == "devices" else "auto"
        if count != "auto" and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise failed("E125", '`devices` is "auto" or a number of at least 1', value.span)
        if name in ("accumulate", "epochs", "steps") and section.value(name, 1) < 1:
            raise failed("E125", f"`{name}` is at least 1", value.span)
        if name == "batch" and max(section.batch) < 1:
            raise failed("E125", "`batch` is at least 1", value.span)
    if section.value("clip", 1.0) <= 0:
        raise failed("E125", "`clip` is a gradient norm above 0", section.span("clip"))
    if section.value("seed", 0) >= 2**32:
        raise failed("E125", "`seed` is less than 2**32", section.span("seed"))
    if "val_every" in section.settings and "val" not in section.settings:
        raise failed("E124", "`val_every` is given, but no `val`", section.span("val_every"), "val = split(0.1)")
    for name in ("data", "loss", "optim"):
        if name not in section.settings:
            raise failed("E124", f"the section has no `{name}`", section.node.span.head())

"""A `config { }` section over a checkpoint's config.json: JSON keys -> hyper-parameters (LANGUAGE 15).

Every key that may matter is read, required to be something, or ignored (`config_keys`). The expressions are those of
declarations but for three things: a bare name is a JSON key, arithmetic on `none` is `none`, and `a or b` is b if a is
none. Where a hyper-parameter holds a function or a block, a name that is no key may
also be one of those.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from specc.diagnostics import Collector, Diagnostic, Edit
from specc.elaborate.files import FileScope
from specc.elaborate.names import available, closest, did_you_mean
from specc.elaborate.values import BlockDecl, BlockValue, Fail, FnDecl, FnValue, Poisoned, show
from specc.op import operators
from specc.syntax import ast
from specc.syntax.unparse import unparse
from specc.weights.config_keys import check_keys, check_requirement
from specc.weights.config_lets import config_items
from specc.weights.config_values import ConfigEvaluator, Globals, json_value
from specc.weights.rules import section_path


@dataclass(frozen=True)
class Setting:
    """A hyper-parameter's value and where it was read, as messages cite it: `config.json n_embd`."""

    value: Any
    origin: str


def builtin_functions(name: str) -> FnValue | None:
    """`Globals` without a file: operators of one tensor."""
    op = operators().get(name)
    return FnValue(name, op, None) if op is not None and not op.syntax else None


def file_functions(file: FileScope) -> Globals:
    """`Globals` of a file: its blocks and functions, imported ones too, then operators."""

    def find(name: str) -> FnValue | BlockValue | None:
        found = file.find(name)
        if found is None:
            return builtin_functions(name)
        decl = found[1]
        if isinstance(decl, BlockDecl):
            return BlockValue(decl)
        return FnValue(name, None, decl) if isinstance(decl, FnDecl) else None

    return find


def read_config(
    node: ast.Weights,
    params: Sequence[ast.Param],
    config: Mapping[str, Any],
    collector: Collector,
    *,
    names: Globals = builtin_functions,
    path: str = "config.json",
    given: Collection[str] = (),
) -> dict[str, Setting]:
    """Hyper-parameter -> its value by this config; those that keep their default are left out.

    `params` are the model's hyper-parameters, `config` the parsed JSON. Findings (W330, W331, W333, W334, E12x ..) go
    to the collector; a value's type is checked where it is bound. An optional hyper-parameter whose expression is none
    is set to none. `given`: hyper-parameters that a preset or `--set` gives anyway, so the config need not.
    """
    found: dict[str, Setting] = {}
    before = len(collector.errors)
    types = {p.name.id: p for p in params}
    try:
        items = config_items(node)
    except Fail as fail:
        collector.add(fail.diagnostic)
        return found
    for setting in items:
        if not isinstance(setting, ast.Setting):
            continue
        param = types.get(setting.name.id)
        reader = _Reader(node, config, names, path, _takes_names(param), param=param)
        try:
            reader.check_name(setting, types, found)
            value = reader.value(setting.value, tail=True)
            if value is None and reader.required and setting.name.id not in given:
                raise reader.no_value(setting)
        except Fail as fail:
            collector.add(fail.diagnostic)
            continue
        except Poisoned:
            continue
        if value is not None or (reader.param is not None and reader.param.type.optional):
            found[setting.name.id] = Setting(value, reader.origin())
    # Where a value is missing, its key may be one that is not read: one finding is enough.
    unread = list(check_keys(node, items, config, path)) if len(collector.errors) == before else []
    for item in items:
        if isinstance(item, ast.Require):
            requirement = ConfigEvaluator(node, config, names, path, takes_names=False)
            unread += check_requirement(requirement, item.cond, item.message)
    for diagnostic in unread:
        collector.add(diagnostic)
    return found


@dataclass
class _Reader(ConfigEvaluator):
    """Evaluates one setting."""

    param: ast.Param | None = None

    @property
    def required(self) -> bool:
        return self.param is not None and self.param.default is None and not self.param.type.optional

    def origin(self) -> str:
        return f"{self.path} {', '.join(self.used)}" if self.used else f"weights section ({self.node.span.where})"

    def check_name(self, setting: ast.Setting, types: Mapping[str, ast.Param], done: Mapping[str, Setting]) -> None:
        name, model = setting.name, self.node.model.id
        if name.id not in types:
            guess = closest(name.id, types)
            help = did_you_mean(guess)
            raise self.fail(
                "E120", f"{model} has no hyper-parameter `{name.id}`", name.span, help=help, available=available(types)
            )
        if name.id in done:
            raise self.fail("E121", f"`{name.id}` is given twice", name.span)

    def no_value(self, setting: ast.Setting) -> Fail:
        """W331, with keys of the same name elsewhere in the file."""
        wanted = [unparse(expr) for expr in alternatives(setting.value)]
        last = {text.rpartition(".")[2] for text in wanted}
        elsewhere = [key for key in key_paths(self.config) if key.rpartition(".")[2] in last and key not in wanted]
        shown = [f"{key} = {show(json_value(self.look_up(key.split('.'))))}" for key in elsewhere[:4]]
        fixed = f"{setting.name.id} = {' or '.join([*elsewhere[:1], *wanted])}"
        edits = (Edit(setting.span, fixed),) if elsewhere else ()
        diagnostic = Diagnostic(
            "W331",
            f"{self.path} gives no value for `{setting.name.id}`",
            setting.value.span,
            "missing",
            path=section_path(self.node, self.path),
            notes=(("found", ", ".join(shown)),) if shown else (),
            help=fixed if elsewhere else f"--set {setting.name.id}=..,  or a default in {self.node.model.id}",
            edits=edits,
        )
        return Fail(diagnostic)


def _takes_names(param: ast.Param | None) -> bool:
    """Whether the hyper-parameter holds a function or a block."""
    return param is not None and isinstance(param.type, ast.NamedType) and param.type.name in ("fn", "block")


def alternatives(expr: ast.Expr) -> Iterator[ast.Expr]:
    """The operands of a chain of `or`, in order."""
    if isinstance(expr, ast.Binary) and expr.op == "or":
        yield from alternatives(expr.left)
        yield from alternatives(expr.right)
    else:
        yield expr


def key_paths(config: Mapping[str, Any], prefix: str = "", depth: int = 4) -> Iterator[str]:
    """The file's keys that have a value, nested ones as `a.b`."""
    for key, value in config.items():
        if isinstance(value, Mapping) and depth:
            yield from key_paths(value, f"{prefix}{key}.", depth - 1)
        elif value is not None:
            yield f"{prefix}{key}"

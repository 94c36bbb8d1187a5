"""A `config { }` section the other way: hyper-parameters -> the keys of a config.json (LANGUAGE 15).

Each expression is turned around where it can be: a key takes the value, `a or b` is written to `a`, a condition chooses
the branch to write to, and a branch that is the value decides the condition. Null is written for none alone: where a
key must only not be something, it is left out. What cannot be turned around is left as it is; reading the config back
shows whether that is enough, and the caller does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from specc.diagnostics import Diagnostic
from specc.elaborate.values import BlockValue, Fail, number, show
from specc.syntax import ast
from specc.weights.activations import ACTIVATIONS
from specc.weights.config_keys import check_requirement
from specc.weights.config_lets import config_items
from specc.weights.config_values import ConfigEvaluator, Globals, dotted
from specc.weights.rules import section_path

_ABSENT = object()
"""Written instead of a value: the key is taken out, and the family's default counts."""

_PREFERRED = {"gelu_tanh": "gelu_pytorch_tanh", "identity": "linear"}
"""Where several names mean one function and none is the function's own."""


def write_config(
    node: ast.Weights, config: Mapping[str, Any], wanted: Mapping[str, Any], which: Collection[str], *, names: Globals
) -> dict[str, Any]:
    """A copy of `config` with the keys that give the hyper-parameters `which` their values in `wanted`.

    `wanted` is as `Hyper.value`: functions appear as their text. Settings are written in the section's order, so a
    condition sees the keys that stand before it; then keys that a requirement compares with them.
    """
    written = deepcopy(dict(config))
    writer = _Writer(node, written, names)
    items = config_items(node)
    for item in items:
        if isinstance(item, ast.Setting) and item.name.id in which and item.name.id in wanted:
            writer.write(item.value, wanted[item.name.id])
    for item in items:
        if isinstance(item, ast.Require) and any(check_requirement(writer.reader, item.cond, None)):
            writer.write(item.cond, True)
    return written


def unsaid(
    node: ast.Weights, config: Mapping[str, Any], wanted: Mapping[str, Any], *, names: Globals
) -> Iterator[Diagnostic]:
    """W335 for each value in `wanted` that a written config gives by no key, though its setting looks for some.

    It reads back, but what is right then is what a missing key means to the family, which only the section tells.
    """
    for item in config_items(node):
        if not isinstance(item, ast.Setting) or wanted.get(item.name.id) is None:
            continue
        reader = _Watch(node, config, names, "config.json", takes_names=False)
        reader.value(item.value)
        missing = [key for key in reader.missing if names(key) is None]
        if missing and not reader.used.keys() - {"model_type"}:
            name, keys = item.name.id, " or ".join(f"`{key}`" for key in missing)
            yield Diagnostic(
                "W335",
                f"no key of the written config says `{name} = {show(wanted[name])}`: the family's default counts",
                item.value.span,
                f"which value of {keys} it is does not follow",
                severity="warning",
                path=section_path(node, "config.json"),
                help=f"name it:  {name} = .. if {missing[0]} == ..;  or --config DIR starts from a config.json with it",
            )


@dataclass
class _Watch(ConfigEvaluator):
    """Notes the keys that were looked for and have no value."""

    missing: dict[str, None] = field(default_factory=dict)

    def look_up(self, keys: Sequence[str]) -> Any:
        found = super().look_up(keys)
        if found is None:
            self.missing[".".join(keys)] = None
        return found


@dataclass
class _Writer:
    """Writes values into `config`."""

    node: ast.Weights
    config: dict[str, Any]
    names: Globals

    @property
    def reader(self) -> ConfigEvaluator:
        return ConfigEvaluator(self.node, self.config, self.names, "config.json", takes_names=False)

    def value(self, expr: ast.Expr) -> Any:
        """What an expression gives by the config so far; none where it gives nothing."""
        try:
            return self.reader.value(expr)
        except Fail:
            return None

    def write(self, expr: ast.Expr, value: Any) -> bool:
        """Make the expression give the value; False if that cannot be written."""
        if isinstance(expr, ast.Paren):
            return self.write(expr.inner, value)
        if self.constant(expr):
            return self.gives(expr, value)
        if isinstance(expr, (ast.Name, ast.Attr)):
            return self.set(dotted(expr) or [], value)
        if isinstance(expr, ast.Compare):
            return self.compare(expr, value)
        if isinstance(expr, ast.Ternary):
            return self.ternary(expr, value)
        if isinstance(expr, ast.Binary):
            return self.binary(expr, value)
        if isinstance(expr, ast.Unary):
            if expr.op == "not":
                return isinstance(value, bool) and self.write(expr.operand, not value)
            return number(value) and self.write(expr.operand, -value)
        if isinstance(expr, ast.Call) and isinstance(expr.func, ast.Name) and len(expr.args) == 1:
            argument = expr.args[0]
            return isinstance(argument, ast.Arg) and self.call(expr.func.id, argument.value, value)
        return False

    def constant(self, expr: ast.Expr) -> bool:
        """Whether an expression is no key: a literal, or a block of the file."""
        if isinstance(expr, ast.Name):
            return isinstance(self.names(expr.id), BlockValue)
        return isinstance(expr, (ast.Int, ast.Float, ast.Str, ast.Bool, ast.NoneLit))

    def gives(self, expr: ast.Expr, value: Any) -> bool:
        """Whether a constant is the value."""
        return bool((expr.id if isinstance(expr, ast.Name) else self.value(expr)) == value)

    def set(self, keys: list[str], value: Any) -> bool:
        """A key, nested ones made on the way. Null in an object only replaces a value: a missing key says the same."""
        if keys == ["model_type"]:
            return False  # it chose the section
        if value is _ABSENT:
            return self.remove(keys)
        at: Any = self.config
        for key in keys[:-1]:
            if value is None and not isinstance(at.get(key), dict):
                return False
            if not isinstance(at.get(key), dict):
                at[key] = {}
            at = at[key]
        if not keys or (value is None and len(keys) > 1 and keys[-1] not in at):
            return False
        at[keys[-1]] = _json(value)
        return True

    def remove(self, keys: list[str]) -> bool:
        at: Any = self.config
        for key in keys[:-1]:
            at = at.get(key) if isinstance(at, dict) else None
        return bool(keys) and isinstance(at, dict) and at.pop(keys[-1], _ABSENT) is not _ABSENT

    def ternary(self, expr: ast.Ternary, value: Any) -> bool:
        """A branch that is the very value decides the condition; else the condition decides the branch.

        A branch that is another value for ever is not the one, whatever the condition says so far.
        """
        for branch, truth in ((expr.then, True), (expr.other, False)):
            fits = branch is not None and self.constant(branch) and self.gives(branch, value)
            if fits and self.write(expr.cond, truth):
                return True
        then, other = self.possible(expr.then, value), expr.other is not None and self.possible(expr.other, value)
        if then and (self.value(expr.cond) is True or _asks_presence(expr.cond)):
            return self.write(expr.then, value)
        if expr.other is not None and other:
            written = self.write(expr.other, value)
            return written and (then or self.value(expr.cond) is not True or self.write(expr.cond, False))
        return then and value is not None and self.write(expr.cond, True) and self.write(expr.then, value)

    def possible(self, expr: ast.Expr, value: Any) -> bool:
        """False for a constant that is another value."""
        return not self.constant(expr) or self.gives(expr, value)

    def compare(self, expr: ast.Compare, value: Any) -> bool:
        """`key == "text"`: that text. For anything else a flag is the opposite, and another key is not that text.

        Null would not do: it is no text, and a family takes it for something else than its default.
        """
        if len(expr.ops) != 1 or expr.ops[0] not in ("==", "!=") or not isinstance(value, bool):
            return False
        first, rest = expr.first, expr.rest[0]
        if self.constant(first):
            first, rest = rest, first
        other = self.value(rest)
        if value == (expr.ops[0] == "=="):
            return self.write(first, other)
        if isinstance(other, bool):
            return self.write(first, not other)
        return self.value(first) != other or (other is not None and self.write(first, _ABSENT))

    def binary(self, expr: ast.Binary, value: Any) -> bool:
        """`a or b` is written to the first of the two that is a key; a product or a quotient by its other factor."""
        if expr.op == "or":
            return self.write(expr.left, value) or self.write(expr.right, value)
        if expr.op == "and" and value is True:
            return self.write(expr.left, True) and self.write(expr.right, True)
        if expr.op not in ("*", "/") or not number(value):
            return False
        right = self.value(expr.right)
        if number(right) and right:
            return self.write(expr.left, _exact(value / right if expr.op == "*" else value * right))
        left = self.value(expr.left)
        return expr.op == "*" and number(left) and bool(left) and self.write(expr.right, _exact(value / left))

    def call(self, name: str, argument: ast.Expr, value: Any) -> bool:
        if name == "activation":
            known = _activation(value) if isinstance(value, str) else None
            return known is not None and self.write(argument, known)
        if name == "len" and isinstance(value, int):
            return self.write(argument, {str(i): f"LABEL_{i}" for i in range(value)})
        return name in ("int", "float") and self.write(argument, value)


def _asks_presence(expr: ast.Expr) -> bool:
    """`has(key)`: writing the key makes it true."""
    return isinstance(expr, ast.Call) and isinstance(expr.func, ast.Name) and expr.func.id == "has"


def _activation(function: str) -> str | None:
    """A name that config.json files have for a function of the language."""
    known = [name for name, found in ACTIVATIONS.items() if found == function]
    return function if function in known else _PREFERRED.get(function, known[0] if known else None)


def _exact(value: float) -> int | float:
    return int(value) if float(value).is_integer() else value


def _json(value: Any) -> Any:
    return [_json(v) for v in value] if isinstance(value, tuple) else value

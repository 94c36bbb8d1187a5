"""`let` in a `config { }` section: what it names is put where it is used (LANGUAGE 15).

`let rope = rope_scaling or rope_parameters` names a place of the file: `rope.factor` stands for
`rope_scaling.factor or rope_parameters.factor`, which reads and writes like any other expression.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from specc.diagnostics import Diagnostic
from specc.elaborate.values import Fail
from specc.syntax import ast
from specc.weights.config_values import dotted
from specc.weights.rules import section_path

MAX_NODES = 100_000

Item = ast.Setting | ast.Require | ast.ConfigKeys


def config_items(node: ast.Weights) -> list[Item]:
    """The statements of a section's `config`, every `let` put in its places. Raises `Fail`: E107, E121, E192."""
    return _Expansion(node).items()


class _Expansion:
    def __init__(self, node: ast.Weights) -> None:
        self.node = node
        self.lets: dict[str, ast.Expr] = {}
        self.sizes: dict[str, int] = {}  # nodes of a let, those of earlier ones in it included
        self.size = 0

    def items(self) -> list[Item]:
        found: list[Item] = []
        for item in (item for rule in self.node.rules if isinstance(rule, ast.WConfig) for item in rule.items):
            for key in item.keys if isinstance(item, ast.ConfigKeys) else ():
                if dotted(key) is None:
                    raise self.fail("E107", f"`{key.span.text}` is not a key of the file", key)
            if not isinstance(item, ast.Let):
                found.append(self.put(item) if self.lets else item)
                continue
            if item.name.id in self.lets:
                raise self.fail("E121", f"`{item.name.id}` is given twice", item.name)
            before = self.size
            self.lets[item.name.id] = self.put(item.value)
            self.sizes[item.name.id] = self.size - before
        return found

    def fail(self, code: str, message: str, at: ast.Node) -> Fail:
        return Fail(Diagnostic(code, message, at.span, path=section_path(self.node, "config.json")))

    def put(self, part: Any) -> Any:
        """A copy of a node, or of a tuple of them, without names of lets."""
        if isinstance(part, tuple):
            return tuple(self.put(each) for each in part)
        if not isinstance(part, ast.Node):
            return part
        self.size += 1
        if isinstance(part, (ast.Name, ast.Attr)) and (keys := dotted(part)) and keys[0] in self.lets:
            self.size += self.sizes[keys[0]]
            if self.size > MAX_NODES:
                raise self.fail(
                    "E192", f"with every `let` put in its places, `config` has over {MAX_NODES:,} nodes", part
                )
            return _member(self.lets[keys[0]], part)
        if isinstance(part, ast.Comprehension):
            hidden = {name.id: self.lets.pop(name.id) for name in part.names if name.id in self.lets}
            element = self.put(part.element)
            self.lets |= hidden
            return replace(part, element=element, iterable=self.put(part.iterable))
        if isinstance(part, ast.Call):  # functions are no keys
            return replace(part, args=self.put(part.args))
        return replace(part, **{name: self.put(child) for name, child in vars(part).items() if name != "span"})


def _member(place: ast.Expr, use: ast.Expr) -> ast.Expr:
    """`use` is `name.a.b`: the part `a.b` of each place that the name may stand for."""
    names: list[ast.Ident] = []
    while isinstance(use, ast.Attr):
        names.insert(0, use.name)
        use = use.base
    return _into(place, names)


def _into(place: ast.Expr, names: list[ast.Ident]) -> ast.Expr:
    if isinstance(place, ast.Paren):
        return replace(place, inner=_into(place.inner, names))
    if isinstance(place, ast.Ternary):
        other = None if place.other is None else _into(place.other, names)
        return replace(place, then=_into(place.then, names), other=other)
    if isinstance(place, ast.Binary) and place.op == "or":
        return replace(place, left=_into(place.left, names), right=_into(place.right, names))
    for name in names:
        place = ast.Attr(name.span, place, name)
    return place

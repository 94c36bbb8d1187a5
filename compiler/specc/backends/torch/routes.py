"""`route` in emitted Python: one call of a helper that is written into the file once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from specc.backends.torch.loops import list_text
from specc.ir.graph import Input
from specc.ir.route import Route
from specc.ops.routing import ROUTE

if TYPE_CHECKING:
    from specc.backends.torch.methods import Method


def route_text(method: Method, node: Route, operands: Sequence[Input]) -> str:
    """`route(x, weights, idx, self.experts)`."""
    experts = list_text(method, list(node.paths))
    if experts is None or experts.startswith("reversed("):  # not an `nn.ModuleList` or a slice of one
        experts = f"[{', '.join(method.path_text(path) for path in node.paths)}]"
    name = method.around.helper("route", ROUTE)
    return f"{name}({', '.join([*(method.text(i) for i in operands), experts])})"

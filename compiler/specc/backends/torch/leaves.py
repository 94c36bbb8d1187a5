"""Blocks of `std` that are a torch class: the same computation, parameters and defaults (DECISIONS 11)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from specc.ir.graph import Module

_REQUIRED: Any = object()


@dataclass(frozen=True)
class Leaf:
    """`arguments`: (hyper-parameter, argument of the torch class or "" if positional, its default there).

    `ranks`: the numbers of axes that the class takes, where it takes fewer than the block.
    """

    name: str
    arguments: tuple[tuple[str, str, Any], ...]
    when: Callable[[dict[str, Any]], bool] = lambda values: True
    ranks: tuple[int, ...] = ()


def _positional(*names: str) -> tuple[tuple[str, str, Any], ...]:
    return tuple((name, "", _REQUIRED) for name in names)


def _options(**defaults: Any) -> tuple[tuple[str, str, Any], ...]:
    return tuple((name, name, default) for name, default in defaults.items())


_CONV = _positional("in_channels", "out_channels", "kernel_size")
_LEAVES = {
    leaf.name: leaf
    for leaf in (
        Leaf("Linear", (*_positional("in_features", "out_features"), *_options(bias=True))),
        Leaf("Embedding", (*_positional("num_embeddings", "embedding_dim"), *_options(padding_idx=None))),
        Leaf("LayerNorm", (*_positional("dim"), *_options(eps=1e-5, bias=True, elementwise_affine=True))),
        Leaf(
            "RMSNorm",
            (*_positional("dim"), *_options(eps=_REQUIRED, elementwise_affine=True)),
            lambda values: values.get("offset") == 0.0,
        ),
        Leaf("GroupNorm", (*_positional("groups", "channels"), *_options(eps=1e-5, affine=True))),
        Leaf("BatchNorm1d", (*_positional("channels"), *_options(eps=1e-5, momentum=0.1)), ranks=(2, 3)),
        Leaf("BatchNorm2d", (*_positional("channels"), *_options(eps=1e-5, momentum=0.1))),
        Leaf("Conv1d", (*_CONV, *_options(stride=1, padding=0, dilation=1, groups=1, bias=True))),
        Leaf("Conv2d", (*_CONV, *_options(stride=1, padding=0, dilation=1, groups=1, bias=True))),
        Leaf("ConvTranspose2d", (*_CONV, *_options(stride=1, padding=0, bias=True))),
        Leaf("Identity", ()),
    )
}


def leaf_of(module: Module) -> Leaf | None:
    """The torch class that a module is, if there is one that computes the very same thing."""
    leaf = _LEAVES.get((module.torch_class or "").removeprefix("torch.nn."))
    values = {h.name: h.value for h in module.hypers}
    if leaf is None or leaf.name != module.name or not leaf.when(values):
        return None
    inputs = [graph.inputs[0].type.rank for graph in module.graphs.values()]
    if leaf.ranks and any(rank not in leaf.ranks for rank in inputs):
        return None
    known = {hyper for hyper, _, _ in leaf.arguments} | {"offset"}
    return leaf if all(h.name in known or h.is_let for h in module.hypers) else None


def is_default(leaf: Leaf, hyper: str, value: Any) -> bool:
    """Whether the class needs not be told."""
    return any(name == hyper and default is not _REQUIRED and default == value for name, _, default in leaf.arguments)

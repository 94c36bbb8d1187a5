"""What torch counts while a module runs, to hold `specc.inspect` against."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

aten = torch.ops.aten


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """torch's own count of a fused kernel's five products: the scores are computed again."""
    *lead, queries, width = query
    scores = 2 * queries * key[-2]
    for size in lead:
        scores *= size
    return int(scores * (3 * width + 2 * value[-1]))


def _convolution_backward(grad: Any, x: Any, w: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Each gradient is a product as large as the convolution.

    torch's own formula takes every input channel with every output channel for the weight's, whatever the groups.
    """
    transposed, mask = args[4], args[7]
    products = 2 * prod(w) * x[0] * prod((x if transposed else grad)[2:])
    return int(products * sum(mask[:2]))


FORMULAS = {
    aten.convolution_backward: _convolution_backward,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""The CPU's fused attention, which torch's table of formulas lacks, and the gradients of convolutions with groups."""


def flops(run: Callable[[], Any]) -> int:
    """Of matrix products and convolutions, as `FlopCounterMode` has it."""
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        run()
    return int(counter.get_total_flops())


def saved(run: Callable[[], Any], given: list[Any]) -> tuple[int, frozenset[int]]:
    """Bytes of the memory that gradients keep, each storage once, beside that of the `given` tensors; and which of
    these they keep.
    """
    known = {t.untyped_storage().data_ptr(): i for i, t in enumerate(given)}
    read: set[int] = set()
    kept: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place in known:
            read.add(known[place])
        else:
            kept[place] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    found = sum(storage.nbytes() for storage in kept.values())
    del result
    return found, frozenset(read)


class Live(TorchDispatchMode):
    """Bytes of all storages that operators make while it is on, and of the `given` ones; `peak` is the most at once.

    A storage counts from the operator that makes it until Python and autograd let go of it: the resident size of the
    process would also have libraries, code and what the allocator keeps. What a kernel takes while it runs, and gives
    back, is not seen.
    """

    def __init__(self, given: list[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak = 0
        self._known: set[int] = set()
        for tensor in given:
            self._note(tensor)

    def _note(self, tensor: Any) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            self._known.add(key)
            size = storage.nbytes()
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor)
        return result

"""The operator contract: one class states an operator's signature, shape rule, torch lowering, ONNX lowering and cost.

The class body is the signature. Annotations, in order, are the parameters of the function in a spec::

    class GroupNorm(Op):
        \"\"\"...

        example: group_norm(x: Tensor[B, 8, T], groups = 2, w: Tensor[8], b: Tensor[8]) -> Tensor[B, 8, T]
        \"\"\"

        name = "group_norm"
        x: ClassVar[Tensor]             # an operand: a tensor value, not stored in the operator
        groups: int                     # an attribute: a compile-time value, stored
        w: ClassVar[Tensor]
        b: ClassVar[Tensor | None]      # an optional operand
        eps: float = 1e-5

Operands: `Tensor`, `Tensor | None`, `Tensor | Number` (a compile-time number or a size will do), `list[Tensor]`
(variadic; then the only operand). Attributes: `int float bool str`, `int | None`, `float | None`, `Literal[...]`, `Dim`
(a size), `Dims`, `Axis` (an int; a spec may also say `over = D`), `Axes` (one, several, or None for all), `Ints` (an
int or a list), `Floats` (a list), `DType`, `Pattern` (`[..] -> [..]`). An operator without attributes beyond these is a
plain value: equal attributes make equal operators.

Importing the operators costs a check its start-up time, so there is no `@dataclass` here: `dataclass_transform` tells
type checkers what `__init_subclass__` does at a tenth of the price.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from inspect import get_annotations
from typing import Any, ClassVar, dataclass_transform

from specc.cost import Cost as Cost
from specc.cost import Saved as Saved
from specc.dims import Dim, Facts, Proof
from specc.lowering import Buffer as Buffer
from specc.lowering import Emitter as Emitter
from specc.lowering import Handle as Handle
from specc.lowering import Packed as Packed
from specc.lowering import Step as Step
from specc.lowering import TorchText as TorchText
from specc.types import TensorType


class Tensor:
    """Annotation of an operand."""


class Number:
    """Annotation of an operand that may be a number: `Tensor | Number`."""


Axis = int
Axes = tuple[int, ...] | None
Ints = tuple[int, ...]
Floats = tuple[float, ...]
Dims = tuple[Dim, ...]


@dataclass(frozen=True)
class Pattern:
    """`[B, T, 3*heads*head_dim] -> [3, B, heads, T, head_dim]`: per side, per axis, the factors of its product."""

    left: tuple[tuple[Dim, ...], ...]
    right: tuple[tuple[Dim, ...], ...]


class OpError(Exception):
    """A shape rule's refusal. The elaborator adds places and names, and makes it a `Diagnostic`.

    `operand` is the index of the operand (or the name of the attribute) that the message is about.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        operand: int | str | None = None,
        expected: str = "",
        found: str = "",
        help: str = "",
        proof: Proof | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.operand = code, message, operand
        self.expected, self.found, self.help, self.proof = expected, found, help, proof


@dataclass(frozen=True)
class Packing:
    """That a weight, a matrix, may be stored in few bits row by row: which operand it is, and whether its rows are
    looked up, rather than multiplied with; `added`: the operand that is added to the product, a number for each row.
    """

    operand: int
    looked_up: bool = False
    added: int | None = None


@dataclass(frozen=True)
class ParamSpec:
    """One parameter of an operator's signature."""

    name: str
    # operand | optional | number | list, or an attribute's annotation: int, float, Axis, Dims, Literal[...] ...
    kind: str
    required: bool
    default: Any = None

    @property
    def is_operand(self) -> bool:
        return self.kind in ("operand", "optional", "number", "list")

    @property
    def choices(self) -> tuple[str, ...]:
        """The strings a `Literal` attribute admits."""
        return tuple(re.findall(r"""["']([^"']*)["']""", self.kind)) if self.kind.startswith("Literal") else ()


_OPERAND_KINDS = {
    "ClassVar[Tensor]": "operand",
    "ClassVar[Tensor | None]": "optional",
    "ClassVar[Tensor | Number]": "number",
    "ClassVar[list[Tensor]]": "list",
}


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Op:
    """Base of all operators; see the module's text."""

    name: ClassVar[str]
    syntax: ClassVar[bool] = False  # made by syntax (`+`, indexing, unpacking), not callable by name
    random: ClassVar[bool] = False  # draws numbers
    for_training: ClassVar[bool] = False  # only in `when train` and train sections
    train_only: ClassVar[bool] = False  # the identity outside training (dropout): vanishes from ONNX
    elementwise: ClassVar[bool] = (
        False  # an element of a result comes from one place of the operands: axes may move, not mix
    )
    factors: ClassVar[tuple[int, ...]] = ()  # operands that are multiplied: each gradient is a product of that size
    smooth: ClassVar[tuple[int, ...] | None] = None  # operands that have gradients; None is every one of floats
    like: ClassVar[int | None] = None  # the operand whose order of axes in memory its result has
    converts: ClassVar[bool] = False  # its result is its operand itself, where that has the element type already
    picks: ClassVar[int | None] = None  # the operand of which only what is given is read: a table
    keeps: ClassVar[Saved | None] = None  # for gradients; None is every operand
    packing: ClassVar[Packing | None] = None  # the weight that may be stored in few bits, see `onnx_packed`
    in_onnx: ClassVar[tuple[tuple[str, int], ...]] = ()  # ONNX operators that are all of this one, since which opset
    params: ClassVar[tuple[ParamSpec, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        annotations = get_annotations(cls)
        inherited = [p for p in cls.params if p.name not in annotations]
        own = []
        for name, kind in annotations.items():
            if name in ("name", "syntax", "random", "for_training", "train_only", "elementwise", "params"):
                continue
            if kind in _OPERAND_KINDS:
                own.append(ParamSpec(name, _OPERAND_KINDS[kind], kind not in ("ClassVar[Tensor | None]",)))
            elif not kind.startswith("ClassVar"):
                default = cls.__dict__.get(name, _MISSING)
                own.append(ParamSpec(name, kind, default is _MISSING, None if default is _MISSING else default))
        cls.params = (*inherited, *own)
        if "name" in cls.__dict__:
            _REGISTRY[cls.name] = cls

    def __init__(self, **attributes: Any) -> None:
        for param in self.params:
            if param.is_operand:
                continue
            if param.name in attributes:
                object.__setattr__(self, param.name, attributes.pop(param.name))
            elif param.required:
                raise TypeError(f"{self.name}: missing attribute {param.name}")
            else:
                object.__setattr__(self, param.name, param.default)
        if attributes:
            raise TypeError(f"{self.name}: no attribute {', '.join(attributes)}")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    @property
    def attributes(self) -> dict[str, Any]:
        """Attribute name -> value, in the order of the signature."""
        return {p.name: getattr(self, p.name) for p in self.params if not p.is_operand}

    def replace(self, **attributes: Any) -> Op:
        return type(self)(**{**self.attributes, **attributes})

    def substitute(self, env: Mapping[str, Dim | int]) -> Op:
        """The operator with symbols in its size attributes replaced."""
        changed = {k: _substitute(v, env) for k, v in self.attributes.items()}
        return self if changed == self.attributes else type(self)(**changed)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, Op) and self.attributes == other.attributes

    def __hash__(self) -> int:
        return hash((type(self), *self.attributes.values()))

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v}' for k, v in self.attributes.items())})"

    # ---- what each operator states -------------------------------------------------------------------------------

    def infer(self, facts: Facts, *operands: Any) -> TensorType | tuple[TensorType, ...]:
        """Result type(s) from operand types (`TensorType`, `Scalar`, or None if absent); raises `OpError`.

        Type the parameters in the operator as what its signature admits: `x: TensorType, b: TensorType | None`.
        """
        raise NotImplementedError(self.name)

    def torch(self, t: TorchText, *operands: Any) -> str:
        """A Python expression (for several results: one that unpacks). Operands are expressions, None if absent."""
        raise NotImplementedError(self.name)

    def onnx(self, emit: Emitter, *operands: Any) -> Handle | tuple[Handle, ...]:
        """Emit nodes; operands are `Handle`, `Scalar`, or None if absent. Returns the result(s)."""
        raise NotImplementedError(self.name)

    def mixes(self, *operands: Any) -> Sequence[Collection[int]]:
        """Per operand, the axes (from 0) along which an element of a result may read elsewhere than at its own place.

        By default none for an elementwise operator, those of an attribute `axis`, and otherwise all.
        """
        return [self._mixed(o.rank) if isinstance(o, TensorType) else () for o in operands]

    def _mixed(self, rank: int) -> Collection[int]:
        axis = self.attributes.get("axis")
        if self.elementwise:
            return ()
        if axis is None:
            return range(rank)
        return [a % rank for a in (axis if isinstance(axis, tuple) else (axis,)) if rank]

    def stepwise(self, step: Step, *operands: Any) -> None:
        """Raises `OpError` (D401 to D407) where steps one after the other give something else than all at once.

        By default no axis that it mixes may be one of positions (D402).
        """
        for i, (operand, axes) in enumerate(zip(operands, self.mixes(*operands), strict=True)):
            mixed = [axis for axis in axes if isinstance(operand, TensorType) and step.varies(operand.shape[axis])]
            if mixed:
                size = operand.shape[mixed[0]]
                what = {"[]": "indexing", "= unpack": "unpacking"}.get(self.name, f"`{self.name}`")
                raise OpError(
                    "D402",
                    f"{what} over {size} mixes positions of different steps",
                    operand=i,
                    found=f"axis {mixed[0]} of {operand} is {size}",
                )

    def torch_step(self, t: TorchText, step: Step, *operands: Any) -> str:
        """The same as `torch` for an incremental entry."""
        return self.torch(t, *operands)

    def onnx_step(self, emit: Emitter, step: Step, *operands: Any) -> Handle | tuple[Handle, ...]:
        """The same as `onnx` for an incremental entry."""
        return self.onnx(emit, *operands)

    def onnx_packed(self, emit: Emitter, weight: Packed, *operands: Any) -> Handle:
        """The same as `onnx` for an operator with a `packing`, its weight packed; it has one result."""
        raise NotImplementedError(self.name)

    def cost(self, results: Sequence[TensorType], *operands: Any) -> Cost:
        """FLOPs; by default one per element of the first result."""
        return Cost(numel(results[0]))

    def backward(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Any) -> Cost:
        """FLOPs of the gradients of the operands that `needs` asks for; not asked where it asks for none.

        By default the gradient of each of `factors` is a product as large as the operator's own, and what is not a
        product costs as much again.
        """
        cost = self.cost(results, *operands)
        products = cost.products * sum(needs[i] for i in self.factors if i < len(needs))
        return Cost(products + cost.flops - cost.products, products)

    def saved(self, needs: Sequence[bool], results: Sequence[TensorType], *operands: Any) -> Saved:
        """What torch keeps for these gradients; by default `keeps`."""
        return self.keeps if self.keeps is not None else Saved(operands=tuple(range(len(operands))))

    def views(self, order: Sequence[int] | None, *operands: Any) -> bool:
        """Whether the results are the first operand's memory, seen otherwise. `order`: how its axes lie in memory, if
        not as they are counted.
        """
        return False

    def permutation(self, rank: int) -> Sequence[int] | None:
        """Of which axes of its operand its result is made, where it is a view that permutes them."""
        return None

    def module(self, t: TorchText) -> str | None:
        """The `nn` module for use as an element of `nn.Sequential` (`nn.GELU()`), or None if there is none."""
        return None


_MISSING: Any = object()
_REGISTRY: dict[str, type[Op]] = {}


def _substitute(value: Any, env: Mapping[str, Dim | int]) -> Any:
    if isinstance(value, Dim):
        changed = value.substitute(env)
        return value if changed == value else changed
    if isinstance(value, tuple):
        return tuple(_substitute(v, env) for v in value)
    if isinstance(value, Pattern):
        return Pattern(_substitute(value.left, env), _substitute(value.right, env))
    return value


@cache
def operators() -> Mapping[str, type[Op]]:
    """Name -> operator, for every class in `specc.ops`: discovered by importing its modules in name order, never
    listed.
    """
    from importlib import import_module
    from pkgutil import iter_modules

    package = import_module("specc.ops")
    for module in sorted(m.name for m in iter_modules(package.__path__)):
        import_module(f"specc.ops.{module}")
    return dict(sorted(_REGISTRY.items()))


def numel(type_: TensorType) -> Dim:
    """The number of elements, as a formula."""
    count = Dim.const(1)
    for dim in type_.shape:
        count = count * dim
    return count


def axis_index(axis: int, rank: int) -> int:
    """The axis counted from 0; E105 if the tensor has no such axis."""
    if not -rank <= axis < rank:
        raise OpError("E105", f"axis {axis} does not exist: the tensor has {rank} axes", operand="axis")
    return axis % rank

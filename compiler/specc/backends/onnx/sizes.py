"""Runtime sizes: how a symbolic size is computed inside the graph from the shapes of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from specc.backends.onnx.values import Ref
from specc.dims import Dim, Floor
from specc.dims.statements import default_least
from specc.types import DType, TensorType

if TYPE_CHECKING:
    from specc.backends.onnx.emitter import GraphEmitter

_UNBOUNDED = float("-inf")


class Sizes:
    """Sizes as int64[1] values, each computed once. A dim is read from the first input axis that is that dim alone."""

    def __init__(self, emit: GraphEmitter) -> None:
        self._emit = emit
        self._made: dict[Dim, Ref] = {}
        self._shapes: dict[tuple[Dim, ...], Ref] = {}

    def dim(self, dim: Dim) -> Ref:
        """`dim` as int64[1]."""
        dim = dim.plain()
        if dim.value is not None:
            return self._emit.const([dim.value], DType.I64)
        if dim not in self._made:
            with self._emit.at("sizes", ""):
                made = self._symbol(dim.symbols[0]) if dim.is_symbol() else self._formula(dim)
            made.hint = made.hint or f"sizes/{dim}"
            self._made[dim] = made
        return self._made[dim]

    def shape(self, dims: Sequence[Dim]) -> Ref:
        """`dims` as int64[n]: consecutive constants are one piece, as are consecutive axes of one input."""
        key = tuple(dims)
        if key not in self._shapes:
            self._shapes[key] = self._shape(key)
        return self._shapes[key]

    def _shape(self, dims: Sequence[Dim]) -> Ref:
        if all(dim.value is not None for dim in dims):
            return self._emit.const([dim.value for dim in dims], DType.I64)
        pieces: list[Ref] = []
        at = 0
        with self._emit.at("sizes", ""):
            while at < len(dims):
                end = at + 1
                if dims[at].value is not None:
                    while end < len(dims) and dims[end].value is not None:
                        end += 1
                    pieces.append(self._emit.const([dim.value for dim in dims[at:end]], DType.I64))
                else:
                    source, end = self._run(dims, at)
                    pieces.append(source if source is not None else self.dim(dims[at]))
                at = end
            if len(pieces) == 1:
                return pieces[0]
            return self._emit("Concat", *pieces, type=_vector(len(dims)), axis=0)

    def _run(self, dims: Sequence[Dim], at: int) -> tuple[Ref | None, int]:
        """Two or more sizes from `at` that are consecutive axes of an input, as one Shape; else (None, at + 1)."""
        for ref in self._emit.inputs:
            shape = ref.type.shape
            for start in range(len(shape)):
                count = 0
                while start + count < len(shape) and at + count < len(dims):
                    if shape[start + count] != dims[at + count] or dims[at + count].value is not None:
                        break
                    count += 1
                if count > 1:
                    return self._emit("Shape", ref, type=_vector(count), start=start, end=start + count), at + count
        return None, at + 1

    def _symbol(self, name: str) -> Ref:
        """A declared dim: an axis of an input that is this dim, or an axis that is linear in it."""
        symbol = Dim.symbol(name)
        linear: tuple[Ref, int, Dim, int] | None = None
        for ref in (*self._emit.inputs, *self._emit.measured):
            for axis, size in enumerate(ref.type.shape):
                if size == symbol:
                    return self._axis(ref, axis)
                factor = _coefficient(size, name)
                if factor and linear is None:
                    linear = ref, axis, size.plain() - symbol * factor, factor
        if linear is None:
            raise AssertionError(f"no input has the size {name}")
        ref, axis, rest, factor = linear
        value = self._axis(ref, axis)
        if rest != 0:
            value = self._emit("Sub", value, self.dim(rest))
        return value if factor == 1 else self._emit("Div", value, self._emit.const([factor], DType.I64))

    def _axis(self, ref: Ref, axis: int) -> Ref:
        return self._emit("Shape", ref, type=_vector(1), start=axis, end=axis + 1)

    def _formula(self, dim: Dim) -> Ref:
        total: Ref | None = None
        for monomial, coefficient in dim.terms():
            product: Ref | None = None
            for factor, power in monomial:
                base = self._quotient(factor) if isinstance(factor, Floor) else self.dim(Dim.symbol(factor))
                for _ in range(power):
                    product = base if product is None else self._emit("Mul", product, base)
            negated = total is not None and coefficient < 0
            if abs(coefficient) != 1 or product is None or (coefficient < 0 and not negated):
                number = self._emit.const([abs(coefficient) if negated else coefficient], DType.I64)
                product = number if product is None else self._emit("Mul", product, number)
            if total is None:
                total = product
            else:
                total = self._emit("Sub" if negated else "Add", total, product)
        assert total is not None  # a constant size never comes here
        return total

    def _quotient(self, floor: Floor) -> Ref:
        """ONNX divides ints towards zero; where the numerator may be negative, what `Mod` leaves is taken off first.

        1//n is written 2//2n: onnxruntime's optimiser makes m * (1//n) an m // n, of ints too.
        """
        scale = 2 if floor.numerator == 1 else 1
        top, bottom = self.dim(floor.numerator * scale), self.dim(floor.denominator * scale)
        if not (at_least_zero(floor.numerator) and at_least_zero(floor.denominator)):
            top = self._emit("Sub", top, self._emit("Mod", top, bottom))
        return self._emit("Div", top, bottom)


def at_least_zero(dim: Dim) -> bool:
    """Whether the form alone shows `dim` >= 0 when every symbol is >= 1 (`past(..)` and `routed(..)` >= 0)."""
    return _lowest(dim) >= 0


def may_be_zero(dim: Dim) -> bool:
    """Whether the form alone leaves it open that `dim` is 0."""
    return _lowest(dim) < 1


def _lowest(dim: Dim) -> float:
    """A lower bound: sums of increasing terms take it at the smallest sizes; any decreasing term gives none."""
    total = 0
    for monomial, coefficient in dim.terms():
        product = coefficient
        for factor, power in monomial:
            if isinstance(factor, Floor):
                divisor, top = factor.denominator.value, _lowest(factor.numerator)
                base = int(top) // divisor if divisor and divisor > 0 and top >= 0 else _UNBOUNDED
            else:
                base = default_least(factor)
            if base < 0 or coefficient < 0:
                return _UNBOUNDED
            product *= int(base) ** power
        total += product
    return total


def _coefficient(dim: Dim, name: str) -> int:
    """k if `dim` is k*name + rest, and the rest does not contain `name`; else 0."""
    if name not in dim.symbols:
        return 0
    for monomial, coefficient in dim.terms():
        if monomial == ((name, 1),):
            return coefficient if name not in (dim.plain() - Dim.symbol(name) * coefficient).symbols else 0
    return 0


def _vector(count: int) -> TensorType:
    return TensorType(DType.I64, (Dim.const(count),))

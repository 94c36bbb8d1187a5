"""Indexing with compile-time ints and sizes, and unpacking along the first axis."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

from specc.dims import Dim, Facts, Proof, Refuted
from specc.op import Buffer, Cost, Emitter, Handle, Op, OpError, Saved, Step, Tensor, TorchText
from specc.types import DType, Operand, TensorType

Slice = tuple[Dim | None, Dim | None, int]
"""start, stop, step; None is the end of the axis on that side."""
Item = Dim | Slice | str | None
"""A position (its axis disappears), a slice, `"..."` for all axes in between, or None for a new unit axis."""
Items = tuple[Item, ...]

ALL: Slice = (None, None, 1)
_END = 2**63 - 1


def _ends(item: Dim | Slice, step: Step, size: Dim) -> bool:
    """Whether an item is the last of the new positions."""
    return size == step.size and item in (Dim.const(-1), (Dim.const(-1), None, 1))


def _is_new(item: Dim | Slice | None, step: Step, size: Dim) -> bool:
    """Whether an item is the new positions among all so far: `mask[:, S - T:]`."""
    whole = step.past + step.size
    return size == whole and item in ((step.past, None, 1), (step.past, whole, 1))


class Index(Op):
    """x[..]: positions, slices, new unit axes. A negative position or bound counts from the end.

    Slices must lie within the axis: unlike Python's they are never cut short.

    example: (x: Tensor[B, T, 8])[:, 0] -> Tensor[B, 8]
    example: (x: Tensor[B, T, 8])[..., -1] -> Tensor[B, T]
    example: (x: Tensor[B, T, 8])[:, none] -> Tensor[B, 1, T, 8]
    example: (x: Tensor[B, T, 8])[:, 1:] -> Tensor[B, T - 1, 8]
    example: (x: Tensor[B, T, 8])[..., 1:8:3] -> Tensor[B, T, 3]
    example: (x: Tensor[B, T, 8])[:, T - 1, none, -3:-1] -> Tensor[B, 1, 2]
    example: (x: Tensor[9, 8])[:4, 2] -> Tensor[4]
    example: (x: Int[B, T])[none, :, :-1] -> Int[1, B, T - 1]
    example: (x: Tensor[B, T, 8])[:, :, 8] -> error E105
    example: (x: Tensor[B, T, 8])[:, 2] -> error E105
    example: (x: Tensor[B, T, 8])[:, :, :9] -> error E105
    example: (x: Tensor[B, T, 8])[:, 2:] -> error S222
    example: (x: Tensor[B])[0, 0] -> error S202
    """

    keeps = Saved()
    name = "[]"
    syntax = True
    x: ClassVar[Tensor]
    items: Items

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        shape: list[Dim] = []
        axis = 0
        for item in self.spread(x.rank, x):
            if item is None:
                shape.append(Dim.UNIT)
                continue
            size = x.shape[axis]
            if isinstance(item, Dim):
                _check_position(facts, item, size, axis)
            elif item == ALL:
                shape.append(size)
            else:
                assert isinstance(item, tuple)
                shape.append(_sliced(facts, item, size, axis))
            axis += 1
        return x.with_shape(tuple(shape))

    def spread(self, rank: int, x: TensorType | None = None) -> list[Dim | Slice | None]:
        """The items with `...`, and what is left out at the end, as whole slices; S202 if there are too many."""
        taken = sum(item is not None and item != "..." for item in self.items)
        if taken > rank:
            raise OpError("S202", f"{taken} indices for {rank} axes", operand=0, found=str(x) if x else "")
        fill: list[Dim | Slice | None] = [ALL] * (rank - taken)
        result: list[Dim | Slice | None] = []
        spread = False
        for item in self.items:
            if isinstance(item, str):
                result += fill
                spread = True
            else:
                result.append(item)
        return result if spread else result + fill

    def views(self, order: Sequence[int] | None, *operands: Operand) -> bool:
        return True

    def torch(self, t: TorchText, x: str) -> str:
        return f"{x}[{', '.join(self._torch_item(t, item) for item in self.items)}]"

    def _torch_item(self, t: TorchText, item: Item) -> str:
        if item is None:
            return "None"
        if isinstance(item, str):
            return "..."
        if isinstance(item, Dim):
            return t.dim(item)
        start, stop, step = item
        text = ":".join("" if bound is None else t.dim(bound) for bound in (start, stop))
        return text if step == 1 else f"{text}:{step}"

    def onnx_step(self, emit: Emitter, step: Step, x: Handle) -> Handle:
        """With buffers the last position is where each row's text ends: padding is on the right. In a static cache the
        new positions are in the midst of all."""
        items = self.spread(x.type.rank)
        if step.start is not None:
            x, items = _new_of_static(emit, step, step.start, x, items)
            return Index(items=tuple(items)).onnx(emit, x)
        along = [item for item in items if item is not None]
        ends = [i for i, (item, size) in enumerate(zip(along, x.type.shape, strict=True)) if _ends(item, step, size)]
        if step.buffer is None or not ends:
            return self.onnx(emit, x)
        [axis] = ends
        others = [item for i, item in enumerate(items) if i != axis]
        if any(item != ALL for item in others) or axis == 0:
            message = "onnxruntime-genai: the last position of each row's text is indexed by itself"
            raise OpError("B621", message, help="x[:, -1], other axes in a second step")
        gathered = self._row_ends(emit, step, step.buffer, x, axis)
        return gathered if isinstance(items[axis], tuple) else emit.squeeze(gathered, [axis])

    def _row_ends(self, emit: Emitter, step: Step, buffer: Buffer, x: Handle, axis: int) -> Handle:
        """Along `axis`, of the new positions, the last one of each row's text: size 1."""
        rank, batch = x.type.rank, x.type.shape[0]
        shape = (*x.type.shape[:axis], Dim.UNIT, *x.type.shape[axis + 1 :])
        place = emit("Sub", emit.cast(buffer.last, DType.I64), emit.dim(step.past))
        place = emit("Max", place, emit.const(0, DType.I64))  # in a step of one position it is that one
        column = emit.reshape(place, (batch, *[Dim.UNIT] * (rank - 1)))
        places = emit("Expand", column, emit.shape(shape), type=TensorType(DType.I64, shape))
        return emit("GatherElements", x, places, type=x.type.with_shape(shape), axis=axis)

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        items = self.spread(x.type.rank)
        axes = [item for item in items if item is not None]
        slices = [(axis, item) for axis, item in enumerate(axes) if isinstance(item, tuple) and item != ALL]
        if slices:
            x = _onnx_slice(emit, x, slices)
        rank = len(axes)
        for axis in reversed([axis for axis, item in enumerate(axes) if isinstance(item, Dim)]):
            at = axes[axis]
            assert isinstance(at, Dim)
            position = emit.const(at.value, DType.I64) if at.value is not None else emit.squeeze(emit.dim(at), (0,))
            shape = x.type.shape
            x = emit("Gather", x, position, axis=axis, type=x.type.with_shape((*shape[:axis], *shape[axis + 1 :])))
            rank -= 1
        kept = [item for item in items if not isinstance(item, Dim)]
        return emit.unsqueeze(x, [i for i, item in enumerate(kept) if item is None])

    def mixes(self, x: TensorType) -> Sequence[Collection[int]]:
        items = [item for item in self.spread(x.rank) if item is not None]
        return [[axis for axis, item in enumerate(items) if item != ALL and not _is_last(item, x.shape[axis])]]

    def stepwise(self, step: Step, x: TensorType) -> None:
        items = [item for item in self.spread(x.rank) if item is not None]
        others = [ALL if _is_new(item, step, size) else item for item, size in zip(items, x.shape, strict=True)]
        if others != items:
            Index(items=tuple(others)).stepwise(step, x)
            return
        for axis, item in enumerate(items):
            bounds = [item] if isinstance(item, Dim) else [bound for bound in item[:2] if bound is not None]
            if not step.varies(x.shape[axis]) and any(step.varies(bound) for bound in bounds):
                shown = next(bound.label or str(bound) for bound in bounds if step.varies(bound))
                raise OpError(
                    "D401",
                    f"a slice of a fixed axis by `{shown}` restarts in every decoding step",
                    operand=0,
                    found=f"axis {axis} of {x} is the same in every step",
                    help=f"take(table, positions({step.size}))",
                )
        super().stepwise(step, x)

    def cost(self, results: Sequence[TensorType], *operands: Operand) -> Cost:
        return Cost(Dim.const(0))


def _is_last(item: Dim | Slice, size: Dim) -> bool:
    """Whether an index is the last position of its axis, in a step as in the whole."""
    return isinstance(item, Dim) and (item.value == -1 or item == size - 1)


def _new_of_static(
    emit: Emitter, step: Step, start: Handle, x: Handle, items: list[Dim | Slice | None]
) -> tuple[Handle, list[Dim | Slice | None]]:
    """The new positions where a static cache has them, after `start` others, and what is left to do."""
    axis = 0
    for i, item in enumerate(items):
        if item is None:
            continue
        if _is_new(item, step, x.type.shape[axis]):
            end = emit("Add", start, emit.dim(step.size))
            shape = (*x.type.shape[:axis], step.size, *x.type.shape[axis + 1 :])
            x = emit("Slice", x, start, end, emit.const([axis], DType.I64), type=x.type.with_shape(shape))
            items = [*items[:i], ALL, *items[i + 1 :]]
        axis += 1
    return x, items


def _onnx_slice(emit: Emitter, x: Handle, slices: Sequence[tuple[int, Slice]]) -> Handle:
    starts = [start if start is not None else Dim.const(0) for _, (start, _, _) in slices]
    ends = [size if size.value is not None else Dim.const(_END) for size in x.type.shape]
    stops = [stop if stop is not None else ends[axis] for axis, (_, stop, _) in slices]
    steps = [step for _, (_, _, step) in slices]
    shape = list(x.type.shape)
    for axis, (start, stop, step) in slices:
        shape[axis] = _length(
            _from_start(start, shape[axis], Dim.const(0)), _from_start(stop, shape[axis], shape[axis]), step
        )
    return emit(
        "Slice",
        x,
        emit.shape(starts),
        emit.shape(stops),
        emit.const([axis for axis, _ in slices], DType.I64),
        emit.const(steps, DType.I64) if any(step != 1 for step in steps) else None,
        type=x.type.with_shape(tuple(shape)),
    )


def _from_start(bound: Dim | None, size: Dim, default: Dim) -> Dim:
    """A bound counted from the start; only a number can be negative."""
    if bound is None:
        return default
    return size + bound if bound.value is not None and bound.value < 0 else bound


def _length(start: Dim, stop: Dim, step: int) -> Dim:
    return stop - start if step == 1 else (stop - start + (step - 1)) // step


def _check_position(facts: Facts, at: Dim, size: Dim, axis: int) -> None:
    index = _from_start(at, size, at)
    for proof in (facts.at_least(index, 0), facts.at_least(size - 1 - index, 0)):
        if not proof:
            raise _outside(proof, f"index {at.label or at}", size, axis)


def _sliced(facts: Facts, item: Slice, size: Dim, axis: int) -> Dim:
    """The size of a slice, which must lie within the axis: E105, S222."""
    start, stop, step = item
    if step < 1:
        raise OpError(
            "E125", f"a slice's step must be at least 1, found {step}", operand=0, help="flip(x, axis) reverses"
        )
    first, last = _from_start(start, size, Dim.const(0)), _from_start(stop, size, size)
    for bound, shown in ((first, start), (last, stop)):
        if shown is None:
            continue
        for proof in (facts.at_least(bound, 0), facts.at_least(size - bound, 0)):
            if not proof:
                if size.value is not None and bound.value is not None:
                    raise _outside(proof, f"slice bound {shown.label or shown}", size, axis)
                raise _negative(proof, size - bound if bound == first else bound, axis)
    length = last - first
    proof = facts.at_least(length, 0)
    if not proof:
        raise _negative(proof, length, axis)
    return _length(first, last, step)


def _outside(proof: Proof, what: str, size: Dim, axis: int) -> OpError:
    sure = "is outside" if isinstance(proof, Refuted) else "may be outside"
    shown = size.label or str(size)
    return OpError("E105", f"{what} {sure} axis {axis}, which has size {shown}", operand=0, found=shown, proof=proof)


def _negative(proof: Proof, length: Dim, axis: int) -> OpError:
    return OpError(
        "S222",
        f"the slice of axis {axis} may have a negative size: {length}",
        operand=0,
        found=str(length),
        help="promise a lower bound with a `dim` line",
        proof=proof,
    )


class Unpack(Op):
    """The slices of a tensor along its first axis, whose size is static: `q, k, v = x`.

    example: a, b, c = (x: Tensor[3, B, T]) -> Tensor[B, T], Tensor[B, T], Tensor[B, T]
    example: a, b = (x: Tensor[B, 2]) -> error S151
    """

    keeps = Saved()
    name = "= unpack"
    syntax = True
    x: ClassVar[Tensor]

    def infer(self, facts: Facts, x: TensorType) -> tuple[TensorType, ...]:
        count = x.shape[0].value if x.rank else None
        if count is None:
            why = (
                "a scalar cannot be unpacked"
                if not x.rank
                else f"the size of axis 0, {x.shape[0]}, is known at run time only"
            )
            raise OpError("S151", f"cannot unpack {x}: {why}", operand=0, found=str(x))
        return (x.with_shape(x.shape[1:]),) * count

    def views(self, order: Sequence[int] | None, *operands: Operand) -> bool:
        return True

    def torch(self, t: TorchText, x: str) -> str:
        return f"{x}.unbind(0)"

    def onnx(self, emit: Emitter, x: Handle) -> tuple[Handle, ...]:
        count = x.type.shape[0].value
        assert count is not None
        type_ = x.type.with_shape(x.type.shape[1:])
        if count == 1:
            return (emit.squeeze(x, (0,)),)
        return tuple(emit("Gather", x, emit.const(i, DType.I64), axis=0, type=type_) for i in range(count))

    def mixes(self, x: TensorType) -> Sequence[Collection[int]]:
        return [(0,)]

    def cost(self, results: Sequence[TensorType], *operands: Operand) -> Cost:
        return Cost(Dim.const(0))

"""`rearrange`: split, reorder and merge axes by a pattern of named factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from specc.dims import Dim, Facts, Unknown
from specc.op import Cost, Emitter, Handle, Op, OpError, Pattern, Saved, Tensor, TorchText
from specc.types import Operand, TensorType


@dataclass(frozen=True)
class Steps:
    """A rearrangement as at most three steps; None where one has nothing to do.

    View the input as `split`, permute the axes of that, make `merged` of the result. Without a permutation there is no
    `split`. `groups` are, for each axis of the result, the positions of its factors after the permutation.
    """

    split: tuple[Dim, ...] | None
    perm: tuple[int, ...] | None
    merged: tuple[Dim, ...] | None
    groups: tuple[tuple[int, ...], ...]


class Rearrange(Op):
    """Splits, reorders and merges axes. Both sides have the same factors; a literal 1 may appear or disappear.

    example: rearrange(x: Tensor[B, T, 24], [B, T, 3*4*2] -> [3, B, 4, T, 2]) -> Tensor[3, B, 4, T, 2]
    example: rearrange(x: Tensor[B, 4, T, 2], [B, 4, T, 2] -> [B, T, 4*2]) -> Tensor[B, T, 8]
    example: rearrange(x: Tensor[B, 6, T], [B, 6, T] -> [B, T, 6]) -> Tensor[B, T, 6]
    example: rearrange(x: Tensor[B, T, 8], [B, T, 4*2] -> [B*T, 4, 2]) -> Tensor[B*T, 4, 2]
    example: rearrange(x: Tensor[B, T, 8], [B, T, 8] -> [B, 1, 8, T]) -> Tensor[B, 1, 8, T]
    example: rearrange(x: Tensor[B, 1, Y*X, 8], [B, 1, Y*X, 8] -> [B, 8, Y, X]) -> Tensor[B, 8, Y, X]
    example: rearrange(x: Tensor[B, 8, 3, 3], [B, 8, 3, 3] -> [B, 3*3, 8]) -> Tensor[B, 9, 8]
    example: rearrange(x: Int[B, T], [B, T] -> [B, T]) -> Int[B, T]
    example: rearrange(x: Tensor[1, 1], [1, 1] -> []) -> Tensor[]
    example: rearrange(x: Tensor[B, T, 8], [B, T, 3*4] -> [B, 3, T, 4]) -> error S210
    example: rearrange(x: Tensor[B, T, 8], [B, T, 2*4] -> [B, T, 2, 2]) -> error S211
    """

    keeps = Saved()
    name = "rearrange"
    elementwise = True
    x: ClassVar[Tensor]
    pattern: Pattern

    def infer(self, facts: Facts, x: TensorType) -> TensorType:
        self._check_input(facts, x)
        _match(self.pattern)
        return x.with_shape(tuple(_axis_size(axis) for axis in self.pattern.right))

    def _check_input(self, facts: Facts, x: TensorType) -> None:
        left = self.pattern.left
        shown = f"[{', '.join(map(_axis_text, left))}]"
        if len(left) != x.rank:
            raise OpError(
                "S210", f"the pattern has {len(left)} axes, its input {x.rank}", operand=0, expected=shown, found=str(x)
            )
        for i, (axis, size) in enumerate(zip(left, x.shape, strict=True)):
            proof = facts.equal(_product(axis), size)
            if not proof:
                raise OpError(
                    "S221" if isinstance(proof, Unknown) else "S210",
                    f"the pattern does not match its input: axis {i} is {size.label or size}, not {_axis_text(axis)}",
                    operand=0,
                    expected=shown,
                    found=str(x),
                    proof=proof,
                )

    def steps(self) -> Steps:
        """The least work that does it."""
        plan = _match(self.pattern)
        perm = tuple(plan.before.index(atom) for atom in plan.after)
        straight = perm == tuple(range(len(perm)))
        groups = [tuple(plan.after.index(atom) for atom in axis if atom in plan.after) for axis in plan.right]
        right = tuple(_axis_size(axis) for axis in self.pattern.right)
        if straight:
            same = right == tuple(_axis_size(axis) for axis in self.pattern.left)
            return Steps(None, None, None if same else right, tuple(groups))
        split = tuple(plan.sizes[atom] for atom in plan.before) if plan.splits else None
        return Steps(split, perm, right if plan.merges else None, tuple(groups))

    def views(self, order: Sequence[int] | None, *operands: Operand) -> bool:
        """Axes can be merged without a copy where they lie in that order in memory."""
        steps = self.steps()
        if steps.merged is None or steps.perm is None:
            return order is None or steps.merged is None
        return steps.split is None and order is not None and tuple(order) == steps.perm

    def permutation(self, rank: int) -> Sequence[int] | None:
        steps = self.steps()
        return steps.perm if steps.merged is None else None

    def torch(self, t: TorchText, x: str) -> str:
        steps = self.steps()
        if steps.perm is None:
            return x if steps.merged is None else f"{x}{_reshape(t, steps, self.pattern)}"
        text = x if steps.split is None else f"{x}.view({t.dims(steps.split)})"
        moved = [i for i, axis in enumerate(steps.perm) if i != axis]
        if len(moved) == 2:
            text += f".transpose({moved[0]}, {moved[1]})"
        else:
            text += f".permute({', '.join(map(str, steps.perm))})"
        return text if steps.merged is None else text + _reshape(t, steps, self.pattern)

    def onnx(self, emit: Emitter, x: Handle) -> Handle:
        steps = self.steps()
        if steps.split is not None:
            x = emit.reshape(x, steps.split)
        if steps.perm is not None:
            x = emit.transpose(x, steps.perm)
        return x if steps.merged is None else emit.reshape(x, steps.merged)

    def cost(self, results: Sequence[TensorType], *operands: Operand) -> Cost:
        return Cost(Dim.const(0))


def _reshape(t: TorchText, steps: Steps, pattern: Pattern) -> str:
    """The last step: `view` if nothing is merged, `flatten` if only one run of axes is, else `reshape`."""
    assert steps.merged is not None
    runs = [group for group in steps.groups if len(group) > 1]
    if steps.perm is None:
        if not runs:
            return f".view({t.dims(steps.merged) or '()'})"  # `()`: one element without axes
        axes_are_factors = all(len(axis) == 1 for axis in pattern.left) and not _has_units(pattern)
    else:
        axes_are_factors = all(steps.groups) and sum(map(len, steps.groups)) == len(steps.perm)
    if len(runs) != 1 or not axes_are_factors:
        return f".reshape({t.dims(steps.merged) or '()'})"
    first, last = runs[0][0], runs[0][-1]
    return f".flatten({first})" if runs[0] == steps.groups[-1] else f".flatten({first}, {last})"


# ---- matching the two sides -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """Factors as numbers ("atoms"); a unit axis is an atom too, so that it can be moved like any other."""

    sizes: tuple[Dim, ...]  # by atom
    right: tuple[tuple[int, ...], ...]
    before: tuple[int, ...]  # atoms that are permuted, in the order of the left side
    after: tuple[int, ...]  # the same in the order of the right side
    splits: bool
    merges: bool


def _match(pattern: Pattern) -> _Plan:
    """Pairs the factors of both sides; S211 if one has no partner."""
    sizes: list[Dim] = []
    left: list[list[int]] = []
    for axis in pattern.left:
        factors = _factors(axis) or (Dim.UNIT,)
        left.append(list(range(len(sizes), len(sizes) + len(factors))))
        sizes += factors
    free = [atom for axis in left for atom in axis]
    wanted = [(i, factor) for i, axis in enumerate(pattern.right) for factor in (_factors(axis) or (Dim.UNIT,))]
    found: list[int | None] = [None] * len(wanted)
    for same in (_same_text, _same_value):  # `heads` is `heads` before it is another factor of that size
        for place, (_, factor) in enumerate(wanted):
            if found[place] is None:
                atom = next((a for a in free if same(sizes[a], factor)), None)
                if atom is not None:
                    free.remove(atom)
                    found[place] = atom
    _refuse_unpaired(
        pattern, [sizes[a] for a in free], [f for (_, f), atom in zip(wanted, found, strict=True) if atom is None]
    )
    right: list[list[int]] = [[] for _ in pattern.right]
    added: list[int] = []
    for place, (axis_number, factor) in enumerate(wanted):
        atom = found[place]
        if atom is None:  # a new unit axis
            atom = len(sizes)
            sizes.append(factor)
            added.append(atom)
        else:
            sizes[atom] = factor  # as the right side writes it
        right[axis_number].append(atom)
    return _place_units(sizes, left, right, dropped=free, added=added)


def _place_units(
    sizes: list[Dim], left: list[list[int]], right: list[list[int]], dropped: list[int], added: list[int]
) -> _Plan:
    """Decides which reshape drops and adds unit axes, so that it needs no step of its own."""
    splits = any(len(axis) > 1 for axis in left)
    merges = any(len(axis) > 1 for axis in right)
    before = [atom for axis in left for atom in axis]
    after = [atom for axis in right for atom in axis]
    if (dropped or added) and not merges:
        splits = True
    if splits:
        before = [atom for atom in before if atom not in dropped]
    else:
        for atom in dropped:
            at = before.index(atom)
            following = next((a for a in before[at + 1 :] if a in after), None)
            after.insert(len(after) if following is None else after.index(following), atom)
    if merges:
        after = [atom for atom in after if atom not in added]
    else:
        for atom in added:
            at = after.index(atom)
            following = next((a for a in after[at + 1 :] if a in before), None)
            before.insert(len(before) if following is None else before.index(following), atom)
    return _Plan(tuple(sizes), tuple(map(tuple, right)), tuple(before), tuple(after), splits, merges)


def _refuse_unpaired(pattern: Pattern, left: Sequence[Dim], right: Sequence[Dim]) -> None:
    missing = [d for d in right if not d.unit]
    extra = [d for d in left if not d.unit]
    if missing or extra:
        sides = [
            f"only on the {side}: {', '.join(map(_text, dims))}"
            for side, dims in (("left", extra), ("right", missing))
            if dims
        ]
        raise OpError(
            "S211",
            f"the two sides of the pattern have different factors; {'; '.join(sides)}",
            operand="pattern",
            expected=", ".join(_text(f) for axis in pattern.left for f in _factors(axis)),
            found=", ".join(_text(f) for axis in pattern.right for f in _factors(axis)),
        )


def _factors(axis: Sequence[Dim]) -> tuple[Dim, ...]:
    """The factors that are not a literal 1."""
    return tuple(d for d in axis if not _is_one(d))


def _is_one(dim: Dim) -> bool:
    return dim.value == 1 and (dim.unit or dim.label in (None, "1"))


def _has_units(pattern: Pattern) -> bool:
    return any(not _factors(axis) for side in (pattern.left, pattern.right) for axis in side)


def _text(dim: Dim) -> str:
    return dim.label or str(dim)


def _same_text(one: Dim, other: Dim) -> bool:
    return one == other and one.unit == other.unit and _text(one) == _text(other)


def _same_value(one: Dim, other: Dim) -> bool:
    return one == other and one.unit == other.unit


def _axis_text(axis: Sequence[Dim]) -> str:
    return "*".join(text if text.replace("_", "").isalnum() else f"({text})" for text in map(_text, axis))


def _product(axis: Sequence[Dim]) -> Dim:
    product = Dim.const(1)
    for dim in axis:
        product = product * dim
    return product


def _axis_size(axis: Sequence[Dim]) -> Dim:
    """The size of an axis; a static one remembers how it was written."""
    factors = _factors(axis)
    if not factors:
        return Dim.UNIT
    if len(factors) == 1:
        return factors[0]
    size = _product(factors)
    labelled = size.value is not None and any(d.label for d in factors)
    return size.with_label(_axis_text(factors)) if labelled else size

"""How element-wise operators combine their operands: the broadcasts of LANGUAGE 7 and the dtype rules of LANGUAGE 8."""

from __future__ import annotations

from collections.abc import Sequence

from specc.dims import Dim, Facts, Proof, Unknown
from specc.op import Emitter, Handle, OpError
from specc.types import DType, Scalar, TensorType

Element = TensorType | Scalar
"""An operand that may be a number."""


def broadcast(facts: Facts, types: Sequence[Element], doing: str) -> tuple[Dim, ...]:
    """The common shape: numbers and rank 0 fit anything, leading axes may miss, unit axes fit any size; else S200.

    `doing` says what fails: "add", so that the message reads "cannot add .. to ..".
    """
    shapes = [t.shape for t in types if isinstance(t, TensorType)]
    shape = shapes[0]
    for other in shapes[1:]:
        shape = _combined(facts, shape, other, types, doing)
    return shape


def broadcast_leading(
    facts: Facts, left: Sequence[Dim], right: Sequence[Dim], types: Sequence[Element], doing: str
) -> tuple[Dim, ...]:
    """The common shape of the leading axes alone (`@` combines these); `types` are what the message shows."""
    return _combined(facts, tuple(left), tuple(right), types, doing)


def _combined(
    facts: Facts, left: tuple[Dim, ...], right: tuple[Dim, ...], types: Sequence[Element], doing: str
) -> tuple[Dim, ...]:
    rank = max(len(left), len(right))
    result: list[Dim] = []
    for axis in range(-rank, 0):
        if -axis > len(left):
            result.append(right[axis])
        elif -axis > len(right):
            result.append(left[axis])
        else:
            result.append(_one_size(facts, left[axis], right[axis], types, doing))
    return tuple(result)


def _one_size(facts: Facts, left: Dim, right: Dim, types: Sequence[Element], doing: str) -> Dim:
    if left.unit:
        return right
    if right.unit:
        return left
    proof = facts.equal(left, right)
    if not proof:
        raise _differ(proof, left, right, types, doing)
    return right if left.label is None and right.label is not None else left


def _differ(proof: Proof, left: Dim, right: Dim, types: Sequence[Element], doing: str) -> OpError:
    one = next((d for d in (left, right) if d.value == 1), None)
    help = ""
    if one is not None:
        help = f"only an axis written as 1 broadcasts, and {one.label or 'this one'} is a size that happens to be 1"
    return OpError(
        "S221" if isinstance(proof, Unknown) else "S200",
        f"cannot {doing} {' and '.join(map(str, types))}: sizes {left} and {right}",
        operand=1,
        expected=left.label or str(left),
        found=right.label or str(right),
        help=help,
        proof=proof,
    )


def common_dtype(operands: Sequence[Element], doing: str) -> DType:
    """The dtype all tensors share; numbers adopt it.

    S301 if tensors mix, S302 for a float with an Int tensor, E125 for numbers among themselves.
    """
    tensors = [t for t in operands if isinstance(t, TensorType)]
    if not tensors:
        raise OpError(
            "E125",
            f"cannot {doing} {' and '.join(map(str, operands))}: one of them must be a tensor",
            operand=0,
            expected="a tensor",
            found=str(operands[0]),
            help="any(arange(T) >= n) is whether a runtime size exceeds n; `min` and `max` are for numbers",
        )
    dtype = tensors[0].dtype
    for i, operand in enumerate(operands):
        if isinstance(operand, Scalar):
            _adopts(operand, dtype, i, doing)
        elif operand.dtype is not dtype:
            raise OpError(
                "S301",
                f"cannot {doing} {' and '.join(map(str, operands))}",
                operand=i,
                expected=dtype.spec_name,
                found=operand.dtype.spec_name,
                help="make the types equal:  cast(x, ..)  or  cast_like(x, y)",
            )
    return dtype


def _adopts(number: Scalar, dtype: DType, index: int, doing: str) -> None:
    value = number.value
    if isinstance(value, bool) != (dtype is DType.BOOL):
        kind = "a truth value" if isinstance(value, bool) else f"the number {number}"
        raise OpError(
            "S301",
            f"cannot {doing} {dtype.spec_name} and {kind}",
            operand=index,
            expected=dtype.spec_name,
            found=str(number),
        )
    if isinstance(value, float) and dtype.is_int:
        raise OpError(
            "S302",
            f"the float number {number} meets an {dtype.spec_name} tensor",
            operand=index,
            expected=dtype.spec_name,
            found=str(number),
            help="cast(x, f32) first, or use a whole number",
        )


def arithmetic_dtype(operands: Sequence[Element], doing: str) -> DType:
    """`common_dtype`, which must not be Bool."""
    dtype = common_dtype(operands, doing)
    if dtype is DType.BOOL:
        raise OpError(
            "S301",
            f"cannot {doing} Bool tensors",
            operand=0,
            found="Bool",
            help="cast(x, i64) counts; `and`, `or`, `not` combine conditions",
        )
    return dtype


def handles(emit: Emitter, *operands: Handle | Scalar) -> list[Handle]:
    """The operands as values, numbers in the dtype of the first tensor."""
    like = next(o for o in operands if not isinstance(o, Scalar))
    return [emit.scalar(o, like) if isinstance(o, Scalar) else o for o in operands]

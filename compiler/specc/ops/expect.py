"""What shape rules demand of operands: each check passes, or raises an `OpError` with what was expected and found.

`operand` is the operand's index in the call; `what` names it in the message as the signature does (`w`, `idx`).
"""

from __future__ import annotations

from collections.abc import Sequence

from specc.dims import Dim, Facts, Refuted
from specc.op import OpError
from specc.types import DType, TensorType, show_axes


def rank(type_: TensorType, axes: Sequence[str], *, operand: int, what: str) -> None:
    """As many axes as named: `rank(x, "BCYX", ...)`; S202."""
    if type_.rank != len(axes):
        raise OpError(
            "S202",
            f"{what} must have {len(axes)} axes, found {type_.rank}",
            operand=operand,
            expected=f"{type_.dtype.spec_name}[{', '.join(axes)}]",
            found=str(type_),
        )


def same_rank(type_: TensorType, other: TensorType, *, operand: int, what: str, as_what: str) -> None:
    """As many axes as another operand; S202."""
    if type_.rank != other.rank:
        raise OpError(
            "S202",
            f"{what} must have as many axes as {as_what}: {other.rank}, found {type_.rank}",
            operand=operand,
            found=str(type_),
        )


def size(
    facts: Facts, found: Dim, expected: Dim | int, *, operand: int, what: str, code: str = "S201", help: str = ""
) -> None:
    """One size equals another wherever the facts hold; `code` if it does not, S221 if neither could be shown.

    `what` is the size's name: "w's axis 1".
    """
    expected = Dim.of(expected)
    proof = facts.equal(found, expected)
    if proof:
        return
    shown = [dim.label or str(dim) for dim in (expected, found)]
    raise OpError(
        code if isinstance(proof, Refuted) else "S221",
        f"{what} must be {shown[0]}, found {shown[1]}",
        operand=operand,
        expected=shown[0],
        found=shown[1],
        help=help,
        proof=proof,
    )


def shape(facts: Facts, type_: TensorType, sizes: Sequence[Dim | int], *, operand: int, what: str) -> None:
    """Rank and every size; S202, S201, S221."""
    dims = tuple(Dim.of(d) for d in sizes)
    rank(type_, show_axes(dims), operand=operand, what=what)
    for axis, (found, expected) in enumerate(zip(type_.shape, dims, strict=True)):
        size(facts, found, expected, operand=operand, what=f"axis {axis} of {what}")


def not_negative(facts: Facts, found: Dim, *, operand: int | str, what: str) -> None:
    """S222 unless the size is provably >= 0."""
    proof = facts.at_least(found, 0)
    if not proof:
        raise OpError(
            "S222",
            f"{what} may be negative: {found}",
            operand=operand,
            help="promise a lower bound of the sizes in it with a `dim` line",
            proof=proof,
        )


def multiple(facts: Facts, found: Dim, of: int, *, operand: int, what: str) -> None:
    """S201 unless `of` divides the size, S221 if that could not be decided."""
    proof = facts.divides(of, found)
    if not proof:
        raise OpError(
            "S201" if isinstance(proof, Refuted) else "S221",
            f"{what} must be a multiple of {of}, found {found.label or found}",
            operand=operand,
            help="" if found.value is not None else f"promise it on the model:  dim {found.label or found} % {of} == 0",
            proof=proof,
        )


def floating(type_: TensorType, *, operand: int, what: str) -> None:
    """S301 unless the elements are floating-point."""
    if not type_.dtype.is_float:
        raise OpError("S301", f"{what} must be floating-point, found {type_}", operand=operand, found=str(type_))


def indices(type_: TensorType, *, operand: int, what: str) -> None:
    """S301 unless the elements are `Int`: what indexes an axis."""
    if type_.dtype is not DType.I64:
        raise OpError(
            "S301",
            f"{what} must be Int, found {type_}",
            operand=operand,
            expected="Int",
            found=str(type_),
            help=f"cast({what}, i64)" if type_.dtype.is_int else "",
        )


def same_dtype(type_: TensorType, as_: DType, *, operand: int, what: str) -> None:
    """S301 unless the elements have the dtype of the first operand."""
    if type_.dtype is not as_:
        raise OpError(
            "S301",
            f"{what} must be {as_.spec_name}, found {type_}",
            operand=operand,
            expected=as_.spec_name,
            found=str(type_),
            help=f"cast_like({what}, x)  for a Tensor x" if as_ is DType.COMPUTE else f"cast({what}, {as_.spec_name})",
        )


def setting(condition: bool, name: str, message: str) -> None:
    """E125 with `message` unless the attribute's value is admissible."""
    if not condition:
        raise OpError("E125", message, operand=name)

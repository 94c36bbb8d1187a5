"""`generate(decode, max_length = 128)` in a metric: texts that the model writes itself, greedily (LANGUAGE 16)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specc.elaborate.names import available, closest, did_you_mean, replaced
from specc.ir.graph import Argument, Value
from specc.syntax import ast
from specc.types import DType, TensorType

if TYPE_CHECKING:
    from specc.elaborate.losses import LossChecker

OPTIONS = ("max_length", "stop")


@dataclass(frozen=True)
class Generated:
    """Texts that grow in the input `ids` of the section's entry, by its result number `result`.

    `without`: optional inputs that are as long as the text, and are left out. `stop` ends a text.
    """

    ids: str
    result: int
    without: tuple[str, ...]
    max_length: int
    stop: int | None


def generated(place: LossChecker, call: ast.Call) -> Value:
    """The ids of a call of `generate`; raises `Fail` (E107, E120, E124, E125)."""
    first = call.args[0] if call.args else None
    entry = first.value if isinstance(first, ast.Arg) and first.name is None else None
    if not isinstance(entry, ast.Name) or entry.id not in place.model.entries:
        guess = closest(entry.id, place.model.entries) if isinstance(entry, ast.Name) else None
        raise place.fail(
            "E107",
            f"generate takes an entry of {place.model.module.name}",
            entry.span if entry is not None else call.span,
            help=did_you_mean(guess),
            edits=replaced(entry.span, guess) if entry is not None else (),
            available=available(place.model.entries),
        )
    options: dict[str, int] = {}
    for arg in call.args[1:]:
        if not isinstance(arg, ast.Arg) or arg.name is None or arg.name.id not in OPTIONS:
            raise place.fail("E120", "generate takes an entry, `max_length` and `stop`", arg.span)
        value = place.value(arg.value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise place.fail("E125", f"generate: `{arg.name.id}` is a whole number", arg.value.span)
        options[arg.name.id] = value
    if "max_length" not in options:
        raise place.fail("E124", "generate needs `max_length`", call.span)
    ids = _growing(place, entry)
    length = ids.type.shape[1]
    others = [a for a in place.entry.full.inputs if a is not ids and length in a.type.shape]
    if any(not a.optional for a in others):
        message = f"generate: `{others[0].name}` is as long as `{ids.name}`, which grows"
        raise place.fail("E125", message, call.span)
    names = place.model.entries[entry.id].full.output_names
    result = next((i for i, n in enumerate(place.entry.full.output_names) if n == names[0]), None)
    if result is None:
        message = f"generate: {place.entry.name} does not return `{names[0]}`, which {entry.id} gives"
        raise place.fail("E125", message, entry.span)
    without = tuple(a.name for a in others)
    found = Value("generated", TensorType(DType.I64, (place.batch, place.fresh_size("generated", 1))), call.span)
    place.generated[found] = Generated(ids.name, result, without, options["max_length"], options.get("stop"))
    return found


def _growing(place: LossChecker, entry: ast.Name) -> Argument:
    """The ids that the entry reads and the section's entry, too."""
    shared = {a.name for a in place.model.entries[entry.id].full.inputs if a.type.dtype.is_int and a.type.rank == 2}
    found = [a for a in place.entry.full.inputs if a.name in shared]
    if len(found) != 1:
        message = (
            f"generate: `{entry.id}` and `{place.entry.name}` have no input Int[B, T] in common that is the only one"
        )
        raise place.fail("E125", message, entry.span)
    return found[0]

"""A scan as a function for one step and a call that runs it; the loop itself is a helper of the emitted file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specc.backends.torch.labels import python_name
from specc.backends.torch.printer import joined, literal, tidy
from specc.backends.torch.program import ScanStep
from specc.backends.torch.statements import Block, Line, Statement, assign
from specc.ir.graph import Input, Value

if TYPE_CHECKING:
    from specc.backends.torch.methods import Method

_SCAN = '''
def scan(
    step: Callable[..., tuple[torch.Tensor, ...]],
    states: tuple[torch.Tensor, ...],
    sequences: tuple[torch.Tensor, ...],
    dims: tuple[int, ...],
    stack: tuple[int, ...],
) -> tuple[torch.Tensor, ...]:
    """Call `step(*states, *slices)` for every index along `dims` of the sequences, in order.

    A step returns what it gives out, then the next states; so does this, with what the steps gave
    out stacked along `stack`.
    """
    count = len(stack)
    if torch.compiler.is_exporting():
        # One loop of any length. No result of a step may be something that it was given.
        from torch._higher_order_ops.scan import scan as loop

        def pure(
            carry: list[torch.Tensor], row: list[torch.Tensor]
        ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
            done = [x.clone() for x in step(*carry, *row)]
            return done[count:], done[:count]

        rows = [x.movedim(dim, 0) for x, dim in zip(sequences, dims, strict=True)]
        last, given = loop(pure, [x.clone() for x in states], rows)
        return (*(x.movedim(0, dim) for x, dim in zip(given, stack, strict=True)), *last)
    steps = []
    for row in zip(*(x.unbind(dim) for x, dim in zip(sequences, dims, strict=True)), strict=True):
        done = step(*states, *row)
        states = done[count:]
        steps.append(done[:count])
    columns = zip(zip(*steps, strict=True), stack, strict=True)
    return (*(torch.stack(column, dim) for column, dim in columns), *states)
'''


def write_scan(method: Method, step: ScanStep) -> None:
    """Appends the function and its call to the statements of a method."""
    scan, names = step.scan, method.names
    names.position = step.start
    sequences = [tidy(method.text(value)) for value in step.sequences]
    states = [_start(method, s.before, start) for s, start in zip(scan.states, step.starts, strict=True)]
    name = _free(method, "step")
    names.reserved.add(name)
    taken = set()
    parameters = []
    for value in (*(s.before for s in scan.states), *(s.slice for s in scan.sequences)):
        parameters.append(_named(method, value))
        if value not in method.program.last_use and parameters[-1] not in names.reserved:
            taken.add(parameters[-1])
            names.reserved.add(parameters[-1])
    method.lines[-1].append(Block(f"def {name}({joined(parameters)})", _body(method, step)))
    names.reserved -= taken
    dims, stack = (literal(tuple(axes)) for axes in ([s.axis for s in scan.sequences], [e.axis for _, e in step.emits]))
    given = f"{name}, ({joined(states)},), ({joined(sequences)},), dims={dims}, stack={stack}"
    call = method.carrying(scan, f"{method.around.helper('scan', _SCAN)}({given})")
    results = [*(e.stacked for _, e in step.emits), *(s.result for s in scan.states)]
    targets = tuple(_named(method, value) if value in method.program.last_use else "_" for value in results)
    method.lines[-1].append(assign(targets, tidy(call if len(targets) > 1 else f"{call}[0]")))


def _start(method: Method, before: Value, start: Input) -> str:
    """What the first step begins with; an expression gets a name."""
    text = tidy(method.text(start))
    if text.replace(".", "").isidentifier():
        return text
    name = method.names.fresh([python_name(before.name or "h")], numbered=True)
    method.lines[-1].append(assign(name, text))
    return name


def _free(method: Method, wanted: str) -> str:
    name, number = wanted, 2
    while name in method.names.arguments or not method.names.free(name):
        name, number = f"{wanted}{number}", number + 1
    return name


def _named(method: Method, value: Value) -> str:
    """A local that holds the value from here on."""
    wishes = [python_name(value.name)] if value.name not in (None, "_") else []
    name = method.names.fresh(wishes, numbered=bool(wishes))
    method.names.hold(value, name)
    return name


def _body(method: Method, step: ScanStep) -> tuple[Statement, ...]:
    method.lines.append([])
    method.emit(step.items)
    method.names.position = step.position
    values = [tidy(method.text(value)) for value in (*(v for v, _ in step.emits), *step.ends)]
    method.lines[-1].append(Line("return", (), tidy(joined(values) if len(values) > 1 else f"({values[0]},)")))
    return tuple(method.lines.pop())

"""One graph as the statements of a Python function: names for values, text for operators and calls."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, count, groupby, repeat

from specc.backends.torch.labels import python_name
from specc.backends.torch.loops import loops_of, write_loop
from specc.backends.torch.naming import Names
from specc.backends.torch.optext import OpText, is_identity
from specc.backends.torch.printer import literal, names_in, protected, tidy
from specc.backends.torch.program import END, Item, LoopStep, Program, ScanStep, Step, WhenStep
from specc.backends.torch.quotients import Quotients
from specc.backends.torch.routes import route_text
from specc.backends.torch.scans import write_scan
from specc.backends.torch.schedule import schedule
from specc.backends.torch.signatures import (
    argument_defaults,
    argument_text,
    list_lengths,
    plain_sizes,
    size_names,
)
from specc.backends.torch.statements import Block, Line, Statement, assign
from specc.backends.torch.surroundings import Surroundings
from specc.dims import Dim
from specc.ir.graph import Absent, Apply, Argument, Call, Graph, Input, Loop, Path, Scan, Value
from specc.ir.route import Route
from specc.ops.extern import Extern
from specc.types import Operand, Scalar, TensorType, show_axes

RESHAPING = frozenset(
    "rearrange reshape flatten permute transpose expand pixel_shuffle pixel_unshuffle interpolate "
    "repeat_interleave".split()
)
REGROUPING = frozenset({"rearrange", "reshape", "flatten"})
_PLAIN = re.compile(r"-?[\w.]+(\[[\w:, ]*\])*")
"""Names, numbers and views of names: text that costs nothing where it stands twice."""


class Method:
    """The statements of one graph, everything on one line that can be; `dims` are the sizes that they read."""

    def __init__(self, graph: Graph, around: Surroundings) -> None:
        self.graph, self.around, self.scope = graph, around, around.scope
        self.program: Program = schedule(
            graph,
            sequential=self.is_sequential,
            identity=self.is_identity,
            constant=lambda v: around.constant(v) is not None,
            own_line=self._own_line,
            arrange=self.arrange,
        )
        self.plain, self.size_names = self.sizes()
        self.dims: dict[str, None] = {}
        arguments = frozenset(python_name(a.of or a.name) for a in graph.inputs)
        kept = (python_name(a.of or a.name) for a in graph.inputs if a.optional or a.of is not None)
        reserved = {*self.size_names.values(), *kept}
        reserved |= around.reserved
        reserved.update(name for item in loops_of(self.program.items) for name in item.loop.names)
        locals_ = {v.name for v in self.program.producer if v.name is not None}
        taken = reserved | arguments | locals_ | self.scope.hypers.keys()
        self.quotients = Quotients(self.program, self.plain, taken)
        self.names = Names(self.program.last_use, reserved | self.quotients.of.keys(), arguments)
        self.binds: list[tuple[str, Path]] = []
        self.lines: list[list[Statement]] = [[]]
        self.elements = {a.value: argument_text(a) for a in graph.inputs if a.value is not None and a.of is not None}
        for argument in graph.inputs:
            if argument.value is not None and argument.of is None:
                self.names.hold(argument.value, python_name(argument.name))

    def is_sequential(self, path: Path) -> bool:
        return self.around.is_sequential(path)

    def is_identity(self, node: Apply) -> bool:
        return is_identity(node)

    def carrying(self, node: Apply | Scan, call: str) -> str:
        """The call of a recurrence, given what keeps its states."""
        return call

    def arrange(self, program: Program) -> tuple[Item, ...]:
        """The items of the body in the order in which they are written."""
        return program.items

    def sizes(self) -> tuple[Mapping[str, Dim | int], Mapping[str, str]]:
        """What symbols stand for, and the locals that hold sizes."""
        return plain_sizes(self.graph), size_names(self.graph)

    def statements(self) -> tuple[Statement, ...]:
        self.emit(self.program.items)
        self.names.position = END
        values = [self.text(value) for value in self.program.results]
        if values:
            self.lines[-1].append(Line("return", (), tidy(", ".join(values))))
        return (*self.quotients.statements(self.size_names), *self.lines[0])

    # ---- items ---------------------------------------------------------------------------------------------------

    def emit(self, items: Iterable[Item]) -> None:
        """Append the statements of some items."""
        for item in items:
            if isinstance(item, Step):
                self._step(item)
            elif isinstance(item, LoopStep):
                write_loop(self, item)
            elif isinstance(item, ScanStep):
                write_scan(self, item)
            else:
                self._when(item)

    def _step(self, step: Step) -> None:
        if len(step.outputs) == 1 and step.outputs[0] in self.program.inline:
            return
        self.names.position = step.position
        expr = tidy(self._expression(step))
        targets = tuple(self._bind(value, step) for value in step.outputs)
        comment = self._comment(step.outputs) if self._reshapes(step) else ""
        self.lines[-1].append(assign(targets, expr, comment))

    def _reshapes(self, step: Step) -> bool:
        """Whether the axes of the result are news: somewhere along the first operands they were taken apart."""
        while isinstance(step.node, Apply):
            if step.node.op.name in RESHAPING:
                return True
            first = step.inputs[0] if step.inputs else None
            if not isinstance(first, Value) or first not in self.program.inline:
                return False
            step = self.program.producer[first]
        return False

    def _comment(self, outputs: Sequence[Value]) -> str:
        shapes = {self.shape(v.type) for v in outputs}
        return shapes.pop() if len(shapes) == 1 else ""

    def _when(self, step: WhenStep) -> None:
        header = "if self.training" if step.when.mode == "train" else "if not self.training"
        names = [self._rebindable(before, step.position) for before, _, _ in step.rebinds]
        self.lines.append([])
        self.emit(step.items)
        self.names.position = step.position
        for name, (_, end, _) in zip(names, step.rebinds, strict=True):
            text = self.text(end)
            if text != name:
                self.lines[-1].append(assign(name, tidy(text)))
        for name, value in step.aux:
            self.lines[-1].append(assign(f'self.aux["{name}"]', tidy(self.text(value))))
        body = tuple(self.lines.pop())
        for name, (_, _, after) in zip(names, step.rebinds, strict=True):
            self.names.hold(after, name)
        if body:
            self.lines[-1].append(Block(header, body))

    def _rebindable(self, value: Value, until: int) -> str:
        """A local with this value that may be bound anew: its own, or a copy if it is read after `until`."""
        if value in self.names.of and self.names.over(value, until):
            return self.names.of[value]
        text = self.text(value)
        name = self.names.fresh([value.name] if value.name is not None else (), numbered=True)
        self.names.holder[name] = value
        self.lines[-1].append(assign(name, text))
        return name

    # ---- names ---------------------------------------------------------------------------------------------------

    def _bind(self, value: Value, step: Step) -> str:
        if value not in self.program.last_use:
            return "_"
        name = self.names.fresh(self._wishes(value, step), numbered=value.name is not None)
        self.names.hold(value, name)
        return name

    def _wishes(self, value: Value, step: Step) -> list[str]:
        if value.name is not None:
            return [python_name(value.name)]
        if isinstance(step.node, Apply) and step.node.op.name == "positions":
            return [step.node.op.name]
        if self._takes_optional(step):
            return ["y"]
        wishes = []
        root = self._root(step)
        if root is not None and root.type.dtype == value.type.dtype and root in self.names.of:
            wishes.append(self.names.of[root])
        return wishes

    def _root(self, step: Step) -> Value | None:
        """The local that an expression grew from, following first operands."""
        while step.inputs and isinstance(step.inputs[0], Value):
            if isinstance(step.node, Apply) and len([i for i in step.inputs if isinstance(i, Value)]) > 2:
                return None
            value = step.inputs[0]
            if value not in self.program.inline:
                return value
            step = self.program.producer[value]
        return None

    # ---- expressions ---------------------------------------------------------------------------------------------

    def text(self, value: Input) -> str:
        """A value as a Python expression that is safe as an operand."""
        if isinstance(value, Scalar):
            return protected(self.number(value))
        if isinstance(value, Absent):
            return self._absent(value)
        if value in self.names.of:
            return self.names.of[value]
        if value in self.elements:
            return self.elements[value]
        constant = self.around.constant(value)
        if constant is not None:
            return constant
        if value in self.program.reads:
            return self.path_text(self.program.reads[value])
        return protected(self._expression(self.program.producer[value]))

    def _absent(self, value: Absent) -> str:
        known = value.label is not None and value.label in self.around.optional - self.graph.present
        return python_name(value.label) if value.label is not None and known else "None"

    def number(self, scalar: Scalar) -> str:
        if isinstance(scalar.value, Dim):
            return self.dim(scalar.value if scalar.label is None else scalar.value.with_label(scalar.label))
        return self.scope.forward(scalar.label, scalar.value) or literal(scalar.value)

    def dim(self, dim: Dim) -> str:
        """A size: an attribute, a local, or an int."""
        size = dim.substitute(self.plain)
        if size.value is not None:
            return self.scope.forward(dim.label, size.value) or str(size.value)
        self.dims.update(dict.fromkeys(size.symbols))
        found = self.scope.forward(dim.label, size, self.size_names, self.quotients.of) if dim.label else None
        if found is None:
            return self.quotients.text(size, self.size_names)
        self.quotients.use(names_in(found) & self.quotients.of.keys())
        return found

    def _expression(self, step: Step) -> str:
        node = step.node
        if isinstance(node, Call):
            return self._call(node, step.inputs)
        if isinstance(node, Route):
            return route_text(self, node, step.inputs)
        if isinstance(node, Loop):
            assert node.fold is not None
            return f"{self.path_text(node.fold)}({self.text(step.inputs[0])})"
        operands = [None if isinstance(i, Absent) else self.text(i) for i in step.inputs]
        return self._operator(node, self._computed_once(node, operands))

    def _computed_once(self, node: Apply, operands: Sequence[str | None]) -> list[str | None]:
        """The operands, with a local for each expression that the operator's text has several times."""
        marks = [None if o is None or _PLAIN.fullmatch(o) else f"operand{i}_" for i, o in enumerate(operands)]
        if not any(marks):
            return list(operands)
        held, reserved = len(self.lines[-1]), set(self.names.reserved)
        text = self._operator(node, [mark or operand for mark, operand in zip(marks, operands, strict=True)])
        tried = [text, *(line.expr for line in self.lines[-1][held:] if isinstance(line, Line))]
        del self.lines[-1][held:]
        self.names.reserved.intersection_update(reserved)
        op = node.op
        names = list(op.tensors) if isinstance(op, Extern) else [p.name for p in op.params if p.is_operand]
        hints = chain(names, repeat(names[-1]))  # several operands of a list have one name
        return [
            self.bind(hint, operand) if mark and operand and " ".join(tried).count(mark) > 1 else operand
            for hint, mark, operand in zip(hints, marks, operands, strict=False)
        ]

    def _operator(self, node: Apply, operands: Sequence[str | None]) -> str:
        return node.op.torch(OpText(self, node), *operands)

    def _call(self, node: Call, inputs: tuple[Input, ...]) -> str:
        arguments: list[str] = []
        skipped = False
        defaults = argument_defaults(node.graph)
        for name, text, absent in self.passed(node, inputs):
            if name not in defaults:
                continue
            if text == "None" and absent and defaults[name]:
                skipped = True
                continue
            arguments.append(f"{python_name(name)}={text}" if skipped else text)
        name = self.around.method_name(node.graph)
        if node.graph.module is None:
            arguments += ["training=self.training"] if self.around.trains(name) else []
            return f"{name}({', '.join(arguments)})"
        callee = self.path_text(node.path) if node.path else "self"
        callee += "" if name == "forward" and node.path else f".{name}"
        return f"{callee}({', '.join(arguments)})"

    def passed(self, node: Call, inputs: tuple[Input, ...]) -> list[tuple[str, str, bool]]:
        """Of each argument its name, its text, and whether it is absent; the tensors of a list are one."""
        found = []
        pairs = zip(node.graph.inputs, inputs, strict=True)
        for of, some in groupby(pairs, lambda pair: pair[0].of or pair[0].name):
            values = [(argument, value) for argument, value in some]
            argument, value = values[0]
            text = self.text(value) if argument.of is None else self.list_of([v for _, v in values])
            found.append((of, text, isinstance(value, Absent)))
        return found

    def list_of(self, values: Sequence[Input]) -> str:
        """A list of tensors: the argument itself where it is passed on whole or reversed, else written out."""
        texts = [self.text(value) for value in values]
        for name, length in list_lengths(self.graph).items():
            own = [f"{python_name(name)}[{i}]" for i in range(length)]
            if texts == own:
                return python_name(name)
            if texts == own[::-1]:
                return f"{python_name(name)}[::-1]"
        return f"[{', '.join(texts)}]"

    def path_text(self, path: Path) -> str:
        text, rest = "self", path
        for name, prefix in reversed(self.binds):
            if path[: len(prefix)] == prefix:
                text, rest = name, path[len(prefix) :]
                break
        for segment in rest:
            text += f"[{segment}]" if isinstance(segment, int) else f".{segment}"
        return text

    def bind(self, hint: str, expression: str) -> str:
        """A local that holds an expression, assigned before the statement under construction."""
        expr = tidy(expression)
        if expr.isidentifier():
            return expr
        taken = {*self.names.holder, *self.names.reserved}
        name = next(n for n in chain([hint], (f"{hint}{i}" for i in count(2))) if n not in taken)
        self.names.reserved.add(name)
        self.lines[-1].append(assign(name, expr))
        return name

    # ---- facts about values --------------------------------------------------------------------------------------

    def _own_line(self, step: Step, user: Step | None) -> bool:
        """Whether an expression gets its own statement: one whose axes a reader wants to see, or that has variants."""
        if not isinstance(step.node, Apply):
            return False
        if step.node.op.name in REGROUPING and user is not None:
            chained = isinstance(user.node, Apply) and user.node.op.name in RESHAPING
            return not chained and len(user.outputs) == 1
        return step.node.op.name == "positions" or self._takes_optional(step)

    def _takes_optional(self, step: Step) -> bool:
        """Whether an operator's text depends on the presence of an optional input."""
        if not isinstance(step.node, Apply):
            return False
        kinds = [p.kind for p in step.node.op.params if p.is_operand]
        for kind, value in zip(kinds, step.inputs, strict=False):
            given = isinstance(value, Value) and value.name in self.around.optional
            absent = isinstance(value, Absent) and value.label in self.around.optional
            if kind == "optional" and (given or absent):
                return True
        return False

    def plain_tensor(self, type_: TensorType) -> TensorType:
        """The type where nothing is cached."""
        return type_.with_shape(tuple(d.substitute(self.plain) for d in type_.shape))

    def plain_type(self, type_: Operand) -> Operand:
        return self.plain_tensor(type_) if isinstance(type_, TensorType) else type_

    def shape(self, type_: TensorType) -> str:
        """`[B, heads, T, head_dim]`."""
        return f"[{', '.join(show_axes(tuple(map(self.quotients.shown, self.plain_tensor(type_).shape))))}]"

    def tensor_in_scope(self, *, floating: bool) -> str:
        """A tensor that holds for the whole method: an argument (never re-bound to another type), or a parameter."""
        for argument in sorted(self.graph.inputs, key=lambda a: a.optional):
            if argument.value is not None and (not floating or self._stays(argument)):
                return argument_text(argument)
        return self.around.floating_source() or ""

    def _stays(self, argument: Argument) -> bool:
        made = (*self.program.producer, *self.program.scanned)
        values = [v for v in made if v.name == argument.name]
        return all(v.type.dtype.value == "Tensor" for v in values) and argument.type.dtype.value == "Tensor"

"""Writing one body: values in scope with type and bound, statements, parameters, and what a step needs but lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from specc.dims import Dim, DimError, Facts
from specc.op import Op, OpError, operators
from specc.types import DType, Operand, Scalar, TensorType

from .bounds import DRAWN, ERROR, FREE, LARGE, TRUTH, Bound
from .calls import call_text, number_text, operand_text
from .values import ELEMENTS, FLOATS, PRIMES, RANK, TEXT, Argument, File, Number, Unfit, Value


@dataclass
class Body:
    """One body under construction. `kind`: model, block or fn; `low`: symbol -> least size."""

    file: File
    kind: str
    depth: int = 0
    low: dict[str, int] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    members: list[str] = field(default_factory=list)
    hypers: dict[str, tuple[str, Any]] = field(default_factory=dict)  # name -> (type, value)
    arguments: list[Argument] = field(default_factory=list)
    pool: list[Value] = field(default_factory=list)
    inline: bool = True  # whether a result may stay an expression

    # ---- choices -------------------------------------------------------------------------------------------------

    def choose(self, *options: Any) -> Any:
        """One of the options; the first is the simplest."""
        return options[self.file.choose(len(options))]

    def chance(self, one_in: int) -> bool:
        """True once in so many; false is simpler."""
        return self.file.choose(one_in) == one_in - 1

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Undo everything that was written if the step turns out to be unfit."""
        file = self.file
        mine = (list(self.lines), list(self.members), list(self.arguments), list(self.pool), dict(self.hypers))
        values = [(value, value.used, value.text) for value in self.pool]
        theirs = list(file.declarations), {k: set(v) for k, v in file.imports.items()}
        try:
            yield
        except Unfit:
            self.lines, self.members, self.arguments, self.pool, self.hypers = mine
            file.declarations, file.imports = theirs
            for value, used, text in values:
                value.used, value.text = used, text
            raise

    # ---- sizes ---------------------------------------------------------------------------------------------------

    @property
    def facts(self) -> Facts:
        facts = Facts.EMPTY
        for symbol, low in self.low.items():
            if low > 1:
                facts = facts.bound(Dim.symbol(symbol), low)
        return facts

    def least(self, dim: Dim) -> int:
        """The size when every dim is smallest: sizes here grow with their dims."""
        return dim.evaluate({s: self.low.get(s, 1) for s in dim.symbols})

    def size(self, dim: Dim | int) -> str:
        """The text of a size; sometimes a hyper-parameter of that value."""
        dim = Dim.of(dim)
        if dim.value is not None and dim.value > 1 and self.kind != "fn":
            names = [n for n, (kind, v) in self.hypers.items() if kind == "int" and v == dim.value]
            if names and self.chance(2):
                return str(self.choose(*names))
            if self.file.choose(8) == 7 and len(self.hypers) < 6:
                name = self.file.name("n")
                self.hypers[name] = ("int", dim.value)
                return name
        return str(dim)

    def sizes(self, shape: Sequence[Dim]) -> str:
        return f"[{', '.join(map(self.size, shape))}]"

    def type_text(self, type_: TensorType) -> str:
        return f"{type_.dtype.spec_name}{self.sizes(type_.shape)}"

    def admissible(self, type_: TensorType) -> None:
        """Refuse what would be empty, large, or hard to read."""
        if type_.rank > RANK or any(len(str(d)) > TEXT for d in type_.shape):
            raise Unfit
        total = 1
        for dim in type_.shape:
            try:
                if self.least(dim) < 1:
                    raise Unfit
                total *= dim.evaluate({s: max(PRIMES.get(s, 3), self.low.get(s, 1)) for s in dim.symbols})
            except DimError:
                raise Unfit from None
        if total > ELEMENTS:
            raise Unfit

    # ---- values --------------------------------------------------------------------------------------------------

    def add(self, value: Value) -> Value:
        self.pool.append(value)
        return value

    def find(self, fits: Callable[[Value], bool] = lambda v: True) -> Value:
        """A value in scope that fits, recent ones first."""
        found = [v for v in reversed(self.pool) if fits(v)]
        if not found:
            raise Unfit
        fresh = [v for v in found if not v.used]
        return self.use(self.choose(*(fresh if fresh and not self.chance(3) else found)))

    def use(self, value: Value) -> Value:
        """Count a use; an expression leaves the scope with it."""
        value.used += 1
        if not value.named and value in self.pool:
            self.pool.remove(value)
        return value

    def floating(self, rank: int = 0, dtypes: Sequence[DType] = FLOATS) -> Value:
        return self.find(lambda v: v.dtype in dtypes and v.type.rank >= rank)

    def keep(self, value: Value) -> Value:
        """Give an expression a name, so that it can be used again."""
        if not value.named:
            name = self.file.name("v")
            self.lines.append(f"{name} = {value.text}")
            value.text = name
        if value not in self.pool:
            self.pool.append(value)
        return value

    # ---- what a step needs -----------------------------------------------------------------------------------------

    def need(self, dtype: DType, *shape: Dim | int, reuse: bool = True, low: float = -6.0) -> Value:
        """A tensor of this type: one in scope, an argument, a parameter, or one that is made."""
        type_ = TensorType(dtype, tuple(Dim.UNIT if Dim.of(d).value == 1 else Dim.of(d) for d in shape))
        if reuse and not self.chance(3):
            same = [v for v in self.pool if v.type == type_ and v.bound.lo >= low]
            if same:
                return self.use(self.choose(*reversed(same)))
        static = all(d.value is not None for d in type_.shape)
        if dtype is DType.COMPUTE and static and self.kind != "fn" and (self.kind == "block" or self.chance(2)):
            return self.parameter(type_.shape)
        if len(self.arguments) < (12 if self.kind == "model" else 5):
            return self.argument(type_)
        if dtype is DType.COMPUTE and static and self.kind != "fn":
            return self.parameter(type_.shape)
        raise Unfit

    def argument(self, type_: TensorType, bound: Bound | None = None, *, stem: str = "x", scope: bool = True) -> Value:
        """A new argument. Inputs that index something else than their use suggests stay out of scope."""
        if self.kind == "model":
            given = DRAWN if type_.dtype in FLOATS else TRUTH if type_.dtype is DType.BOOL else FREE
        else:
            given = Bound(-6.0, 6.0, 1e-6) if type_.dtype in FLOATS else TRUTH if type_.dtype is DType.BOOL else FREE
        self.admissible(type_)
        used = {s for d in type_.shape for s in d.symbols}
        bound_dims = {
            s for a in self.arguments if not a.optional for d in a.type.shape if d.is_symbol() for s in d.symbols
        }
        if not used <= bound_dims | {s for d in type_.shape if d.is_symbol() for s in d.symbols}:
            raise Unfit
        name = self.file.name(stem)
        self.arguments.append(Argument(name, type_, bound or given))
        value = Value(name, type_, bound or given)
        if scope:
            self.pool.append(value)
        value.used = 1
        return value

    def parameter(self, shape: Sequence[Dim], init: str | None = None, *, positive: bool = False) -> Value:
        """A parameter; its range is that of `specc_runtime.programs.perturb`."""
        if self.kind == "fn":
            raise Unfit
        name = self.file.name("w")
        if len(shape) > 1:
            fan_in = 1
            for dim in shape[1:]:
                assert dim.value is not None
                fan_in *= dim.value
            edge = (3 / fan_in) ** 0.5
            bound, init = Bound(-edge, edge, distinct=True, varied=True), init or "normal(0.3)"
        elif positive:
            bound, init = Bound(0.5, 1.5, distinct=True), "ones()"
        else:
            bound, init = Bound(-0.5, 0.5, distinct=True), "zeros()"
        self.members.append(f"param {name}: Tensor{self.sizes(shape)} = {init}")
        return Value(name, TensorType(DType.COMPUTE, tuple(shape)), bound)

    def index(self, size: Dim, *shape: Dim | int) -> Value:
        """Numbers in 0 .. size-1 of this shape."""
        dims = tuple(Dim.of(d) for d in shape)
        if self.kind == "model" and len(self.arguments) < 14:
            high = size.value if size.value is not None else 1
            return self.argument(TensorType(DType.I64, dims), Bound(0, high - 1), stem="ids", scope=False)
        if size.value is None:
            raise Unfit
        found = self.find(lambda v: v.dtype is DType.I64 and v.shape == dims)
        return self.apply("%", found, size.value, bound=Bound(0, size.value - 1), form="{} % {}", inline=True)

    # ---- applying ------------------------------------------------------------------------------------------------

    def apply(self, name: str, *operands: Value | Number | None, bound: Bound, **options: Any) -> Value:
        """`results` with one result, scaled down if it is large."""
        return self.results(name, *operands, bounds=[bound], **options)[0]

    def results(
        self,
        name: str,
        *operands: Value | Number | None,
        bounds: Sequence[Bound],
        form: str | None = None,
        inline: bool | None = None,
        stem: str = "v",
        **attributes: Any,
    ) -> list[Value]:
        """Write one operator. `form` is a template for syntax (`{} + {}`); raises `Unfit` if it is not admissible."""
        cls = operators()[name]
        sized = {p.name for p in cls.params if p.kind == "Dim"}
        op = cls(**{k: Dim.of(v) if k in sized else v for k, v in attributes.items()})
        types = self._infer(op, operands)
        bounds = list(bounds) if len(bounds) == len(types) else [bounds[0]] * len(types)
        for type_ in types:
            self.admissible(type_)
        text = form.format(*map(operand_text, operands)) if form else call_text(self, op, operands, attributes)
        if len(types) == 1:
            text, bounds[0] = self._scaled(text, types[0], bounds[0])
        for type_, bound in zip(types, bounds, strict=True):
            if type_.dtype in FLOATS and (bound.err > ERROR or bound.mag > LARGE):
                raise Unfit
            if type_.dtype not in FLOATS and (not bound.exact or bound.mag > 1e6):
                raise Unfit
        if len(types) == 1 and (inline or (inline is None and self.inline and len(text) < 60 and self.chance(4))):
            return [self.add(Value(text, types[0], bounds[0]))]
        names = [self.file.name(stem) for _ in types]
        self.lines.append(f"{', '.join(names)} = {text}")
        return [self.add(Value(n, t, b)) for n, t, b in zip(names, types, bounds, strict=True)]

    def _infer(self, op: Op, operands: Sequence[Value | Number | None]) -> list[TensorType]:
        given: list[Operand] = []
        for operand in operands:
            if isinstance(operand, Value):
                given.append(operand.type)
            else:
                given.append(None if operand is None else Scalar(operand))
        try:
            found = op.infer(self.facts, *given)
        except OpError as error:
            raise Unfit(str(error)) from None
        return list(found) if isinstance(found, tuple) else [found]

    def _scaled(self, text: str, type_: TensorType, bound: Bound) -> tuple[str, Bound]:
        if type_.dtype not in FLOATS or bound.mag <= 8:
            return text, bound
        factor = 1.0
        while bound.mag * factor > 4:
            factor /= 2
        if factor < 1e-4:
            raise Unfit
        return f"({text}) * {number_text(factor)}", bound.scaled(factor)

    # ---- mending operands ----------------------------------------------------------------------------------------

    def fit(self, value: Value, lo: float, hi: float) -> Value:
        """The value limited to a range."""
        if value.bound.within(lo, hi):
            return value
        if lo > 0 and self.chance(2):
            made = self.apply("abs", value, bound=value.bound.through(abs, 1.0, exact=True), inline=True)
            self.use(made)
            value = made
        if value.bound.within(lo, hi):
            return value
        low = None if value.bound.lo >= lo else lo
        high = None if value.bound.hi <= hi else hi
        attributes = {k: float(v) for k, v in (("min", low), ("max", high)) if v is not None}
        bound = replace(value.bound.clamped(lo, hi), varied=False)
        return self.use(self.apply("clamp", value, bound=bound, inline=True, **attributes))

"""Checks of one `train` section: settings, names and shapes of losses and metrics, patterns (LANGUAGE 16)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from specc.diagnostics import Diagnostic, Edit, Label
from specc.dims import Dim
from specc.elaborate import settings as known
from specc.elaborate.calling import check_call
from specc.elaborate.fields import Field, fields_of
from specc.elaborate.losses import LossChecker
from specc.elaborate.metrics import Measure, check_metric
from specc.elaborate.names import available, closest, did_you_mean, replaced
from specc.elaborate.partwise import check_parts
from specc.elaborate.partwise import keyword as keyword
from specc.elaborate.scopes import names_in
from specc.elaborate.values import POISON, describe, number, show
from specc.ir.graph import Argument, Call, Graph, Loop, Model, Node, Scan, Value, When
from specc.syntax import ast
from specc.syntax.unparse import unparse
from specc.types import show_axes

if TYPE_CHECKING:
    from specc.elaborate.elaborator import Elaborator


class TrainChecker:
    """Checks one section against one configuration of its model.

    `data`: where the data has been read, the sizes of each field's axes but the first, None where rows differ. Then
    everything has a type, and `place.nodes`, divided by `cuts`, is what is computed of a batch: what comes before the
    model, the loss, the metrics. `open`: a size that the data gives to a symbol of an input may stand for it in other
    fields, too.
    """

    def __init__(
        self,
        elab: Elaborator,
        model: Model,
        node: ast.Train,
        settings: Mapping[str, ast.Expr],
        data: Mapping[str, tuple[int | None, ...]] | None = None,
        *,
        open: bool = False,
    ) -> None:
        self.elab, self.model, self.node, self.settings, self.data = elab, model, node, settings, data
        self.open = open
        self.place = LossChecker(elab, model, "forward")
        self.bound: dict[str, tuple[Value | None, ast.Expr]] = {}
        self.loss: Value | None = None
        self.measures: list[Measure] = []
        self.cuts: list[int] = []

    def check(self) -> None:
        self._settings()
        with self.elab.collecting():
            self._duration()
        self.expressions()
        self._values()
        check_parts(self)

    def expressions(self) -> None:
        """Lets, bound inputs, loss and metrics, in the order in which they are computed."""
        with self.elab.collecting():
            self._entry()
        place = self.place
        place.fields = self._fields()
        place.rebound = {name.id for name, _ in self._bound()}
        place.aux_names = sorted(set(aux_names(self.model)))
        early, late = self._lets()
        for item in early:
            place.bind_let(item)
        self._inputs()
        place.enter(self.bound)
        self.cuts = [len(place.nodes)]
        for item in late:
            place.bind_let(item)
        before = len(self.elab.collector.errors)
        with self.elab.collecting():
            if "loss" in self.settings:
                self.loss = place.check_loss(self.settings["loss"])
        place.locals.setdefault("loss", POISON)
        if len(self.elab.collector.errors) == before and self.data is None:
            self._unused_aux()
        self.cuts.append(len(place.nodes))
        self._metrics()

    def _lets(self) -> tuple[list[ast.Let], list[ast.Let]]:
        """Those that the model's inputs may need, and those that need what it takes, returns or adds to the loss."""
        full = self.place.entry.full
        names = {*full.output_names, *(a.name for a in full.inputs), "aux"}
        early: list[ast.Let] = []
        late: list[ast.Let] = []
        for item in self.node.items:
            if not isinstance(item, ast.Let):
                continue
            after = any(name.id in names for name in names_in(item.value))
            names = names | {item.name.id} if after else names - {item.name.id}
            (late if after else early).append(item)
        return early, late

    # ---- settings ------------------------------------------------------------------------------------------------

    def _settings(self) -> None:
        seen: set[str] = set()
        for item in self.node.items:
            if not isinstance(item, ast.Setting):
                continue
            name = item.name.id
            with self.elab.collecting():
                if name not in known.SETTINGS:
                    raise self._unknown(item)
                if name in seen:
                    raise self.place.fail("E121", f"`{name}` is given twice", item.name.span)
                seen.add(name)

    def _unknown(self, item: ast.Setting) -> Exception:
        name = item.name.id
        edits: tuple[Edit, ...] = ()
        if name in known.INSIDE:
            setting, form = known.INSIDE[name]
            help = f"{setting} = {form.format(unparse(item.value))}"
        else:
            guess = known.ALIASES.get(name) or closest(name, known.SETTINGS)
            help = did_you_mean(guess)
            edits = replaced(item.name.span, guess)
        shown = available(known.SETTINGS, 30) if not help else ""
        return self.place.fail(
            "T501", f"unknown setting `{name}`", item.name.span, help=help, edits=edits, available=shown
        )

    def _duration(self) -> None:
        """Exactly one of epochs and steps (T502)."""
        given = [name for name in ("epochs", "steps") if name in self.settings]
        if len(given) == 2:
            span = self.settings["steps"].span
            raise self.place.fail("T502", "both `epochs` and `steps` are given", span, help="keep one of them")
        if not given:
            help = "epochs = 3,  or steps = 10_000"
            raise self.place.fail("T502", "neither `epochs` nor `steps` is given", self.node.span.head(), help=help)

    def _entry(self) -> None:
        entry = self.settings.get("entry")
        if entry is None:
            return
        name = entry.value if isinstance(entry, ast.Str) else entry.id if isinstance(entry, ast.Name) else ""
        if name not in self.model.entries:
            guess = closest(name, self.model.entries)
            help = f'did you mean "{guess}"?' if guess else ""
            message = f"{self.model.module.name} has no entry `{name}`" if name else "an entry is named by a string"
            raise self.place.fail("E107", message, entry.span, help=help, available=available(self.model.entries))
        self.place = LossChecker(self.elab, self.model, name)

    def _values(self) -> None:
        """Each setting's value is what the setting takes (E103, E125)."""
        for name, value in self.settings.items():
            with self.elab.collecting():
                if name in known.FUNCTIONS:
                    self._called(name, value)
                elif name in known.WHOLE:
                    self._whole(name, value)
                elif name in known.NUMBERS:
                    self._number(name, value, number, "a number")
                elif name in known.CHOICES:
                    self._choice(name, value)

    def _choice(self, setting: str, value: ast.Expr) -> None:
        """One of a few words; `log` is a list of them, too."""
        choices = known.CHOICES[setting]
        words = value.elements if setting == "log" and isinstance(value, ast.ListExpr) else (value,)
        if not all(isinstance(word, ast.Str) and word.value in choices for word in words):
            expected = " | ".join(f'"{c}"' for c in choices)
            message = f"`{setting}` cannot be {unparse(value)}"
            raise self.place.fail("E125", message, value.span, expected=expected, found=unparse(value))

    def _called(self, setting: str, value: ast.Expr) -> None:
        functions = known.FUNCTIONS[setting]
        name = value.func.id if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) else ""
        if not name:
            expected = " | ".join(f"{f}(..)" for f in functions)
            raise self.place.fail("E125", f"`{setting}` cannot be {unparse(value)}", value.span, expected=expected)
        assert isinstance(value, ast.Call)
        if name not in functions:
            message = f"unknown value of `{setting}`: `{name}`"
            raise self.place.no_such("E103", message, value.func.span, name, functions)
        if setting != "inputs":
            self.place.check_names(value.args)
        check_call(self.place, value, name)

    def _whole(self, name: str, value: ast.Expr) -> None:
        if name == "batch" and isinstance(value, ast.Call):
            if not (isinstance(value.func, ast.Name) and value.func.id == "tokens"):
                message = f"`batch` cannot be {unparse(value)}"
                raise self.place.fail("E125", message, value.span, expected="an int | tokens(..)")
            check_call(self.place, value, "tokens")
            return
        found = self.place.value(value)
        whole = isinstance(found, int) and not isinstance(found, bool)
        self._number(name, value, lambda v: whole and v >= 0, "an int of at least 0" if whole else "an int")

    def _number(self, name: str, value: ast.Expr, fits: Any, expected: str) -> None:
        found = self.place.value(value)
        if not fits(found):
            message = f"`{name}` is {expected}, found {describe(found)}"
            raise self.place.fail("E125", message, value.span, expected=expected, found=show(found))

    def _metrics(self) -> None:
        metrics = self.settings.get("metrics")
        if metrics is None:
            return
        items = metrics.elements if isinstance(metrics, ast.ListExpr) else (metrics,)
        for item in items:
            with self.elab.collecting():
                if isinstance(item, ast.Expr):
                    self.measures.append(check_metric(self.place, item))

    # ---- data ----------------------------------------------------------------------------------------------------

    def _fields(self) -> Mapping[str, Field] | None:
        """The fields that the data has, if the section says."""
        found = dict(fields_of(self.place, self.settings.get("data")))
        if self.data is not None:  # files that are in no folders have no classes
            found = {name: field for name, field in found.items() if name in self.data}
        self.place.fed_sizes = self._fed_sizes() if self.open else {}
        free = set(self.place.fed_sizes.values())
        for name, sizes in (self.data or {}).items():
            before = found.get(name, Field())
            if before.dtype is None or before.shape is None or len(before.shape) != len(sizes) + 1:
                axes = (
                    self.place.fresh_size(name, i, n) if n is None or n in free else Dim.const(n)
                    for i, n in enumerate(sizes, 1)
                )
                found[name] = Field((self.place.batch, *axes), before.dtype)
        return found or None

    def _fed_sizes(self) -> dict[str, int]:
        """The sizes that the data gives to symbols of the model's inputs, where all rows have one."""
        bound = {name.id for name, _ in self._bound()}
        fed = [a for a in self.place.entry.full.inputs if a.name not in bound and a.name in (self.data or {})]
        pairs = [pair for a in fed for pair in zip(a.type.shape[1:], (self.data or {})[a.name], strict=False)]
        return {str(dim): n for dim, n in pairs if dim.is_symbol() and n is not None}

    def _inputs(self) -> None:
        """Every required input has a field of its name, or is bound (T504)."""
        for name, value in self._bound():
            self.bound[name.id] = (None, value)
            with self.elab.collecting():
                self.bound[name.id] = (self.place.check_input(name, value), value)
        fields = self.place.fields
        if fields is None:
            return
        for argument in self.place.entry.full.inputs:
            if argument.name in self.bound:
                continue
            with self.elab.collecting():
                if argument.name in fields:
                    self._fitting(argument, fields[argument.name])
                elif not argument.optional:
                    data = self.settings["data"]
                    untold = (
                        argument.name in known.TOKENIZED and "text" in fields and keyword(data, "tokenizer") is None
                    )
                    bound = f"inputs = bind({argument.name} = data.{next(iter(fields))})"
                    raise self.place.fail(
                        "T504",
                        f"no data field feeds the input `{argument.name}`",
                        data.span.head(),
                        help='tokenizer = "bytes", bpe(8000), ..  makes ids of `text`' if untold else bound,
                        available=available(fields),
                    )

    def _bound(self) -> Iterator[tuple[ast.Ident, ast.Expr]]:
        """`inputs = bind(name = ..)`."""
        inputs = self.settings.get("inputs")
        for arg in inputs.args if isinstance(inputs, ast.Call) else ():
            if isinstance(arg, ast.Arg) and arg.name is not None:
                yield arg.name, arg.value

    def _fitting(self, argument: Argument, field: Field) -> None:
        """A field has the shape of the input that it feeds, as far as it is known (S201, S202)."""
        if field.shape is None or self.data is not None:
            return
        have, want = field.shape[1:], argument.type.shape[1:]
        if len(have) == len(want) and all(
            h == w or None in (h.value, w.value) for h, w in zip(have, want, strict=True)
        ):
            return
        data = self.settings["data"]
        at = keyword(data, argument.name) or data
        found, expected = (f"[{', '.join(show_axes(shape))}]" for shape in (field.shape, argument.type.shape))
        fixed = f'{argument.name} = ["column"]  is a field with two axes' if len(have) < len(want) == 1 else ""
        raise self.place.fail(
            "S201" if len(have) == len(want) else "S202",
            f"the field `{argument.name}` does not fit the input `{argument.name}`",
            at.span,
            others=(Label(argument.span, "declared here"),),
            expected=expected,
            found=found,
            help=fixed,
        )

    # ---- aux -----------------------------------------------------------------------------------------------------

    def _unused_aux(self) -> None:
        used = {n.name.id for value in self.settings.values() for n in attributes_of("aux", value)}
        loss = self.settings.get("loss")
        for name in self.place.aux_names:
            if loss is not None and name not in used:
                help = f"loss = {unparse(loss)} + aux.{name}"
                message = f"no loss uses aux.{name}"
                where = self.elab.where()
                self.elab.collector.add(
                    Diagnostic("T510", message, loss.span.head(), path=where, help=help, severity="warning")
                )


def kept(settings: Mapping[str, ast.Expr]) -> dict[str, ast.Expr]:
    """The settings without those that are `none`: `ema = none` is no average. What every section needs stays."""
    out = {name for name, value in settings.items() if isinstance(value, ast.NoneLit)} - {"data", "loss", "optim"}
    if "val" in out:
        out.add("val_every")
    return {name: value for name, value in settings.items() if name not in out}


def attributes_of(name: str, expr: Any) -> Iterator[ast.Attr]:
    """Every `name.FIELD` in an expression."""
    if isinstance(expr, ast.Attr) and isinstance(expr.base, ast.Name) and expr.base.id == name:
        yield expr
    elif isinstance(expr, ast.Node):
        for key, child in vars(expr).items():
            if key != "span":
                yield from attributes_of(name, child)
    elif isinstance(expr, tuple):
        for child in expr:
            yield from attributes_of(name, child)


def aux_names(model: Model) -> Iterator[str]:
    """The names of all training-only scalars of a model's graphs."""
    seen: set[int] = set()
    stack: list[Graph] = [g for entry in model.entries.values() for g in entry.graphs.values()]
    while stack:
        graph = stack.pop()
        if id(graph) in seen:
            continue
        seen.add(id(graph))
        for node in flat(graph.nodes):
            if isinstance(node, When):
                yield from (name for name, _ in node.aux)
            elif isinstance(node, Call):
                stack.append(node.graph)


def flat(nodes: Iterable[Node]) -> Iterator[Node]:
    """Nodes with those inside loops and regions."""
    for node in nodes:
        yield node
        if isinstance(node, Loop):
            for iteration in node.iterations:
                yield from flat(iteration.nodes)
        elif isinstance(node, (When, Scan)):
            yield from flat(node.nodes)

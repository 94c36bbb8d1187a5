"""What a section computes of a batch: the expressions of its text, emitted as functions of torch (LANGUAGE 16)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import specc
from specc.backends.torch.functions import emit_functions
from specc.backends.torch.optext import torch_dtype
from specc.diagnostics import Collector, Rejected
from specc.elaborate.generation import Generated
from specc.elaborate.stages import Stage, Stages, stages
from specc.elaborate.training import TrainChecker
from specc.types import DType
from specc_runtime.inputs import Interface
from specc_runtime.training.section import Section, failed, unsupported
from specc_runtime.training.sources import Data

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, torch.Tensor]


class Objective:
    """Lets, bound inputs, the loss and what metrics compare, as the functions `inputs`, `loss` and `measured`.

    `source` is their text. Each batch begins with `feeds`; `loss` and `compared` are of the same batch.
    """

    def __init__(self, section: Section, data: Data, of: Interface) -> None:
        self.section, self.of = section, of
        self.stages: Stages = typed(section, data)
        self._check_fed()
        title = f'What `train {section.model} "{section.name}"` computes of a batch.'
        self.source = emit_functions(section.checked.model, self.stages.graphs, title, specc.__version__)
        functions: dict[str, Any] = {}
        exec(compile(self.source, "objective.py", "exec"), functions)
        self.functions: Mapping[str, Callable[..., Any]] = functions
        self.known: dict[str, torch.Tensor] = {}
        self.fed: dict[str, torch.Tensor] = {}
        self.module: torch.nn.Module | None = None
        self.rows = 0  # of the batch at hand
        self.measured = False

    def _check_fed(self) -> None:
        """What the functions read is there: an optional input may be one that nothing feeds."""
        fed = {item.name for item in self.of.inputs}
        for graph in self.stages.graphs:
            for argument in graph.inputs:
                name = next((n for n, called in self.stages.inputs.items() if called == argument.name), None)
                if name is not None and name not in fed:
                    raise failed("E107", f"nothing feeds the input `{name}`, which is read here", argument.span)

    # ---- one batch -----------------------------------------------------------------------------------------------

    def feeds(self, batch: Tensors) -> dict[str, torch.Tensor]:
        """What the entry takes, by its arguments in Python: fields of their names, and what is bound."""
        found = self.stages
        self.measured = False
        self.rows = len(next(iter(batch.values())))
        self.known = {name: self._field(batch[field], field, dtype) for name, (field, dtype) in found.fields.items()}
        self._run("inputs", found.before)
        feeds = {}
        for item in self.of.inputs:
            bound = found.bound.get(item.name)
            value = self.known[bound] if bound is not None else batch[item.name]
            feeds[item.argument] = value
            if item.name in found.inputs:
                self.known[found.inputs[item.name]] = value
        self.fed = feeds
        return feeds

    def _field(self, values: torch.Tensor, name: str, dtype: DType) -> torch.Tensor:
        """A field in the dtype of its use."""
        import torch

        wanted = torch.float32 if dtype is DType.COMPUTE else getattr(torch, torch_dtype(dtype).removeprefix("torch."))
        found = values.to(wanted)
        if values.is_floating_point() and not wanted.is_floating_point and not torch.equal(found.to(values), values):
            raise failed("T531", f"the field `{name}` has fractions, {dtype.spec_name} is needed", self._span())
        return found

    def _span(self) -> Any:
        return self.section.span("loss")

    def loss(self, results: Sequence[torch.Tensor], auxiliary: Tensors) -> torch.Tensor:
        """The loss of what the entry has returned for this batch, in fp32; raises `Rejected` (T531)."""
        import torch

        found = self.stages
        results = [r.float() if r.is_floating_point() and r.itemsize < 4 else r for r in results]
        self.known |= dict(zip(found.outputs, results, strict=True))
        self.known |= {name: auxiliary[aux].float() for name, aux in found.auxiliary.items()}
        try:
            with torch.autocast(results[0].device.type, enabled=False):
                self._run("loss", found.loss)
        except IndexError as error:
            raise failed("T531", f"a label is none of the classes: {error}", self._span()) from None
        return self.known["loss"]

    def compared(self, index: int) -> list[torch.Tensor]:
        """The tensors of a metric, of this batch."""
        import torch

        if not self.measured:
            self.measured = True
            with torch.no_grad(), torch.autocast(self.known["loss"].device.type, enabled=False):
                self.known |= {name: self._written(how) for name, how in self.stages.generated.items()}
                self._run("measured", self.stages.measured)
        return [self.known[name].detach() for name in self.stages.measures[index][1]]

    def _written(self, how: Generated) -> torch.Tensor:
        """Texts that the model writes after the first id of each row, -1 after the id that ends one."""
        assert self.module is not None
        names = {item.name: item.argument for item in self.of.inputs}
        feeds = {names[n]: self.fed[names[n]] for n in names if n not in how.without}
        was, method = self.module.training, getattr(self.module, self.of.method)
        self.module.eval()
        try:
            return greedy(method, feeds, names[how.ids], how)
        finally:
            self.module.train(was)

    def stop(self, index: int) -> int | None:
        """The id that ends the texts of a metric, if it compares what the model writes."""
        names = self.stages.measures[index][1]
        return next((how.stop for name, how in self.stages.generated.items() if name in names), None)

    def _run(self, name: str, stage: Stage) -> None:
        if stage.graph is None:
            return
        results = self.functions[name](*(self.known[a.name] for a in stage.graph.inputs))
        self.known |= dict(zip(stage.results, results if isinstance(results, tuple) else (results,), strict=True))


def typed(section: Section, data: Data, where: str = "") -> Stages:
    """The functions of a section for this data; raises `Rejected` with what does not fit, and `where`.

    Rows of 5 ids with 5 labels each are [B, T] both; where nothing fits so, 5 is 5.
    """
    try:
        return stages(_checked(section, data, where))
    except Rejected as closed:
        try:
            return stages(_checked(section, data, where, open=True))
        except Rejected as error:
            raise (closed if error.diagnostics[0].code == "B650" else error) from None


def _checked(section: Section, data: Data, where: str, *, open: bool = False) -> TrainChecker:
    elab = section.checker.elab
    context, elab.context = elab.context, elab.context + where
    sizes = {name: column.row for name, column in data.fields.items()}
    outer, elab.collector = elab.collector, Collector()
    try:
        elab.trail = []
        checker = TrainChecker(elab, section.checked.model, section.node, section.settings, sizes, open=open)
        checker.expressions()
        elab.collector.stop_on_errors()
    finally:
        elab.collector, elab.context = outer, context
    if checker.loss is None:
        raise unsupported("the loss, of fields whose sizes differ from row to row,", section.span("loss"))
    for measure in checker.measures:
        if None in measure.values:
            raise unsupported(f"what `{measure.name}` compares", measure.span)
    return checker


def greedy(
    method: Callable[..., Any], feeds: Mapping[str, torch.Tensor], argument: str, how: Generated
) -> torch.Tensor:
    """Ids [B, n] with n <= max_length: the likeliest next one, over and over."""
    import torch

    ids = feeds[argument][:, :1]
    ended = torch.zeros_like(ids, dtype=torch.bool)
    kept = [ids]
    while len(kept) < how.max_length and not (bool(ended.all()) and not torch.distributed.is_initialized()):
        found = method(**{**feeds, argument: ids})
        scores = found[how.result] if isinstance(found, tuple) else found
        following = scores[:, -1:].argmax(-1)
        kept.append(following.masked_fill(ended, -1))
        ids = torch.cat([ids, following], 1)
        if how.stop is not None:
            ended |= following == how.stop
    return torch.cat(kept, 1)

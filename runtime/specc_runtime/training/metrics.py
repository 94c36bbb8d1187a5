"""Metrics of a section: torchmetrics' own, chosen by the shapes of the first batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from specc.source import Span
from specc.syntax import ast
from specc_runtime.training.objective import Objective
from specc_runtime.training.section import Section, evaluated, failed, unsupported

if TYPE_CHECKING:
    import torch
    from torchmetrics import Metric

CLASSIFICATION = {
    "accuracy": "Accuracy",
    "f1": "F1Score",
    "precision": "Precision",
    "recall": "Recall",
    "auroc": "AUROC",
}
KNOWN = (*CLASSIFICATION, "mean_squared_error", "perplexity")


class Meter:
    """One metric: what it reads of a batch, and torchmetrics' running value."""

    def __init__(self, section: Section, expr: ast.Expr) -> None:
        call = expr if isinstance(expr, ast.Call) else None
        if call is None or not isinstance(call.func, ast.Name):
            raise failed("E125", "a metric is called: accuracy(logits, data.label)", expr.span)
        self.name = call.func.id
        self.span: Span = expr.span
        if self.name not in KNOWN:
            raise unsupported(f"the metric `{self.name}`", expr.span, "one of " + ", ".join(KNOWN))
        arguments = [a for a in call.args if isinstance(a, ast.Arg)]
        self.tensors = [a.value for a in arguments if a.name is None]
        self.options = {a.name.id: evaluated(section, a.value) for a in arguments if a.name is not None}
        strange = next((key for key in self.options if key != "average"), None)
        if strange is not None:
            raise unsupported(f"`{strange}` of {self.name}", expr.span)
        wanted = 1 if self.name == "perplexity" else 2
        if len(self.tensors) != wanted:
            raise failed("E124", f"{self.name} takes {wanted} tensors", expr.span)

    def create(self, objective: Objective) -> Metric:
        """The metric for values like those of this batch."""
        import torchmetrics
        from torchmetrics import classification

        if self.name == "perplexity":
            return torchmetrics.MeanMetric()
        if self.name == "mean_squared_error":
            return torchmetrics.MeanSquaredError()
        found, target = (objective.tensor(e) for e in self.tensors)
        kind = CLASSIFICATION[self.name]
        if found.shape == target.shape:
            made: Metric = getattr(classification, f"Binary{kind}")()
            return made
        if found.dim() != target.dim() + 1:
            message = (
                f"{self.name}: {list(found.shape)} against {list(target.shape)}: expected one axis more, of classes"
            )
            raise failed("S202", message, self.span)
        options: dict[str, Any] = {"average": self.options.get("average", "macro" if self.name == "auroc" else "micro")}
        try:
            made = getattr(classification, f"Multiclass{kind}")(num_classes=found.shape[-1], **options)
        except ValueError as error:
            raise failed("E125", f"{self.name}: {error}", self.span) from None
        return made

    def update(self, metric: Metric, objective: Objective, loss: torch.Tensor) -> None:
        """Take a batch in."""
        if self.name == "perplexity":
            objective.known["loss"] = loss
            metric.update(objective.tensor(self.tensors[0]).detach(), weight=1.0)
            return
        found, target = (objective.tensor(e).detach() for e in self.tensors)
        if self.name == "mean_squared_error":
            metric.update(found.float().reshape(-1), target.float().reshape(-1))
        elif found.shape == target.shape:
            metric.update(found.float().reshape(-1), target.long().reshape(-1))
        else:
            metric.update(found.float().reshape(-1, found.shape[-1]), target.long().reshape(-1))

    def value(self, metric: Metric) -> float:
        """The value of all batches since the last reset."""
        found = float(metric.compute())
        return math.exp(min(found, 700.0)) if self.name == "perplexity" else found


def meters(section: Section) -> list[Meter]:
    """The metrics of a section, in its order."""
    given = section.settings.get("metrics")
    if given is None:
        return []
    items = given.elements if isinstance(given, ast.ListExpr) else (given,)
    found = [Meter(section, item) for item in items if isinstance(item, ast.Expr)]
    repeated = next((m for i, m in enumerate(found) if m.name in [o.name for o in found[:i]]), None)
    if repeated is not None:
        raise unsupported(f"a second metric `{repeated.name}`", repeated.span)
    return found

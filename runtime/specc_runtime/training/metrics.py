"""Metrics of a section: torchmetrics' own, chosen by the shapes of the first batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from specc.elaborate.settings import CLASS_METRICS, TEXT_METRICS
from specc.source import Span
from specc_runtime.training.objective import Objective
from specc_runtime.training.section import Section, evaluated, failed

if TYPE_CHECKING:
    import torch
    from torchmetrics import Metric

CLASSES = dict(
    zip(
        CLASS_METRICS,
        ("Accuracy", "F1Score", "Precision", "Recall", "Specificity", "AUROC", "AveragePrecision", "CohenKappa",
         "MatthewsCorrCoef", "JaccardIndex", "ExactMatch"),
        strict=True,
    )
)  # fmt: skip
AVERAGED = ("accuracy", "f1", "precision", "recall", "specificity")
"""By default over all predictions alike; the others over classes."""
PAIRS = {
    "mean_squared_error": "MeanSquaredError",
    "mean_absolute_error": "MeanAbsoluteError",
    "r2": "R2Score",
    "cosine_similarity": "CosineSimilarity",
}
TEXTS = {
    "bleu": "BLEUScore",
    "rouge": "ROUGEScore",
    "word_error_rate": "WordErrorRate",
    "character_error_rate": "CharErrorRate",
}


class Meter:
    """One metric: which tensors of a batch it takes in, and torchmetrics' running value."""

    def __init__(self, section: Section, index: int, name: str) -> None:
        measure = section.checker.measures[index]
        self.index, self.name, self.kind = index, name, measure.name
        self.span: Span = measure.span
        self.options = {key: evaluated(section, expr) for key, expr in measure.options}
        for key in ("top_k", "n"):
            value = self.options.get(key, 1)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise failed("E125", f"{self.kind}: `{key}` is a whole number of at least 1", self.span)

    def create(self, objective: Objective) -> Metric:
        """The metric for values like those of this batch; raises `Rejected` (E125)."""
        try:
            return self._created(objective.compared(self.index))
        except (ValueError, TypeError) as error:
            raise failed("E125", f"{self.kind}: {error}", self.span) from None

    def _created(self, tensors: list[torch.Tensor]) -> Metric:
        import torchmetrics
        from torchmetrics import classification, text

        made: Metric
        if self.kind == "perplexity":
            return torchmetrics.MeanMetric()
        if self.kind in PAIRS:
            given = {"reduction": "mean"} if self.kind == "cosine_similarity" else {}
            made = getattr(torchmetrics, PAIRS[self.kind])(**given)
        elif self.kind in TEXT_METRICS:
            options: dict[str, Any] = {"n_gram": self.options["n"]} if "n" in self.options else {}
            options |= {"rouge_keys": "rougeL"} if self.kind == "rouge" else {}
            made = getattr(text, TEXTS[self.kind])(**options)
        elif self.kind == "exact_match" and tensors[0].dim() != 3:
            raise ValueError("the predictions are [B, T, C], of whole rows")
        elif tensors[0].dim() == tensors[1].dim():
            for key in ("average", "top_k"):
                if key in self.options:
                    raise ValueError(f"`{key}` is of several classes, the tensors have one shape")
            if not all(bool(((t == 0) | (t == 1)).all()) for t in tensors if not t.is_floating_point()):
                raise ValueError("predictions of several classes are [.., C], a number for each class")
            made = getattr(classification, f"Binary{CLASSES[self.kind]}")(**self.options)
        else:
            options = {"num_classes": tensors[0].shape[-1]} | ({"average": "micro"} if self.kind in AVERAGED else {})
            made = getattr(classification, f"Multiclass{CLASSES[self.kind]}")(**options | self.options)
        return made

    def update(self, metric: Metric, objective: Objective, loss: torch.Tensor) -> None:
        """Take a batch in."""
        with in_single(metric):
            self._update(metric, objective)

    def _update(self, metric: Metric, objective: Objective) -> None:
        tensors = objective.compared(self.index)
        if self.kind == "perplexity":
            metric.update(tensors[0], weight=float(objective.rows))
            return
        found, target = tensors
        if self.kind in TEXT_METRICS:
            metric.update(*self._texts(found, target, objective.stop(self.index)))
        elif self.kind == "cosine_similarity":
            metric.update(found.float().reshape(-1, found.shape[-1]), target.float().reshape(-1, target.shape[-1]))
        elif self.kind in PAIRS:
            metric.update(found.float().reshape(-1), target.float().reshape(-1))
        elif self.kind == "exact_match":
            metric.update(found.float().movedim(-1, 1), target.long())
        elif found.shape == target.shape:
            metric.update(found.float().reshape(-1), target.long().reshape(-1))
        else:
            metric.update(found.float().reshape(-1, found.shape[-1]), target.long().reshape(-1))

    def _texts(self, found: torch.Tensor, target: torch.Tensor, stop: int | None) -> tuple[list[str], list[Any]]:
        """Rows of ids as texts of one word for each id, up to the id that ends them; what is below 0 fills rows up."""
        said, meant = ([_text(row, stop) for row in ids.tolist()] for ids in (found, target))
        return said, [[one] for one in meant] if self.kind == "bleu" else meant

    def value(self, metric: Metric) -> float:
        """The value of all batches since the last reset."""
        with in_single(metric):
            found: Any = metric.compute()
        number = float(found["rougeL_fmeasure"] if self.kind == "rouge" else found)
        return math.exp(min(number, 700.0)) if self.kind == "perplexity" else number


@contextmanager
def in_single(metric: Metric) -> Iterator[None]:
    """What is measured is summed in fp32, though the model around the metric is of 16 bits."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    if metric.dtype != torch.float32 or any(map(_short, metric.metric_state.values())):
        metric.set_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _short(state: Any) -> bool:
    import torch

    return isinstance(state, torch.Tensor) and state.is_floating_point() and state.itemsize < 4


def _text(row: list[int], stop: int | None) -> str:
    end = row.index(stop, 1) if stop in row[1:] else len(row)
    return " ".join(str(i) for i in row[:end] if i >= 0)


def meters(section: Section) -> list[Meter]:
    """The metrics of a section, in its order; the second `f1` is called `f1_2`."""
    found: list[Meter] = []
    for index, measure in enumerate(section.checker.measures):
        number = 1 + sum(other.kind == measure.name for other in found)
        found.append(Meter(section, index, measure.name if number == 1 else f"{measure.name}_{number}"))
    return found

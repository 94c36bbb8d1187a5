"""What a train section computes of a batch: losses, lets, bound inputs and metrics against torch, and their checks."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from objectives import ROWS, SPEC, arrays, opened, save
from torchmetrics.functional.text import word_error_rate

from specc import driver, report
from specc.diagnostics import Rejected
from specc.elaborate.settings import CLASS_METRICS, METRICS, PAIR_METRICS, TEXT_METRICS
from specc_runtime.inputs import interface
from specc_runtime.training import metrics
from specc_runtime.training.objective import Objective
from specc_runtime.training.run import Request, train
from specc_runtime.training.section import Section, open_section
from specc_runtime.training.sources import read

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path, arrays())
    return tmp_path


def computed(section: Section) -> tuple[Objective, torch.Tensor]:
    """The objective after one batch of all rows, and the loss."""
    objective = Objective(section, read(section, "data"), interface(section.checked.model))
    batch = {name: torch.from_numpy(values) for name, values in arrays().items()}
    feeds = objective.feeds(batch)
    results = [feeds["x"], feeds["frames"], feeds["flat"].sigmoid()]
    return objective, objective.loss(results, {})


def tensors() -> tuple[Any, ...]:
    found = {name: torch.from_numpy(values) for name, values in arrays().items()}
    names = ("x", "frames", "label", "y", "probable", "texts", "places")
    return *(found[n] for n in names), found["flat"].sigmoid(), found["yes"].float()


def ctc(frames: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Row by row, each divided by the length of its text."""
    rows = []
    for row, text in zip(frames.log_softmax(-1), texts, strict=True):
        text = text[text >= 0]
        rows.append(F.ctc_loss(row, text, torch.tensor(5), torch.tensor(len(text)), reduction="sum") / len(text))
    return torch.stack(rows).mean()


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "cross_entropy(a, data.label)": lambda a, f, n, *_: F.cross_entropy(a, n),
    "cross_entropy(a, data.label, label_smoothing = 0.1)": lambda a, f, n, *_: F.cross_entropy(
        a, n, label_smoothing=0.1
    ),
    "cross_entropy(a, data.label, ignore_index = 2)": lambda a, f, n, *_: F.cross_entropy(a, n, ignore_index=2),
    "cross_entropy(a, data.label, weight = [1.0, 2.0, 0.5])": lambda a, f, n, *_: F.cross_entropy(
        a, n, torch.tensor([1.0, 2.0, 0.5])
    ),
    "cross_entropy(a, data.probable)": lambda a, f, n, y, q, *_: F.cross_entropy(a, q),
    "cross_entropy(f, data.places)": lambda a, f, n, y, q, t, k, *_: F.cross_entropy(f.reshape(-1, 4), k.reshape(-1)),
    "cross_entropy(f[:, :-1], data.places[:, 1:])": lambda a, f, n, y, q, t, k, *_: F.cross_entropy(
        f[:, :-1].reshape(-1, 4), k[:, 1:].reshape(-1)
    ),
    "nll(log_softmax(a, axis = -1), data.label)": lambda a, f, n, *_: F.nll_loss(a.log_softmax(-1), n),
    "binary_cross_entropy(p, data.yes)": lambda a, f, n, y, q, t, k, p, yes: F.binary_cross_entropy(p, yes),
    "binary_cross_entropy_with_logits(a, data.probable)": lambda a, f, n, y, q, *_: F.binary_cross_entropy_with_logits(
        a, q
    ),
    "mse(a, data.y)": lambda a, f, n, y, *_: F.mse_loss(a, y),
    "l1(a, data.y)": lambda a, f, n, y, *_: F.l1_loss(a, y),
    "huber(a, data.y, delta = 0.3)": lambda a, f, n, y, *_: F.huber_loss(a, y, delta=0.3),
    "kl_div(softmax(a, axis = -1), data.probable)": lambda a, f, n, y, q, *_: (
        (a.softmax(-1) * (a.softmax(-1) / q).log()).sum(-1).mean()
    ),
    "ctc(f, data.texts)": lambda a, f, n, y, q, t, *_: ctc(f, t),
    "contrastive(a @ transpose(data.y, 0, 1))": lambda a, f, n, y, *_: (
        (F.cross_entropy(a @ y.T, torch.arange(ROWS)) + F.cross_entropy(y @ a.T, torch.arange(ROWS))) / 2
    ),
    "focal(a, one_of)": lambda a, f, n, *_: (
        -((1 - a.softmax(-1)[range(ROWS), n]) ** 2 * a.log_softmax(-1)[range(ROWS), n]).mean()
    ),
    "both(a, data.y)": lambda a, f, n, y, *_: F.mse_loss(a, y) / 2 + F.l1_loss(a, y),
    "mean(square(a - take(data.y, data.label))) / 2 + sum(where(a[0] > 0.0, a[0], 0.0))": lambda a, f, n, y, *_: (
        (a - y[n]).square().mean() / 2 + a[0].relu().sum()
    ),
}


@pytest.mark.parametrize("text", LOSSES)
def test_losses_are_those_of_torch(text: str, folder: Path) -> None:
    objective, loss = computed(opened(folder, text, "let one_of = cast(data.label, i64)"))
    assert loss.item() == pytest.approx(LOSSES[text](*tensors()).item(), rel=1e-5)
    assert loss.shape == () and "def loss(" in objective.source


def test_the_worked_example_of_cross_entropy(folder: Path) -> None:
    """-log 0.8 = 0.223"""
    _, loss = computed(opened(folder, "cross_entropy(log(tensor([0.8, 0.1, 0.1])[none]), arange(1))"))
    assert loss.item() == pytest.approx(-math.log(0.8), abs=1e-6)
    assert round(loss.item(), 3) == 0.223


def test_what_a_section_computes_reads_as_if_written_by_hand(golden: Callable[[Path, str], None]) -> None:
    """The UNet's section as it is shipped: steps and noise are drawn, the image is mixed with it."""
    opened = open_section(str(ROOT / "specs/unet.spec"), None, {})
    data = Fake({"image": (3, 32, 32)})
    objective = Objective(opened, data, interface(opened.checked.model))  # type: ignore[arg-type]
    golden(ROOT / "tests/golden/unet.objective.py", objective.source)
    image = torch.rand(64, 3, 32, 32)
    feeds = objective.feeds({"image": image})
    t, eps = feeds["t"], objective.known["eps"]
    u = (t + 1) / 1000
    keep = (((u + 0.008) / 1.008 * math.pi / 2).cos() / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
    keep = keep[:, None, None, None]
    assert len(set(t.tolist())) > 32 and set(t.tolist()) <= set(range(1000))
    assert torch.allclose(feeds["image"], keep.sqrt() * image + (1 - keep).sqrt() * eps, atol=1e-5)
    loss = objective.loss([torch.zeros_like(image)], {})
    assert loss.item() == pytest.approx(eps.square().mean().item(), rel=1e-5)


class Fake:
    """Data of which only the sizes are known."""

    def __init__(self, rows: dict[str, tuple[int, ...]]) -> None:
        self.fields = {name: type("Column", (), {"row": row}) for name, row in rows.items()}


# ---- metrics ---------------------------------------------------------------------------------------------------------

MEASURES: dict[str, Callable[..., Any]] = {
    "accuracy(a, data.label)": lambda a, f, n, *_: (a.argmax(-1) == n).float().mean(),
    "accuracy(a, data.label, top_k = 2)": lambda a, f, n, *_: (a.topk(2).indices == n[:, None]).any(-1).float().mean(),
    "accuracy(p > 0.5, data.yes)": lambda a, f, n, y, q, t, k, p, yes: ((p > 0.5).float() == yes).float().mean(),
    'f1(a, data.label, average = "macro")': lambda a, f, n, *_: torchmetrics.functional.f1_score(
        a, n, "multiclass", num_classes=3, average="macro"
    ),
    "auroc(p, data.yes)": lambda a, f, n, y, q, t, k, p, yes: torchmetrics.functional.auroc(p, yes.long(), "binary"),
    "iou(a, data.label)": lambda a, f, n, *_: torchmetrics.functional.jaccard_index(a, n, "multiclass", num_classes=3),
    "exact_match(frames, data.places)": lambda a, f, n, y, q, t, k, *_: (f.argmax(-1) == k).all(-1).float().mean(),
    "exact_match(one_hot(data.places, 4), data.places)": lambda *_: torch.tensor(1.0),
    "mean_squared_error(a, data.y)": lambda a, f, n, y, *_: F.mse_loss(a, y),
    "mean_absolute_error(a, data.y)": lambda a, f, n, y, *_: F.l1_loss(a, y),
    "r2(a, data.y)": lambda a, f, n, y, *_: 1 - (a - y).square().sum() / (y - y.mean()).square().sum(),
    "cosine_similarity(a, data.y)": lambda a, f, n, y, *_: F.cosine_similarity(a, y).mean(),
    "perplexity(loss)": lambda a, f, n, *_: F.cross_entropy(a, n).exp(),
    "word_error_rate(argmax(f, axis = -1), data.places)": lambda a, f, n, y, q, t, k, *_: word_error_rate(
        [" ".join(map(str, r)) for r in f.argmax(-1).tolist()], [" ".join(map(str, r)) for r in k.tolist()]
    ),
    "bleu(data.places, data.places)": lambda *_: torch.tensor(1.0),
    "rouge(data.places, data.places)": lambda *_: torch.tensor(1.0),
}


@pytest.mark.parametrize("text", MEASURES)
def test_metrics(text: str, folder: Path) -> None:
    section = opened(folder, "cross_entropy(a, data.label)", f"metrics = [{text}]")
    objective, loss = computed(section)
    (meter,) = metrics.meters(section)
    made = meter.create(objective)
    meter.update(made, objective, loss)
    assert meter.value(made) == pytest.approx(MEASURES[text](*tensors()).item(), rel=1e-5)


def test_every_metric_is_one_of_torchmetrics() -> None:
    assert metrics.CLASSES.keys() == set(CLASS_METRICS)
    assert metrics.PAIRS.keys() == set(PAIR_METRICS)
    assert metrics.TEXTS.keys() == set(TEXT_METRICS)
    assert {*CLASS_METRICS, *PAIR_METRICS, *TEXT_METRICS, "perplexity"} == set(METRICS)


def test_a_metric_twice(folder: Path) -> None:
    section = opened(folder, "mean(a)", 'metrics = [f1(a, data.label), f1(a, data.label, average = "macro")]')
    assert [m.name for m in metrics.meters(section)] == ["f1", "f1_2"]


# ---- what does not fit -----------------------------------------------------------------------------------------------

WRONG = {
    "mse(a, data.label)": "the target is Tensor[B], expected Tensor[B, 3]",
    "cross_entropy(a, data.yes)": "the target is Tensor[B, 1], expected Tensor[B, 3]",
    "cross_entropy(a, data.y[:, 1:])": "the target is Tensor[B, 2], expected Tensor[B, 3]",
    "contrastive(a)": "the number of columns must be B, found 3",
    "mean(a) + sum(data.y, axis = 0)": "the loss is not a scalar: Tensor[3]",
    "argmax(a[0], axis = 0)": "the loss is no number: Int[]",
}


@pytest.mark.parametrize("text", WRONG)
def test_data_that_does_not_fit_is_refused(text: str, folder: Path) -> None:
    with pytest.raises(Rejected) as caught:
        computed(opened(folder, text))
    assert WRONG[text] in report.full(caught.value.diagnostics)


def test_fractions_are_no_indices(folder: Path) -> None:
    with pytest.raises(Rejected, match="the field `y` has fractions, Int is needed"):
        computed(opened(folder, "mean(take(a, data.y[:, 0]))"))


# ---- whole sections --------------------------------------------------------------------------------------------------

TOWERS = """\
dim B, N
model Towers {
  param scale: Tensor[1] = ones()
  forward(left: Tensor[B, 4], right: Tensor[N, 4]) -> logits: Tensor[B, N] = scale * left @ transpose(right, 0, 1)
}
train Towers {
  data = npz("pairs.npz", left = "left", right = "right")
  loss = contrastive(logits)
  optim = lion(lr = 1e-2); batch = 5; epochs = 1
}
"""


def test_two_inputs_have_one_batch(tmp_path: Path) -> None:
    """The sizes N and B of a model are both that of the batch: the logits are square."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "pairs.npz", left=rng.normal(size=(5, 4)), right=rng.normal(size=(5, 4)))
    (tmp_path / "towers.spec").write_text(TOWERS)
    assert not driver.check(str(tmp_path / "towers.spec"))
    train(Request(str(tmp_path / "towers.spec"), out=tmp_path / "run"))
    (row,) = csv.DictReader((tmp_path / "run/metrics.csv").open())
    data = np.load(tmp_path / "pairs.npz")
    logits = torch.from_numpy((data["left"] @ data["right"].T).astype(np.float32))
    own = torch.arange(5)
    wanted = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    assert float(row["loss"]) == pytest.approx(wanted.item(), rel=1e-5)
    assert "def contrastive(" in (tmp_path / "run/objective.py").read_text()


def test_a_loss_is_of_fp32_in_mixed_precision(tmp_path: Path) -> None:
    """torch refuses binary_cross_entropy under autocast."""
    spec = str(ROOT / "specs/linear.spec")
    found = []
    for precision in ("32", "bf16-mixed"):
        train(Request(spec, out=tmp_path / precision, sets={"precision": f'"{precision}"', "epochs": "3"}))
        rows = csv.DictReader((tmp_path / precision / "metrics.csv").open())
        found.append([float(row["loss"]) for row in rows if row["loss"]])
    assert found[0] == pytest.approx(found[1], rel=0.02) and found[0] != found[1]


COUNT = """\
dim B, T
model Count {
  param scale: Tensor[1] = ones()
  forward(input_ids: Int[B, T], attention_mask: Bool[B, T]? = none) -> logits: Tensor[B, T, 9] {
    return scale * cast_like(one_hot(input_ids + 1, 9), scale)
  }
}
train Count {
  data = npz("rows.npz", input_ids = "ids")
  loss = cross_entropy(logits[:, :-1], input_ids[:, 1:])
  metrics = [word_error_rate(generate(forward, max_length = 8, stop = 6), data.input_ids)]
  optim = sgd(lr = 0.0); batch = 4; epochs = 1
}
"""


def test_texts_that_the_model_writes(tmp_path: Path) -> None:
    """A model that counts: rows up to 6 are what it writes after their first ids, but for the last."""
    np.savez(
        tmp_path / "rows.npz", ids=[[1, 2, 3, 4, 5, 6], [3, 4, 5, 6, 0, 0], [2, 3, 4, 5, 6, 0], [1, 2, 4, 6, 0, 0]]
    )
    spec = tmp_path / "count.spec"
    spec.write_text(COUNT)
    train(Request(str(spec), out=tmp_path / "run"))
    rows = [row for row in csv.DictReader((tmp_path / "run/metrics.csv").open()) if row["word_error_rate"]]
    assert float(rows[-1]["word_error_rate"]) == pytest.approx(2 / (5 + 3 + 4 + 3))
    wrong = {
        "generate(forward, ": ("generate(forwards, ", "did you mean `forward`?"),
        "max_length = 8, ": ("", "generate needs `max_length`"),
        "stop = 6": ("until = 6", "generate takes an entry, `max_length` and `stop`"),
        "Int[B, T], attention": ("Int[B, T], other: Int[B, T], attention", "that is the only one"),
    }
    for before, (after, expected) in wrong.items():
        spec.write_text(COUNT.replace(before, after))
        assert expected in report.full(driver.check(str(spec)))


def test_perplexity_is_that_of_the_loss(folder: Path) -> None:
    """The last batch has fewer rows: it counts for less, in both."""
    data = SPEC[SPEC.index("npz(") : SPEC.index("  loss")].strip()
    opened(folder, "mean(square(a - data.y))", f"val = {data}", "metrics = [perplexity(loss)]")
    for precision in ("32", "bf16-true"):  # metrics are summed in fp32 whatever the model is in
        run = folder / precision
        train(Request(str(folder / "net.spec"), sets={"precision": precision, "batch": "2"}, out=run))
        found = list(csv.DictReader((run / "metrics.csv").open()))
        row = next(r for r in found if r["val_loss"])
        assert float(row["val_perplexity"]) == pytest.approx(math.exp(float(row["val_loss"])), rel=1e-5)


def test_labels_of_every_position_are_classes(folder: Path) -> None:
    """Probabilities are none: their type is known once the data is read."""
    spec = str(folder / "net.spec")
    for loss in ("cross_entropy(f, data.places)", "cross_entropy(a, target = data.probable)"):
        opened(folder, loss)
        train(Request(spec, dry_run=True))
    values = arrays()
    values["places"][1, 2] = 4
    save(folder, values)
    opened(folder, "cross_entropy(f, target = data.places)")
    with pytest.raises(Rejected, match="the label is 4, the classes are 0 to 3"):
        train(Request(spec, dry_run=True))
    opened(folder, "cross_entropy(f, data.places, ignore_index = 4)")
    train(Request(spec, dry_run=True))
    opened(folder, "cross_entropy(f[:, 1:], data.places[:, 1:])")
    with pytest.raises(Rejected, match="a label is none of the classes: Target 4 is out of bounds"):
        train(Request(spec, dry_run=True))


TAGGED = """\
from std.nn import Embedding
dim B, T
model Tagger {
  table: Embedding(9, 4)
  forward(ids: Int[B, T]) -> tags: Tensor[B, T, 4] {
    x = table(ids)
    when train { aux even = mean(square(x)) }
    return x
  }
}
train Tagger {
  data = npz("d.npz", ids = "ids", tag = "tag")
  val = npz("v.npz", ids = "ids", tag = "tag")
  loss = cross_entropy(tags, data.tag) + aux.even
  optim = adam(lr = 1e-2); batch = 3; epochs = 1
}
"""


def tagged(folder: Path, name: str, length: int, labels: int) -> None:
    rng = np.random.default_rng(0)
    ids, tag = rng.integers(0, 9, (6, length)), rng.integers(0, 4, (6, labels))
    np.savez(folder / name, ids=ids, tag=tag)


def test_labels_are_as_long_as_what_they_are_of(tmp_path: Path) -> None:
    """Rows of 5 ids and 5 labels are [B, T] both; data to validate on has a length of its own."""
    spec = str(tmp_path / "t.spec")
    (tmp_path / "t.spec").write_text(TAGGED)
    tagged(tmp_path, "d.npz", 5, 5)
    tagged(tmp_path, "v.npz", 7, 7)
    train(Request(spec, out=tmp_path / "run"))
    for loss, expected in (
        ("cross_entropy(tags[:, 1:], data.tag)", "the target is Int[B, 5], expected Int[B, T - 1]"),
        ("cross_entropy(mean(tags, axis = 1), data.tag)", "the target is Tensor[B, 5], expected Tensor[B, 4]"),
    ):
        with pytest.raises(Rejected) as caught:
            train(Request(spec, sets={"loss": loss}, dry_run=True))
        assert expected in report.full(caught.value.diagnostics)
    train(Request(spec, sets={"loss": "aux.even"}, dry_run=True))  # which is of training alone
    tagged(tmp_path, "v.npz", 7, 6)
    with pytest.raises(Rejected) as caught:
        train(Request(spec, dry_run=True))
    assert "expected Int[B, T]" in (told := report.full(caught.value.diagnostics))
    assert "(in train Tagger, of v.npz to validate on)" in told

"""The plan that `specc train` tells before it starts: what it counts, and how it reads."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from torch import nn

from specc_runtime.training import overview
from specc_runtime.training.footprint import footprint, saving, states_of
from specc_runtime.training.progress import Numbers
from specc_runtime.training.run import Request, train

GOLDEN = Path(__file__).parent / "golden" / "plans"

TABLE = """\
from std.nn import Linear
dim B
model Net(hidden: int = 8) {
  body: [Linear(2, hidden), relu, Linear(hidden, hidden)]
  head: Linear(hidden, 3)
  forward(x: Tensor[B, 2]) -> logits: Tensor[B, 3] = x |> body |> head
}
train Net "points" {
  data  = csv("points.csv", x = ["x", "y"], label = "class")
  val   = split(0.2)
  loss  = cross_entropy(logits, data.label)
  optim = adamw(lr = 0.05, no_decay = ["*.bias"])
  sched = cosine(warmup = 2)
  batch = 8
  epochs = 3
  freeze = ["body.0"]
  checkpoint = best("val_loss")
}
"""

SEQUENCES = """\
from std.nn import Embedding, Linear
dim B, T
model LM(vocab: int = 256, dim: int = 8) {
  table: Embedding(vocab, dim)
  stack: { layers: [Linear(dim, dim) for i in range(3)] }
  head: Linear(dim, vocab)
  forward(input_ids: Int[B, T]) -> logits: Tensor[B, T, vocab] = table(input_ids) |> stack.layers |> head
  tie head.weight = table.weight
}
train LM {
  data  = text("a.txt", tokenizer = "bytes", length = 20)
  loss  = cross_entropy(logits[:, :-1], input_ids[:, 1:])
  optim = sgd(lr = 0.3)
  batch = 10
  accumulate = 2
  steps = 30
  precision = "bf16-mixed"
}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = "".join(f"{i},{-i},{i % 3}\n" for i in range(30))
    (tmp_path / "points.csv").write_text(f"x,y,class\n{rows}")
    (tmp_path / "a.txt").write_text("ab" * 800)
    (tmp_path / "table.spec").write_text(TABLE)
    (tmp_path / "sequences.spec").write_text(SEQUENCES)
    monkeypatch.setattr(overview, "device", lambda: "cpu")
    monkeypatch.setattr(overview, "room", lambda: 10**9)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(spec: str, **more: object) -> str:
    said: list[str] = []
    assert train(Request(spec, dry_run=True, **more), said.append) is None  # type: ignore[arg-type]
    assert len(said) == 1 and not Path("runs").exists()
    return said[0] + "\n"


def test_plan_of_a_table(folder: Path, golden: Callable[[Path, str], None]) -> None:
    golden(GOLDEN / "table.txt", told("table.spec", sets={"lr": "1e-3", "hidden": "16", "clip": "1.0"}))


def test_plan_of_sequences(folder: Path, golden: Callable[[Path, str], None]) -> None:
    golden(GOLDEN / "sequences.txt", told("sequences.spec", max_steps=20))


def test_batches_by_tokens(folder: Path) -> None:
    text = told("sequences.spec", sets={"batch": "tokens(90)", "accumulate": "1"})
    assert "30: 1.5 epochs of 20 batches of at most 90 ids, about 4 rows" in text
    assert "80 a step, about 2,400 in all" in text


def test_more_than_there_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "room", lambda: 10)
    assert "(estimate), more than the 10 B that are free:" in told("table.spec")


def test_an_average_takes_memory_and_states_are_kept_as_asked(folder: Path) -> None:
    text = told("table.spec", sets={"ema": "0.9", "save_every": "5"})
    assert "average 492 B" in text and "states to resume from every 5 steps" in text
    assert "states to resume from after every epoch" in told("table.spec", sets={"save_every": '"epoch"'})


def test_a_terminal_has_colours_and_folds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("specc_runtime.training.progress.columns", lambda: 60)
    text = told("table.spec")
    assert "\x1b[1mNet" in text
    plain = [line for line in text.split("\n") if "\x1b" not in line]
    assert all(len(line) <= 60 for line in plain)


# ---- memory ----------------------------------------------------------------------------------------------------------

STATES: dict[str, tuple[Callable[[list[nn.Parameter]], torch.optim.Optimizer], float]] = {
    "sgd": (lambda ps: torch.optim.SGD(ps, lr=0.1), 0),
    "momentum": (lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9), 1),
    "adamw": (torch.optim.AdamW, 2),
    "amsgrad": (lambda ps: torch.optim.AdamW(ps, amsgrad=True), 3),
}


@pytest.mark.parametrize("name", STATES)
def test_state_of_optimisers(name: str) -> None:
    """Of parameters that are trained, besides a counter each; the module itself stays as it is."""
    make, times = STATES[name]
    module = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    module[0].requires_grad_(False)
    before = [p.clone() for p in module.parameters()]
    found = states_of(module, lambda m: make([p for p in m.parameters() if p.requires_grad]))
    assert found in (times * 4 * 110, times * 4 * 110 + 2 * 4)
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, module.parameters(), strict=True))


def test_state_of_one_that_reads_values() -> None:
    """Adafactor keeps a row and a column of a matrix."""
    found = states_of(nn.Linear(30, 20), lambda m: torch.optim.Adafactor(m.parameters()))
    assert found == 4 * (20 + 30 + 20) + 2 * 4


def test_activations_are_those_kept_for_the_backward_pass() -> None:
    module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    x = torch.randn(5, 8)
    with saving(module) as saved:
        module(x).sum()
    assert saved.bytes(half=False) == 4 * (5 * 8 + 5 * 16)  # x, and what relu gave, once
    assert saved.bytes(half=True) == 2 * (5 * 8 + 5 * 16)
    found = footprint(module, lambda m: torch.optim.Adam(m.parameters()), saved, "32")
    assert found.weights == found.gradients == 4 * (8 * 16 + 16 + 16 * 4 + 4)
    assert found.total == sum((found.weights, found.gradients, found.optimiser, found.activations))
    assert (
        footprint(module, lambda m: torch.optim.Adam(m.parameters()), saved, "bf16-true").weights * 2 == found.weights
    )


def test_a_narrow_bar_breaks_no_number_from_its_name() -> None:
    """What is measured stands beside the bar of training alone."""
    shown = {"step": "45/45", "loss": 0.24461, "val_accuracy": 0.98333, "samples/s": "761"}
    column = Numbers(SimpleNamespace(train_progress_bar_id=0, shown=shown))  # type: ignore[arg-type]
    console = Console(width=24, file=io.StringIO())
    console.print(column.render(SimpleNamespace(id=0)))  # type: ignore[arg-type]
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split() for line in lines] == [
        ["step=45/45", "loss=0.2446"],
        ["val_accuracy=0.9833"],
        ["samples/s=761"],
    ]
    assert not column.render(SimpleNamespace(id=1))  # type: ignore[arg-type]

"""`specc train`: sections are run by Lightning, written as a run folder, and built from it."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
from fresh import loaded
from points import NET, write_points
from safetensors.numpy import load_file
from scripts import make_data
from tokenizers import Tokenizer

from specc import report
from specc.diagnostics import Rejected
from specc.syntax.unparse import unparse
from specc_runtime.build import Request as BuildRequest
from specc_runtime.build import build
from specc_runtime.training.history import history, less_is_better
from specc_runtime.training.optimisers import optimiser
from specc_runtime.training.run import Request, Run, train
from specc_runtime.training.schedules import schedule
from specc_runtime.training.section import open_section
from specc_runtime.training.sources import read

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parent.parent

SECTION = """\
train Net "points" {
  data  = csv("points.csv", x = ["x", "y"], label = "class")
  loss  = cross_entropy(logits, data.label)
  optim = adam(lr = 0.05, no_decay = ["*.bias"])
  batch = 8
  epochs = 3
}
"""
SPEC = NET + SECTION


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_points(tmp_path / "points.csv", 30, np.random.default_rng(0))
    (tmp_path / "net.spec").write_text(SPEC)
    return tmp_path


def edited(folder: Path, *changes: tuple[str, str]) -> str:
    """The spec with lines changed; its path."""
    text = SPEC
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    (folder / "net.spec").write_text(text)
    return str(folder / "net.spec")


def run(spec: str, out: Path, **more: object) -> list[dict[str, str]]:
    """Train; the rows of metrics.csv."""
    assert train(Request(spec, out=out, **more)) == Run(out, interrupted=False)  # type: ignore[arg-type]
    return list(csv.DictReader((out / "metrics.csv").open()))


def losses(rows: list[dict[str, str]], name: str = "loss") -> list[float]:
    return [float(row[name]) for row in rows if row.get(name)]


def refused(spec: str, **more: object) -> str:
    with pytest.raises(Rejected) as caught:
        train(Request(spec, dry_run=True, **more))  # type: ignore[arg-type]
    return report.full(caught.value.diagnostics)


# ---- the road from a spec to its build -------------------------------------------------------------------------------


def test_the_three_points_of_linear(tmp_path: Path) -> None:
    """The loss falls, the boundary separates them."""
    said: list[str] = []
    out = tmp_path / "run"
    train(Request(str(ROOT / "specs/linear.spec"), out=out), said.append)
    found = losses(list(csv.DictReader((out / "metrics.csv").open())))
    assert found[-1] < found[0] / 2
    weights = load_file(out / "model.safetensors")
    scores = np.array([-1.0, 0.5, 2.0]) * weights["linear.weight"].item() + weights["linear.bias"].item()
    assert (scores > 0).tolist() == [False, False, True]
    assert said[-1].endswith(f"specc build {ROOT}/specs/linear.spec --weights {out}")


def test_spirals_are_told_apart_and_built(tmp_path: Path) -> None:
    spec = str(ROOT / "specs/mlp.spec")
    out = tmp_path / "run"
    rows = run(spec, out, name="spirals", sets={"epochs": "20"})
    assert losses(rows, "val_accuracy")[-1] > 0.95
    made = build(BuildRequest(spec, preset="spirals", weights=str(out), render=False, out=tmp_path / "build"))
    assert "torch and onnxruntime agree" in made.proof
    trained, shipped = load_file(out / "model.safetensors"), load_file(tmp_path / "build/model.safetensors")
    assert trained.keys() == shipped.keys()
    assert all(np.array_equal(trained[name], shipped[name]) for name in trained)


def test_same_seed_same_bits(folder: Path) -> None:
    spec = edited(
        folder,
        ("batch = 8", "batch = 8\n  seed = 3\n  val = split(0.2)"),
        ("relu |> head", "relu |> dropout(p = 0.2) |> head"),
    )
    run(spec, folder / "a")
    run(spec, folder / "b")
    run(spec, folder / "c", sets={"seed": "4"})
    for name in ("model.safetensors", "metrics.csv"):
        first, second, third = ((folder / run_ / name).read_bytes() for run_ in "abc")
        assert first == second != third


def test_a_run_begins_with_the_weights_of_another(folder: Path) -> None:
    spec = edited(folder, ("batch = 8", "batch = 30"))
    run(spec, folder / "first", sets={"epochs": "40"})
    before = losses(run(spec, folder / "fresh", max_steps=1))[0]
    assert losses(run(spec, folder / "more", max_steps=1, weights=str(folder / "first")))[0] < before / 2


def test_a_step_is_that_of_torch(folder: Path) -> None:
    """Two steps of the run, against the loop written out."""
    spec = edited(folder, ("batch = 8", "batch = 30"), ('adam(lr = 0.05, no_decay = ["*.bias"])', "sgd(lr = 0.05)"))
    run(spec, folder / "none", sets={"lr": "0.0"}, max_steps=1)
    run(spec, folder / "two", max_steps=2)
    weights = {n: torch.tensor(v, requires_grad=True) for n, v in load_file(folder / "none/model.safetensors").items()}
    table = np.loadtxt(folder / "points.csv", delimiter=",", skiprows=1, dtype=np.float32)
    x, y = torch.tensor(table[:, :2]), torch.tensor(table[:, 2]).long()
    for _ in range(2):
        hidden = torch.relu(x @ weights["first.weight"].T + weights["first.bias"])
        loss = torch.nn.functional.cross_entropy(hidden @ weights["head.weight"].T + weights["head.bias"], y)
        gradients = torch.autograd.grad(loss, list(weights.values()))
        weights = {
            n: (w - 0.05 * g).detach().requires_grad_() for (n, w), g in zip(weights.items(), gradients, strict=True)
        }
    for name, found in load_file(folder / "two/model.safetensors").items():
        # the order of the rows of a batch, which is drawn, rounds the sums of gradients differently
        assert np.allclose(found, weights[name].detach().numpy(), atol=1e-6)


def test_settings_are_heeded(folder: Path) -> None:
    """The best checkpoint is kept, what is frozen stays, a run that no longer gets better ends."""
    more = """batch = 8
  val = split(0.2)
  clip = 1.0
  accumulate = 2
  precision = "bf16-mixed"
  freeze = ["first"]
  metrics = [accuracy(logits, data.label), f1(logits, data.label, average = "macro")]
  checkpoint = best("val_accuracy", mode = "max", keep = 2)
  early_stop = early_stopping("val_loss", patience = 1)"""
    spec = edited(folder, ("batch = 8", more), ("epochs = 3", "epochs = 30"))
    run(spec, folder / "none", sets={"lr": "0.0"}, max_steps=1)
    rows = run(spec, folder / "run", sets={"lr": "2.0"})
    before, after = (load_file(folder / name / "model.safetensors") for name in ("none", "run"))
    assert np.array_equal(before["first.weight"], after["first.weight"])
    assert not np.array_equal(before["head.weight"], after["head.weight"])
    assert len(losses(rows, "val_loss")) < 30 and losses(rows, "val_f1")
    record = json.loads((folder / "run/run.json").read_text())
    assert record["status"] == "finished" and record["settings"]["precision"] == '"bf16-mixed"'
    assert len(list((folder / "run/checkpoints").glob("best-*/model.safetensors"))) == 2


PARTS = """\
dim B
block Half(dim: int) {
  param w: Tensor[dim, dim] = normal(std = 0.1)
  forward(x: Tensor[B, dim]) -> y: Tensor[B, dim] {
    y = x @ w
    when train { aux size = mean(y * y) }
    return y
  }
}
model Net(dim: int = 3) {
  a: Half(dim)
  b: Half(dim)
  c: Half(dim)
  tie c.w = a.w
  forward(x: Tensor[B, dim]) -> y: Tensor[B, dim] = x |> a |> b |> c
}
train Net {
  data   = npz("x.npz", first = "x")
  let scaled = data.first * 2.0
  inputs = bind(x = scaled)
  let off = y - data.first
  loss   = LOSS
  optim  = sgd(lr = 0.1)
  batch  = 8
  steps  = 40
}
"""


def test_bound_inputs_lets_auxiliary_losses_and_ties(folder: Path) -> None:
    """Against the same written in torch; the weights of a run are stored once, as those of a build are."""
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    np.savez(folder / "x.npz", x=x)
    spec = folder / "parts.spec"
    spec.write_text(PARTS.replace("LOSS", "mean(off ** 2) + 0.5 * aux.size"))
    first = losses(run(str(spec), folder / "run"))[0]
    run(str(spec), folder / "none", sets={"lr": "0.0"})
    weights = {name: torch.tensor(value) for name, value in load_file(folder / "none/model.safetensors").items()}
    assert list(weights) == ["a.w", "b.w"]
    given = torch.tensor(x)
    one = 2 * given @ weights["a.w"]
    two = one @ weights["b.w"]
    three = two @ weights["a.w"]
    auxiliary = sum((h**2).mean() for h in (one, two, three))
    assert first == pytest.approx(float(((three - given) ** 2).mean() + 0.5 * auxiliary), rel=1e-5)
    build(BuildRequest(str(spec), weights=str(folder / "run"), render=False, out=folder / "build"))


def test_what_is_missing_is_named_with_its_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specc_runtime.libraries.find_spec", lambda name: None)
    assert "pip install 'specc-ml[train]'" in refused(edited(folder))


def test_steps_and_validation_between(folder: Path) -> None:
    spec = edited(folder, ("epochs = 3", "steps = 10\n  val_every = 3\n  val = split(0.2)"))
    assert len(losses(run(spec, folder / "run"), "val_loss")) == 3


def test_a_bar_on_a_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("specc_runtime.training.progress.on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    said: list[str] = []
    train(Request(edited(folder), out=folder / "run"), said.append)
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("Epoch 3/3", "step=12/12", "loss=", "lr=0.05", "samples/s="))
    assert len(said) == 2  # the plan, and what to run next


def test_ctrl_c_writes_what_there_is(folder: Path) -> None:
    spec = edited(folder, ("epochs = 3", "epochs = 100_000"))
    code = "import sys; from specc_runtime.cli import main; sys.exit(main())"
    argv = [sys.executable, "-u", "-c", code, "train", spec, "--out", str(folder / "run"), "--set", "batch=30"]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=alone) as process:
        assert process.stdout is not None
        begun = folder / "run/checkpoints/step-1"
        deadline = time.monotonic() + 60
        while not begun.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        text, _ = process.communicate(timeout=60)
    assert process.returncode == 130, text
    record = json.loads((folder / "run/run.json").read_text())
    assert record["status"] == "interrupted" and 0 < record["step"] < 100_000
    assert f"stopped after step {record['step']:,} of 100,000" in text
    assert f"specc train --resume {folder}/run" in text and "Traceback" not in text
    run(spec, folder / "more", weights=str(folder / "run"), max_steps=1)


# ---- data ------------------------------------------------------------------------------------------------------------


def test_sources_give_the_same_rows(folder: Path) -> None:
    table = np.loadtxt(folder / "points.csv", delimiter=",", skiprows=1)
    lines = "".join(json.dumps({"at": row[:2].tolist(), "class": int(row[2])}) + "\n" for row in table)
    (folder / "points.jsonl").write_text(lines)
    np.savez(folder / "points.npz", at=table[:, :2], label=table[:, 2].astype(int))
    old = 'csv("points.csv", x = ["x", "y"], label = "class")'
    found = [read(open_section(edited(folder), None, {}), "data")]
    for new in ('jsonl("points.jsonl", x = "at", label = "class")', 'npz("points.npz", x = "at", label = "label")'):
        found.append(read(open_section(edited(folder, (old, new)), None, {}), "data"))
    for data in found:
        assert np.array_equal(data.fields["x"].array(), table[:, :2].astype(np.float32))
        assert np.array_equal(data.fields["label"].array(), table[:, 2].astype(np.int64))


def test_text_in_bytes(folder: Path) -> None:
    """A bigram table learns that letters alternate."""
    (folder / "a.txt").write_text("ab" * 200)
    (folder / "lm.spec").write_text(
        """\
from std.nn import Embedding
dim B, T
model LM {
  table: Embedding(256, 256)
  forward(input_ids: Int[B, T]) -> logits: Tensor[B, T, 256] = table(input_ids)
}
train LM {
  data    = text("*.txt", tokenizer = "bytes", length = 20)
  loss    = cross_entropy(logits[:, :-1], input_ids[:, 1:])
  optim   = adam(lr = 0.3)
  sched   = linear(warmup = 2)
  metrics = [perplexity(loss)]
  batch   = 10
  epochs  = 20
}
"""
    )
    rows = run(str(folder / "lm.spec"), folder / "run")
    assert losses(rows, "perplexity")[-1] < 1.2 < losses(rows, "perplexity")[0]


def test_text_in_pieces_that_are_learnt(folder: Path) -> None:
    """The tokenizer that a run trained goes with its weights into a build, and gives the text back."""
    text = "the cat sat on the mat\n" * 60
    (folder / "a.txt").write_text(text)
    (folder / "lm.spec").write_text(
        """\
from std.nn import Embedding
dim B, T
model LM(vocab: int = 270) {
  table: Embedding(vocab, vocab)
  forward(input_ids: Int[B, T]) -> logits: Tensor[B, T, vocab] = table(input_ids)
}
train LM {
  data  = text("a.txt", tokenizer = bpe(vocab), length = 8)
  loss  = cross_entropy(logits[:, :-1], input_ids[:, 1:])
  optim = adam(lr = 0.1)
  batch = 16
  steps = 2
}
"""
    )
    spec = str(folder / "lm.spec")
    run(spec, folder / "run")
    tokenizer = Tokenizer.from_file(str(folder / "run/tokenizer.json"))
    assert 256 < tokenizer.get_vocab_size() <= 270
    data = read(open_section(spec, None, {}), "data")
    assert text.startswith(tokenizer.decode(data.fields["input_ids"].array().reshape(-1).tolist())[:-1])
    assert "ids, the model takes 0 to 9" in refused(spec, sets={"data": TEXT.replace("vocab", "270"), "vocab": "10"})
    assert "bpe takes the number of its ids" in refused(spec, sets={"data": TEXT.replace("vocab", "7")})


TEXT = 'text("a.txt", tokenizer = bpe(vocab), length = 8)'

BAD = {
    "no file": ("", None, "cannot read points.csv: No such file or directory"),
    "no rows": ("x,y,class\n", None, "points.csv has no rows"),
    "a word": ("x,y,class\n1,2,0\n1,two,1\n", None, 'points.csv, line 3, column `y`: expected a number, found "two"'),
    "nothing": ("x,y,class\n1,,0\n", None, "points.csv, line 2, column `y`: expected a number, found nothing"),
    "infinity": ("x,y,class\n1,inf,0\n", None, "points.csv, line 2, column `y`: inf is not a finite number"),
    "short row": ("x,y,class\n1,2\n", None, "points.csv, line 2: 2 columns, the header has 3"),
    "no column": ("x,y,klass\n1,2,0\n", None, "did you mean `klass`?"),
    "a label": ("x,y,class\n1,2,0\n1,2,3\n", None, "points.csv, line 3, column `class`: the label is 3"),
    "fractions": ("x,y,class\n1,2,0.5\n", None, "line 2, column `class`: the label is 0.5, the classes are 0 to 2"),
    "too large": ("x,y,class\n1,1e300,0\n", None, "column `y`: 1e300 is more than single precision holds"),
    "no commas": ("x;y;class\n1;2;0\n", None, 'points.csv has one column, `x;y;class`: it is divided by ";"'),
    "one column": (None, ('["x", "y"]', '["x"]'), "expected: [B, 2]"),
    "a flat field": (None, ('["x", "y"]', '"x"'), "does not fit the input `x`"),
    "source": (None, ("csv(", "parquet("), "points.csv is not a parquet file"),
    "unknown metric": (None, ("batch = 8", "batch = 8; metrics = [bleu(logits, data.label)]"), "bleu takes ids"),
    "optimiser": (None, ('adam(lr = 0.05, no_decay = ["*.bias"])', "lyon()"), "did you mean `lion`?"),
    "argument": (None, ("lr = 0.05", "rate = 0.05"), "adam has no argument `rate`"),
    "a text": (None, ("lr = 0.05", 'lr = "a"'), 'adam: `lr` is a number, found "a"'),
    "value": (None, ("lr = 0.05", "lr = 0.0 - 1"), "adam: Invalid learning rate"),
    "schedule": (None, ("batch = 8", "batch = 8; sched = plateau()"), 'nothing measured is called "val_loss"'),
    "no steps": (None, ("batch = 8", "batch = 8; sched = cosine(warmup = 1.5)"), "`warmup` is a number of steps, or"),
    "no ids": (None, ("batch = 8", "batch = tokens(100)"), "counts ids of texts: points.csv has none"),
    "function": (None, ('"class")', 'colum("class"))'), "did you mean `column`?"),
    "no field": (None, ("data.label)", "data.lable)"), "the data has no field `lable`"),
    "measured": (None, ("batch = 8", "batch = 8; metrics = [accuracy(logits, data.lable)]"), "has no field `lable`"),
    "below 0": (None, ("batch = 8", "batch = 8; workers = -1"), "`workers` is an int of at least 0"),
    "monitor": (None, ("batch = 8", 'batch = 8; early_stop = early_stopping("val_los")'), 'is called "val_los"'),
    "all frozen": (None, ("batch = 8", 'batch = 8; freeze = ["*"]'), "freezes every parameter"),
    "part": (None, ("batch = 8", "batch = 8; val = split(0.01)"), "leaves none to train or none to validate on"),
    "devices": (None, ("batch = 8", "batch = 8; devices = 0"), '`devices` is "auto" or a number'),
    "no number yet": (None, ("lr = 0.05", "lr = data.x"), "`data.x` is not known before training"),
    "seed": (None, ("batch = 8", "batch = 8; seed = 5_000_000_000"), "`seed` is less than 2**32"),
    "betas": (None, ("lr = 0.05", "lr = 0.05, betas = (0.9, 1.5)"), "adam: Invalid beta parameter"),
    "shape": (None, ("data.label)", "data.x)"), "cross_entropy: the target is Tensor[B, 2], expected Tensor[B, 3]"),
    "no scalar": (None, ("cross_entropy(logits, data.label)", "logits"), "the loss is not a scalar"),
    "frozen by": (None, ("batch = 8", "batch = 8; freeze = 3"), "`freeze` is a list of patterns"),
    "decayed by": (None, ('["*.bias"]', "3"), "`no_decay` is a list of patterns"),
    "how often": (None, ("batch = 8", "batch = 8; val_every = 0"), "`val_every` is"),
    "two parts": (None, ("batch = 8", "batch = 8; val = split(0.1, 0.2)"), "split takes 1 argument"),
    "weights": (None, ("batch = 8", "batch = 8; weights = 3"), "`weights` is a path"),
    "norm": (None, ("batch = 8", "batch = 8; clip = 0.0"), "`clip` is a gradient norm above 0"),
    "kept": (None, ("batch = 8", 'batch = 8; val = split(0.2); checkpoint = best("val_loss", keep = 0)'), "`keep` is"),
    "cycle": (None, ("batch = 8", "batch = 8; sched = one_cycle(max_lr = 1.0, total = 3)"), "the run has 12"),
    "weighted": (None, ("data.label)", "data.label, weight = [1.0, 2.0])"), "axis 0 of weight must be 3, found 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_told_before_training(case: str, folder: Path) -> None:
    content, change, expected = BAD[case]
    if content == "":
        (folder / "points.csv").unlink()
    elif content is not None:
        (folder / "points.csv").write_text(content)
    assert expected in refused(edited(folder, *([change] if change is not None else [])))
    assert not (folder / "runs").exists()


def test_overrides_go_where_their_name_is(folder: Path) -> None:
    spec = edited(folder)
    given = open_section(spec, None, {"weight_decay": "0.1", "hidden": "4"})
    assert "weight_decay = 0.1" in unparse(given.settings["optim"]) and given.sets == {"hidden": "4"}
    assert "--set batch=16" in refused(spec, sets={"batch_size": "16"})
    assert "T502" in refused(spec, sets={"epochs": "1", "steps": "1"})
    assert "--set lr=0.1" in refused(spec, sets={"learning_rate": "0.1"})


def test_what_is_watched_tells_which_way_is_up(folder: Path) -> None:
    """Without `mode`, the best accuracy is the largest."""
    spec = edited(folder, ("epochs = 3", "epochs = 12; val = split(0.5); metrics = [accuracy(logits, data.label)]"))
    sets = {"checkpoint": 'best("val_accuracy")', "early_stop": 'early_stopping("val_accuracy", patience = 2)'}
    said: list[str] = []
    train(Request(spec, out=folder / "run", sets=sets), said.append)
    ended = history(folder / "run")["val_accuracy"]
    state = json.loads((folder / "run/run.json").read_bytes())
    best = next(step for step, value in zip(*vars(ended).values(), strict=True) if value == max(ended.values))
    assert (folder / f"run/checkpoints/best-{best}").is_dir() and max(ended.values) > ended.values[0]
    assert state["step"] == ended.steps[-1] < state["steps"]
    assert f"trained {state['step']} of {state['steps']} steps, as early_stop has it: best val_loss" in said[-1]
    assert all(map(less_is_better, ("val_perplexity_2", "val_word_error_rate"))) and not less_is_better("val_f1_2")


def test_the_part_that_gets_what_is_not_finite_is_named(folder: Path) -> None:
    path = edited(folder, ("|> relu |>", "|> log |>"))
    with pytest.raises(Rejected, match=r"T532.*before any step: the first input that is not finite is that of head"):
        train(Request(path, out=folder / "run"))


def test_a_run_folder_in_use_stays(folder: Path) -> None:
    assert "exists: nothing was written" in refused(edited(folder), out=folder)


def test_run_folders_are_numbered(folder: Path) -> None:
    with chdir(folder):
        for number in (1, 2):
            assert train(Request("net.spec", max_steps=1)) == Run(Path(f"runs/Net-points-{number}"), interrupted=False)


# ---- losses, schedules -----------------------------------------------------------------------------------------------

SCHEDULES: dict[str, dict[int, float]] = {
    "constant()": {0: 1.0, 99: 1.0},
    "constant(warmup = 4)": {0: 0.25, 3: 1.0, 50: 1.0},
    "linear(warmup = 0.1)": {0: 0.1, 9: 1.0, 10: 1.0, 55: 0.5, 100: 0.0},
    "cosine(warmup = 20, min_lr = 0.1)": {19: 1.0, 20: 1.0, 60: 0.55, 100: 0.1},
    "step(step_size = 30, gamma = 0.5)": {29: 1.0, 30: 0.5, 60: 0.25},
    "noam(dim = 64, warmup = 10)": {0: 64**-0.5 * 10**-1.5, 9: 64**-0.5 * 10**-0.5, 99: 64**-0.5 * 0.1},
    "one_cycle(max_lr = 2.0)": {0: 0.08, 29: 2.0, 99: 0.000008},
}


@pytest.mark.parametrize("text", SCHEDULES)
def test_schedules(text: str, folder: Path) -> None:
    """Learning rates by step, of 1.0 and 100 steps."""
    section = open_section(edited(folder), None, {"sched": text, "lr": "1.0"})
    module = torch.nn.ModuleDict({"first": torch.nn.Linear(2, 2)})
    chosen = optimiser(section, module)
    assert [len(group["params"]) for group in chosen.param_groups] == [1, 1]
    sched = schedule(section, chosen, 100)
    assert sched is not None
    rates = []
    for _ in range(100):
        rates.append(chosen.param_groups[0]["lr"])
        chosen.step()
        if len(rates) < 100:
            sched.step()
    wanted = {at: rate for at, rate in SCHEDULES[text].items() if at < 100}
    assert {at: rates[at] for at in wanted} == pytest.approx(wanted, rel=1e-3, abs=1e-6)


def test_data_sets_are_what_the_script_writes() -> None:
    """Texts to the letter; packed arrays by what is in them, samples of sounds to the last bit but one."""
    folder = ROOT / "specs/data"
    names = {"README.md"}
    for name, made in make_data.files():
        names.add(name)
        found = (folder / name).read_bytes()
        if name.endswith(".npz"):
            with np.load(io.BytesIO(found)) as ours, np.load(io.BytesIO(made)) as theirs:
                assert ours.files == theirs.files
                assert all(np.array_equal(ours[key], theirs[key]) for key in ours.files)
        elif name.endswith(".wav"):
            ours, theirs = np.frombuffer(found, np.uint8).astype(int), np.frombuffer(made, np.uint8)
            assert abs(ours - theirs).max() <= 1
        else:
            assert found == made
    assert names == {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


# ---- imports ---------------------------------------------------------------------------------------------------------


def test_nothing_heavy_before_training() -> None:
    code = "import specc_runtime, specc_runtime.cli.train, specc_runtime.training.section"
    assert loaded(code, "torch", "lightning", "torchmetrics", "numpy") == []

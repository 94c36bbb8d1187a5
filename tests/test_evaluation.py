"""What a run folder has besides weights, and `specc eval`, which measures them again."""

from __future__ import annotations

import csv
import json
import os
import signal
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from points import NET, write_points
from safetensors.torch import load_file
from tensorboardX.proto.event_pb2 import Event  # type: ignore[import-untyped]

from specc import report
from specc.diagnostics import Rejected
from specc.syntax.unparse import unparse
from specc_runtime.cli import cli
from specc_runtime.training import progress
from specc_runtime.training.resolved import resolved
from specc_runtime.training.run import Request, train
from specc_runtime.training.section import Section, open_section

pytestmark = pytest.mark.usefixtures("one_thread")

SECTION = """\
train Net "points" {
  data  = csv("points.csv", x = ["x", "y"], label = "class")
  val   = split(0.3)
  loss  = cross_entropy(logits, data.label)
  optim = adam(lr = 0.05)
  metrics = [accuracy(logits, data.label)]
  batch = 8
  epochs = 3
}
"""
SPEC = NET + SECTION


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a spec, data, and a run of them."""
    folder = tmp_path_factory.mktemp("project")
    draw = np.random.default_rng(0)
    for name, count in (("points", 40), ("others", 20)):
        write_points(folder / f"{name}.csv", count, draw)
    (folder / "net.spec").write_text(SPEC)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        said: list[str] = []
        train(Request("net.spec", sets={"hidden": "16", "lr": "0.1"}, out=Path("runs/a")), said.append)
    (folder / "said.txt").write_text(said[-1])
    return folder


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard's files in a folder hold: length, its checksum, an event, its checksum, and so on."""
    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.glob("events.out.tfevents.*")):
        content, at = file.read_bytes(), 0
        while at < len(content):
            (size,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + size])
            at += 12 + size + 4
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def evaluated(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["eval", *arguments])


def values(*arguments: str) -> dict[str, float]:
    done = evaluated(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)["values"]
    return found


# ---- the run folder --------------------------------------------------------------------------------------------------


def test_events_are_those_of_the_table(here: Path) -> None:
    rows = list(csv.DictReader(Path("runs/a/metrics.csv").read_text().splitlines()))
    found = scalars(Path("runs/a/tensorboard"))
    for name in ("loss", "lr", "val_loss", "val_accuracy"):
        written = {int(row["step"]): float(row[name]) for row in rows if row[name]}
        assert dict(found[name]) == pytest.approx(written) and written
    assert [p.name for p in Path("runs/a").iterdir() if p.suffix == ".yaml"] == []


def test_events_go_on_where_a_run_does(here: Path) -> None:
    train(Request("net.spec", sets={"save_every": "2"}, out=Path("runs/longer"), max_steps=5))
    (first,) = Path("runs/longer/tensorboard").iterdir()
    first.rename(first.with_name("events.out.tfevents.0"))  # both may begin within one second
    train(Request(resume=Path("runs/longer"), max_steps=9))
    rows = list(csv.DictReader(Path("runs/longer/metrics.csv").read_text().splitlines()))
    found = dict(scalars(Path("runs/longer/tensorboard"))["loss"])
    assert found == pytest.approx({int(row["step"]): float(row["loss"]) for row in rows if row["loss"]})
    assert len(found) == 9


def test_curves_are_drawn_at_the_end(here: Path) -> None:
    drawn = Path("runs/a/curves.svg").read_text()
    assert all(f">{name}</text>" in drawn for name in ("loss", "val_loss", "val_accuracy", "lr"))


def test_the_end_tells_what_was_reached_and_what_to_run(here: Path) -> None:
    first, *rest = Path("said.txt").read_text().splitlines()
    rows = list(csv.DictReader(Path("runs/a/metrics.csv").read_text().splitlines()))
    loss = min(float(row["val_loss"]) for row in rows if row["val_loss"])
    assert first.startswith(f"trained 12 steps: best val_loss {loss:.4g}, best val_accuracy ")
    assert first.endswith(" (runs/a/curves.svg)")
    assert rest == ["next:", "  specc build net.spec --set hidden=16 --weights runs/a"]


def test_curves_are_drawn_of_a_run_that_is_interrupted(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tell = progress.Lines.on_train_batch_end

    def press(self: progress.Lines, trainer: Any, *arguments: Any) -> None:
        tell(self, trainer, *arguments)
        if trainer.global_step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(progress.Lines, "on_train_batch_end", press)
    done = train(Request("net.spec", out=Path("runs/pressed")))
    assert done is not None and done.interrupted
    assert Path("runs/pressed/curves.svg").exists()


def settings_of(section: Section) -> dict[str, str]:
    return {name: unparse(value) for name, value in section.settings.items()}


def test_the_spec_as_resolved_trains_to_the_same_bits(here: Path) -> None:
    text = Path("runs/a/resolved.spec").read_text()
    assert 'preset "resolved" = Net(hidden = 16)' in text and "optim = adam(lr = 0.1)" in text
    Path("again.spec").write_text(text)
    train(Request("again.spec", out=Path("runs/again")))
    assert Path("runs/again/model.safetensors").read_bytes() == Path("runs/a/model.safetensors").read_bytes()
    assert Path("runs/again/resolved.spec").read_text() == text


@pytest.mark.parametrize(
    "sets",
    [
        {"steps": "7"},
        {"clip": "1.0", "seed": "3", "hidden": "4"},
        {"metrics": "[f1(logits, data.label)]", "log": '["csv"]'},
        {},
    ],
)
def test_what_is_resolved_reads_back(sets: dict[str, str], here: Path) -> None:
    for name, text in (("open", SPEC), ("line", SPEC.replace("\n  batch", "; batch").replace("3\n}", "3 }"))):
        Path(f"{name}.spec").write_text(f'{text}\npreset "resolved" = Net(hidden = 9)\n')
        section = open_section(f"{name}.spec", None, sets)
        Path("back.spec").write_text(resolved(section))
        back = open_section("back.spec", None, {})
        preset = {"preset": '"resolved-2"'} if "hidden" in sets else {}
        assert settings_of(back) == {**settings_of(section), **preset}


def test_a_table_alone(here: Path) -> None:
    train(Request("net.spec", sets={"log": '"csv"'}, out=Path("runs/b"), max_steps=1))
    assert Path("runs/b/metrics.csv").exists() and not Path("runs/b/tensorboard").exists()
    train(Request("net.spec", sets={"log": '["csv", "tensorboard"]'}, out=Path("runs/c"), max_steps=1))
    assert scalars(Path("runs/c/tensorboard"))


def test_events_that_nothing_writes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("libraries", "training.events"):
        there = f"specc_runtime.{place}.installed"
        monkeypatch.setattr(there, lambda name: not name.startswith("tensorboard"))
    with pytest.raises(Rejected) as caught:
        train(Request("net.spec", sets={"log": '"tensorboard"'}, dry_run=True))
    assert '`log = "tensorboard"` needs tensorboardX' in report.full(caught.value.diagnostics)
    train(Request("net.spec", out=Path("runs/d"), max_steps=1))
    assert not Path("runs/d/tensorboard").exists()


# ---- specc eval ------------------------------------------------------------------------------------------------------


def test_a_run_gives_again_what_it_gave(here: Path) -> None:
    last = json.loads(Path("runs/a/run.json").read_text())["metrics"]
    assert values("runs/a") == pytest.approx({"loss": last["val_loss"], "accuracy": last["val_accuracy"]}, abs=1e-6)
    lines = evaluated("runs/a").stdout.splitlines()
    assert lines[0] == 'Net "points", runs/a on 12 rows of points.csv'
    assert [line.split()[0] for line in lines[1:]] == ["loss", "accuracy"]


def test_a_schedule_has_nothing_to_do_with_it(here: Path, tmp_path: Path) -> None:
    """One that looks at validations, and every other setting of the loop."""
    sets = {"sched": 'plateau("val_loss")', "early_stop": 'early_stopping("val_loss")', "ema": "0.9", "clip": "1.0"}
    run = tmp_path / "run"
    train(Request("net.spec", sets={**sets, "checkpoint": 'best("val_loss")', "accumulate": "2"}, out=run))
    reached = json.loads((run / "run.json").read_text())["metrics"]["val_loss"]
    assert values(str(run))["loss"] <= reached + 1e-6


def test_other_data_other_metrics_other_weights(here: Path) -> None:
    others = 'csv("others.csv", x = ["x", "y"], label = "class")'
    done = json.loads(evaluated("runs/a", "--data", others, "--json").stdout)
    assert (done["data"], done["rows"], done["trained_on"]) == ("others.csv", 20, False)
    table = np.loadtxt("others.csv", delimiter=",", skiprows=1)
    weights = load_file("runs/a/model.safetensors")
    x, label = torch.tensor(table[:, :2], dtype=torch.float32), torch.tensor(table[:, 2]).long()
    hidden = torch.relu(x @ weights["first.weight"].T + weights["first.bias"])
    logits = hidden @ weights["head.weight"].T + weights["head.bias"]
    assert done["values"] == pytest.approx(
        {
            "loss": float(torch.nn.functional.cross_entropy(logits, label)),
            "accuracy": float((logits.argmax(-1) == label).float().mean()),
        }
    )
    assert values("runs/a", "--set", "batch=3", "--data", others) == pytest.approx(done["values"])
    assert list(values("runs/a", "--set", 'metrics=[f1(logits, data.label, average = "macro")]')) == ["loss", "f1"]
    fresh = train(Request("net.spec", sets={"hidden": "16", "lr": "0.0"}, out=Path("runs/fresh"), max_steps=1))
    assert fresh is not None
    assert values("runs/a", "--weights", "runs/fresh") == pytest.approx(values("runs/fresh"))


def test_a_section_without_validation_says_what_it_measured(here: Path) -> None:
    (here / "all.spec").write_text(SPEC.replace("  val   = split(0.3)\n", ""))
    train(Request("all.spec", out=Path("runs/all"), max_steps=1))
    assert "on 40 rows of points.csv, which it was trained on" in evaluated("runs/all").stdout


def test_evaluating_leaves_the_run_as_it_is(here: Path) -> None:
    before = {path: path.read_bytes() for path in Path("runs/a").rglob("*") if path.is_file()}
    values("runs/a")
    assert before == {path: path.read_bytes() for path in Path("runs/a").rglob("*") if path.is_file()}


def test_what_cannot_be_evaluated(here: Path) -> None:
    Path("torn").mkdir(exist_ok=True)
    Path("torn/run.json").write_text("{")
    for arguments, expected in (
        (["nowhere"], "there is no folder `nowhere`"),
        (["runs"], "`runs` is no run: no run.json"),
        (["torn"], "`torn` is no run: run.json is damaged"),
        (["runs/a", "--data", 'csv("gone.csv", x = ["x", "y"], label = "class")'], "gone.csv"),
        (["runs/a", "--data", "3"], "`val`"),
        (["runs/a", "--set", "metrics=[accuracies(logits, data.label)]"], "accuracies"),
        (["runs/a", "--weights", "nowhere"], "nowhere"),
        (["runs/a", "--spec", "nowhere.spec"], "nowhere.spec"),
    ):
        done = evaluated(*arguments)
        assert done.exit_code == 1 and expected in done.stderr, done.stderr


def test_what_the_section_says_is_told_where_it_stands(here: Path) -> None:
    train(Request("net.spec", out=Path("runs/far"), max_steps=1))
    Path("far.csv").write_text("x,y,class\n1,2,9\n")
    done = evaluated("runs/far", "--data", 'csv("far.csv", x = ["x", "y"], label = "class")')
    assert "far.csv, line 2, column `class`: the label is 9" in done.stderr and "--> net.spec:" in done.stderr


def test_a_spec_that_was_moved(here: Path) -> None:
    train(Request("net.spec", out=Path("runs/moved"), max_steps=1))
    known = values("runs/moved")
    record = json.loads(Path("runs/moved/run.json").read_text())
    record["asked"]["spec"] = "../../before/net.spec"
    Path("runs/moved/run.json").write_text(json.dumps(record))
    assert "specc eval runs/moved --spec FILE" in evaluated("runs/moved").stderr
    assert values("runs/moved", "--spec", "net.spec") == known

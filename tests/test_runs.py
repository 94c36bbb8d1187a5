"""`specc runs`, and the curves of a run: what lies in run folders, listed and drawn without torch."""

from __future__ import annotations

import fcntl
import json
import os
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fresh import loaded

from specc_runtime.cli import cli
from specc_runtime.training import curves
from specc_runtime.training.history import Series, best, history

NOW = 1_700_000_000


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "time", lambda: NOW)
    return tmp_path


def make(name: str, *rows: str, age: int = 0, **changes: object) -> Path:
    """A run folder with these rows of loss, lr, step, val_accuracy and val_loss."""
    folder = Path(name)
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(
        "epoch,loss,lr,step,val_accuracy,val_loss\n" + "".join(f"0,{r}\n" for r in rows)
    )
    record = {
        "format": "specc-run/1",
        "model": "Net",
        "section": "points",
        "preset": None,
        "sets": {},
        "settings": {"optim": "adam(lr = 0.1)", "batch": "8"},
        "status": "finished",
        "step": 10,
        "steps": 10,
        **changes,
    }
    (folder / "run.json").write_text(json.dumps(record))
    os.utime(folder / "run.json", (NOW - age, NOW - age))
    return folder


@pytest.fixture
def two(here: Path) -> tuple[Path, Path]:
    first = make("runs/a", "1.5,0.1,0,,", ",,4,0.25,0.9", ",,9,0.5,1.1", age=7300, sets={"hidden": "16"})
    settings = {"optim": "adam(lr = 0.5)", "batch": "8", "clip": "1.0"}
    second = make("runs/b", "1.25,0.5,0,,", ",,4,0.75,0.4", status="interrupted", step=5, settings=settings)
    return first, second


def specc(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["runs", *arguments])


def cells(text: str) -> list[list[str]]:
    """Words of each line, two spaces apart."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]


def test_runs_are_listed_latest_first(two: tuple[Path, Path]) -> None:
    done = specc()
    assert done.exit_code == 0
    head, *rows = cells(done.stdout)
    assert head == ["run", "section", "when", "status", "steps", "val_loss", "val_accuracy", "size"]
    assert rows[0][:7] == ["runs/b", 'Net "points"', "now", "interrupted", "5/10", "0.4", "0.75"]
    assert rows[1][:7] == ["runs/a", 'Net "points"', "2 h ago", "finished", "10", "0.9", "0.5"]
    make("runs/c", age=10**6, preset="small")
    head, *rows = cells(specc().stdout)
    assert head[2] == "preset" and [row[2] for row in rows] == ["-", "-", "small"]


@pytest.mark.parametrize(
    "by, first", [("val_loss", "b"), ("val_accuracy", "b"), ("loss", "b"), ("run", "a"), ("steps", "a"), ("when", "b")]
)
def test_runs_are_sorted(by: str, first: str, two: tuple[Path, Path]) -> None:
    make("runs/none", "", age=9000)
    found = json.loads(specc("runs", "--sort", by, "--json").stdout)
    assert found[0]["run"] == f"runs/{first}"
    assert by in ("run", "steps", "when") or found[-1]["run"] == "runs/none"


def test_runs_side_by_side(two: tuple[Path, Path]) -> None:
    rows = cells(specc("runs/a", "runs/b").stdout)
    assert rows[0] == ["runs/a", "runs/b"]
    assert rows[1:4] == [
        ["optim", "adam(lr = 0.1)", "adam(lr = 0.5)"],
        ["clip", "-", "1.0"],
        ["hidden (hyper-parameter)", "16", "-"],
    ]
    assert ["best val_loss", "0.9", "0.4"] in rows and ["last val_loss", "1.1", "0.4"] in rows
    assert not any(row[:1] == ["batch"] for row in rows)  # both have it


def test_one_run(two: tuple[Path, Path]) -> None:
    rows = cells(specc("runs/a").stdout)
    assert rows[0] == ["runs/a"] and ["batch", "8"] in rows and ["hidden", "16"] in rows
    assert json.loads(specc("runs/a", "--json").stdout)[0]["best"] == {
        "loss": 1.5,
        "val_accuracy": 0.5,
        "val_loss": 0.9,
    }


def test_what_a_run_began_with(two: tuple[Path, Path]) -> None:
    make("runs/tuned", asked={"spec": "../../net.spec", "weights": "../a"})
    assert ["weights", '"runs/a"'] in cells(specc("runs/tuned").stdout)


def test_what_is_no_run_is_skipped_with_a_note(two: tuple[Path, Path]) -> None:
    make("runs/later", format="specc-run/9")
    make("runs/torn")
    Path("runs/torn/run.json").write_text('{"format": "specc-r')
    make("runs/rows")
    Path("runs/rows/metrics.csv").write_bytes(b"\xff\xfe")
    Path("runs/other").mkdir()
    Path("runs/file").touch()
    done = specc()
    assert done.exit_code == 0 and len(cells(done.stdout)) == 3
    assert done.stderr.splitlines() == [
        "note: skipped runs/later: run.json is of another version of specc",
        "note: skipped runs/other: no run.json",
        "note: skipped runs/rows: metrics.csv is no table: 'utf-8' codec can't decode byte 0xff in position 0: "
        "invalid start byte",
        "note: skipped runs/torn: run.json is damaged",
    ]


@pytest.mark.parametrize(
    "content", ["[]", "3", "{}", '{"format": "specc-run/1"}', '{"format": "specc-run/1", "model": 3']
)
def test_a_damaged_record_gives_no_traceback(content: str) -> None:
    make("runs/a")
    Path("runs/a/run.json").write_text(content)
    assert "run.json is damaged" in specc().stderr
    assert specc("runs/a").exit_code == 1


def test_a_run_that_was_killed_is_called_so() -> None:
    folder = make("runs/a", "1.5,0.1,0,,", status="running", step=0)
    (killed,) = json.loads(specc("--json").stdout)
    assert killed["status"] == "killed" and killed["step"] == 1  # what it measured last
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert json.loads(specc("--json").stdout)[0]["status"] == "running"
    os.close(handle)


def test_mistakes(two: tuple[Path, Path]) -> None:
    for arguments, expected in (
        (["nowhere"], "cannot list `nowhere`: No such file or directory"),
        (["runs/a", "nowhere"], "there is no folder `nowhere`"),
        (["runs/a", "runs"], "`runs` is no run: no run.json"),
        (["--sort", "val_los"], "did you mean `val_loss`?"),
    ):
        done = specc(*arguments)
        assert done.exit_code == 1 and expected in done.stderr
    Path("empty").mkdir()
    assert specc("empty").stdout == "no runs in empty\n"


def test_runs_load_nothing_heavy() -> None:
    code = "import specc_runtime.cli.runs, specc_runtime.training.runs, specc_runtime.training.curves"
    assert loaded(code, "torch", "lightning", "numpy", "matplotlib", "rich") == []


# ---- metrics.csv and curves ------------------------------------------------------------------------------------------


def test_history_counts_steps_from_one_and_leaves_out_what_is_torn() -> None:
    folder = make("runs/a", "1.5,0.1,0,,", "nan,0.1,1,,", "1.25,0.1,2,,", ",,2,0.5,0.75", "1.1")
    assert history(folder) == {
        "loss": Series((1, 3), (1.5, 1.25)),
        "lr": Series((1, 2, 3), (0.1, 0.1, 0.1)),
        "val_accuracy": Series((3,), (0.5,)),
        "val_loss": Series((3,), (0.75,)),
    }
    assert best(history(folder)) == {"loss": 1.25, "val_accuracy": 0.5, "val_loss": 0.75}


def test_curves_are_the_same_bytes_and_say_what_they_show() -> None:
    rows = [f"{1 / (i + 1)},{0.1 / (i + 1)},{i},," for i in range(100)] + [f",,{i},{i / 100},0.5" for i in (49, 99)]
    folder = make("runs/a", *rows)
    assert curves.draw(folder)
    drawn = (folder / "curves.svg").read_bytes()
    assert drawn == curves.svg(history(folder))
    texts = ["".join(e.itertext()) for e in ET.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]
    assert {"loss", "loss, running mean", "val_loss", "val_accuracy", "lr", "step"} <= set(texts)
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []


def test_nothing_measured_is_not_drawn() -> None:
    assert not curves.draw(make("runs/a"))
    assert not Path("runs/a/curves.svg").exists()


def test_a_running_mean_reaches_both_ends() -> None:
    assert curves.smooth((1.0, 3.0, 5.0, 3.0)) == [1.0, 3.0, pytest.approx(11 / 3), 3.0]

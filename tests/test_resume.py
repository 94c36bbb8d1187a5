"""`specc train --resume`: a run that was killed anywhere ends with the bits of one that was not."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interrupted import KINDS, at_batch, at_call, begun, half_removed, half_written, killed, same, spec, write_rows
from safetensors.torch import load_file

from specc import report
from specc.diagnostics import Rejected
from specc_runtime import publish
from specc_runtime.training import checkpoints, keeping
from specc_runtime.training.loop import Fit
from specc_runtime.training.resume import holding
from specc_runtime.training.run import Request, Run, train

pytestmark = pytest.mark.usefixtures("one_thread")  # none of several may be there when a process forks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_rows(tmp_path)


def killed_twice(kind: str, folder: Path, batches: Iterable[int]) -> None:
    """Within the run, and within its continuation."""
    path = spec(folder, KINDS[kind])
    train(Request(path, out=folder / "whole"))
    for first in batches:
        out = folder / f"at-{first}"
        if not killed(Request(path, out=out), at_batch(first)):
            break
        killed(Request(resume=out), at_batch(1 + first % 3))
        assert train(Request(resume=out)) == Run(out, interrupted=False)
        same(folder / "whole", out)


SOME = (5, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_a_batch(kind: str, folder: Path) -> None:
    killed_twice(kind, folder, SOME)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_every_batch(kind: str, folder: Path) -> None:
    killed_twice(kind, folder, (number for number in range(20) if number not in SOME))


MOMENTS: dict[str, Callable[[], None]] = {
    "a half-written state": half_written(2),
    "weights written": at_call(checkpoints, "write_weights", 2, after=True),
    "before the name is there": at_call(publish, "_swap", 2, after=False),
    "the name is there": at_call(publish, "_swap", 2, after=True),
    "before the oldest goes": at_call(keeping, "remove", 0, after=False),
    "half of the oldest is gone": half_removed,
    "run.json": at_call(os, "replace", 1, after=False),
    "all but the last word": at_call(os, "replace", 1, after=True),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_while_it_writes(moment: str, folder: Path) -> None:
    path = spec(folder, KINDS["unvalidated"].replace("9", "4"))
    train(Request(path, out=folder / "whole"))
    out = folder / "out"
    assert killed(Request(path, out=out), MOMENTS[moment])
    said: list[str] = []
    train(Request(resume=out), said.append)
    assert not any("damaged" in line for line in said)
    same(folder / "whole", out)
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["step-2", "step-3"]


def spoilt_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte of the weights": (lambda p: spoilt_byte(p / "model.safetensors"), "its model.safetensors is not what"),
    "a byte of the state": (lambda p: spoilt_byte(p / "trainer.pt"), "its trainer.pt is not what was written"),
    "a file that ends early": (lambda p: os.truncate(p / "trainer.pt", 100), "its trainer.pt is not what was written"),
    "a file that is gone": (lambda p: (p / "metrics.csv").unlink(), "its metrics.csv is gone"),
    "no index": (lambda p: (p / "checkpoint.json").unlink(), "it has no checkpoint.json"),
    "an index of nothing": (lambda p: (p / "checkpoint.json").write_text("{}"), "its checkpoint.json cannot be read"),
}


def test_a_damaged_checkpoint_is_told_and_the_one_before_taken(folder: Path) -> None:
    path = spec(folder, KINDS["unvalidated"].replace("9", "4"))
    train(Request(path, out=folder / "whole"))
    begun = folder / "begun"
    assert killed(Request(path, out=begun), at_batch(3))
    for damage, expected in DAMAGES.values():
        out = folder / "out"
        shutil.copytree(begun, out)
        last, before = checkpoints.states(out / "checkpoints")
        damage(last)
        said: list[str] = []
        train(Request(resume=out), said.append)
        assert any(f"checkpoint {last.name} is damaged: {expected}" in line for line in said)
        assert f"continuing after step {before.name.removeprefix('step-')}" in said
        same(folder / "whole", out)
        shutil.rmtree(out)
    for state in checkpoints.states(begun / "checkpoints"):
        spoilt_byte(state / "trainer.pt")
    train(Request(resume=begun), said.append)
    assert said[-1].startswith("trained") and "no checkpoint yet: beginning again" in said
    same(folder / "whole", begun)


@pytest.mark.parametrize("how", ["a file may not grow", "no space"])
def test_a_full_disk_loses_nothing(how: str, folder: Path) -> None:
    """The system's own refusal of a larger file, and one that comes with the sync."""
    path = spec(folder, KINDS["steps"])
    train(Request(path, out=folder / "whole"))
    out = folder / "out"
    child = os.fork()
    if child == 0:
        step, count = Fit.training_step, iter(range(100))

        def full(handle: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def filling(self: Fit, *args: Any) -> torch.Tensor:
            if next(count) == 6:
                if how == "no space":
                    pytest.MonkeyPatch().setattr(os, "fsync", full)
                else:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
            return step(self, *args)

        pytest.MonkeyPatch().setattr(Fit, "training_step", filling)
        try:
            train(Request(path, out=out))
        except Rejected as error:
            (folder / "told").write_text(report.full(error.diagnostics))
        os._exit(0)
    os.waitpid(child, 0)
    told = (folder / "told").read_text()
    assert "error[B640]: cannot write the run: " in told and f"specc train --resume {out}" in told
    assert ("No space left on device" if how == "no space" else "File too large") in told
    assert [p.name for p in checkpoints.states(out / "checkpoints")] == ["step-6", "step-5"]
    train(Request(resume=out))
    same(folder / "whole", out)


def stopped(path: str, out: Path, batch: int, requests: int = 1) -> list[str]:
    """Train in this process, which is asked to end within a batch; what is said."""
    step, count = Fit.training_step, iter(range(1000))
    said: list[str] = []

    def stopping(self: Fit, *args: Any) -> torch.Tensor:
        if next(count) == batch:
            for _ in range(requests):
                os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fit, "training_step", stopping)
        assert train(Request(path, out=out), said.append) == Run(out, interrupted=True)
    return said


def test_ctrl_c_keeps_the_state(folder: Path) -> None:
    """A request to end is heeded between two steps, not within one, and says how to go on."""
    path = spec(folder, KINDS["epochs"].replace("accumulate", "ema = 0.5; accumulate") + "  save_every = 100\n")
    path = str(Path(path))
    Path(path).write_text(Path(path).read_text().replace("  save_every = 1\n", ""))
    train(Request(path, out=folder / "whole"))
    out = folder / "out"
    said = stopped(path, out, batch=8)
    assert said[-1].startswith(f"stopped after step 5 of 9; to go on:\n  specc train --resume {out}\n")
    state = out / "checkpoints/step-5/model.safetensors"
    assert [p.name for p in (out / "checkpoints").glob("step-*")] == ["step-5"]
    kept = load_file(next((out / "checkpoints").glob("best-*")) / "model.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in load_file(out / "model.safetensors").items())
    assert load_file(state).keys() == kept.keys()
    train(Request(resume=out), said.append)
    same(folder / "whole", out)
    assert train(Request(resume=out), said.append) == Run(out, interrupted=False)
    assert said[-1] == f"{out} is finished after 9 steps: there is nothing to resume"


def test_a_spec_of_another_name_is_the_same(folder: Path) -> None:
    path = spec(folder, KINDS["epochs"])
    train(Request(path, out=folder / "run", max_steps=4))
    renamed = Path(shutil.move(path, folder / "other.spec"))
    text = renamed.read_text()
    renamed.write_text(text + text[text.index("train Net") :].replace('"', '"other ', 1))  # and another section
    train(Request(str(renamed), resume=folder / "run", max_steps=5))


def test_a_run_without_weights_says_where_there_are_some(folder: Path) -> None:
    path = spec(folder, KINDS["epochs"])
    train(Request(path, out=folder / "run", max_steps=4))
    (folder / "run/model.safetensors").unlink()
    with pytest.raises(Rejected, match=r"B660.*run has no weights") as caught:
        train(Request(path, weights=str(folder / "run"), dry_run=True))
    at = caught.value.diagnostics[0].help.rpartition("--weights ")[2]
    train(Request(path, weights=at, dry_run=True))


def test_a_moved_run_goes_on(folder: Path) -> None:
    """With the spec and the data beside it; and from another folder."""
    path = spec(folder, KINDS["epochs"])
    train(Request(path, out=folder / "whole"))
    assert killed(Request(path, out=folder / "runs/one"), at_batch(11))
    moved = folder.with_name(f"{folder.name}-moved")
    folder.rename(moved)
    with chdir(moved / "runs"):
        train(Request(resume=Path("one")))
    same(moved / "whole", moved / "runs/one")


def test_more_steps_than_were_asked_for(folder: Path) -> None:
    path = spec(folder, KINDS["steps"])
    train(Request(path, out=folder / "whole"))
    train(Request(path, out=folder / "part", max_steps=8))
    train(Request(resume=folder / "part", max_steps=20))
    one, other = (load_file(folder / name / "model.safetensors") for name in ("whole", "part"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_one_process_at_a_time(folder: Path) -> None:
    path = spec(folder, KINDS["steps"])
    assert killed(Request(path, out=folder / "out"), at_batch(3))
    with holding(folder / "out"), pytest.raises(Rejected, match=r"T533.*is being trained by another process"):
        train(Request(resume=folder / "out"))
    train(Request(resume=folder / "out"))


def test_a_second_ctrl_c_ends_it_at_once(folder: Path) -> None:
    path = spec(folder, KINDS["steps"])
    out = folder / "out"
    said = stopped(path, out, batch=6, requests=2)
    assert said[-1].startswith(f"stopped after step 6 of 11; to go on:\n  specc train --resume {out}\n")
    train(Request(path, out=folder / "whole"))
    train(Request(resume=out))
    same(folder / "whole", out)


def written(run: Path) -> int:
    """When `run.json` was, in nanoseconds; training begins then."""
    return (run / "run.json").stat().st_mtime_ns if (run / "run.json").exists() else 0


@pytest.mark.slow
def test_killed_at_any_moment(folder: Path) -> None:
    """By the clock: the command first, then processes that go on with its run."""
    path = spec(folder, KINDS["epochs"].replace("epochs = 3", "epochs = 12").replace("patience = 2", "patience = 99"))
    train(Request(path, out=folder / "whole"))
    out, draw = folder / "out", np.random.default_rng(1)
    command = [sys.executable, "-c", "from specc_runtime.cli import main; main()", "train", path, "--out", str(out)]
    killings = 0
    for turn in range(5):
        before = written(out)
        if turn == 0:
            process = os.posix_spawn(sys.executable, command, {**os.environ, "OMP_NUM_THREADS": "1"})
        else:
            process = begun(Request(resume=out))
        while os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and written(out) == before:
            time.sleep(0.01)
        assert written(out)
        time.sleep(draw.uniform(0, 0.5))
        os.kill(process, signal.SIGKILL)
        killings += os.waitpid(process, 0)[1] == signal.SIGKILL
    assert killings
    train(Request(resume=out))
    same(folder / "whole", out)

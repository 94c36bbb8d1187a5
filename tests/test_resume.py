"""`specc train --resume`: a run that was killed anywhere ends with the bits of one that was not."""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from specc import report
from specc.diagnostics import Rejected
from specc_runtime import publish
from specc_runtime.training import checkpoints, keeping
from specc_runtime.training.loop import Fit
from specc_runtime.training.resume import holding
from specc_runtime.training.run import Request, Run, train

pytestmark = pytest.mark.usefixtures("one_thread")  # none of several may be there when a process forks

SPEC = """\
from std.nn import Linear, BatchNorm1d
dim B
model Net(hidden: int = 6) {
  first: Linear(2, hidden)
  norm: BatchNorm1d(hidden)
  head: Linear(hidden, 3)
  forward(x: Tensor[B, 2]) -> logits: Tensor[B, 3] {
    h = norm(first(x)[:, :, none])[:, :, 0]
    return relu(h) |> dropout(p = 0.2) |> head
  }
}
train Net "points" {
  data  = csv("points.csv", x = ["x", "y"], label = "class")
  loss  = cross_entropy(logits + 0.1 * randn_like(logits), data.label)
  optim = adam(lr = 0.05)
  sched = cosine(warmup = 2)
  batch = 4
  save_every = 1
  SETTINGS
}
"""

KINDS = {
    "epochs": """\
  val = split(0.2)
  epochs = 3
  accumulate = 2
  metrics = [accuracy(logits, data.label)]
  checkpoint = best("val_loss", keep = 2)
  early_stop = early_stopping("val_loss", patience = 2)
""",
    "steps": """\
  val = split(0.2)
  steps = 11
  val_every = 3
  checkpoint = best("val_accuracy", mode = "max", every = 2)
  metrics = [accuracy(logits, data.label)]
  ema = 0.9
  clip = 0.5
""",
    "unvalidated": """\
  steps = 9
  metrics = [accuracy(logits, data.label), auroc(logits, data.label)]
  precision = "bf16-mixed"
""",
    "plateau": """\
  val = split(0.2)
  epochs = 4
  accumulate = 3
  optim = muon(lr = 0.1, momentum = 0.9)
  sched = plateau(patience = 0, factor = 0.5)
  freeze = ["first.bias"]
""",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    points = np.random.default_rng(0).normal(size=(27, 2))
    rows = "".join(f"{x:.3f},{y:.3f},{int(x > 0) + int(y > 0)}\n" for x, y in points)
    (tmp_path / "points.csv").write_text(f"x,y,class\n{rows}")
    return tmp_path


def spec(folder: Path, settings: str) -> str:
    """A spec with these settings, which come in place of its own."""
    path = folder / "net.spec"
    names = [line.split()[0] for line in settings.splitlines()]
    kept = [line for line in SPEC.splitlines() if not line.startswith("  ") or line.split()[0] not in names]
    path.write_text("\n".join(kept).replace("  SETTINGS\n", settings) + "\n")
    return str(path)


def begun(request: Request, when: Callable[[], None] = lambda: None) -> int:
    """Train in a process of its own that `when` has prepared; its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        when()
        train(request)
        status = 0
    finally:
        os._exit(status)


def killed(request: Request, when: Callable[[], None]) -> bool:
    """Train in a process of its own that `when` has prepared to be killed; whether it was."""
    _, status = os.waitpid(begun(request, when), 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_batch(number: int) -> Callable[[], None]:
    """A process that is killed in the midst of a batch, counted from the first that it trains on."""

    def prepare() -> None:
        count, step = iter(range(10_000)), Fit.training_step

        def dying(self: Fit, *args: Any) -> torch.Tensor:
            if next(count) == number:
                kill()
            return step(self, *args)

        pytest.MonkeyPatch().setattr(Fit, "training_step", dying)

    return prepare


def at_call(module: Any, name: str, number: int, after: bool) -> Callable[[], None]:
    """A process that is killed at a call of a function, before or after it does its work."""

    def prepare() -> None:
        count, function = iter(range(10_000)), getattr(module, name)

        def dying(*args: Any, **more: Any) -> Any:
            last = next(count) == number
            if last and not after:
                kill()
            found = function(*args, **more)
            if last:
                kill()
            return found

        setattr(module, name, dying)

    return prepare


def half_written(number: int) -> Callable[[], None]:
    """A process that is killed when half of a trainer's state is written."""

    def prepare() -> None:
        count, save = iter(range(10_000)), torch.save

        def dying(state: Any, file: Any) -> None:
            if next(count) == number:
                whole = io.BytesIO()
                save(state, whole)
                file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
                file.flush()
                kill()
            save(state, file)

        pytest.MonkeyPatch().setattr(torch, "save", dying)

    return prepare


def half_removed() -> None:
    """A process that is killed when a file of the first checkpoint that it removes is gone."""

    def dying(path: Path, **_: Any) -> None:
        if path.exists():
            next(path.iterdir()).unlink()
            kill()

    pytest.MonkeyPatch().setattr(checkpoints, "shutil", SimpleNamespace(rmtree=dying, copyfile=shutil.copyfile))


def same(one: Path, other: Path) -> None:
    """The bits of the weights and of the rows, and what the run says of itself."""
    for name in ("model.safetensors", "metrics.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    first, second = (json.loads((run / "run.json").read_text()) for run in (one, other))
    assert first["metrics"] == second["metrics"] and first["step"] == second["step"]


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


def test_ctrl_c_keeps_the_state(folder: Path) -> None:
    """A request to end is heeded between two steps, not within one, and says how to go on."""
    path = spec(folder, KINDS["epochs"].replace("accumulate", "ema = 0.5; accumulate") + "  save_every = 100\n")
    path = str(Path(path))
    Path(path).write_text(Path(path).read_text().replace("  save_every = 1\n", ""))
    train(Request(path, out=folder / "whole"))
    step, count, out = Fit.training_step, iter(range(1000)), folder / "out"
    said: list[str] = []

    def stopping(self: Fit, *args: Any) -> torch.Tensor:
        if next(count) == 8:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fit, "training_step", stopping)
        assert train(Request(path, out=out), said.append) == Run(out, interrupted=True)
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
    step, count, out = Fit.training_step, iter(range(1000)), folder / "out"
    said: list[str] = []

    def stopping(self: Fit, *args: Any) -> torch.Tensor:
        if next(count) == 6:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fit, "training_step", stopping)
        assert train(Request(path, out=out), said.append) == Run(out, interrupted=True)
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


# ---- averages, compiled code, precision, numbers that are none -------------------------------------------------------


def test_the_average_is_validated_and_kept(folder: Path) -> None:
    """Against the average written out."""
    path = spec(folder, "  val = split(0.2)\n  steps = 6\n")
    seen: list[list[torch.Tensor]] = []
    validated: list[torch.Tensor] = []
    step, validate = torch.optim.Adam.step, Fit.validation_step

    def watched(self: torch.optim.Adam, *args: Any, **more: Any) -> Any:
        found = step(self, *args, **more)
        parameters = self.param_groups[0]["params"]
        if not parameters[0].is_meta:  # the plan's estimate of memory takes a step without numbers
            seen.append([parameter.detach().clone() for parameter in parameters])
        return found

    def validating(self: Fit, *args: Any) -> None:
        validated.append(self.model.get_parameter("head.weight").detach().clone())
        validate(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", watched)
        patch.setattr(Fit, "validation_step", validating)
        train(Request(path, sets={"ema": "0.7"}, out=folder / "out"))
    average = seen[0]
    for weights in seen[1:]:
        average = [0.7 * before + 0.3 * value for before, value in zip(average, weights, strict=True)]
    shipped = load_file(folder / "out/model.safetensors")
    names = ["first.weight", "first.bias", "norm.weight", "norm.bias", "head.weight", "head.bias"]
    for name, value in zip(names, average, strict=True):
        assert torch.allclose(shipped[name], value, atol=1e-6)
    assert torch.equal(validated[-1], shipped["head.weight"]) and len(seen) == 6
    assert load_file(folder / "out/checkpoints/step-5/model.safetensors").keys() == shipped.keys()


def test_compiled_code_has_the_same_names_and_nearly_the_same_numbers(folder: Path) -> None:
    path = spec(folder, KINDS["steps"])
    train(Request(path, out=folder / "eager"))
    calls: list[str] = []
    compile = torch.compile

    def eagerly(function: Any, **_: Any) -> Any:
        calls.append(function.__name__)
        return compile(function, backend="eager")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", eagerly)
        train(Request(path, sets={"compile": "true"}, out=folder / "compiled"))
    assert calls == ["_call_impl"]
    one, other = (load_file(folder / name / "model.safetensors") for name in ("eager", "compiled"))
    assert one.keys() == other.keys()
    assert all(torch.allclose(value, other[name], atol=1e-5) for name, value in one.items())


@pytest.mark.slow
def test_compiled_by_inductor(folder: Path) -> None:
    path = spec(folder, KINDS["steps"].replace("  ema = 0.9\n", ""))
    train(Request(path, sets={"compile": "true"}, out=folder / "compiled"))
    assert json.loads((folder / "compiled/run.json").read_text())["status"] == "finished"


def test_half_precision_throughout(folder: Path) -> None:
    """Trained in bfloat16, shipped as the model's float32."""
    path = spec(folder, KINDS["unvalidated"].replace("bf16-mixed", "bf16-true"))
    train(Request(path, out=folder / "out"))
    kept, shipped = (load_file(folder / "out" / name / "model.safetensors") for name in ("checkpoints/step-8", ""))
    assert {value.dtype for name, value in kept.items() if name.startswith("head")} == {torch.bfloat16}
    for value in shipped.values():
        if value.is_floating_point():
            assert value.dtype == torch.float32 and torch.equal(value, value.bfloat16().float())
    if not torch.cuda.is_available():
        with pytest.raises(Rejected, match=r"16-mixed.*without a GPU"):
            train(Request(path, sets={"precision": '"16-mixed"'}, out=folder / "other"))


def test_a_loss_that_is_no_number_leaves_the_states_before_it(folder: Path) -> None:
    path = spec(folder, KINDS["steps"])
    step, count, out = Fit.training_step, iter(range(1000)), folder / "out"

    def breaking(self: Fit, *args: Any) -> torch.Tensor:
        if next(count) == 4:
            with torch.no_grad():
                self.model.get_parameter("norm.bias").fill_(torch.inf)
        return step(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fit, "training_step", breaking)
        with pytest.raises(Rejected, match=r"T532.*at step 5: the first output that is not finite is that of norm"):
            train(Request(path, out=out))
    assert json.loads((out / "run.json").read_text())["status"] == "failed"
    train(Request(resume=out))
    train(Request(path, out=folder / "whole"))
    same(folder / "whole", out)

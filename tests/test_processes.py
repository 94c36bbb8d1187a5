"""`devices = 2`: two processes over gloo train like one on the doubled batch, and are resumed like one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from points import write_points
from safetensors.torch import load_file

from specc.diagnostics import Rejected
from specc_runtime.build import Request as BuildRequest
from specc_runtime.build import build
from specc_runtime.training.failures import ended, exhausted
from specc_runtime.training.run import Request, train

SPEC = """\
from std.nn import Linear
dim B
block Layer(dim: int) {
  fc: Linear(dim, dim)
  forward(x: Tensor[B, dim]) -> y: Tensor[B, dim] = x + tanh(fc(x))
}
model Net(dim: int = 6, p: float = 0.0) {
  first: Linear(2, dim)
  h: [Layer(dim) for i in range(2)]
  head: Linear(dim, 3)
  forward(x: Tensor[B, 2]) -> logits: Tensor[B, 3] = first(x) |> dropout(p) |> h |> head
}
train Net "points" {
  data    = csv("points.csv", x = ["x", "y"], label = "class")
  val     = split(0.2)
  loss    = cross_entropy(logits, data.label)
  metrics = [accuracy(logits, data.label)]
  optim   = adam(lr = 0.05)
  clip    = 1.0
  batch   = 4
  epochs  = 3
  save_every = 1
}
"""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    write_points(tmp_path / "points.csv", 30, np.random.default_rng(0))
    (tmp_path / "net.spec").write_text(SPEC)
    return str(tmp_path / "net.spec")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from specc_runtime.cli import main; main()", "train", *map(str, arguments)]


ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}


def distance(one: Path, other: Path) -> float:
    """The largest difference of two runs' weights."""
    first, second = (load_file(run / "model.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    return max(float((value - second[name]).abs().max()) for name, value in first.items())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_are_one_on_the_doubled_batch(strategy: str, spec: str, tmp_path: Path) -> None:
    """To the rounding of sums in another order; one process loads what they leave."""
    sets = {"devices": "2", "strategy": f'"{strategy}"'}
    train(Request(spec, sets={"batch": "8"}, out=tmp_path / "one"))
    train(Request(spec, sets=sets, out=tmp_path / "two"))
    assert not {"LOCAL_RANK", "WORLD_SIZE"} & set(os.environ) and not torch.distributed.is_initialized()
    assert distance(tmp_path / "one", tmp_path / "two") < 1e-5
    records = [json.loads((tmp_path / run / "run.json").read_text()) for run in ("one", "two")]
    assert records[0]["metrics"] == pytest.approx(records[1]["metrics"], abs=1e-4)
    build(BuildRequest(spec, weights=str(tmp_path / "two"), render=False, out=tmp_path / "build"))
    train(Request(spec, weights=str(tmp_path / "two/checkpoints/step-8"), max_steps=1, out=tmp_path / "more"))


TEXTS = """\
from std.nn import Embedding, Linear
dim B, T
model Count(vocab: int = 9, dim: int = 6) {
  embed: Embedding(vocab, dim)
  head: Linear(dim, 2)
  forward(input_ids: Int[B, T]) -> logits: Tensor[B, 2] = head(mean(embed(input_ids), axis = 1))
}
train Count "rows" {
  data  = jsonl("rows.jsonl", input_ids = "ids", label = "class")
  loss  = cross_entropy(logits, data.label)
  optim = adam(lr = 0.05)
  batch = tokens(24)
  epochs = 2
}
"""


@pytest.mark.slow
def test_batches_of_tokens_are_shared(tmp_path: Path) -> None:
    """Two processes with a batch each make the step of one process that accumulates two."""
    rows = [[i % 9, (i * 7) % 9, (i * 5) % 9, i % 3] for i in range(48)]
    lines = (json.dumps({"ids": ids, "class": int(sum(ids) > 14)}) for ids in rows)
    (tmp_path / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))
    spec = tmp_path / "texts.spec"
    spec.write_text(TEXTS)
    train(Request(str(spec), sets={"accumulate": "2"}, out=tmp_path / "one"))
    train(Request(str(spec), sets={"devices": "2", "strategy": '"ddp"'}, out=tmp_path / "two"))
    records = [json.loads((tmp_path / run / "run.json").read_text()) for run in ("one", "two")]
    assert [r["step"] for r in records] == [8, 8]
    assert distance(tmp_path / "one", tmp_path / "two") < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_killed_processes_are_resumed(strategy: str, spec: str, tmp_path: Path) -> None:
    """The first one is killed, the others end by themselves; dropout in each goes on where it was."""
    sets = {"devices": "2", "strategy": f'"{strategy}"', "p": "0.2", "epochs": "12"}
    options = [part for name, value in sets.items() for part in ("--set", f"{name}={value}")]
    train(Request(spec, sets=sets, out=tmp_path / "whole"))
    out = tmp_path / "out"
    with subprocess.Popen(command(spec, "--out", out, *options), env=ALONE, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not list(out.glob("checkpoints/step-*")) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    said: list[str] = []
    train(Request(resume=out), said.append)
    assert any("continuing after step" in line for line in said)
    assert distance(tmp_path / "whole", out) == 0
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (out / "metrics.csv").read_bytes()


@pytest.mark.slow
def test_a_process_that_is_ended_is_told(spec: str, tmp_path: Path) -> None:
    """It is the other one that is killed, as the system does; the run says so, and goes on."""
    out, options = tmp_path / "out", ["--set", "devices=2", "--set", "epochs=100"]
    with subprocess.Popen(command(spec, "--out", out, *options), env=ALONE, stderr=subprocess.PIPE, text=True) as first:
        deadline = time.monotonic() + 120
        while not list(out.glob("checkpoints/step-*")) and time.monotonic() < deadline and first.poll() is None:
            time.sleep(0.01)
        (other,) = further(first)
        os.kill(other, signal.SIGKILL)
        said = first.communicate()[1]
    assert "error[T534]: process 1 of the run was ended by SIGKILL" in said
    assert f"specc train --resume {out}" in said
    assert json.loads((out / "run.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_none_is_left_behind(spec: str, tmp_path: Path) -> None:
    """The first process is killed while the other one is still loading: nobody is there to connect to."""
    options = ["--set", "devices=2", "--set", "epochs=100"]
    with subprocess.Popen(command(spec, "--out", tmp_path / "out", *options), env=ALONE) as first:
        deadline = time.monotonic() + 120
        while not further(first) and time.monotonic() < deadline and first.poll() is None:
            time.sleep(0.01)
        (other,) = further(first)
        first.kill()
    deadline = time.monotonic() + 60
    while alive(other) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(other)


def further(first: subprocess.Popen[Any]) -> list[int]:
    """The other processes of a run."""
    children = map(int, Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split())
    return [child for child in children if b"training.worker" in Path(f"/proc/{child}/cmdline").read_bytes()]


def alive(process: int) -> bool:
    """Whether it runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_that_never_comes_is_told(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends before it is connected: the first one does not wait for the rendezvous to time out."""
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    began = time.monotonic()
    with pytest.raises(Rejected, match="process 1 of the run failed"):
        train(Request(spec, sets={"devices": "2"}, out=tmp_path / "out"))
    assert time.monotonic() - began < 60
    assert not {"LOCAL_RANK", "WORLD_SIZE"} & set(os.environ) and not torch.distributed.is_initialized()
    assert json.loads((tmp_path / "out/run.json").read_text())["status"] == "failed"


WAITING = """\
import subprocess, time
from specc_runtime.training.watching import Watch
others = [subprocess.Popen(["sleep", "60"]), subprocess.Popen(["sleep", "60"])]
others[1].kill()
print(others[0].pid, flush=True)
Watch(others, "specc train --resume run", grace=0.1).start()
time.sleep(60)
"""


def test_what_waits_for_a_lost_process_is_ended() -> None:
    """As a library does that nothing interrupts; the further processes are ended with it."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", WAITING], env=ALONE, capture_output=True, text=True)
    assert done.returncode == 1 and time.monotonic() - began < 50
    assert "error[T534]: process 2 of the run was ended by SIGKILL" in done.stderr
    assert not alive(int(done.stdout))


def test_which_process_was_ended() -> None:
    """Those that still run are not looked at."""
    waiting = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    try:
        waiting[1].kill()
        found = ended(waiting, "specc train --resume run")
        assert found is not None and "process 2 of the run was ended by SIGKILL" in str(found)
        failing = subprocess.Popen(["false"])
        assert "process 1 of the run failed" in str(ended([failing], ""))
        failing.wait()
        assert ended([failing], "", killed=True) is None
        assert "process 2 of the run was ended" in str(ended([failing, waiting[1]], ""))  # the cause, not what follows
    finally:
        for process in waiting:
            process.kill()
            process.wait()


def test_memory_that_runs_out_is_told_by_its_amount() -> None:
    gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has ..")
    assert "memory ran out at step 3: 2.50 GiB more were asked for" in str(exhausted(gpu, "at step 3"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**47)
    assert "memory ran out in validation: 562950 GB more were" in str(exhausted(caught.value, "in validation"))
    assert exhausted(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "") is None


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ({"devices": "0"}, r"`devices` is \"auto\" or a number"),
        ({"devices": "2", "strategy": '"fsdp"', "ema": "0.9"}, "`ema` with `strategy"),
    ],
)
def test_what_several_processes_cannot_do(sets: dict[str, str], expected: str, spec: str) -> None:
    with pytest.raises(Rejected, match=expected):
        train(Request(spec, sets=sets, dry_run=True))


@pytest.mark.slow
def test_adapters_are_divided_like_weights(spec: str, tmp_path: Path) -> None:
    """Beside frozen weights, and a head that is trained whole; one process folds and ships them."""
    train(Request(spec, max_steps=1, out=tmp_path / "base"))
    lora = 'lora(rank = 2, alpha = 4, dropout = 0.1, targets = ["first", "h.*"])'
    sets = {
        "devices": "2",
        "lora": lora,
        "fresh": '["head"]',
        "precision": "bf16-mixed",
        "checkpoint": 'best("val_loss")',
    }
    found = []
    for strategy in ("ddp", "fsdp"):
        out = tmp_path / strategy
        train(Request(spec, sets={**sets, "strategy": strategy}, weights=str(tmp_path / "base"), out=out))
        found.append(load_file(out / "adapter/adapter_model.safetensors"))
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-5, atol=1e-6)
    build(BuildRequest(spec, weights=str(tmp_path / "fsdp"), render=False, out=tmp_path / "build"))


def test_a_setting_that_is_taken_out_is_none(spec: str) -> None:
    train(Request(spec, sets={"devices": "2", "strategy": "fsdp", "ema": "none", "lora": "none"}, dry_run=True))

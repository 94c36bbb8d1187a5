"""Memory does not grow with a model: large checkpoints through processes that count their own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from synthetic import Llama

from specc import report
from specc.diagnostics import Rejected
from specc.weights import layout
from specc.weights.layout import Read, TensorInfo
from specc_runtime import memory
from specc_runtime.build import Request
from specc_runtime.build import build as make
from specc_runtime.checkpoint import Checkpoint
from specc_runtime.linking import link
from specc_runtime.weights_writer import NewTensor

SMALL = Llama(dim=128, layers=2, hidden=256, vocab=300, head_dim=16, shards=3)
LARGE = Llama(dim=1024, layers=8, hidden=2816, shards=2)  # 622 MB of f32, 131 MB the largest tensor

COUNTING = """
import sys
import numpy, onnx
import specc.backends.onnx.cached, specc.backends.onnx.export, specc.backends.torch.export
import specc_runtime.cli.build, specc_runtime.elements, specc_runtime.weights_writer

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024

before = peak()
try:
    exec(sys.argv.pop(1))
finally:
    print("peak", peak() - before)
"""
BUILD = "from specc_runtime.cli import main; sys.argv[0] = 'specc'; main()"
TURN = """
from pathlib import Path
from specc.weights.layout import Read, TensorInfo, transpose
from specc_runtime.checkpoint import Checkpoint
from specc_runtime.weights_writer import NewTensor, write_safetensors
with Checkpoint.open(sys.argv[1]) as checkpoint:
    turned = {n: transpose(Read(n, e.shape, e.dtype)) for n, e in checkpoint.tensors.items()}
    new = [NewTensor(name, TensorInfo(x.shape, "F32"), x) for name, x in turned.items()]
    write_safetensors(Path(sys.argv[2]), new, checkpoint)
"""

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def peak(code: str, *words: object) -> int:
    """Bytes of resident memory above that of the imports, mapped pages of files included."""
    done = subprocess.run([sys.executable, "-c", COUNTING, code, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return int(done.stdout.rpartition("peak ")[2])


def build(checkpoint: Path, out: Path) -> int:
    return peak(BUILD, "build", "llama", "--weights", checkpoint, "--no-verify", "--no-render", "-o", out)


def check(checkpoint: Path, out: Path) -> None:
    """Every tensor of the build is the checkpoint's, in f32."""
    record = json.loads((out / "manifest.json").read_text())
    with Checkpoint.open(checkpoint) as given, Checkpoint.open(out) as made:
        assert record["weights"]["tensors"] == len(given.tensors) == len(made.tensors)
        for name, entry in given.tensors.items():
            expected, found = given.array(name), made.array(name)
            if entry.dtype == "BF16":
                expected, found = expected.astype("u4") << 16, found.view("u4")
            np.testing.assert_array_equal(found, expected, err_msg=name)
            given.release(name)
            made.release(name)


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_shards(dtype: str, tmp_path: Path) -> None:
    checkpoint = replace(SMALL, dtype=dtype).write(tmp_path / "hf")
    assert len(list(checkpoint.glob("*.safetensors"))) == 3
    make(Request("llama", weights=str(checkpoint), verify=False, render=False, out=tmp_path / "out"))
    check(checkpoint, tmp_path / "out")


def test_a_link_to_the_checkpoint(tmp_path: Path) -> None:
    """Torch and onnxruntime read the checkpoint's own file, by way of a symbolic link as in a hub's cache too."""
    checkpoint = replace(SMALL, shards=1).write(tmp_path / "hf")
    file = checkpoint / "model.safetensors"
    file.rename(tmp_path / "blob")
    file.symlink_to(tmp_path / "blob")
    for _ in range(2):  # over itself, too
        made = make(Request("llama", weights=str(checkpoint), link=True, render=False, out=tmp_path / "out"))
        assert made.proof and (tmp_path / "out" / "model.safetensors").samefile(tmp_path / "blob")
    check(checkpoint, tmp_path / "out")
    make(Request("linear", verify=False, render=False, out=tmp_path / "out"))
    assert (tmp_path / "blob").stat().st_nlink == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"shards": 3}, "hf has 3 files, a build one"),
        ({"dtype": "BF16"}, "is BF16 in model.safetensors, and F32 in the build"),
        (None, "there is no checkpoint"),
    ],
)
def test_what_cannot_be_a_link(changes: dict[str, Any] | None, reason: str, tmp_path: Path) -> None:
    weights = str(replace(SMALL, **{"shards": 1, **changes}).write(tmp_path / "hf")) if changes is not None else None
    preset = None if weights else "smollm2-135m"
    with pytest.raises(Rejected) as refusal:
        make(Request("llama", preset=preset, weights=weights, link=True, render=False, out=tmp_path / "out"))
    shown = report.full(refusal.value.diagnostics)
    assert "error[B640]" in shown and reason in shown and "without --link" in shown
    assert not (tmp_path / "out").exists()


def test_a_link_of_other_names_or_layout(tmp_path: Path) -> None:
    x, entry = np.zeros((2, 3), "f4"), TensorInfo((2, 3), "F32")
    save_file({"x": x, "y": x}, tmp_path / "model.safetensors")
    read, other = Read("x", x.shape, "F32"), Read("y", x.shape, "F32")
    with Checkpoint.open(tmp_path) as checkpoint:
        for tensors, reason in (
            ({"x": read, "z": other}, "z is called y in model.safetensors"),
            ({"x": read}, "model.safetensors also holds y"),
            ({"x": read, "y": layout.reshape(other, (6,))}, "y is not as model.safetensors has it"),
        ):
            new = [NewTensor(name, entry, source) for name, source in tensors.items()]
            with pytest.raises(Rejected) as refusal:
                link(tmp_path / "out", new, checkpoint)
            assert reason in report.full(refusal.value.diagnostics)
        with pytest.raises(Rejected, match="B640"):
            link(Path("/proc/out"), [NewTensor("x", entry, read), NewTensor("y", entry, other)], checkpoint)


def test_memory_that_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a container allows counts where it is less; files that are cached can be given back."""
    meminfo, group = tmp_path / "meminfo", tmp_path / "cgroup"
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    monkeypatch.setattr(memory, "_CGROUP", group)
    assert memory.available() is None
    memory.check_proof(10**12)
    meminfo.write_text("MemTotal: 30 kB\nMemAvailable: 20 kB\nHugePages_Total: 0\nSwapFree: 4 kB\n")
    assert memory.available() == 24 * 1024
    with pytest.raises(Rejected, match="B641"):
        memory.check_proof(10**9)
    memory.check_proof(10**6)
    group.mkdir()
    (group / "memory.current").write_text("5000\n")
    (group / "memory.stat").write_text("anon 4000\nfile 1000\n")
    for limit, expected in (("max", 24 * 1024), ("9000", 5000)):
        (group / "memory.max").write_text(f"{limit}\n")
        assert memory.available() == expected


@linux
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_memory_of_a_build(dtype: str, tmp_path: Path) -> None:
    """What is copied and what is converted alike: less than one large tensor."""
    model = replace(LARGE, dtype=dtype)
    checkpoint = model.write(tmp_path / "hf")
    assert build(checkpoint, tmp_path / "out") < 100e6 < LARGE.largest()
    check(checkpoint, tmp_path / "out")


@linux
@pytest.mark.slow
def test_memory_of_tensors_that_are_turned(tmp_path: Path) -> None:
    """One large tensor is mapped at a time, however many threads write."""
    model = Llama(dim=2048, layers=1, hidden=64, vocab=40_000)  # two of 328 MB
    checkpoint = model.write(tmp_path / "hf")
    file = checkpoint / "turned.safetensors"
    names = {"model.embed_tokens.weight": (40_000, 2048), "lm_head.weight": (40_000, 2048)}
    model.file(file, names)
    assert peak(TURN, file, tmp_path / "out.safetensors") < model.largest() + 100e6
    with Checkpoint.open(file) as given, Checkpoint.open(tmp_path / "out.safetensors") as made:
        for name in names:
            assert (made.array(name)[::7] == given.array(name).T[::7]).all()

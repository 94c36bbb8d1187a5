"""A build appears whole or not at all: kills, interrupts, failed proofs, full disks, several builds at once."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from building import arguments, command, content, make, specc

from specc import report
from specc.diagnostics import Rejected
from specc_runtime import build as build_module
from specc_runtime import manifest, publish
from specc_runtime.publish import publishing


def start(*words: object, cwd: Path, code: str | None = None, **environment: str) -> subprocess.Popen[str]:
    """A build in a process of its own group, to be killed."""
    line = command(*words) if code is None else [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(
        line,
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def whole(folder: Path) -> str:
    """The name of the build in a folder, every file of it as its manifest says."""
    record = manifest.read(folder, "manifest.json")
    assert set(content(folder)) == {"manifest.json", *record["files"]}
    for file, entry in record["files"].items():
        assert (folder / file).stat().st_size == entry["bytes"]
        assert entry["sha256"] in (None, manifest.sha256(folder / file))
    return str(record["name"])


# ---- the folder itself -----------------------------------------------------------------------------------------------


def publish_text(target: Path, text: str) -> None:
    with publishing(target) as work:
        (work / "deep").mkdir()
        (work / "deep" / "file").write_text(text)


@pytest.fixture(params=["exchange", "two steps"])
def swap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the kernel's exchange of two folders, and on file systems that do not have it."""
    if request.param == "two steps":
        monkeypatch.setattr(publish, "_exchange", lambda a, b: False)
    return str(request.param)


def test_publish(tmp_path: Path, swap: str) -> None:
    target = tmp_path / "a" / "b"
    for text in ("one", "two"):
        publish_text(target, text)
        assert content(tmp_path) == {"a/b/deep/file": text.encode()}
        assert names(tmp_path / "a") == ["b"]


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        publish_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_failure_changes_nothing(error: type[BaseException], tmp_path: Path, swap: str) -> None:
    def fail(target: Path) -> None:
        with publishing(target) as work:
            (work / "half").write_text("x")
            raise error

    with pytest.raises(error):
        fail(tmp_path / "not" / "there" / "yet")
    assert names(tmp_path) == []
    publish_text(tmp_path / "old", "old")
    with pytest.raises(error):
        fail(tmp_path / "old")
    assert content(tmp_path) == {"old/deep/file": b"old"}
    assert names(tmp_path) == ["old"]


def test_failing_swap_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "_exchange", lambda a, b: False)
    publish_text(tmp_path / "a", "old")
    renames = []
    real = Path.rename

    def failing(self: Path, to: Path) -> Path:
        renames.append(self)
        if len(renames) == 3:  # over the old one: refused; the old one aside; the new one in its place
            raise OSError(errno.EIO, "broken disk")
        return real(self, to)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="broken disk"):
        publish_text(tmp_path / "a", "new")
    assert content(tmp_path) == {"a/deep/file": b"old"}
    assert names(tmp_path) == ["a"]


def test_sweep(tmp_path: Path) -> None:
    """What nobody writes goes; what somebody writes, and what is not ours, stays."""
    target = tmp_path / "a"
    left = tmp_path / ".a.specc-killed"
    left.mkdir()
    (left / "file").write_text("x")
    (tmp_path / ".ab.specc-other").mkdir()
    (tmp_path / ".a.specc-file").write_text("not a folder")
    (tmp_path / ".a.specc-link").symlink_to(tmp_path / ".ab.specc-other")
    with publishing(target) as work:
        publish.sweep(target)
        assert work.is_dir() and not left.exists()
        (work / "x").write_text("x")
    assert names(tmp_path) == [".a.specc-file", ".a.specc-link", ".ab.specc-other", "a"]


def test_caught_between_two_renames(tmp_path: Path) -> None:
    """Killed after the old build went aside and before the new one came: the old one comes back."""
    target = tmp_path / "a"
    (tmp_path / ".a.specc-x-0.old").mkdir()
    (tmp_path / ".a.specc-x-0.old" / "file").write_text("old")
    (tmp_path / ".a.specc-x").mkdir()
    publish.sweep(target)
    assert content(tmp_path) == {"a/file": b"old"} and names(tmp_path) == ["a"]
    (tmp_path / ".a.specc-x-0.old").mkdir()
    publish.sweep(target)
    assert names(tmp_path) == ["a"]


def test_many_at_once(tmp_path: Path, swap: str) -> None:
    """Builds of one target at the same time: at every moment one of them is there, whole."""
    target = tmp_path / "a"
    publish_text(target, "0" * 1000)
    failures: list[BaseException] = []
    running = threading.Event()

    def write(number: int) -> None:
        try:
            for _ in range(15):
                publish_text(target, str(number) * 1000)
        except BaseException as error:
            failures.append(error)

    def look() -> None:
        while not running.is_set():
            try:
                text = (target / "deep" / "file").read_text()
            except FileNotFoundError:
                if swap == "exchange" and not (target / "deep" / "file").exists():
                    failures.append(AssertionError("no build"))
                continue
            if len(text) != 1000 or len({*text}) != 1:
                failures.append(AssertionError(text))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    reader = threading.Thread(target=look)
    for thread in (*threads, reader):
        thread.start()
    for thread in threads:
        thread.join()
    running.set()
    reader.join()
    assert failures == []
    assert names(tmp_path) == ["a"]


def test_a_large_old_build_goes_in_the_background(tmp_path: Path, swap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it; sweeps leave it to the process that deletes it, and take over when that is killed."""
    monkeypatch.setattr(publish, "_LARGE", 100)
    tool = tmp_path / "bin" / "rm"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho $$ > "{tmp_path}/pid"\nexec sleep 60\n')
    tool.chmod(0o755)
    publish_text(tmp_path / "x" / "a", "one" * 100)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
        publish_text(tmp_path / "x" / "a", "two" * 100)
    pid = tmp_path / "pid"
    while not pid.is_file() or not pid.read_text().strip():
        time.sleep(0.01)
    [old, new] = names(tmp_path / "x")
    assert old.startswith(".a.specc-") and not old.endswith(".old") and new == "a"
    publish.sweep(tmp_path / "x" / "a")
    assert names(tmp_path / "x") == [old, new]
    os.kill(int(pid.read_text()), signal.SIGKILL)
    while names(tmp_path / "x") != ["a"]:
        publish.sweep(tmp_path / "x" / "a")
    assert content(tmp_path / "x") == {"a/deep/file": b"two" * 100}
    publish_text(tmp_path / "x" / "a", "three")
    while names(tmp_path / "x") != ["a"]:
        time.sleep(0.01)
    monkeypatch.setenv("PATH", "")
    publish_text(tmp_path / "x" / "a", "four" * 100)
    publish_text(tmp_path / "x" / "a", "five")
    assert names(tmp_path / "x") == ["a"]


KILLED = """
import sys, time
from pathlib import Path
from specc_runtime import publish
if sys.argv[2] == "two":
    publish._exchange = lambda a, b: False
number = 0
while True:
    number += 1
    with publish.publishing(Path(sys.argv[1])) as work:
        for name in "abcdef":
            (work / name).write_text(str(number))
    print(number, flush=True)
"""


@pytest.mark.parametrize("steps", ["one", "two"])
def test_kill(steps: str, tmp_path: Path) -> None:
    """SIGKILL while one folder after another is published."""
    target = tmp_path / "a"
    publish_text(target, "first")
    chance = random.Random(steps)
    for _ in range(12):
        process = start(target, steps, cwd=tmp_path, code=KILLED)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.random() * 0.02)
        process.kill()
        process.communicate()
        publish.sweep(target)
        assert names(tmp_path) == ["a"]
        assert set(content(target)) == set("abcdef")
        assert len(set(content(target).values())) == 1


# ---- whole builds ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_builds(tmp_path: Path) -> None:
    """SIGKILL at any moment of a build, the proof included: the old build or the new one, and the next run sweeps."""
    out = tmp_path / "out"
    assert specc("build", *arguments("mlp"), "--no-render", "-o", out, cwd=tmp_path).returncode == 0
    chance = random.Random(0)
    began = time.perf_counter()
    assert specc("build", *arguments("gpt"), "--no-render", "-o", out, cwd=tmp_path).returncode == 0
    length = time.perf_counter() - began
    found = []
    for number in range(16):
        name = ("mlp", "gpt")[number % 2]
        process = start("build", *arguments(name), "--no-render", "-o", out, cwd=tmp_path)
        time.sleep(chance.random() * length * 1.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        found.append(whole(out))
    assert set(found) <= {"mlp", "tiny"}
    assert specc("build", *arguments("mlp"), "--no-render", "-o", out, cwd=tmp_path).returncode == 0
    assert names(tmp_path) == ["out"] and whole(out) == "mlp"


WAITING = """
import sys, time
from specc_runtime import build, cli, verify
def wait(*args, **options):
    print("in the proof", flush=True)
    time.sleep(60)
verify.prove = wait
sys.argv[0] = "specc"
sys.exit(cli.main())
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)]
)
def test_stopped_in_the_proof(number: int, code: int, tmp_path: Path) -> None:
    process = start("build", *arguments("linear"), "--no-render", cwd=tmp_path, code=WAITING)
    assert process.stdout is not None
    assert process.stdout.readline() == "in the proof\n"
    [work] = (tmp_path / "build").iterdir()
    assert work.name.startswith(".linear.specc-") and (work / "model.onnx").is_file()
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code and "Traceback" not in errors
    if number == signal.SIGKILL:
        make("linear", tmp_path / "build" / "linear")
        assert names(tmp_path / "build") == ["linear"] and whole(tmp_path / "build" / "linear") == "linear"
    else:
        assert names(tmp_path) == []
    if number == signal.SIGINT:
        assert errors.strip() == "interrupted"


FAULTY = """
import sys
from specc.op import operators
op = type(operators()["sigmoid"]) if not isinstance(operators()["sigmoid"], type) else operators()["sigmoid"]
op.onnx = lambda self, emit, x: emit("Tanh", x)
from specc_runtime import cli
sys.argv[0] = "specc"
sys.exit(cli.main())
"""


def test_failed_proof(tmp_path: Path) -> None:
    """A wrong lowering: nothing is published, the earlier build stays."""
    for expected in ([], ["out"]):
        process = start("build", "linear", "--no-render", "-o", tmp_path / "out", cwd=tmp_path, code=FAULTY)
        printed, errors = process.communicate(timeout=60)
        assert process.returncode == 1 and "error[B630]" in errors and "linear.spec:" in errors, errors
        assert printed == "" and names(tmp_path) == expected
        make("mlp", tmp_path / "out")
    assert whole(tmp_path / "out") == "mlp"


def test_builds_at_once(tmp_path: Path) -> None:
    lines = [
        ("build", *arguments(name), "--no-verify", "--no-render", "-o", tmp_path / "out") for name in ("mlp", "gpt")
    ]
    running = [start(*line, cwd=tmp_path) for line in (*lines, *lines)]
    assert [(process.communicate()[1], process.returncode) for process in running] == [("", 0)] * 4
    assert names(tmp_path) == ["out"] and whole(tmp_path / "out") in ("mlp", "tiny")


# ---- disks -----------------------------------------------------------------------------------------------------------


def refused(out: Path, name: str = "gpt2", **options: Any) -> str:
    with pytest.raises(Rejected) as refusal:
        make(name, out, **options)
    return report.full(refusal.value.diagnostics)


@pytest.mark.parametrize("target", ["pwrite", "fsync"])
def test_full_disk(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk fills up while weights are written, or says so only when they are synced."""
    out = tmp_path / "out"
    make("mlp", out)
    before = content(out)

    def full(*args: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, target, full)
    shown = refused(out)
    assert "error[B640]" in shown and "No space left on device" in shown and "as it was" in shown
    assert content(out) == before and names(tmp_path) == ["out"]


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from specc_runtime import cli
sys.argv[0] = "specc"
sys.exit(cli.main())
"""


@pytest.mark.parametrize("limit", [0, 100, 3000, 20_000])
def test_files_that_cannot_grow(limit: int, tmp_path: Path) -> None:
    """The kernel refuses to write past a limit: in each file of a build in turn."""
    out = tmp_path / "out"
    make("mlp", out)
    before = content(out)
    process = start(
        limit, "build", *arguments("gpt"), "--no-verify", "--no-render", "-o", out, cwd=tmp_path, code=LIMITED
    )
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "error[B640]" in errors and "File too large" in errors
    assert content(out) == before and names(tmp_path) == ["out"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
def test_full_file_system(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "specc-test", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine mounts nothing")
    try:
        make("linear", disk / "out")
        shown = refused(disk / "out")
        assert "error[B640]" in shown and "No space left" in shown
        assert names(disk) == ["out"] and whole(disk / "out") == "linear"
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        assert "B640" in refused(tmp_path / "out")
    finally:
        tmp_path.chmod(0o755)
    assert names(tmp_path) == []


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    """/proc takes no folders, not even root's."""
    shown = refused(Path("/proc/specc/out"))
    assert "error[B640]" in shown and "/proc/specc" in shown


def test_an_error_of_the_build_is_not_one_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(build_module._Filling, "_programs", broken)
    with pytest.raises(ZeroDivisionError):
        make("linear", tmp_path / "out")
    assert names(tmp_path) == []


@pytest.mark.slow
def test_interrupted_builds(tmp_path: Path) -> None:
    """Ctrl-C at any moment after the start: said in one line, nothing left; or too late, and the build is whole."""
    chance = random.Random(1)
    for number in range(12):
        folder = tmp_path / str(number)
        folder.mkdir()
        process = start("build", *arguments("gpt"), "--no-render", cwd=folder)
        time.sleep(0.3 + 2.5 * chance.random())
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate()
        if process.returncode == 130:
            assert errors.strip() == "interrupted"
            left = names(folder)  # pressed while the summary is printed: the build is whole
            assert left == [] or whole(folder / "build" / "tiny") == "tiny"
        else:
            assert process.returncode in (0, -signal.SIGINT) and whole(folder / "build" / "tiny") == "tiny"

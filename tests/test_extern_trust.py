"""Trust in Python files: of one content, by one user, told before anything runs (LANGUAGE 19)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import chdir
from hashlib import sha256
from pathlib import Path

import pytest
from building import command, specc
from extern_files import GOLDEN, SWISH2, make, write_project

from specc import driver
from specc.backends.onnx.functions import view
from specc.backends.torch.export import emit
from specc.diagnostics import Rejected
from specc_runtime.lock import LOCK, changing, read_lock, write_lock


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path)


def test_a_check_never_runs_the_file(project: Path) -> None:
    (project / "ops" / "swish2.py").write_text('open("marker", "w").close()\nraise SystemExit(3)\n')
    for words in (["check", "m.spec"], ["inspect", "m.spec"], ["fmt", "--check", "m.spec"]):
        done = specc(*words, cwd=project)
        assert done.returncode == 0, done.stderr
    checked = driver.load(project / "m.spec")
    emit(checked.model)
    view(checked.model)
    assert not (project / "marker").exists()


def test_untrusted(project: Path, golden: Callable[[Path, str], None]) -> None:
    (project / "ops" / "swish2.py").write_text('open("marker", "w").close()\n')
    for words in (["build", "m.spec"], ["test", "m.spec"]):
        done = specc(*words, cwd=project)
        assert done.returncode == 1 and "X901" in done.stderr
        assert not (project / "marker").exists() and not (project / "build").exists()
    golden(GOLDEN / "X901.txt", specc("build", "m.spec", cwd=project).stderr)


def test_trust_change_remove(project: Path, golden: Callable[[Path, str], None]) -> None:
    done = specc("trust", "ops/swish2.py", cwd=project)
    assert done.returncode == 0 and (project / LOCK).is_file(), done.stderr
    golden(GOLDEN / "specc.lock", (project / LOCK).read_text())
    assert make(project).proof
    assert specc("trust", "--list", cwd=project).stdout.endswith("ops/swish2.py\n")
    (project / "ops" / "swish2.py").write_text(SWISH2 + "# changed\n")
    changed = specc("build", "m.spec", "-o", "other", cwd=project)
    assert changed.returncode == 1 and not (project / "other").exists()
    golden(GOLDEN / "X902.txt", changed.stderr)
    assert specc("trust", "--list", cwd=project).stdout.endswith("ops/swish2.py   changed since\n")
    assert make(project, trust=("ops/swish2.py",)).proof  # for one run; the lock still holds the old hash
    assert "X902" in specc("build", "m.spec", cwd=project).stderr
    assert specc("trust", "ops/swish2.py", cwd=project).returncode == 0
    assert make(project).proof
    assert specc("trust", "--remove", "ops/swish2.py", cwd=project).returncode == 0
    assert read_lock(project) == {}
    assert "X901" in specc("build", "m.spec", cwd=project).stderr


def test_trust_is_of_the_project_that_is_built(project: Path) -> None:
    """An imported spec brings no trust with it, and its own lock says nothing."""
    inner = project / "inner"
    inner.mkdir()
    (project / "ops").rename(inner / "ops")
    (project / "m.spec").rename(inner / "m.spec")
    write_lock(inner, {"ops/swish2.py": sha256(SWISH2.encode()).hexdigest()})
    model = "model M() { a: MLP(4); forward(x: Tensor[B, 4]) -> Tensor[B, 4] = a(x) }\n"
    (project / "outer.spec").write_text(f'from "./inner/m.spec" import MLP\ndim B\n{model}')
    with pytest.raises(Rejected) as caught:
        make(project, "outer.spec")
    (found,) = caught.value.diagnostics
    assert found.code == "X901" and found.message.startswith("inner/ops/swish2.py")
    with chdir(project):  # what the message says to run is enough
        words = found.help.partition("specc ")[2].partition("    ")[0].split()
    assert specc(*words, cwd=project).returncode == 0
    assert make(project, "outer.spec").proof


def test_trust_for_nothing(project: Path) -> None:
    with pytest.raises(Rejected) as caught:
        make(project, trust=("ops/swish3.py",))
    assert caught.value.diagnostics[0].code == "X901" and "no extern function" in str(caught.value)
    for words in (["trust"], ["trust", "--list", "x.py"]):
        assert specc(*words, cwd=project).returncode == 2
    for words in (
        ["trust", "nothing.py"],
        ["trust", "m.spec"],
        ["trust", "/etc/passwd"],
        ["trust", "--remove", "x.py"],
    ):
        done = specc(*words, cwd=project)
        assert done.returncode == 1 and "Traceback" not in done.stderr, words
    assert not (project / LOCK).exists()


@pytest.mark.parametrize(
    "text",
    ["version = 2\n", "<<<<<<< HEAD\nversion = 1\n", 'version = 1\n[[extern]]\npath = "a.py"\n', "version = 1\nx = 1\n",
     'version = 1\n[[extern]]\npath = "a.py"\nsha256 = "12"\n', "\udcff"],
)  # fmt: skip
def test_a_damaged_lock(project: Path, text: str) -> None:
    (project / LOCK).write_bytes(text.encode("utf-8", "surrogateescape"))
    for words in (["build", "m.spec"], ["trust", "ops/swish2.py"], ["trust", "--list"]):
        done = specc(*words, cwd=project)
        assert done.returncode == 1 and "error[X905]" in done.stderr, words
    assert (project / LOCK).read_bytes() == text.encode("utf-8", "surrogateescape")


def _write_for_ever(root: Path) -> None:
    for i in range(10_000_000):
        write_lock(root, {f"ops/{n}.py": f"{i:064x}" for n in range(50)})


def test_a_kill_leaves_a_whole_lock(tmp_path: Path) -> None:
    write_lock(tmp_path, {"ops/0.py": "0" * 64})
    for wait in (0.02, 0.05, 0.11):
        process = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(tmp_path,))
        process.start()
        time.sleep(wait)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert len(set(read_lock(tmp_path).values())) == 1  # all of one write
    with changing(tmp_path) as trusted:
        trusted.clear()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]  # what was killed left nothing
    names = {'odd "name" \\ \x7f é.py': "a" * 64}
    write_lock(tmp_path, names)
    assert read_lock(tmp_path) == names


def test_two_at_once(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.py").write_text(str(i))
    running = [subprocess.Popen(command("trust", f"{i}.py"), cwd=tmp_path) for i in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    assert list(read_lock(tmp_path)) == [f"{i}.py" for i in range(4)]


def test_where_nothing_can_be_written(project: Path) -> None:
    (project / LOCK).mkdir()
    for words in (["trust", "ops/swish2.py"], ["build", "m.spec"]):
        done = specc(*words, cwd=project)
        assert done.returncode == 1 and "error[X905]" in done.stderr

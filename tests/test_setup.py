"""`make setup` names what a machine lacks, with the Debian package that brings it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("sh", "dirname", "id", "cat", "printf", "rm", "grep", "mkdir", "chmod")

# Stand-ins for python3: what `-c` answers, and what `-m venv` leaves behind.
OLD = 'case "$2" in *platform*) echo 3.9.2;; *) exit 1;; esac'
WITHOUT_VENV = 'case "$2" in *platform*) echo 3.11.2;; *ensurepip*) exit 1;; esac'
WITHOUT_PIP = """
case "$1$2" in
    *platform*) echo 3.11.2;;
    --version) echo Python 3.11.2;;
    -mvenv) mkdir -p .venv/bin; printf '#!/bin/sh\\nexit 1\\n' > .venv/bin/python; chmod +x .venv/bin/python;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that set-up reads, and a folder `bin` that is the whole PATH."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or f"/bin/{tool}")
    return tmp_path


def script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def make(checkout: Path, target: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("make")
    assert program
    environment = {"PATH": str(checkout / "bin")}
    return subprocess.run([program, target], cwd=checkout, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("target", ["setup", "demo", "test"])
def test_nothing_installed(checkout: Path, target: str) -> None:
    done = make(checkout, target)
    assert done.returncode != 0
    assert "python3: 3.11 or newer, none found (Debian package: python3)" in done.stderr
    assert "git (Debian package: git)" in done.stderr
    assert "apt-get install -y python3 git\n" in done.stderr


@pytest.mark.parametrize(
    ("python", "message", "package"),
    [
        pytest.param(OLD, "python3: 3.11 or newer, found 3.9.2", "python3", id="old"),
        pytest.param(WITHOUT_VENV, "venv: python3 cannot make virtual environments", "python3-venv", id="venv"),
        pytest.param(WITHOUT_PIP, "pip: none came into .venv", "python3-pip", id="pip"),
    ],
)
def test_a_piece_is_missing(checkout: Path, python: str, message: str, package: str) -> None:
    script(checkout / "bin" / "git", "exit 0")
    script(checkout / "bin" / "python3", python)
    done = make(checkout, "setup")
    assert done.returncode != 0
    assert f"  {message} (Debian package: {package})\n" in done.stderr
    assert f"apt-get install -y {package}\n" in done.stderr
    assert not (checkout / ".venv" / ".ready").exists()


def test_ready_needs_no_work(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / ".ready").write_text(f"{checkout}\n")
    done = make(checkout, "setup")
    assert (done.returncode, done.stdout) == (0, "Set up: .venv/bin/specc\n")


def test_moved_checkout_sets_up_again(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / ".ready").write_text("/somewhere/else\n")
    assert make(checkout, "setup").returncode != 0

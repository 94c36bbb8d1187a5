"""The wheel holds all that an installed specc reads, and runs from it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-qq",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files in a folder of their own, to be put ahead of the checkout."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed: Path, code: str, home: Path) -> str:
    """What `code` prints in a fresh Python that imports specc from the wheel, in an empty home and working folder."""
    prelude = f"import sys; sys.path.insert(0, {str(installed)!r}); "
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    command = [sys.executable, "-c", prelude + code]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for root in (ROOT / "compiler", ROOT / "runtime"):
        files = {p for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
        assert {p.relative_to(root).as_posix() for p in files} <= names
    for data in ("specc/syntax/grammar.lark", "specc/std/nn.spec", "specc/py.typed", "specc_runtime/py.typed"):
        assert data in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_wheel_holds_the_zoo(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        zoo = {n.removeprefix("specc/zoo/"): archive.read(n) for n in archive.namelist() if n.startswith("specc/zoo/")}
    kept = [p for p in (ROOT / "specs").rglob("*") if p.is_file()]
    assert zoo == {p.relative_to(ROOT / "specs").as_posix(): p.read_bytes() for p in kept}
    assert "gpt2.spec" in zoo


def test_installed_tables_are_read_not_built(installed: Path, tmp_path: Path) -> None:
    code = (
        "from specc.syntax import tables; tables.load(); "
        "print(tables.PACKAGED.is_file(), tables.PACKAGED.parent, 'lark' in sys.modules)"
    )
    assert run(installed, code, tmp_path).split() == ["True", str(installed / "specc" / "syntax"), "False"]
    assert not (tmp_path / "cache").exists()


def test_zoo_by_name_from_any_folder(installed: Path, tmp_path: Path) -> None:
    code = "sys.argv = ['specc', 'check', 'gpt2']; from specc_runtime.cli import main; sys.exit(main())"
    run(installed, code, tmp_path)

"""Threads of torch that wait for one another fall asleep soon, unless something else was asked for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from specc_runtime.cli import cli
from specc_runtime.threads import SPINS, yielding


def shown(**more: str) -> dict[str, str]:
    """What OpenMP itself says that it goes by, once torch is loaded."""
    surroundings = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    code = "from specc_runtime.threads import yielding; yielding(); import torch"
    surroundings |= {"OMP_DISPLAY_ENV": "verbose", **more}
    done = subprocess.run(
        [sys.executable, "-c", code], env=surroundings, capture_output=True, text=True, timeout=120, check=True
    )
    pairs = (line.partition("=") for line in done.stderr.splitlines() if "=" in line)
    return {name.split()[-1]: value.strip(" '\"") for name, _, value in pairs}


def test_threads_of_torch_sleep_soon() -> None:
    found = shown()
    if "GOMP_SPINCOUNT" not in found:
        pytest.skip("torch has another OpenMP here")
    assert found["GOMP_SPINCOUNT"] == SPINS
    assert shown(GOMP_SPINCOUNT="7")["GOMP_SPINCOUNT"] == "7"


def test_what_was_asked_for_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    yielding()
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    yielding()
    assert os.environ["GOMP_SPINCOUNT"] == SPINS


@pytest.mark.parametrize(
    "words", [["build", "none.spec"], ["verify", "none"], ["test", "none.spec"]], ids=lambda w: w[0]
)
def test_commands_that_compare_programs_share_the_machine(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof of a small model takes half the processor time, on a busy machine a quarter of the time."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    assert CliRunner().invoke(cli, words).exit_code == 1
    assert os.environ["GOMP_SPINCOUNT"] == SPINS

"""Sessions that are ready at once give the same numbers, and keep no copies of the weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from building import command, make

from specc_runtime import open_build
from specc_runtime.cache import Request as Cache

MEASURE = """
import sys
from specc_runtime import open_build

def own():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines["RssAnon"].split()[0])

import onnxruntime
build = open_build(sys.argv[1])
before = own()
session = build.session(load=sys.argv[2])
print(own() - before)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("loading") / "out"
    make("gpt2", out, sets={"vocab": "20000", "context": "12", "dim": "256", "heads": "4"}, cache=Cache())
    return out


def test_a_session_ready_at_once_gives_the_same(built: Path) -> None:
    feeds = {"input_ids": np.array([[3, 1, 4]]), "attention_mask": np.ones((1, 3), bool)}
    (full,) = open_build(built).session().run(None, feeds)
    (instant,) = open_build(built).session(load="instant").run(None, feeds)
    (as_opened,) = open_build(built, "instant").session().run(None, feeds)
    np.testing.assert_allclose(instant, full, atol=1e-5)
    np.testing.assert_array_equal(instant, as_opened)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_its_weights_stay_in_the_file(built: Path) -> None:
    """26 MB of them here."""

    def kilobytes(load: str) -> int:
        run = subprocess.run([sys.executable, "-c", MEASURE, str(built), load], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return int(run.stdout)

    assert (built / "model.safetensors").stat().st_size > 25e6
    assert kilobytes("instant") < 10_000 < 20_000 < kilobytes("full")


def test_generation_takes_the_option(built: Path) -> None:
    words = ["generate", str(built), "--ids", "1,2", "--max-tokens", "3", "--no-stats"]
    texts = [
        subprocess.run(command(*words, "--load", load), capture_output=True, text=True) for load in ("full", "instant")
    ]
    assert [t.returncode for t in texts] == [0, 0], texts[0].stderr
    assert texts[0].stdout == texts[1].stdout != ""

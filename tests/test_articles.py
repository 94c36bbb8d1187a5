"""The articles' systems: each is trained by a section of the zoo, shipped, and held against its goal in onnxruntime.

The commands and the measures are those of `make articles` (scripts/articles.py).
"""

from __future__ import annotations

import re
import shlex
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scripts import articles

from specc_runtime.cli import cli

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parent.parent
SYSTEMS = {system.name: system for system in articles.SYSTEMS}


def ran(name: str, out: Path) -> str:
    """Everything that the commands of a system print, without pictures; the goal is met."""
    system = SYSTEMS[name]
    said = ""
    for command in system.commands:
        words = shlex.split(command.format(out=out))[1:]
        with chdir(ROOT):
            done = CliRunner().invoke(cli, [*words, *(["--no-render"] if words[0] == "build" else [])])
        assert done.exit_code == 0, f"{command}\n{done.output}"
        said += done.output
    found = system.measure(out)
    assert found.met, found.text
    return said


def test_points_are_separated(tmp_path: Path) -> None:
    assert "torch and onnxruntime agree" in ran("line", tmp_path)


def test_bigrams_by_hand() -> None:
    """Three ids; after 0 comes 1 twice and 2 once. The smoothing is the best for the rows."""
    train = np.array([[0, 1], [0, 1], [0, 2]])
    found = [(2 + k) / (3 + 3 * k) for k in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)]
    assert articles.bigrams(train, np.array([[0, 1]]), 3) == pytest.approx(1 / max(found))


@pytest.mark.slow
def test_stories_are_told(tmp_path: Path) -> None:
    """Better than a bigram model on held-out text; what the graph with a cache tells is in the stories' words."""
    said = ran("stories", tmp_path)
    told = said[said.rindex("onnxruntime agree") :].partition("\n")[2]
    words = set(re.findall(r"\w+", (ROOT / "specs/data/stories.txt").read_text("utf-8")))
    story = re.findall(r"\w+", told.partition("prompt ")[0])
    assert len(story) > 20 and {word for word in story[:-1] if word not in words} == set()


@pytest.mark.slow
def test_reviews_are_judged_by_adapters(tmp_path: Path) -> None:
    said = ran("reviews", tmp_path)
    assert "adapters     15,360 parameters in 13 parts" in said
    assert "classifier.weight [2, 64] (the checkpoint has [4, 64])" in said


@pytest.mark.slow
def test_words_are_turned_around(tmp_path: Path) -> None:
    assert "elkcip" in ran("reverse", tmp_path)


@pytest.mark.slow
def test_shapes_are_seen(tmp_path: Path) -> None:
    ran("shapes", tmp_path)


@pytest.mark.slow
def test_tones_are_heard(tmp_path: Path) -> None:
    ran("tones", tmp_path)

"""The README shows what its commands print. `--update-golden` writes their output into it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BLOCK = re.compile(r"```console\n\$ (?P<command>specc [^\n]+)\n(?P<output>.*?)```", re.S)
COMMANDS = [m["command"] for m in BLOCK.finditer(README.read_text("utf-8"))]


def run(command: str, *more: str) -> str:
    """What a reader sees: both streams, in a plain terminal."""
    argv = [
        sys.executable,
        "-c",
        "import sys; from specc_runtime.cli import main; sys.exit(main())",
        *command.split()[1:],
        *more,
    ]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # a plan names the device
    done = subprocess.run(
        argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False
    )
    return done.stdout


def test_the_readme_shows_commands() -> None:
    assert {c.split()[1] for c in COMMANDS} >= {"build", "generate", "inspect", "check"}


@pytest.mark.usefixtures("golden")  # the README is one
@pytest.mark.parametrize("command", [c for c in COMMANDS if c.split()[1] != "build"])
def test_output(command: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    words = command
    if command.split()[1] == "generate":  # with what the line above it builds
        build = "specc build specs/gpt2.spec --preset gpt2-tiny --cache concat --no-verify --no-render -o"
        made = run(f"{build} {tmp_path}")
        assert "not verified" in made, made
        words = command.replace("build/gpt2-tiny", str(tmp_path))
    found = run(words)
    text = README.read_text("utf-8")
    block = next(m for m in BLOCK.finditer(text) if m["command"] == command)
    if request.config.getoption("--update-golden"):
        README.write_text(text[: block.start("output")] + found + text[block.end("output") :], "utf-8")
    else:
        assert block["output"] == found


@pytest.mark.render
@pytest.mark.slow
def test_build(tmp_path: Path) -> None:
    """Files, parameters and the verdict; times and sizes of pictures differ between machines."""
    block = next(m for m in BLOCK.finditer(README.read_text("utf-8")) if m["command"].split()[1] == "build")
    found = run(block["command"], "-o", str(tmp_path / "gpt2-tiny"))

    def shape(text: str) -> list[str]:
        lines = re.sub(r"\S*gpt2-tiny/", "", text).splitlines()
        return [re.sub(r"[\d.]+(e-\d+)? ?(s|kB|MB|B)?\b", "#", re.sub(r" +", " ", line)) for line in lines]

    assert shape(found) == shape(block["output"])


def test_quoted_spec_checks(tmp_path: Path) -> None:
    """The language page's model is a model."""
    text = README.read_text("utf-8")
    spec = re.search(r"```spec\n(.*?)```", text, re.S)
    assert spec is not None
    (tmp_path / "tiny.spec").write_text(spec[1], "utf-8")
    assert run(f"specc check {tmp_path / 'tiny.spec'} --all-presets").endswith("tiny.spec: ok\n")

"""Builds for tests: small configurations of the zoo's models, in this process or by the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from specc import report
from specc.diagnostics import Rejected
from specc_runtime import open_build
from specc_runtime.build import Request, Result, build
from specc_runtime.inputs import Interface, draw

SMALL: Mapping[str, Request] = {
    "linear": Request("linear"),
    "mlp": Request("mlp", sets={"inputs": "12", "hidden": "[8, 6]", "classes": "3"}),
    "gpt": Request("gpt", preset="tiny", sets={"vocab": "50", "context": "12"}),
    "gpt2": Request("gpt2", preset="gpt2-tiny", sets={"vocab": "60", "context": "12", "dim": "16"}),
    "transformer": Request(
        "transformer", sets={"vocab": "50", "dim": "16", "layers": "2", "heads": "2", "hidden": "32"}
    ),
}
"""Every model of the zoo at a size that builds in a second or two."""


def make(name: str, out: Path, **changes: Any) -> Result:
    """Build a small model into a folder, without pictures and proof unless asked for."""
    changes = {"render": False, "verify": False, **changes}
    return build(replace(SMALL[name], out=out, **changes))


def arguments(name: str) -> list[str]:
    """The same configuration on a command line."""
    request = SMALL[name]
    preset = ["--preset", request.preset] if request.preset else []
    return [request.target, *preset, *(word for k, v in request.sets.items() for word in ("--set", f"{k}={v}"))]


def specc(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder."""
    return subprocess.run(command(*words), cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)


def command(*words: object) -> list[str]:
    """A command line that runs specc with this Python."""
    code = "import sys; from specc_runtime.cli import main; sys.argv[0] = 'specc'; sys.exit(main())"
    return [sys.executable, "-c", code, *map(str, words)]


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its relative path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refusal(call: Any, *args: Any, **options: Any) -> str:
    """The messages of a refusal, as printed."""
    with pytest.raises(Rejected) as refused:
        call(*args, **options)
    return report.full(refused.value.diagnostics)


def results(folder: Path, entry: str = "forward", **sizes: int) -> tuple[list[Any], list[Any]]:
    """Outputs of torch and of onnxruntime for the same random inputs."""
    import torch

    made = open_build(folder)
    of = Interface.from_json(made.manifest["entries"][entry]["interface"])
    feeds = draw(of, {name: sizes.get(name, 3) for name in of.dims}, masks="all true")
    module = made.module()
    method = module if entry == "forward" else getattr(module, entry)
    with torch.no_grad():
        expected = method(**{i.argument: torch.from_numpy(feeds[i.name]) for i in of.inputs})
    expected = expected if isinstance(expected, tuple) else (expected,)
    return [e.numpy() for e in expected], made.session(entry).run(None, feeds)


def assert_equal(folder: Path, entry: str = "forward") -> None:
    expected, found = results(folder, entry)
    assert len(expected) == len(found)
    for a, b in zip(expected, found, strict=True):
        assert a.shape == b.shape and np.abs(a - b).max() <= 1e-5 * max(1.0, np.abs(a).max())

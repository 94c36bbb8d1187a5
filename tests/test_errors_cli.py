"""Messages that no spec alone can give have golden files, too: `errors/cli/CODE.txt` is what a user sees.

Each is a small session (sessions.py): commands that are refused, and one, where there is such, that is the mend. Of a
refused command the messages are shown, of the mend that it works.
"""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sessions import SESSIONS

from specc import report
from specc.codes import severity
from specc.diagnostics import Rejected
from specc_runtime import memory
from specc_runtime.build import Request, build
from specc_runtime.cli import cli
from specc_runtime.equivalence import assert_equivalent

ERRORS = Path(__file__).with_name("errors") / "cli"


@pytest.mark.parametrize("code", SESSIONS)
def test_session(
    code: str, tmp_path: Path, golden: Callable[[Path, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = SESSIONS[code]
    with chdir(tmp_path):
        write(session.files)
        for line in session.before:
            status, text = run(line)
            assert status == 0, text
        write(session.changed)
        shown = []
        with monkeypatch.context() as patch:
            SURROUNDINGS.get(code, lambda _: None)(patch)
            for line in session.refused:
                status, text = run(line)
                kind = severity(code)
                assert status == (kind == "error") and f"{kind}[{code}]" in text, text
                shown.append(f"{prompted(line)}\n{text}".replace(f"{tmp_path.resolve()}/", ""))
        write(session.mended)
        for line in session.mend:
            status, text = run(line)
            assert status == 0 and f"[{code}]" not in text, text
        if session.mend:
            shown.append("".join(f"{prompted(line)}\n" for line in session.mend))
    golden(ERRORS / f"{code}.txt", "\n".join(shown))


def prompted(line: str) -> str:
    return line if line.startswith(">>> ") else f"$ {line}"


def write(files: dict[str, str]) -> None:
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")


def run(line: str) -> tuple[int, str]:
    """Exit status and messages of a command, or of Python, which ends with 1 if it raises `Rejected`."""
    if line.startswith(">>> "):
        try:
            eval(
                line.removeprefix(">>> "), {"build": build, "Request": Request, "assert_equivalent": assert_equivalent}
            )
        except Rejected as error:
            return 1, report.full(error.diagnostics)
        return 0, ""
    done = CliRunner().invoke(cli, shlex.split(line)[1:])
    return done.exit_code, done.stderr


def full_disk(patch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "build/net")

    patch.setattr(os, "replace", full)
    patch.setattr(os, "rename", full)


def no_gpu(patch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    patch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    patch.setattr(onnxruntime, "__version__", "1.31.0")


def little_memory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(memory, "available", lambda: 16_000_000_000)


def none_to_allocate(patch: pytest.MonkeyPatch) -> None:
    """As torch tells it, in the first backward pass."""
    import torch

    def refused(*_: Any, **__: Any) -> None:
        asked = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000000000 bytes. Error code 12"
        raise RuntimeError(f"[enforce fail at alloc_cpu.cpp:127] err == 0. {asked} (Cannot allocate memory)")

    patch.setattr(torch.Tensor, "backward", refused)


SURROUNDINGS = {"B640": full_disk, "B641": little_memory, "G706": no_gpu, "T534": none_to_allocate}
"""What a machine has to be like for a code to be told."""


def test_golden_files_have_a_session() -> None:
    assert {path.stem for path in ERRORS.glob("*.txt")} == set(SESSIONS)

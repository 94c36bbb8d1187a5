"""`specc` as a process in a folder of its own: a spec that is good, one that is not, what a run printed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from building import command

MAIN = command()

GOOD = """from std.nn import Linear
dim B
model Good(dim: int = 4) {
  head: Linear(dim, dim)
  forward(x: Tensor[B, dim]) -> Tensor[B, dim] = head(x)
}
"""
WRONG = GOOD.replace("= head(x)", "= haed(x)")


class Done:
    """What a run printed and how it ended."""

    def __init__(self, process: subprocess.CompletedProcess[bytes]) -> None:
        self.code = process.returncode
        self.out = process.stdout.decode("utf-8", errors="replace")
        self.err = process.stderr.decode("utf-8", errors="replace")
        assert "Traceback" not in self.err + self.out, self.err
        assert "internal error" not in self.err, self.err
        assert "\x1b" not in self.err + self.out, "escape codes in a pipe"


def running(folder: Path) -> Callable[..., Done]:
    """Runs `specc` in the folder, in which nothing else is, its output piped."""

    def run(*arguments: str | bytes, stdin: bytes = b"", **environment: str) -> Done:
        env = {**os.environ, **environment}
        done = subprocess.run([*MAIN, *arguments], input=stdin, capture_output=True, cwd=folder, env=env, timeout=120)
        return Done(done)

    (folder / "good.spec").write_text(GOOD, encoding="utf-8")
    (folder / "wrong.spec").write_text(WRONG, encoding="utf-8")
    return run

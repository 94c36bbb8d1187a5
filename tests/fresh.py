"""A fresh Python: which libraries it has imported after a piece of code."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path


def loaded(code: str, *libraries: str, cwd: Path | None = None) -> list[str]:
    """Those of the libraries that are imported after the code, which finds `sys` imported."""
    program = f"import sys\n{code}\nprint([m for m in {libraries!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=cwd, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(ast.literal_eval(done.stdout.splitlines()[-1]))

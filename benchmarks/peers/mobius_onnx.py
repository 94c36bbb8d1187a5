"""mobius: CHECKPOINT FILE [--static=N]. Its portable graph, growing or with a static cache."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

from mobius.__main__ import main

checkpoint, file, *options = sys.argv[1:]
room = [word.partition("=")[2] for word in options if word.startswith("--static=")]
static = ["--static-cache", "--max-seq-len", room[0]] if room else []
sys.argv = ["mobius", "build", "--config", checkpoint, *static, str(Path(file).parent)]
start = time.perf_counter()
status = main()
assert not status, status
print(json.dumps({"seconds": time.perf_counter() - start, "version": version("mobius-onnx")}))

"""optimum-onnx: CHECKPOINT FILE. Its cached export, without the validation that it runs afterwards."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

from optimum.exporters.onnx import main_export

start = time.perf_counter()
main_export(
    sys.argv[1],
    output=Path(sys.argv[2]).parent,
    task="text-generation-with-past",
    library_name="transformers",
    no_post_process=True,
    do_validation=False,
)
print(json.dumps({"seconds": time.perf_counter() - start, "version": version("optimum-onnx")}))

"""onnxruntime-genai's model builder for the CPU: CHECKPOINT FILE [--precision=int4]."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from onnxruntime_genai.models.builder import create_model, parse_extra_options

checkpoint, file, *options = sys.argv[1:]
precision = next((word.partition("=")[2] for word in options), "fp32")
with tempfile.TemporaryDirectory() as cache:
    start = time.perf_counter()
    where = ("", checkpoint, str(Path(file).parent), precision, "cpu", cache)
    create_model(*where, **parse_extra_options(*where, []))
    print(json.dumps({"seconds": time.perf_counter() - start, "version": version("onnxruntime-genai")}))
